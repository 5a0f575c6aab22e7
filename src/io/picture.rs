//! 8-bit RGB pictures: read from PNG and JPEG files, which may be damaged or malicious, and written as PNG.

use super::atomic::write_atomic;
use super::resize::lanczos_resize;
use super::whole::read_whole;
use crate::error::{Error, Result};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
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
    /// reduced to 8. It is turned upright if its Exif data says how the camera was held.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::File`] if it is neither PNG nor JPEG, damaged,
    /// truncated, or larger than 256 MiB when decoded.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let Decoded { image, .. } = decode(path.as_ref())?;
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

/// A decoded file.
pub(crate) struct Decoded {
    /// Upright, and never empty.
    pub image: DynamicImage,
    /// The colour profile (ICC).
    pub profile: Option<Vec<u8>>,
    /// The Exif data, without the orientation.
    pub exif: Option<Vec<u8>>,
}

/// Decodes a PNG or JPEG file, whatever its name says, and turns it upright. All pictures are read by this
/// function, so that they agree on what is up.
pub(crate) fn decode(path: &Path) -> Result<Decoded> {
    let bytes = read_whole(path)?;
    let wrong = |error: image::ImageError| Error::file(path, error);
    let mut reader = ImageReader::new(Cursor::new(&bytes))
        .with_guessed_format()
        .map_err(Error::io(path))?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MOST_DECODED);
    reader.limits(limits.clone());
    // The JPEG decoder fills missing parts with grey instead of failing.
    let format = reader.format();
    if format == Some(ImageFormat::Jpeg) && !jpeg_is_complete(&bytes) {
        let reason = format!("JPEG cut short: no end marker in {} bytes", bytes.len());
        return Err(Error::file(path, reason));
    }
    let mut decoder = reader.into_decoder().map_err(wrong)?;
    limits.reserve(decoder.total_bytes()).map_err(wrong)?;
    decoder.set_limits(limits).map_err(wrong)?;
    // Pictures with damaged Exif data are shown as they are, everywhere.
    let mut exif = match format {
        Some(ImageFormat::Png) => png_exif(&bytes).map(<[u8]>::to_vec),
        _ => decoder.exif_metadata().ok().flatten(),
    };
    let orientation = exif.as_deref_mut().and_then(Orientation::remove_from_exif_chunk);
    let profile = decoder.icc_profile().ok().flatten();
    let mut image = DynamicImage::from_decoder(decoder).map_err(wrong)?;
    if image.width() == 0 || image.height() == 0 {
        let size = format!("empty image, {}x{}", image.height(), image.width());
        return Err(Error::file(path, size));
    }
    image.apply_orientation(orientation.unwrap_or(Orientation::NoTransforms));
    Ok(Decoded { image, profile, exif })
}

