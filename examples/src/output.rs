//! What programs print: notes for a person on stderr, results on stdout.
//!
//! The macros of the standard library panic where a stream cannot be written. A training must not end because
//! nobody reads its progress, and a result that is lost must not pass for one that was printed.

use std::fmt::{Arguments, Display};
use std::io::{ErrorKind, Write, stderr, stdout};

use crate::Result;

/// Prints a line of progress to stderr, and goes on if that cannot be written.
#[macro_export]
macro_rules! note {
    ($($words:tt)*) => { $crate::output::note(format_args!($($words)*)) };
}

/// Prints a line to stderr, and goes on if that cannot be written.
pub fn note(line: impl Display) {
    begin(format_args!("{line}\n"));
}

/// Prints to stderr without ending the line, and goes on if that cannot be written.
pub fn begin(text: Arguments) {
    let _ = stderr().write_all(text.to_string().as_bytes());
}

/// Prints a line of results to stdout. If its reader has gone, as in `... | head`, nothing more is wanted,
/// and that is no error.
///
/// # Errors
/// It cannot be written for another reason, such as a full disk.
pub fn print(line: impl Display) -> Result<()> {
    let line = format!("{line}\n");
    let mut stdout = stdout().lock();
    match stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("the result cannot be written to standard output: {error}").into())
        }
        _ => Ok(()),
    }
}
