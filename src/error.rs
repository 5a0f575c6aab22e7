//! The error type of the crate.

pub(crate) mod check;

use std::path::{Path, PathBuf};

use candle_core::DType;

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong: each variant names the thing, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor argument has the wrong shape.
    #[error("`{argument}` has shape {found:?}, expected {expected}")]
    Shape {
        /// Name of the argument as the function's signature has it.
        argument: &'static str,
        /// The shape asked for, in words or as `[B, H, W, C]`.
        expected: String,
        /// The shape given.
        found: Vec<usize>,
    },
    /// A setting is out of its range, or settings contradict each other.
    #[error("`{name}` is {found}, expected {expected}")]
    Config {
        /// Name of the field or argument.
        name: &'static str,
        /// The range or rule it violates.
        expected: String,
        /// The value given.
        found: String,
    },
    /// A tensor argument holds numbers of the wrong type.
    #[error("`{argument}` holds {found:?}, expected {expected}")]
    DType {
        /// Name of the argument as the function's signature has it.
        argument: &'static str,
        /// The type asked for.
        expected: String,
        /// The type given.
        found: DType,
    },
    /// A tensor argument is on another device than what it is used with.
    #[error("`{argument}` is on {found}, expected {expected}")]
    Device {
        /// Name of the argument as the function's signature has it.
        argument: &'static str,
        /// The device asked for.
        expected: String,
        /// The device given.
        found: String,
    },
    /// A weight is missing from a file, left over in it, of another shape, or not finite.
    #[error("weight `{key}`: expected {expected}, found {found}")]
    Weight {
        /// Full name of the weight, as the file has it.
        key: String,
        /// Shape asked for, `no such weight`, or `finite numbers`.
        expected: String,
        /// Shape in the file, `nothing`, or what is not finite and where.
        found: String,
    },
    /// A file exists but does not hold what it should.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system refused to read or write.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Training produced a NaN or an infinity. The last checkpoint is kept.
    #[error("training diverged: {what} is {value} at {at}")]
    Diverged {
        /// The loss term or gradient that is not finite.
        what: String,
        /// Its value.
        value: f64,
        /// Phase, epoch, batch and update, as far as they are known.
        at: String,
    },
    /// Training was asked to stop; its checkpoint, if it has one, is that of this moment.
    #[error("training was interrupted at {at}")]
    Interrupted {
        /// Phase, epoch and batch.
        at: String,
    },
    /// An error from Candle: mismatched devices, an unsupported operation, a failed allocation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn shape(argument: &'static str, expected: impl Into<String>, found: &[usize]) -> Self {
        Self::Shape {
            argument,
            expected: expected.into(),
            found: found.to_vec(),
        }
    }

    pub(crate) fn config(name: &'static str, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Config {
            name,
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    pub(crate) fn file(path: impl AsRef<Path>, reason: impl ToString) -> Self {
        Self::File {
            path: path.as_ref().to_path_buf(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }
}

/// Lets these errors pass through custom operations of Candle and their backward passes.
impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            other => candle_core::Error::wrap(other),
        }
    }
}
