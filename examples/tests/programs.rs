//! The examples as programs: what their users meet at the command line.
//!
//! `cargo test` builds the examples; a single test of this file runs those that were built last.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lnca::io::{Photograph, Picture};
use lnca_examples::Result;
use lnca_examples::lock::FolderLock;

const NAMES: [&str; 9] = [
    "custom_transition",
    "deblur",
    "denoise",
    "growing",
    "restore",
    "tables",
    "texture",
    "variational",
    "workloads",
];

/// An example, with arguments separated by blanks.
fn command(name: &str, words: &str) -> Command {
    // This test is in `deps`, beside the folder of the examples.
    let mut path = std::env::current_exe().unwrap_or_default();
    path.pop();
    path.set_file_name("examples");
    path.push(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        path.exists(),
        "{} is not built: cargo build --examples",
        path.display()
    );
    let mut command = Command::new(path);
    command.args(words.split_whitespace());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs an example that is to fail with an error that mentions all of `said`.
fn fails(command: &mut Command, code: i32, said: &[&str]) -> Result<()> {
    let output = command.output()?;
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {text}");
    for said in said {
        assert!(text.contains(said), "{command:?}: no {said} in {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
    Ok(())
}

/// A photograph of 8 rows and 12 columns, stored with or without a turn by a quarter.
fn photograph(path: &Path, turned: bool) -> Result<()> {
    let pixels = (0..8 * 12).flat_map(|i| [(i * 2) as u8, 90, (i / 12 * 20) as u8]);
    let picture = Picture {
        height: 8,
        width: 12,
        pixels: pixels.collect(),
    };
    Photograph::from(&picture).write(path)?;
    if turned {
        let exif = b"\xFF\xE1\0\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let bytes = fs::read(path)?;
        fs::write(path, [&bytes[..2], exif, &bytes[2..]].concat())?;
    }
    Ok(())
}

fn restore(input: &Path, output: &Path) -> Command {
    let mut command = command("restore", "--steps 2");
    command.args([input, output]);
    command
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder)?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

#[test]
fn every_example_helps() -> Result<()> {
    for name in NAMES {
        let output = command(name, "--help").output()?;
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("Usage: "),
            "{name}"
        );
    }
    Ok(())
}

#[test]
fn numbers_out_of_range_are_named_with_their_bounds() -> Result<()> {
    let most = usize::MAX;
    for (name, words, bound) in [
        ("growing", "run --size", "4096"),
        ("growing", "run --steps", "1000000"),
        ("growing", "score --runs", "65536"),
        ("growing", "train --side", "4096"),
        ("growing", "train --padding", "4096"),
        ("growing", "train --updates", "1000000000"),
        ("texture", "score --size", "4096"),
        ("texture", "score --largest", "4096"),
        ("texture", "train --grid", "4096"),
        ("variational", "train --batch", "65536"),
        ("variational", "train --latent", "4096"),
        ("variational", "train --pool", "10000000"),
        ("variational", "evaluate --samples", "65536"),
        ("denoise", "--size", "4096"),
        ("deblur", "--images", "1000000000"),
        ("denoise", "--epochs", "1000000000"),
        ("denoise", "--batch", "65536"),
        ("restore", "--tile", "65536"),
        ("restore", "--steps", "1000000000"),
        ("tables", "denoise --size", "4096"),
        ("tables", "efficiency --batches", "65536"),
        ("workloads", "--case W1_infer_b1_8 --threads", "1024"),
    ] {
        let argument = words.split_whitespace().last().unwrap_or_default();
        for number in [most.to_string(), "3000000000".into(), "-1".into(), "x".into()] {
            let mut command = command(name, &format!("{words}={number}"));
            fails(&mut command, 2, &[argument, bound])?;
        }
    }
    for number in ["nan", "inf", "-1", "-inf"] {
        for (name, words) in [
            ("growing", "train --learning-rate"),
            ("growing", "run --slow-half"),
            ("texture", "train --learning-rate"),
            ("texture", "run --angle"),
            ("variational", "train --learning-rate"),
            ("variational", "train --fire-rate"),
            ("variational", "train --beta"),
            ("denoise", "--learning-rate"),
            ("tables", "denoise --minutes"),
            ("tables", "efficiency --seconds"),
        ] {
            if (words, number) != ("run --angle", "-1") {
                let argument = words.split_whitespace().last().unwrap_or_default();
                fails(&mut command(name, &format!("{words}={number}")), 2, &[argument])?;
            }
        }
    }
    let both = "train --side 4000 --padding 4000";
    fails(&mut command("growing", both), 1, &["--side", "--padding", "4096"])?;
    let many = "--size 4096 --images 1000000 --out";
    let folder = tempfile::tempdir()?;
    fails(command("denoise", many).arg(folder.path()), 1, &["--images"])?;
    fails(&mut command("texture", "train --steps 0-1"), 2, &["--steps"])?;
    fails(
        &mut command("workloads", "--case W1_infer_b99999999_99999999"),
        2,
        &["--case"],
    )
}

#[test]
fn photographs_are_restored_upright_and_in_place() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (input, output) = (folder.path().join("a.jpg"), folder.path().join("b.png"));
    photograph(&input, true)?;
    assert!(restore(&input, &output).status()?.success());
    let upright = Picture::read(&output)?;
    assert_eq!((upright.height, upright.width), (12, 8));
    assert!(restore(&output, &output).status()?.success());
    assert_eq!(names(folder.path())?, ["a.jpg", "b.png"]);
    Ok(())
}

#[test]
fn what_cannot_be_written_is_an_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    photograph(&path("a.png"), false)?;
    fs::create_dir(path("folder.png"))?;
    for name in ["folder.png", "a.png/b.png", "b.bmp"] {
        fails(
            &mut restore(&path("a.png"), &path(name)),
            1,
            &[name.split('/').next().unwrap_or(name)],
        )?;
    }
    let mut expected = vec!["a.png", "folder.png"];
    #[cfg(target_os = "linux")]
    {
        std::os::unix::fs::symlink("/dev/full", path("full.png"))?;
        fails(&mut restore(&path("a.png"), &path("full.png")), 1, &["full.png"])?;
        expected.push("full.png");
    }
    assert_eq!(names(folder.path())?, expected);
    Ok(())
}

