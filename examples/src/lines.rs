//! A file of lines that grows during a training, such as its log.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use lnca::io::write_atomic;

use crate::{Result, at, note};

/// A log must not end the training it is about: where a line cannot be written, that is said once, and the
/// line is kept until there is room for it.
pub struct Lines {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines in the file.
    len: u64,
    /// Lines that are not in the file yet.
    waiting: String,
    failed: bool,
}

/// The whole lines of a file, without the last if a kill or a crash cut it short; none if there is no file.
///
/// # Errors
/// It cannot be read.
pub fn read(path: &Path) -> Result<Vec<String>> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        bytes => bytes.map_err(at(path))?,
    };
    let whole = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    // A crash of the machine may leave anything.
    let text = String::from_utf8_lossy(&bytes[..whole]);
    Ok(text.lines().map(String::from).collect())
}

impl Lines {
    /// A file with these lines and nothing else.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn start(path: &Path, lines: &[String]) -> Result<Self> {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        write_atomic(path, text.as_bytes())?;
        Ok(Self {
            path: path.into(),
            file: OpenOptions::new().append(true).open(path).map_err(at(path))?,
            len: text.len() as u64,
            waiting: String::new(),
            failed: false,
        })
    }

    /// Appends a line, now or later.
    pub fn push(&mut self, line: &str) {
        self.waiting += line;
        self.waiting.push('\n');
        match self.file.write_all(self.waiting.as_bytes()) {
            Ok(()) => {
                self.len += self.waiting.len() as u64;
                self.waiting.clear();
            }
            Err(error) => {
                // Without the part of a line that did find room.
                let _ = self.file.set_len(self.len);
                if !self.failed {
                    let path = self.path.display();
                    note!("warning: {path}: {error}; the training goes on, lines wait for room");
                }
                self.failed = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_short_is_left_out() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("log.jsonl");
        assert_eq!(read(&path)?, Vec::<String>::new());
        for (bytes, lines) in [
            (&b"one\ntwo\nthr"[..], &["one", "two"][..]),
            (b"one\n\0\0\0", &["one"]),
            (b"cut", &[]),
            (b"", &[]),
        ] {
            std::fs::write(&path, bytes)?;
            assert_eq!(read(&path)?, lines);
        }
        let mut file = Lines::start(&path, &read(&path)?)?;
        file.push("a");
        file.push("b");
        assert_eq!(read(&path)?, ["a", "b"]);
        Ok(())
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn lines_wait_where_there_is_no_room() -> Result<()> {
        let mut full = Lines {
            path: "/dev/full".into(),
            file: OpenOptions::new().append(true).open("/dev/full")?,
            len: 0,
            waiting: String::new(),
            failed: false,
        };
        full.push("a");
        full.push("b");
        assert_eq!(full.waiting, "a\nb\n");
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("log.jsonl");
        full.file = Lines::start(&path, &[])?.file;
        full.push("c");
        assert_eq!(read(&path)?, ["a", "b", "c"]);
        Ok(())
    }
}
