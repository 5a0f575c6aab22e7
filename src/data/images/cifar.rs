//! CIFAR-10's binary batches: records of one label byte and 3,072 bytes of a 32x32 image, channel by
//! channel.

use crate::error::{Error, Result};
use crate::io::read_whole;
use std::path::PathBuf;

/// Side of an image in pixels.
pub(super) const SIDE: usize = 32;

const PLANE: usize = SIDE * SIDE;
const RECORD: usize = 1 + 3 * PLANE;

/// Reads the images of `files` in order, each `[32, 32, 3]`; labels are dropped.
///
/// # Errors
/// [`Error::Io`] if a file cannot be read, [`Error::File`] if one is empty or does not end with a whole
/// record.
pub(super) fn read(files: &[PathBuf]) -> Result<Vec<u8>> {
    let mut images = Vec::new();
    for path in files {
        let bytes = read_whole(path)?;
        let rest = bytes.len() % RECORD;
        if bytes.is_empty() || rest != 0 {
            let reason = format!(
                "CIFAR-10 records have {RECORD} bytes, but {} bytes are {} records and {rest} bytes",
                bytes.len(),
                bytes.len() / RECORD
            );
            return Err(Error::file(path, reason));
        }
        for record in bytes.chunks_exact(RECORD) {
            let pixel = |i| [record[1 + i], record[1 + PLANE + i], record[1 + 2 * PLANE + i]];
            images.extend((0..PLANE).flat_map(pixel));
        }
    }
    Ok(images)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Binary records of `count` images, with the images themselves.
    pub(in crate::data) fn records(count: usize) -> (Vec<u8>, Vec<u8>) {
        let images: Vec<u8> = (0..count * 3 * PLANE)
            .map(|i| (i * 31 + i / 3072) as u8)
            .collect();
        let planar = images.chunks(3 * PLANE).flat_map(|image| {
            let plane = |c: usize| image.iter().skip(c).step_by(3);
            [&7].into_iter()
                .chain(plane(0))
                .chain(plane(1))
                .chain(plane(2))
                .copied()
        });
        (planar.collect(), images)
    }

    #[test]
    fn records_come_back_as_images() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            dir.path().join("data_batch_1.bin"),
            dir.path().join("data_batch_2.bin"),
        ];
        let (bytes, images) = records(3);
        std::fs::write(&files[0], &bytes[..RECORD]).unwrap();
        std::fs::write(&files[1], &bytes[RECORD..]).unwrap();
        assert_eq!(read(&files).unwrap(), images);
    }

    #[test]
    fn a_truncated_record_names_the_file_and_the_sizes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("data_batch_1.bin");
        for len in [0, 1, RECORD - 1, RECORD + 5] {
            std::fs::write(&file, &records(2).0[..len]).unwrap();
            let message = read(std::slice::from_ref(&file)).unwrap_err().to_string();
            assert!(
                message.contains("data_batch_1.bin") && message.contains("3073"),
                "{message}"
            );
            assert!(message.contains(&len.to_string()), "{message}");
        }
    }
}
