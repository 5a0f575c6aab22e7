//! Compiled kernels in files of the user's cache folder, so that only the first run of a program compiles.
//!
//! Nothing here fails: where a file cannot be read or written, or is damaged, kernels are compiled again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, process};

use crate::program::fnv1a;

/// Bytes of the checksum that a file begins with.
const CHECKSUM: usize = 8;

/// The folder, by the values of environment variables: `LNCA_CACHE`, or `lnca` in the user's cache folder;
/// `None` if they name neither.
pub(super) fn folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let named = |name| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let of_user = match cfg!(windows) {
        true => named("LOCALAPPDATA"),
        false => named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache"))),
    };
    named("LNCA_CACHE").or_else(|| Some(of_user?.join("lnca")))
}

/// What [`write()`] wrote to `file`; `None` if there is no such file or it is damaged.
pub(super) fn read(file: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(file).ok()?;
    let (checksum, code) = bytes.split_at_checked(CHECKSUM)?;
    (checksum == fnv1a(code).to_le_bytes()).then(|| code.to_vec())
}

/// Writes `code` to `file`, and creates its folder, if that is possible.
pub(super) fn write(file: &Path, code: &[u8]) {
    static WRITTEN: AtomicUsize = AtomicUsize::new(0);
    // Other threads and processes may write the same file.
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let partial = file.with_extension(format!("{}-{number}.partial", process::id()));
    let bytes = [&fnv1a(code).to_le_bytes()[..], code].concat();
    let folder = file.parent().map_or(Ok(()), fs::create_dir_all);
    let written = folder
        .and_then(|()| fs::write(&partial, bytes))
        .and_then(|()| fs::rename(&partial, file));
    if let Err(error) = written {
        tracing::debug!(file = %file.display(), %error, "compiled kernels are not stored");
        let _ = fs::remove_file(&partial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_that_of_the_most_specific_variable() {
        let of = |set: &[(&str, &str)]| {
            let value = |name: &str| {
                set.iter()
                    .find(|(set, _)| *set == name)
                    .map(|(_, value)| value.into())
            };
            folder(value)
        };
        let home = if cfg!(windows) {
            ("LOCALAPPDATA", "home")
        } else {
            ("HOME", "home")
        };
        let below = if cfg!(windows) {
            "home/lnca"
        } else {
            "home/.cache/lnca"
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[home]), Some(below.into()));
        assert_eq!(of(&[home, ("LNCA_CACHE", "")]), Some(below.into()));
        assert_eq!(of(&[home, ("LNCA_CACHE", "kernels")]), Some("kernels".into()));
        assert_eq!(of(&[("LNCA_CACHE", "kernels")]), Some("kernels".into()));
        if !cfg!(windows) {
            assert_eq!(
                of(&[home, ("XDG_CACHE_HOME", "cache")]),
                Some("cache/lnca".into())
            );
        }
    }

    #[test]
    fn what_was_written_is_read_unless_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new").join("code.1.cubin");
        assert_eq!(read(&file), None);
        write(&file, b"kernels");
        assert_eq!(read(&file).as_deref(), Some(&b"kernels"[..]));
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);

        let mut bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(read(&file), None);
        fs::write(&file, &bytes[..3]).unwrap();
        assert_eq!(read(&file), None);
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, &bytes).unwrap();
        assert_eq!(read(&file), None);
        write(&file, b"others");
        assert_eq!(read(&file).as_deref(), Some(&b"others"[..]));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let occupied = folder.path().join("occupied");
        fs::write(&occupied, "a file").unwrap();
        write(&occupied.join("code.cubin"), b"kernels");
        assert_eq!(read(&occupied.join("code.cubin")), None);
    }
}
