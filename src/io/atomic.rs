//! Atomic writes: files that appear whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes `bytes` to the file `path`, and creates its folder if there is none.
///
/// Readers see the old file or the new one, never a part of it, even if the process is killed: the bytes go
/// to a temporary file beside it, which is synced to disk and then renamed. Two threads must not write the
/// same file at once.
///
/// # Errors
/// [`Error::Io`] if the folder or the file cannot be written; an existing file is then unchanged.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = Path::new(&partial);
    let written = File::create(partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(partial, path));
    written.map_err(|error| {
        // The write error matters more than a failed clean-up.
        let _ = fs::remove_file(partial);
        Error::io(path)(error)
    })
}
