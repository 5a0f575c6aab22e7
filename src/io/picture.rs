//! 8-bit RGB pictures: read from PNG and JPEG files, which may be damaged or malicious, and written as PNG.

use super::atomic::write_atomic;
use super::resize::lanczos_resize;
use crate::error::{Error, Result};
use image::{DynamicImage, ImageFormat, ImageReader, Limits};
use serde::{Deserialize, Serialize};
use std::io::Cursor;
use std::path::Path;

/// Memory limit of a decoded file in bytes: 89 megapixels.
const MOST_DECODED: u64 = 256 << 20;

/// How a picture that is not square is made square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// The largest centred square is kept, without distortion.
    #[default]
    Crop,
    /// It is squeezed into a square, as in the paper's program.
    Squash,
}

/// An 8-bit RGB image of any size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `[height, width, 3]`, row by row.
    pub pixels: Vec<u8>,
}

impl Picture {
    /// Reads a PNG or JPEG, whatever its name says: grey becomes RGB, alpha is dropped, 16 bits are
    /// reduced to 8.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::File`] if it is neither PNG nor JPEG, damaged,
    /// truncated, or larger than 256 MiB when decoded.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let image = decode(path.as_ref())?;
        let (width, height) = (image.width() as usize, image.height() as usize);
        Ok(Self {
            height,
            width,
            pixels: image.into_rgb8().into_raw(),
        })
    }

    /// The part with `height` rows and `width` columns whose top left pixel is at (`top`, `left`).
    ///
    /// # Errors
    /// [`Error::Config`] if it is not inside the picture.
    pub fn crop(&self, top: usize, left: usize, height: usize, width: usize) -> Result<Self> {
        if top + height > self.height || left + width > self.width {
            let expected = format!("inside an image of {}x{}", self.height, self.width);
            return Err(Error::config(
                "crop",
                expected,
                format!("{height}x{width} at ({top}, {left})"),
            ));
        }
        let rows = (top..top + height).map(|y| &self.pixels[(y * self.width + left) * 3..][..width * 3]);
        Ok(Self {
            height,
            width,
            pixels: rows.flatten().copied().collect(),
        })
    }

    /// The pixels of this picture resized to a square, `[size, size, 3]`, by Lanczos resampling.
    ///
    /// # Errors
    /// [`Error::Config`] if `size` is 0.
    pub fn square(&self, size: usize, fit: ResizeMode) -> Result<Vec<u8>> {
        let side = self.height.min(self.width);
        if fit == ResizeMode::Crop && self.height != self.width {
            let middle = self.crop((self.height - side) / 2, (self.width - side) / 2, side, side)?;
            return lanczos_resize(&middle.pixels, side, side, size, size);
        }
        lanczos_resize(&self.pixels, self.height, self.width, size, size)
    }
}

/// Writes a picture as a PNG, atomically.
///
/// # Errors
/// [`Error::Io`] if it cannot be written, [`Error::File`] if it is empty.
pub fn write_png(picture: &Picture, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let wrong = |error: png::EncodingError| Error::file(path, error);
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(&mut bytes, picture.width as u32, picture.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().map_err(wrong)?;
    writer.write_image_data(&picture.pixels).map_err(wrong)?;
    writer.finish().map_err(wrong)?;
    write_atomic(path, &bytes)
}

/// Decodes a PNG or JPEG file, whatever its name says. The image is never empty.
pub(crate) fn decode(path: &Path) -> Result<DynamicImage> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let mut reader = ImageReader::new(Cursor::new(&bytes))
        .with_guessed_format()
        .map_err(Error::io(path))?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MOST_DECODED);
    reader.limits(limits);
    // The JPEG decoder fills missing parts with grey instead of failing.
    if reader.format() == Some(ImageFormat::Jpeg) && !jpeg_is_complete(&bytes) {
        let reason = format!("JPEG cut short: no end marker in {} bytes", bytes.len());
        return Err(Error::file(path, reason));
    }
    let image = reader.decode().map_err(|error| Error::file(path, error))?;
    if image.width() == 0 || image.height() == 0 {
        let size = format!("empty image, {}x{}", image.height(), image.width());
        return Err(Error::file(path, size));
    }
    Ok(image)
}

