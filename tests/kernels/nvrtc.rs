//! The kernels compile for GPUs, within bounds: by NVIDIA's compiler, which needs no GPU.
//!
//! `LNCA_NVRTC` is the folder with `libnvrtc.so.13`, such as `nvidia/cu13/lib` of the wheel
//! `nvidia-cuda-nvrtc`.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::ptr::null;
use std::time::Instant;

use candle_core::DType;
use libloading::Library;
use lnca::cuda::{PTX, Source, adam_source, sources};
use lnca::{Precision, Program};

use crate::programs::Case;
use crate::transitions::shipped;

/// NVIDIA's compiler at run time.
struct Nvrtc(Library);

type Handle = *mut c_void;

impl Nvrtc {
    fn find() -> Option<Self> {
        let Ok(folder) = std::env::var("LNCA_NVRTC") else {
            eprintln!(
                "skipped: LNCA_NVRTC names no folder with libnvrtc.so.13 (pip download nvidia-cuda-nvrtc)"
            );
            return None;
        };
        let folder = PathBuf::from(folder);
        // The compiler opens this one by its name alone.
        // SAFETY: NVIDIA's libraries do nothing when they are loaded.
        let builtins = unsafe { Library::new(folder.join("libnvrtc-builtins.so.13.0")) };
        builtins.map(std::mem::forget).expect("libnvrtc-builtins.so.13.0");
        // SAFETY: as above.
        let library = unsafe { Library::new(folder.join("libnvrtc.so.13")) };
        Some(Self(library.expect("libnvrtc.so.13")))
    }

    /// The machine code of a source for a chip, and what the assembler says of it.
    fn compile(&self, source: &Source, chip: &str) -> (Vec<u8>, String) {
        type Create = unsafe extern "C" fn(
            *mut Handle,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int;
        type Size = unsafe extern "C" fn(Handle, *mut usize) -> c_int;
        type Get = unsafe extern "C" fn(Handle, *mut c_char) -> c_int;
        let text = CString::new(format!("{PTX}\n{}", source.text)).unwrap();
        let name = CString::new(format!("{}.cu", source.name)).unwrap();
        let chip = format!("--gpu-architecture={chip}");
        let options = [&chip, "--std=c++17", "--ptxas-options=--verbose"].map(|of| CString::new(of).unwrap());
        let options = options.each_ref().map(|of| of.as_ptr());
        // SAFETY: the functions have these types in nvrtc.h; all strings end with a zero and live until the
        // end, and every result is as long as NVRTC said just before.
        unsafe {
            let symbol = |name: &str| *self.0.get::<*mut c_void>(name.as_bytes()).unwrap();
            let create: Create = std::mem::transmute(symbol("nvrtcCreateProgram\0"));
            let compile: Compile = std::mem::transmute(symbol("nvrtcCompileProgram\0"));
            let size = |of: &str| -> Size { std::mem::transmute(symbol(of)) };
            let get = |of: &str| -> Get { std::mem::transmute(symbol(of)) };
            let mut handle: Handle = std::ptr::null_mut();
            assert_eq!(
                create(&mut handle, text.as_ptr(), name.as_ptr(), 0, null(), null()),
                0
            );
            let status = compile(handle, options.len() as c_int, options.as_ptr());
            let mut bytes = 0;
            size("nvrtcGetProgramLogSize\0")(handle, &mut bytes);
            let mut log = vec![0u8; bytes.max(1)];
            get("nvrtcGetProgramLog\0")(handle, log.as_mut_ptr().cast());
            let log = CStr::from_bytes_until_nul(&log)
                .unwrap()
                .to_string_lossy()
                .into_owned();
            assert_eq!(status, 0, "{}: {log}", source.name);
            size("nvrtcGetCUBINSize\0")(handle, &mut bytes);
            let mut code = vec![0u8; bytes];
            get("nvrtcGetCUBIN\0")(handle, code.as_mut_ptr().cast());
            let destroy: unsafe extern "C" fn(*mut Handle) -> c_int =
                std::mem::transmute(symbol("nvrtcDestroyProgram\0"));
            destroy(&mut handle);
            (code, log)
        }
    }
}

/// What a kernel takes of a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Resources {
    registers: usize,
    spilled: usize,
    code: usize,
}