/// The Exif data of a PNG. The decoder knows only what comes before the pixels, but this may come after them;
/// and some programs begin it as in a JPEG.
fn png_exif(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.get(8..)?;
    // Length, kind, data and checksum of a chunk.
    while let Some((&[a, b, c, d, ref kind @ ..], data)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if kind == b"eXIf" {
            let exif = data.get(..length)?;
            return Some(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif));
        }
        rest = data.get(length.checked_add(4)?..)?;
    }
    None
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

    /// Exif data with nothing but an orientation, in either order of bytes.
    fn exif(orientation: u8, little: bool) -> Vec<u8> {
        let start: &[u8] = if little { b"II*\0" } else { b"MM\0*" };
        let long = |x: u32| if little { x.to_le_bytes() } else { x.to_be_bytes() };
        let short = |x: u16| if little { x.to_le_bytes() } else { x.to_be_bytes() };
        let (one, kind) = (short(1), short(3));
        let value = short(orientation.into());
        [
            start,
            &long(8),
            &one,
            &short(0x112),
            &kind,
            &long(1),
            &value,
            &[0, 0],
            &long(0),
        ]
        .concat()
    }

    /// `bytes` of a JPEG with Exif data.
    pub(crate) fn tagged_jpeg(bytes: &[u8], orientation: u8) -> Vec<u8> {
        let exif = [&b"Exif\0\0"[..], &exif(orientation, false)].concat();
        let length = (exif.len() as u16 + 2).to_be_bytes();
        [&bytes[..2], &[0xFF, 0xE1], &length, &exif, &bytes[2..]].concat()
    }

    /// `bytes` of a PNG with Exif data before or behind its pixels.
    fn tagged_png(bytes: &[u8], exif: &[u8], behind: bool) -> Vec<u8> {
        let chunk = [&b"eXIf"[..], exif].concat();
        let length = (exif.len() as u32).to_be_bytes();
        let chunk = [&length[..], &chunk, &checksum(&chunk).to_be_bytes()].concat();
        // The first chunk ends after 33 bytes, the last has 12.
        let at = if behind { bytes.len() - 12 } else { 33 };
        [&bytes[..at], &chunk, &bytes[at..]].concat()
    }

    /// The checksum of a chunk of a PNG.
    fn checksum(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xEDB8_8320 * (crc & 1))
            })
        })
    }

    /// Where the upper left quarter of a stored picture is shown: its row and column.
    const SHOWN: [(usize, usize); 8] = [(0, 0), (0, 1), (1, 1), (1, 0), (0, 0), (0, 1), (1, 1), (1, 0)];

    #[test]
    fn pictures_are_turned_upright() {
        let dir = tempfile::tempdir().unwrap();
        let stored = Picture {
            height: 16,
            width: 32,
            // White in the upper left quarter.
            pixels: (0..16 * 32)
                .flat_map(|i| [if i / 32 < 8 && i % 32 < 16 { 255 } else { 0 }; 3])
                .collect(),
        };
        let plain = ["jpg", "png"].map(|ending| {
            let path = dir.path().join("plain").with_extension(ending);
            write(&stored, &path);
            std::fs::read(path).unwrap()
        });
        for orientation in 0..=9u8 {
            let known = (1..=8).contains(&orientation);
            let (row, column) = if known {
                SHOWN[orientation as usize - 1]
            } else {
                (0, 0)
            };
            let size = if (5..=8).contains(&orientation) {
                (32, 16)
            } else {
                (16, 32)
            };
            let prefixed = [&b"Exif\0\0"[..], &exif(orientation, true)].concat();
            for (ending, bytes) in [
                ("jpg", tagged_jpeg(&plain[0], orientation)),
                ("png", tagged_png(&plain[1], &exif(orientation, true), false)),
                ("png", tagged_png(&plain[1], &exif(orientation, false), true)),
                ("png", tagged_png(&plain[1], &prefixed, false)),
                // The name does not matter.
                ("png", tagged_jpeg(&plain[0], orientation)),
            ] {
                let path = dir.path().join("tagged").with_extension(ending);
                std::fs::write(&path, bytes).unwrap();
                let upright = Picture::read(&path).unwrap();
                assert_eq!((upright.height, upright.width), size, "{orientation}");
                let quarter = |y: usize, x: usize| {
                    let at = (y * 2 + 1) * size.0 / 4 * size.1 + (x * 2 + 1) * size.1 / 4;
                    upright.pixels[at * 3] > 128
                };
                let white = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(y, x)| quarter(y, x));
                let wanted = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|place| place == (row, column));
                assert_eq!(white, wanted, "orientation {orientation} of a {ending}");
            }
        }
    }

    #[test]
    fn damaged_exif_data_turns_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        write(&sample(2, 3, 0), &path);
        let plain = std::fs::read(&path).unwrap();
        let whole = exif(6, true);
        for length in 0..20 {
            std::fs::write(&path, tagged_png(&plain, &whole[..length], false)).unwrap();
            assert_eq!(Picture::read(&path).unwrap().height, 2, "{length}");
        }
        // A chunk longer than the file.
        assert_eq!(png_exif(&[&plain[..33], &[0xFF; 4], b"eXIf"].concat()), None);
        assert_eq!(png_exif(&[&plain[..33], &[0xFF; 4], b"tEXt"].concat()), None);
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
        let crc = checksum(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
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
