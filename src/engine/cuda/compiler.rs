//! From CUDA C to the machine code of a chip, by NVRTC.

use std::env;
use std::ffi::CString;
use std::path::PathBuf;

use candle_core::cuda_backend::cudarc::nvrtc::result::{self, NvrtcError};
use candle_core::cuda_backend::cudarc::nvrtc::sys;

use super::cache;
use super::driver::{PTX, Source};
use crate::error::Result;
use crate::program::fnv1a;

/// Lines of NVRTC's log in an error message.
const LOG: usize = 40;

/// The options of NVRTC but for the chip. Without fast math: NaN and infinities are what they are on a CPU.
const OPTIONS: [&str; 1] = ["--std=c++17"];

/// The kernels of a source for a chip.
pub(super) struct Code<'a> {
    source: &'a Source,
    /// As NVRTC has it: `sm_90`.
    chip: &'a str,
    file: Option<PathBuf>,
}

impl<'a> Code<'a> {
    pub fn new(source: &'a Source, chip: &'a str) -> Self {
        // The name of the source stands for its text; the rest has its own hash.
        let rest = fnv1a(format!("{PTX}{OPTIONS:?}").as_bytes());
        let (major, minor) = version();
        let crate_version = env!("CARGO_PKG_VERSION");
        let name = format!(
            "{}-{rest:016x}-{chip}-nvrtc{major}.{minor}-lnca{crate_version}.cubin",
            source.name
        );
        Self {
            source,
            chip,
            file: cache::folder(|name| env::var_os(name)).map(|folder| folder.join(name)),
        }
    }

    /// The machine code that an earlier run stored.
    pub fn stored(&self) -> Option<Vec<u8>> {
        self.file.as_deref().and_then(cache::read)
    }

    /// Compiles, and stores the machine code for later runs.
    pub fn compile(&self) -> Result<Vec<u8>> {
        let code = self.cubin().map_err(|reason| {
            let (name, chip) = (&self.source.name, self.chip);
            candle_core::Error::msg(format!("kernels {name} do not compile for {chip}: {reason}"))
        })?;
        if let Some(file) = &self.file {
            cache::write(file, &code);
        }
        Ok(code)
    }

    fn cubin(&self) -> std::result::Result<Vec<u8>, String> {
        let program = Program::new(&format!("{PTX}\n{}", self.source.text), &self.source.name)?;
        let options = OPTIONS.map(String::from);
        let options = [&[format!("--gpu-architecture={}", self.chip)], &options[..]].concat();
        // SAFETY: the program is alive until it is dropped.
        unsafe { result::compile_program(program.handle, &options) }
            .map_err(|error| format!("{error}\n{}", program.log()))?;
        program.cubin().map_err(|error| error.to_string())
    }
}

/// The version of NVRTC; 0 if it does not tell.
fn version() -> (i32, i32) {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are written before the function returns, if at all.
    let _ = unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    (major, minor)
}

/// A program of NVRTC, with the texts that it may refer to.
struct Program {
    handle: sys::nvrtcProgram,
    _text: CString,
    _name: CString,
}

impl Program {
    fn new(text: &str, name: &str) -> std::result::Result<Self, String> {
        let [text, name] = [text, name].map(CString::new);
        let text = text.map_err(|error| error.to_string())?;
        let name = name.map_err(|error| error.to_string())?;
        Ok(Self {
            handle: result::create_program(&text, Some(&name)).map_err(|error| error.to_string())?,
            _text: text,
            _name: name,
        })
    }

    /// The beginning of what NVRTC says.
    fn log(&self) -> String {
        // SAFETY: the program is alive until it is dropped.
        let Ok(log) = (unsafe { result::get_program_log(self.handle) }) else {
            return "no log".into();
        };
        let log: Vec<u8> = log.into_iter().map(|c| c as u8).take_while(|&c| c != 0).collect();
        let log = String::from_utf8_lossy(&log);
        log.lines().take(LOG).collect::<Vec<_>>().join("\n")
    }

    fn cubin(&self) -> std::result::Result<Vec<u8>, NvrtcError> {
        let mut bytes = 0;
        // SAFETY: the program is alive until it is dropped, and NVRTC writes as many bytes as it said.
        unsafe {
            sys::nvrtcGetCUBINSize(self.handle, &mut bytes).result()?;
            let mut code = vec![0u8; bytes];
            sys::nvrtcGetCUBIN(self.handle, code.as_mut_ptr().cast()).result()?;
            Ok(code)
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: this is the only owner. Nothing can be done about a failure.
        let _ = unsafe { result::destroy_program(self.handle) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_with_the_log() {
        if version() == (0, 0) {
            eprintln!("skipped: what stands for NVRTC here compiles nothing");
            return;
        }
        let source = Source::new("KERNEL void broken() { missing(); }".into());
        let error = Code::new(&source, "sm_90").compile().unwrap_err().to_string();
        assert!(error.contains("missing") && error.contains("sm_90"), "{error}");
        let error = Code::new(&source, "sm_1").compile().unwrap_err().to_string();
        assert!(error.contains("sm_1"), "{error}");
    }
}