#[test]
fn files_of_another_kind_are_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let shipped = |name: &str| lnca_examples::shipped(name);
    fs::write(path("empty"), "")?;
    fs::write(path("json"), "{\"a\": [1, 2")?;
    let whole = fs::read(shipped("models/denoise.safetensors"))?;
    fs::write(path("cut"), &whole[..whole.len() / 2])?;
    fs::write(path("header"), &whole[..20])?;
    photograph(&path("a.png"), false)?;
    let wrong: [PathBuf; 6] = [
        folder.path().into(),
        path("none"),
        path("empty"),
        path("json"),
        path("cut"),
        path("header"),
    ];
    for (name, words, other) in [
        ("restore", "", "models/fish.safetensors"),
        ("growing", "run", "models/denoise.safetensors"),
        ("texture", "score", "models/denoise.safetensors"),
        ("variational", "pictures", "models/denoise.safetensors"),
    ] {
        for model in wrong.iter().cloned().chain([shipped(other)]) {
            let said = model
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let mut command = command(name, words);
            command.current_dir(folder.path()).arg("--model").arg(&model);
            fails(&mut command, 1, &[&said])?;
        }
    }
    Ok(())
}

#[test]
fn a_folder_in_use_is_refused_at_the_start() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let lock = FolderLock::take(folder.path())?;
    let me = format!("process {}", std::process::id());
    let name = folder.path().display().to_string();
    let all = [
        ("denoise", "--out"),
        ("deblur", "--resume --out"),
        ("growing", "train --out"),
        ("texture", "train --out"),
        ("variational", "train --out"),
        ("tables", "denoise --out"),
        ("tables", "efficiency --out"),
    ];
    for (name_of, words) in all {
        fails(command(name_of, words).arg(folder.path()), 1, &[&me, &name])?;
    }
    assert_eq!(names(folder.path())?, [".lock"]);
    drop(lock);
    let file = folder.path().join("file");
    fs::write(&file, "kept")?;
    for (name_of, words) in all
        .into_iter()
        .chain([("growing", "run --out"), ("texture", "run --out")])
    {
        fails(
            command(name_of, words).arg(&file),
            1,
            &["file", "expected a folder"],
        )?;
    }
    assert_eq!(fs::read(&file)?, b"kept");
    Ok(())
}

const SCORE: &str = "score --steps 2 --size 16 --largest 64";

#[test]
fn a_reader_that_has_gone_is_no_error() -> Result<()> {
    for (name, words) in [
        ("texture", SCORE),
        ("growing", "--help"),
        ("texture", "--version"),
    ] {
        let mut child = command(name, words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        drop(child.stdout.take());
        let output = child.wait_with_output()?;
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{name}: {}",
            stderr(&output)
        );
    }
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_ends_no_training_and_loses_no_result_silently() -> Result<()> {
    let full = || File::options().write(true).open("/dev/full");
    for (name, words) in [("texture", SCORE), ("growing", "--help"), ("workloads", "--help")] {
        let output = command(name, words).stdout(full()?).output()?;
        assert_eq!(output.status.code(), Some(1), "{name} {words}");
        let text = stderr(&output);
        assert!(!text.contains("panicked"), "{text}");
    }
    let folder = tempfile::tempdir()?;
    std::os::unix::fs::symlink("/dev/full", folder.path().join("log.jsonl"))?;
    let mut training = command("growing", "train --side 8 --padding 2 --updates 2 --out");
    let status = training.arg(folder.path()).stderr(full()?).status()?;
    assert!(status.success());
    assert!(folder.path().join("model.safetensors").exists());
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn too_little_memory_is_an_error() -> Result<()> {
    // Only the shell limits the memory of a program.
    let mut shell = Command::new("sh");
    shell
        .args(["-c", r#"ulimit -v 2000000; exec "$@""#, "sh"])
        .arg(command("growing", "").get_program())
        .args(["score", "--runs", "65536"]);
    fails(&mut shell, 1, &["out of memory"])
}

#[test]
fn damage_after_the_last_step_is_said() -> Result<()> {
    let words = "run --steps 20 --damage lower-half@999";
    fails(&mut command("growing", words), 1, &["--damage", "999", "20"])
}

#[test]
fn a_model_is_tested_on_the_built_in_images() -> Result<()> {
    let mut command = command("denoise", "--size 16 --eval");
    let output = command
        .arg(lnca_examples::shipped("models/denoise.safetensors"))
        .output()?;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"images\":200"));
    Ok(())
}
