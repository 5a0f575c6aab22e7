//! Trainings that are killed, interrupted, or whose disk fills or turns read-only go on where they were, and
//! end with the bits of one that nothing happened to.
//!
//! `LNCA_CRASHES=100 cargo test --release --test crashes` strikes every kind of training a hundred times;
//! without the variable each is struck twice. The examples must have been built: `cargo build --release
//! --examples`.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A kind of training, short, with checkpoints as often as they can be.
struct Kind {
    name: &'static str,
    words: &'static str,
}

const KINDS: [Kind; 6] = [
    Kind {
        name: "denoise",
        words: "--model latent-nafca --images 40 --size 16 --ae-epochs 1 --epochs 1 --end-to-end 1 --checkpoint-every 2",
    },
    Kind {
        name: "deblur",
        words: "--model latent-vitca --images 40 --size 16 --ae-epochs 1 --epochs 1 --checkpoint-every 1",
    },
    Kind {
        name: "growing",
        words: "train --side 8 --padding 4 --updates 12 --every 2",
    },
    Kind {
        name: "texture",
        words: "train --grid 16 --largest 16 --updates 6 --every 1",
    },
    Kind {
        name: "variational",
        words: "train --decoder doubling --latent 8 --encoder 4 --steps 2 --batch 4 --updates 8 --every 2",
    },
    Kind {
        name: "variational",
        words: "train --decoder broadcast --latent 8 --encoder 4 --steps 2 --batch 4 --pool 8 --updates 8 --every 2",
    },
];

/// How often each kind of training is struck.
fn strikes() -> u64 {
    let count = std::env::var("LNCA_CRASHES").ok();
    count.map_or(2, |count| count.parse().expect("LNCA_CRASHES is a number"))
}

/// The folder of the built examples: beside that of this test.
fn example(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let path = this.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "build the examples first: no {}", path.display());
    path
}

