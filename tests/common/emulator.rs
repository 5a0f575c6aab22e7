//! A device that runs CUDA kernels on a CPU: g++ compiles them over `emulator.hpp`.

use std::any::Any;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use libloading::Library;
use lnca::Result;
use lnca::cuda::{Args, Buffer, Driver, Kernels, Source};

/// What stands for a GPU in the sources of kernels.
const HEADER: &str = include_str!("emulator.hpp");

/// Floats before and after each allocation, which must stay as they are.
const GUARD: usize = 256;

thread_local! {
    static LAUNCHED: Cell<usize> = const { Cell::new(0) };
}

/// How many kernels this thread has launched.
#[allow(dead_code)]
pub fn launches() -> usize {
    LAUNCHED.get()
}

/// Whether there is a compiler, or why not.
pub fn compiler() -> std::result::Result<(), String> {
    match Command::new("g++").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err("no g++ (on Debian: apt-get install g++)".into()),
    }
}

/// A module that is built once; the lock is that of whoever builds it.
type Slot = Arc<Mutex<Option<Arc<Module>>>>;

/// Runs kernels on the CPU.
#[derive(Default)]
pub struct Emulator {
    change: Option<(&'static str, &'static str)>,
    modules: Mutex<HashMap<String, Slot>>,
    allocations: Arc<Mutex<BTreeMap<u64, usize>>>,
}

struct Module {
    library: Library,
    allocations: Arc<Mutex<BTreeMap<u64, usize>>>,
}

/// Memory, whose guards are checked after every launch while it is there.
struct Allocation {
    memory: Vec<f32>,
    allocations: Arc<Mutex<BTreeMap<u64, usize>>>,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let address = self.memory.as_ptr() as u64;
        if let Ok(mut allocations) = self.allocations.lock() {
            allocations.remove(&address);
        }
    }
}

fn failure(reason: impl std::fmt::Display) -> lnca::Error {
    candle_core::Error::Msg(format!("emulated kernels: {reason}")).into()
}

impl Driver for Emulator {
    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        let floats = bytes.div_ceil(4);
        let memory = vec![f32::NAN; floats + 2 * GUARD];
        let start = memory.as_ptr() as u64;
        self.allocations.lock().unwrap().insert(start, memory.len());
        let owner = Allocation {
            memory,
            allocations: self.allocations.clone(),
        };
        Ok(Buffer {
            address: start + 4 * GUARD as u64,
            bytes,
            owner: Box::new(owner) as Box<dyn Any + Send + Sync>,
        })
    }

    fn zero(&self, buffer: &Buffer) -> Result<()> {
        // SAFETY: the buffer owns that many bytes, and no kernel runs meanwhile.
        unsafe { std::ptr::write_bytes(buffer.address as *mut u8, 0, buffer.bytes) };
        Ok(())
    }

    fn upload(&self, bytes: &[u8], to: &Buffer) -> Result<()> {
        assert!(bytes.len() <= to.bytes);
        // SAFETY: as many bytes as were just checked; the slice is no part of a buffer.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.address as *mut u8, bytes.len()) };
        Ok(())
    }

    fn forget(&self, buffer: &Buffer) {
        // SAFETY: the buffer owns that many bytes, aligned for floats, and no kernel runs meanwhile.
        let floats = unsafe { std::slice::from_raw_parts_mut(buffer.address as *mut f32, buffer.bytes / 4) };
        floats.fill(f32::NAN);
    }

    fn shared_memory(&self) -> usize {
        99 << 10
    }

    fn load(&self, source: &Source) -> Result<Arc<dyn Kernels>> {
        let module = self
            .modules
            .lock()
            .unwrap()
            .entry(source.name.clone())
            .or_default()
            .clone();
        let mut module = module.lock().unwrap();
        if let Some(module) = &*module {
            return Ok(module.clone());
        }
        let loaded = Arc::new(Module {
            library: build(&self.changed(source))?,
            allocations: self.allocations.clone(),
        });
        *module = Some(loaded.clone());
        Ok(loaded)
    }
}