/// Whether a JPEG's end marker follows its first scan. Header segments are skipped by their lengths, since an
/// embedded thumbnail has its own end marker.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[0xFF, marker, high, low]) = bytes.get(at..at + 4) {
        // Any number of 0xFF may fill the space before a marker.
        if marker == 0xFF {
            at += 1;
            continue;
        }
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
        if marker == 0xDA {
            return bytes
                .get(at..)
                .is_some_and(|scan| scan.windows(2).any(|pair| pair == [0xFF, 0xD9]));
        }
    }
    false
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use image::codecs::jpeg::JpegEncoder;
    use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage};

    /// A picture whose pixels all differ, and differ for every `tint`.
    pub(crate) fn sample(height: usize, width: usize, tint: u8) -> Picture {
        let pixel = |i: usize| [(i * 7) as u8, (i / width * 11) as u8, tint];
        Picture {
            height,
            width,
            pixels: (0..height * width).flat_map(pixel).collect(),
        }
    }

    pub(crate) fn write(picture: &Picture, path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let (width, height) = (picture.width as u32, picture.height as u32);
        RgbImage::from_raw(width, height, picture.pixels.clone())
            .unwrap()
            .save(path)
            .unwrap();
    }

    #[test]
    fn grey_and_alpha_become_rgb() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        GrayImage::from_pixel(3, 2, image::Luma([9])).save(&path).unwrap();
        assert_eq!(Picture::read(&path).unwrap().pixels, [9; 18]);
        GrayAlphaImage::from_pixel(3, 2, image::LumaA([9, 0]))
            .save(&path)
            .unwrap();
        assert_eq!(Picture::read(&path).unwrap().pixels, [9; 18]);
    }

    #[test]
    fn every_way_to_cut_a_file_short_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.png", "a.jpg"] {
            let path = dir.path().join(name);
            write(&sample(40, 30, 5), &path);
            let whole = std::fs::read(&path).unwrap();
            assert!(Picture::read(&path).is_ok());
            // The last chunk of a PNG holds no pixels.
            let needed = whole.len() - if name == "a.png" { 12 } else { 0 };
            for len in [0, 1, 2, 3, 4, 10, 25, needed / 2, needed - 20, needed - 1] {
                std::fs::write(&path, &whole[..len]).unwrap();
                let error = Picture::read(&path).unwrap_err();
                assert!(error.to_string().contains(name), "{len} bytes: {error}");
            }
        }
    }

    #[test]
    fn a_thumbnail_does_not_pass_for_the_end_of_a_jpeg() {
        let mut bytes = Vec::new();
        let image = DynamicImage::ImageRgb8(RgbImage::new(8, 8));
        image.write_with_encoder(JpegEncoder::new(&mut bytes)).unwrap();
        // An application segment holding an end marker, put after the start marker.
        bytes.splice(2..2, [0xFF, 0xE1, 0, 4, 0xFF, 0xD9]);
        assert!(jpeg_is_complete(&bytes));
        assert!(!jpeg_is_complete(&bytes[..bytes.len() - 2]));
    }

    #[test]
    fn a_huge_image_in_a_small_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bomb.png");
        write(&sample(2, 2, 0), &path);
        let mut bytes = std::fs::read(&path).unwrap();
        // Width and height of the header chunk, and its checksum.
        bytes[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        let crc = bytes[12..29].iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xEDB8_8320 * (crc & 1))
            })
        });
        bytes[29..33].copy_from_slice(&(!crc).to_be_bytes());
        std::fs::write(&path, bytes).unwrap();
        let error = Picture::read(&path).unwrap_err().to_string();
        assert!(error.to_lowercase().contains("limit"), "{error}");
    }

    #[test]
    fn the_middle_square_is_kept() {
        let picture = sample(4, 6, 1);
        let square = picture.square(4, ResizeMode::Crop).unwrap();
        assert_eq!(square, picture.crop(0, 1, 4, 4).unwrap().pixels);
        assert_eq!(picture.square(5, ResizeMode::Squash).unwrap().len(), 75);
        assert!(picture.crop(1, 0, 4, 4).is_err());
    }
}
