//! Atomic writes: files that appear whole or not at all.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// Most links that are followed from a name to its file, as in Linux.
const MOST_LINKS: usize = 40;

/// Writes `bytes` to the file `path`, and creates its folder if there is none.
///
/// Readers see the old file or the new one, never a part of it, even if the process is killed: the bytes go
/// to a temporary file in the same folder, which is synced to disk and then renamed. Threads and processes
/// may write the same file at once: the last one wins. A killed process may leave its temporary file, whose
/// name begins with a dot and ends in `.partial`.
///
/// A link stays, and the file that it leads to is written. An existing file keeps its permissions, and is
/// not replaced if they forbid to write it. To pipes and devices `bytes` are written directly.
///
/// # Errors
/// [`Error::Io`] if the folder or the file cannot be written; an existing file is then unchanged, and no
/// temporary file is left.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    write(path, bytes).map_err(Error::io(path))
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let old = match fs::metadata(path) {
        Ok(old) => Some(old),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(old) = &old {
        if old.is_dir() {
            return Err(ErrorKind::IsADirectory.into());
        }
        // To rename a file over one that may not be written would need no permission of it.
        let mut file = OpenOptions::new().write(true).open(path)?;
        if !old.is_file() {
            return file.write_all(bytes).and_then(|()| file.flush());
        }
    }
    let target = followed(path)?;
    let (partial, file) = partial_beside(&target)?;
    fill(file, bytes, old.as_ref())
        .and_then(|()| fs::rename(&partial, &target))
        .inspect_err(|_| {
            // The write error matters more than a failed clean-up.
            let _ = fs::remove_file(&partial);
        })
}

/// Where the links from `path` lead; the last need not exist.
fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&path) {
            Ok(to) => path = path.parent().unwrap_or(Path::new("")).join(to),
            // It is no link, or does not exist.
            Err(_) => return Ok(path),
        }
    }
    // The error of the system for this has no stable name.
    fs::metadata(&path)?;
    Ok(path)
}

/// A new file in the folder of `path`, with its name. The name is short: that of `path` may have the greatest
/// length.
fn partial_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    static WRITTEN: AtomicUsize = AtomicUsize::new(0);
    loop {
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let name = format!(".{}-{number}.partial", std::process::id());
        let partial = path.with_file_name(name);
        // Another machine or container may use the same folder and have a process of this number.
        match OpenOptions::new().write(true).create_new(true).open(&partial) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            opened => return Ok((partial, opened?)),
        }
    }
}

/// Fills the new file that takes the place of `old`.
fn fill(mut file: File, bytes: &[u8], old: Option<&Metadata>) -> io::Result<()> {
    if let Some(old) = old {
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, fchown};
            // Only an administrator may give files away; everyone else owns what is replaced, or now will.
            let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
        }
        file.set_permissions(old.permissions())?;
    }
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_made_with_its_folder_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/deep/a.txt");
        for text in ["one", "", "two"] {
            write_atomic(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(names(path.parent().unwrap()), ["a.txt"]);
    }

    #[test]
    fn the_longest_name_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a".repeat(255));
        write_atomic(&path, b"x").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"x");
        let long = folder.path().join("a".repeat(256));
        assert!(write_atomic(&long, b"x").unwrap_err().to_string().contains("aaa"));
        assert_eq!(names(folder.path()).len(), 1);
    }

    #[test]
    fn a_folder_or_a_file_in_the_way_is_named_and_left() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("is_a_folder")).unwrap();
        fs::write(folder.path().join("is_a_file"), "old").unwrap();
        for name in ["is_a_folder", "is_a_file/a.png", "is_a_file/b/a.png"] {
            let error = write_atomic(folder.path().join(name), b"x").unwrap_err();
            assert!(error.to_string().contains(&name[..9]), "{error}");
        }
        assert!(write_atomic("", b"x").is_err() && write_atomic("..", b"x").is_err());
        assert_eq!(names(folder.path()), ["is_a_file", "is_a_folder"]);
        assert_eq!(fs::read(folder.path().join("is_a_file")).unwrap(), b"old");
    }

    #[test]
    fn writers_at_once_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        std::thread::scope(|scope| {
            for byte in 0..8u8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        write_atomic(path, &vec![byte; 100_000]).unwrap();
                    }
                });
            }
        });
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() == 100_000 && bytes.iter().all(|byte| *byte == bytes[0]));
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[cfg(unix)]
    mod unix {
        use std::os::unix::fs::{PermissionsExt, symlink};

        use super::*;

        #[test]
        fn permissions_stay() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.txt");
            fs::write(&path, "old").unwrap();
            for mode in [0o600, 0o640, 0o666] {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                write_atomic(&path, b"new").unwrap();
                assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            }
        }

        #[test]
        fn links_are_written_through() {
            let folder = tempfile::tempdir().unwrap();
            let (inner, link) = (folder.path().join("inner"), folder.path().join("link"));
            fs::create_dir(&inner).unwrap();
            // Relative to the folder of the link, over a second link, to a file that is not there yet.
            symlink("inner/second", &link).unwrap();
            symlink("a.txt", inner.join("second")).unwrap();
            for text in ["new", "newer"] {
                write_atomic(&link, text.as_bytes()).unwrap();
                assert_eq!(fs::read_to_string(inner.join("a.txt")).unwrap(), text);
            }
            assert_eq!(names(folder.path()), ["inner", "link"]);
            assert_eq!(names(&inner), ["a.txt", "second"]);
            assert!(link.is_symlink());
        }

        #[test]
        fn links_that_lead_nowhere_are_errors() {
            let folder = tempfile::tempdir().unwrap();
            let circle = folder.path().join("circle");
            symlink("circle", &circle).unwrap();
            assert!(write_atomic(&circle, b"x").is_err());
            let lost = folder.path().join("lost");
            symlink("no/such/folder/a", &lost).unwrap();
            assert!(write_atomic(&lost, b"x").is_err());
            assert_eq!(names(folder.path()), ["circle", "lost"]);
        }

        #[cfg(target_os = "linux")]
        #[test]
        fn devices_are_written_and_stay() {
            let folder = tempfile::tempdir().unwrap();
            for (device, works) in [("/dev/full", false), ("/dev/null", true)] {
                let link = folder.path().join("link");
                symlink(device, &link).unwrap();
                assert_eq!(write_atomic(&link, b"x").is_ok(), works, "{device}");
                assert!(link.is_symlink());
                fs::remove_file(&link).unwrap();
            }
            assert!(names(folder.path()).is_empty());
        }

        #[cfg(target_os = "linux")]
        #[test]
        fn pipes_are_written() {
            use std::io::Read;
            use std::os::fd::AsRawFd;
            let folder = tempfile::tempdir().unwrap();
            let link = folder.path().join("link");
            let (mut reader, writer) = std::io::pipe().unwrap();
            // As /dev/stdout, it leads to a name that is no file.
            symlink(format!("/proc/self/fd/{}", writer.as_raw_fd()), &link).unwrap();
            write_atomic(&link, b"bytes").unwrap();
            drop(writer);
            let mut found = vec![];
            reader.read_to_end(&mut found).unwrap();
            assert_eq!(found, b"bytes");
        }
    }
}