/// By kernel.
fn resources(code: &[u8], log: &str) -> BTreeMap<String, Resources> {
    let mut found: BTreeMap<String, Resources> = BTreeMap::new();
    let mut kernel = String::new();
    let before = |line: &str, what: &str| -> Option<usize> {
        let (number, _) = line.split_once(what)?;
        number.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or("").to_string();
        }
        let of = found.entry(kernel.clone()).or_default();
        of.spilled += before(line, " bytes spill stores").unwrap_or(0);
        of.spilled += before(line, " bytes spill loads").unwrap_or(0);
        of.registers += before(line, " registers").unwrap_or(0);
    }
    found.remove("");
    for (name, size) in sections(code) {
        if let Some(of) = name
            .strip_prefix(".text.")
            .and_then(|kernel| found.get_mut(kernel))
        {
            of.code = size;
        }
    }
    found
}

/// The sections of a 64-bit ELF file and their sizes.
fn sections(elf: &[u8]) -> Vec<(String, usize)> {
    let number = |at: usize, bytes: usize| {
        elf[at..at + bytes]
            .iter()
            .rev()
            .fold(0usize, |number, &byte| number << 8 | usize::from(byte))
    };
    let (table, entry, count, names) = (number(0x28, 8), number(0x3a, 2), number(0x3c, 2), number(0x3e, 2));
    let names = number(table + names * entry + 0x18, 8);
    let section = |i: usize| {
        let at = table + i * entry;
        let name = &elf[names + number(at, 4)..];
        let name = name.split(|&byte| byte == 0).next().unwrap_or(&[]);
        (String::from_utf8_lossy(name).into_owned(), number(at + 0x20, 8))
    };
    (0..count).map(section).collect()
}

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Tf32, Precision::Bf16];

/// Compiles both directions of a program; lines of what each kernel takes.
fn check(nvrtc: &Nvrtc, what: &str, program: &Program, precision: Precision, chip: &str) -> Vec<String> {
    let sources = sources(program, precision);
    let what = format!("{what} {precision:?}");
    let lines = sources
        .iter()
        .map(|source| check_source(nvrtc, &what, source, chip));
    lines.collect::<Vec<_>>().concat()
}

/// Compiles a source; lines of what each kernel takes.
fn check_source(nvrtc: &Nvrtc, what: &str, source: &Source, chip: &str) -> Vec<String> {
    let mut lines = vec![];
    let start = Instant::now();
    let (code, log) = nvrtc.compile(source, chip);
    let seconds = start.elapsed().as_secs_f64();
    let kernels = resources(&code, &log);
    assert!(!kernels.is_empty(), "{what}: nothing is said of kernels in {log}");
    eprintln!("{what} {chip}: {} kernels in {seconds:.1} s", kernels.len());
    for (kernel, of) in kernels {
        assert_eq!(of.spilled, 0, "{what} {kernel}: bytes spilled");
        assert!(
            of.code > 0 && of.code <= 96 << 10,
            "{what} {kernel}: {} bytes of code",
            of.code
        );
        let Resources {
            registers,
            spilled,
            code,
        } = of;
        lines.push(format!(
            "{what} {chip} {kernel}: {registers} registers, {spilled} bytes spilled, {code} bytes of code"
        ));
    }
    lines
}

#[test]
fn kernels_compile_within_bounds() {
    let Some(nvrtc) = Nvrtc::find() else { return };
    let mut lines = vec![];
    for Case { what, program, .. } in shipped() {
        for precision in PRECISIONS {
            lines.extend(check(&nvrtc, &what, &program, precision, "sm_90"));
        }
        for chip in ["sm_80", "sm_100"] {
            check(&nvrtc, &what, &program, Precision::F32, chip);
        }
    }
    lines.extend(check_source(&nvrtc, "adam", &adam_source(), "sm_90"));
    for chip in ["sm_80", "sm_100"] {
        check_source(&nvrtc, "adam", &adam_source(), chip);
    }
    for seed in 0..20 {
        let Case { what, program, .. } = Case::random(seed, (4, 4), DType::F32);
        check(&nvrtc, &what, &program, Precision::F32, "sm_90");
    }
    let text = lines.join("\n") + "\n";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/resources.txt");
    if std::env::var_os("LNCA_UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    let differing = || text.lines().zip(kept.lines()).find(|(found, kept)| found != kept);
    assert!(
        text == kept,
        "kernels take other resources: {:?}; LNCA_UPDATE=1 writes them anew",
        differing()
    );
}
