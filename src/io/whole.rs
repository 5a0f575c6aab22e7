//! Reading a file into memory.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

/// Most bytes that are read of a pipe or device, which might never end.
const MOST_ENDLESS: u64 = 1 << 30;

/// The bytes of a file.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::File`] if it is a pipe or device with more than 1 GiB.
pub(crate) fn read_whole(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let metadata = file.metadata().map_err(Error::io(path))?;
    let most = match metadata.is_file() {
        true => u64::MAX,
        false => MOST_ENDLESS,
    };
    let mut bytes = Vec::new();
    let size = usize::try_from(metadata.len()).unwrap_or(0);
    // Where there is no room for them, that is an error and no abort.
    let room = bytes.try_reserve_exact(size);
    room.map_err(|error| Error::file(path, error))?;
    file.take(most).read_to_end(&mut bytes).map_err(Error::io(path))?;
    match bytes.len() as u64 >= most {
        true => Err(Error::file(path, "is no file, and does not end within 1 GiB")),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        assert!(read_whole(&path).unwrap_err().to_string().contains("a.bin"));
        for bytes in [&b""[..], b"some"] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read_whole(&path).unwrap(), bytes);
        }
        let name = folder.path().display().to_string();
        assert!(read_whole(folder.path()).unwrap_err().to_string().contains(&name));
        #[cfg(target_os = "linux")]
        {
            let error = read_whole(Path::new("/dev/zero")).unwrap_err().to_string();
            assert!(error.contains("/dev/zero: is no file"), "{error}");
            assert_eq!(read_whole(Path::new("/dev/null")).unwrap(), b"");
        }
    }
}