impl Emulator {
    /// With kernels in which one text is replaced by another: to see that a test notices.
    #[allow(dead_code)]
    pub fn with_change(from: &'static str, to: &'static str) -> Self {
        Self {
            change: Some((from, to)),
            ..Self::default()
        }
    }

    fn changed(&self, source: &Source) -> Source {
        let mut source = source.clone();
        if let Some((from, to)) = self.change {
            source.text = source.text.replace(from, to);
            source.name = format!("{:016x}", hash(&source.text));
        }
        source
    }
}

impl Kernels for Module {
    fn launch(&self, kernel: &str, blocks: usize, shared: usize, args: &Args) -> Result<()> {
        type Run = unsafe extern "C" fn(*const c_void, i32, usize, u64);
        LAUNCHED.set(LAUNCHED.get() + 1);
        static LAUNCHES: AtomicU64 = AtomicU64::new(0x9E37_79B9_7F4A_7C15);
        let seed = LAUNCHES.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        // SAFETY: the emulator's header gives every kernel such a function. That kernels stay within their
        // buffers is what the guards around those are for.
        unsafe {
            let run = self
                .library
                .get::<Run>(format!("run_{kernel}\0").as_bytes())
                .map_err(failure)?;
            run(std::ptr::from_ref(args).cast(), blocks as i32, shared, seed);
        }
        for (&start, &floats) in self.allocations.lock().unwrap().iter() {
            let guards = [start, start + 4 * (floats - GUARD) as u64];
            for guard in guards {
                // SAFETY: a buffer is in the list as long as it lives, and ends with guards.
                let guard = unsafe { std::slice::from_raw_parts(guard as *const f32, GUARD) };
                assert!(
                    guard.iter().all(|float| float.is_nan()),
                    "{kernel} writes outside its memory"
                );
            }
        }
        Ok(())
    }
}

/// The kernels as a shared library, kept from run to run.
fn build(source: &Source) -> Result<Library> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    std::fs::create_dir_all(&folder).map_err(failure)?;
    let name = format!("{}-{:016x}", source.name, hash(HEADER));
    let library = folder.join(format!("{name}.so"));
    if !library.exists() {
        compile(source, &folder, &name, &library)?;
    }
    // SAFETY: the library was made from the sources of this crate, and does nothing when it is loaded.
    unsafe { Library::new(&library) }.map_err(failure)
}

fn compile(source: &Source, folder: &Path, name: &str, library: &Path) -> Result<()> {
    let text = format!("{HEADER}\n{}\n{}", source.text, entries(&source.text));
    let file = folder.join(format!("{name}.cpp"));
    std::fs::write(&file, text).map_err(failure)?;
    // Written elsewhere and moved: another test may be looking for it.
    let written = folder.join(format!("{name}.{}.tmp", std::process::id()));
    let flags = "-std=c++17 -O1 -w -shared -fPIC -fvisibility=hidden -fno-gnu-unique -ffp-contract=off";
    let output = Command::new("g++")
        .args(flags.split(' '))
        .arg(&file)
        .arg("-o")
        .arg(&written)
        .output()
        .map_err(failure)?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let first: Vec<&str> = errors.lines().take(30).collect();
        return Err(failure(format!("{}: {}", file.display(), first.join("\n"))));
    }
    std::fs::rename(&written, library).map_err(failure)
}

/// A function for each kernel that runs all its blocks.
fn entries(text: &str) -> String {
    let kernels = text
        .lines()
        .filter_map(|line| line.strip_prefix("KERNEL ")?.split('(').next());
    let entry = |kernel: &str| {
        format!(
            "extern \"C\" __attribute__((visibility(\"default\")))\n\
             void run_{kernel}(const void* args, int blocks, size_t shared, uint64_t seed) {{\n    \
             auto run = [](const void* args) {{ {kernel}(*(const Args*)args); }};\n    \
             emulated::launch(run, args, blocks, shared, seed);\n}}\n"
        )
    };
    kernels.map(entry).collect()
}

fn hash(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
