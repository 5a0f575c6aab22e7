//! The lock of a folder: only one process at a time writes a run or a table there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::{Result, at, folder, note};

/// The file that is locked, with the number of the process that locked it last. It stays: were it removed,
/// one process could lock the old file while another locks a new one.
const NAME: &str = ".lock";

/// Holds a folder. The system lets go of it when the process ends, however it does.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Makes the folder if there is none, and locks it.
    ///
    /// # Errors
    /// Another process holds it, or it cannot be written.
    pub fn take(dir: &Path) -> Result<Self> {
        folder(dir)?;
        let path = dir.join(NAME);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(at(&path))?;
        let mut locked = file.try_lock();
        // One that was just killed takes a moment to be gone.
        for _ in 0..20 {
            if !matches!(locked, Err(TryLockError::WouldBlock)) {
                break;
            }
            sleep(Duration::from_millis(100));
            locked = file.try_lock();
        }
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // It may be about to be written, and on Windows it cannot be read.
                let _ = file.read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "another process".to_string(),
                    number => format!("process {number}"),
                };
                let dir = dir.display();
                return Err(
                    format!("{dir}: {holder} writes there; wait for it, or name another --out").into(),
                );
            }
            // Some network drives know no locks.
            Err(TryLockError::Error(error)) => {
                note!(
                    "{}: not protected from a second run there: {error}",
                    dir.display()
                );
            }
        }
        // The number is for messages alone, and a disk may be full.
        let _ = file
            .set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(std::process::id().to_string().as_bytes()));
        for entry in fs::read_dir(dir).map_err(at(dir))? {
            let name = entry.map_err(at(dir))?.file_name();
            if is_left_behind(&name.to_string_lossy()) {
                // It is in nobody's way.
                let _ = fs::remove_file(dir.join(name));
            }
        }
        Ok(Self { _file: file })
    }
}

/// Whether this is the name of a file that a process was writing, as [`write_atomic`](lnca::io::write_atomic)
/// names them, when it was killed.
fn is_left_behind(name: &str) -> bool {
    let number = || {
        name.strip_suffix(".partial")?
            .strip_prefix('.')?
            .split_once('-')?
            .0
            .parse()
            .ok()
    };
    let lives = |number: u32| Path::new("/proc").join(number.to_string()).exists();
    number().is_some_and(|number| number == std::process::id() || !lives(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_by_one() -> Result<()> {
        let temporary = tempfile::tempdir()?;
        let dir = temporary.path().join("new/run");
        let lock = FolderLock::take(&dir)?;
        let left = dir.join(format!(".{}-0.partial", u32::MAX));
        let other = dir.join("download.partial");
        fs::write(&left, "")?;
        fs::write(&other, "")?;
        let error = FolderLock::take(&dir).unwrap_err().to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        assert!(error.contains(&dir.display().to_string()), "{error}");
        assert!(left.exists(), "a file of the first was removed");
        drop(lock);
        FolderLock::take(&dir)?;
        assert!(!left.exists() && other.exists());
        Ok(())
    }

    #[test]
    fn a_file_in_the_way_is_named() -> Result<()> {
        let temporary = tempfile::tempdir()?;
        let file = temporary.path().join("file");
        fs::write(&file, "")?;
        for dir in [file.clone(), file.join("run")] {
            let error = FolderLock::take(&dir).unwrap_err().to_string();
            assert!(error.contains("file"), "{error}");
        }
        Ok(())
    }
}
