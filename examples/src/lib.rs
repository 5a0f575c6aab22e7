//! What the examples of [`lnca`] share.
//!
//! | what | where |
//! | --- | --- |
//! | arguments that several examples take: models, devices, numbers | [`args`] |
//! | printing, where a stream may be full or closed | [`output`] |
//! | progress bars; Ctrl-C | [`progress`], [`interrupt`] |
//! | the lock of a folder that a program writes to, logs | [`lock`], [`lines`] |
//! | charts and contact sheets | [`canvas`], [`contact_sheet`] |
//! | the training loop of `growing`, `texture` and `variational` | [`training`] |
//! | patterns: training them, filming them | [`patterns`], [`film`] |
//! | everything that `denoise` and `deblur` do | [`restoration`] |

mod allocator;
pub mod args;
pub mod canvas;
pub mod contact_sheet;
pub mod film;
pub mod interrupt;
pub mod lines;
pub mod lock;
pub mod output;
pub mod patterns;
pub mod progress;
pub mod restoration;
pub mod training;

use std::error::Error;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

/// The result of every fallible function of the examples.
pub type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Ends a program. An error is printed as one sentence, followed by those of its causes that it does not
/// mention. A training that was interrupted is no error, but is told apart by its status.
pub fn exit(result: Result<()>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    if let Some(lnca::Error::Interrupted { at }) = error.downcast_ref() {
        note!("stopped at {at}; its checkpoint is written");
        return ExitCode::from(interrupt::STATUS);
    }
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = error.source();
    }
    note!("error: {message}");
    ExitCode::FAILURE
}

/// The command line of this process, with paths reduced to their last names. Model files record it, and may
/// be shared.
pub fn command_line() -> String {
    let last = |word: String| match Path::new(&word).file_name() {
        Some(name) if word.contains('/') => name.to_string_lossy().into_owned(),
        _ => word,
    };
    let words = std::env::args_os().map(|word| last(word.to_string_lossy().into_owned()));
    words.collect::<Vec<_>>().join(" ")
}

/// The path of a file in the library's folder, such as a model that comes with it: that of the build, or,
/// elsewhere, what the variable `LNCA_ROOT` names.
pub fn shipped(path: &str) -> PathBuf {
    if let Some(root) = std::env::var_os("LNCA_ROOT") {
        return Path::new(&root).join(path);
    }
    // The folder of this crate is in that of the library.
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(path)
}

/// Makes a folder, unless there is one.
///
/// # Errors
/// There is a file of that name, or it cannot be made.
pub fn folder(path: &Path) -> Result<()> {
    if path.exists() && !path.is_dir() {
        return Err(format!("{}: is a file, expected a folder", path.display()).into());
    }
    Ok(std::fs::create_dir_all(path).map_err(at(path))?)
}

/// Puts the path before an error of the operating system or of an encoder.
pub fn at<E: Display>(path: &Path) -> impl FnOnce(E) -> String {
    move |error| format!("{}: {error}", path.display())
}