impl Kind {
    fn command(&self, out: &Path) -> Command {
        let mut command = Command::new(example(self.name));
        command.args(self.words.split(' ')).arg("--out").arg(out);
        command
            .env("CANDLE_NUM_THREADS", "1")
            .env("RAYON_NUM_THREADS", "1");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Trains to the end, resuming what is there.
    fn finish(&self, out: &Path) -> Output {
        let output = self.command(out).arg("--resume").output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", self.name);
        output
    }

    /// A training that nothing happens to: its weights and its duration.
    fn whole(&self) -> (Weights, Duration) {
        let folder = tempfile::tempdir().unwrap();
        let clock = Instant::now();
        let output = self.command(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}: {output:?}", self.name);
        (weights(folder.path()), clock.elapsed())
    }
}

type Weights = BTreeMap<String, Vec<u8>>;

/// The bytes of all weights of the model in a folder.
fn weights(out: &Path) -> Weights {
    let tensors =
        candle_core::safetensors::load(out.join("model.safetensors"), &candle_core::Device::Cpu).unwrap();
    let bytes = |tensor: candle_core::Tensor| -> Vec<u8> {
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values
            .iter()
            .flat_map(|value| value.to_bits().to_le_bytes())
            .collect()
    };
    tensors
        .into_iter()
        .map(|(name, tensor)| (name, bytes(tensor)))
        .collect()
}

/// Every picture, model and file of JSON in the folder is whole.
fn assert_whole(out: &Path, what: &str) {
    for entry in fs::read_dir(out).unwrap() {
        let path = entry.unwrap().path();
        let whole = match path.extension().and_then(|extension| extension.to_str()) {
            Some("png") => lnca::io::Picture::read(&path).is_ok(),
            Some("safetensors") => candle_core::safetensors::load(&path, &candle_core::Device::Cpu).is_ok(),
            Some("json") => serde_json::from_slice::<serde_json::Value>(&fs::read(&path).unwrap()).is_ok(),
            _ => true,
        };
        assert!(whole, "{what}: {} is broken", path.display());
    }
}

/// What happened to a training, and what has to be kept until it has been resumed. `None` if it cannot happen
/// on this machine.
type Struck = Option<(String, Box<dyn Any>)>;

/// Lets each kind of training be struck at random moments, finishes it, and compares.
fn survive(seed: u64, strike: impl Fn(&Kind, &Path, Duration, &mut StdRng) -> Struck) {
    let mut random = StdRng::seed_from_u64(seed);
    for kind in &KINDS {
        let (expected, time) = kind.whole();
        for number in 0..strikes() {
            let folder = tempfile::tempdir().unwrap();
            let moment = time.mul_f64(random.random_range(0.0..1.0));
            let Some((struck, kept)) = strike(kind, folder.path(), moment, &mut random) else {
                return;
            };
            let what = format!("{} {}, number {number}, {struck}", kind.name, kind.words);
            assert_whole(folder.path(), &what);
            kind.finish(folder.path());
            assert_whole(folder.path(), &what);
            assert!(weights(folder.path()) == expected, "{what}: other weights");
            drop(kept);
        }
    }
}

fn wait(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn a_killed_training() {
    survive(1, |kind, out, moment, _| {
        let mut child = kind.command(out).spawn().unwrap();
        std::thread::sleep(moment);
        child.kill().unwrap();
        wait(child);
        Some((format!("killed after {moment:?}"), Box::new(())))
    });
}

#[cfg(unix)]
#[test]
fn an_interrupted_training() {
    survive(2, |kind, out, moment, _| {
        let child = kind.command(out).spawn().unwrap();
        std::thread::sleep(moment);
        let sent = Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status();
        assert!(sent.is_ok());
        let (status, errors) = wait(child);
        // During training it says that its checkpoint is written; before and after, it ends at once.
        match status {
            Some(130) => assert!(
                !errors.contains("stopped") || errors.contains("checkpoint"),
                "{errors}"
            ),
            Some(0) | None => {}
            other => panic!("{}: {other:?}: {errors}", kind.name),
        }
        Some((
            format!("interrupted after {moment:?}, status {status:?}"),
            Box::new(()),
        ))
    });
}

/// The library that breaks the disk, or `None` where there is no C compiler.
#[cfg(target_os = "linux")]
fn broken_disk(folder: &Path) -> Option<PathBuf> {
    let library = folder.join("broken_disk.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken_disk.c");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-ldl");
    match compiler.status() {
        Ok(status) => {
            assert!(status.success());
            Some(library)
        }
        Err(error) => {
            eprintln!("skipped: no C compiler `cc`: {error}");
            None
        }
    }
}

/// From a random operation on, all that change a file fail with a number of the system, which messages name
/// so.
#[cfg(target_os = "linux")]
fn survive_errors(seed: u64, error: &str, words: &str) {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = broken_disk(folder.path()) else {
        return;
    };
    survive(seed, |kind, out, _, random| {
        let writes = random.random_range(0..80u32).to_string();
        let mut command = kind.command(out);
        command
            .env("LD_PRELOAD", &library)
            .env("LNCA_WRITES", &writes)
            .env("LNCA_ERROR", error);
        let (status, errors) = wait(command.spawn().unwrap());
        match status {
            Some(0) => {}
            Some(1) => assert!(errors.contains(words), "{}: {errors}", kind.name),
            other => panic!("{}: {other:?}: {errors}", kind.name),
        }
        Some((
            format!("{words} after {writes} operations, status {status:?}"),
            Box::new(()),
        ))
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_training_whose_disk_fills() {
    survive_errors(3, "28", "No space left on device");
}

#[cfg(target_os = "linux")]
#[test]
fn a_training_whose_disk_turns_read_only() {
    survive_errors(4, "30", "Read-only file system");
}

/// A small file system in memory, unmounted in the end.
#[cfg(target_os = "linux")]
struct Mount(PathBuf);

#[cfg(target_os = "linux")]
impl Mount {
    /// `None` where mounting is not allowed.
    fn new(folder: &Path, size: &str) -> Option<Self> {
        let mount = Self(folder.into());
        let options = format!("size={size}");
        match mount.call(&["-t", "tmpfs", "-o", &options, "lnca"]) {
            true => Some(mount),
            false => {
                eprintln!("skipped: file systems cannot be mounted here");
                std::mem::forget(mount);
                None
            }
        }
    }

    fn call(&self, words: &[&str]) -> bool {
        let status = Command::new("mount")
            .args(words)
            .arg(&self.0)
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    }
}

#[cfg(target_os = "linux")]
impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_training_on_a_file_system_that_is_too_small() {
    survive(5, |kind, out, _, random| {
        let size = format!("{}k", random.random_range(1..100u32) * 4);
        let mount = Mount::new(out, &size)?;
        let (status, errors) = wait(kind.command(out).spawn().unwrap());
        match status {
            Some(0) => {}
            Some(1) => assert!(errors.contains("No space left"), "{}: {errors}", kind.name),
            other => panic!("{}: {other:?}: {errors}", kind.name),
        }
        assert!(mount.call(&["-o", "remount,size=100m"]));
        Some((
            format!("on a file system of {size}, status {status:?}"),
            Box::new(mount),
        ))
    });
}
