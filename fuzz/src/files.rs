//! Bytes as files, for readers that take paths.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

thread_local! {
    static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

/// The folder of this thread, in memory if the system has a file system there.
pub fn folder() -> PathBuf {
    FOLDER.with_borrow_mut(|folder| {
        let new = || {
            let memory = Path::new("/dev/shm");
            let made = match memory.is_dir() {
                true => tempfile::tempdir_in(memory),
                false => tempfile::tempdir(),
            };
            made.expect("a temporary folder")
        };
        folder.get_or_insert_with(new).path().to_path_buf()
    })
}

/// Writes `bytes` to the file `name` of the folder and returns its path.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    fs::write(&path, bytes).expect("a file in the temporary folder");
    path
}
