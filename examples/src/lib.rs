//! What the examples of [`lnca`] share.
//!
//! | what | where |
//! | --- | --- |
//! | kinds of arguments: models, devices, numbers | [`args`] |
//! | progress bars | [`progress`] |
//! | the training of patterns and of variational autoencoders | [`training`], [`pattern_learner`] |
//! | pictures: contact sheets, charts, films of patterns | [`sheet`], [`curves`], [`film`] |
//! | the run of `denoise` and `deblur` | [`pipeline`], [`run_folder`], [`log`], [`evaluation`] |

pub mod args;
pub mod curves;
pub mod evaluation;
pub mod film;
pub mod log;
pub mod pattern_learner;
pub mod pipeline;
pub mod progress;
pub mod run_folder;
pub mod sheet;
pub mod training;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Training allocates and frees the same large tensors all the time. The allocator of the C library
/// gives such memory back to the system and fetches it again, which costs about a quarter of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What fallible functions of the examples return.
pub type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Ends a program: an error is printed as a sentence, with the causes that it does not name itself.
pub fn exit(result: Result<()>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = error.source();
    }
    eprintln!("error: {message}");
    ExitCode::FAILURE
}

/// The command that runs this program, with files and folders by their last names alone: it goes into model files,
/// which travel.
pub fn command_line() -> String {
    let last = |word: String| match Path::new(&word).file_name() {
        Some(name) if word.contains('/') => name.to_string_lossy().into_owned(),
        _ => word,
    };
    std::env::args().map(last).collect::<Vec<_>>().join(" ")
}

/// A file of the library's folder, such as a trained model that comes with it.
pub fn shipped(path: &str) -> PathBuf {
    // The examples are a folder of the library's.
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(path)
}

/// Names the file in an error of the operating system or of an encoder.
pub fn at<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> String {
    move |error| format!("{}: {error}", path.display())
}

/// Writes a file whole or not at all: a reader, or a run killed here, sees the old file or the new.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    std::fs::write(partial, bytes).map_err(at(partial))?;
    Ok(std::fs::rename(partial, path).map_err(at(path))?)
}
