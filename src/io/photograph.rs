//! Photographs: pictures with what 8-bit RGB leaves out, read from and written to files of PNG or JPEG.

use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ColorType, DynamicImage, ImageBuffer, ImageEncoder, Rgba};

use super::atomic::write_atomic;
use super::picture::{Decoded, Picture, decode};
use crate::error::{Error, Result};

/// The colours of a file, and what else a restored copy of it should keep.
#[derive(Clone, Debug, PartialEq)]
pub struct Photograph {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `[height, width, 3]` in `[0, 1]`, row by row.
    pub colours: Vec<f32>,
    /// 0 where it is transparent and 1 where it is opaque, `[height, width]`; `None` if the file has none.
    pub alpha: Option<Vec<f32>>,
    /// Whether the file knows no colours.
    pub grey: bool,
    /// Whether values have 16 bits in the file, and not 8. JPEG has 8.
    pub deep: bool,
    /// The colour profile (ICC), as it lies in the file.
    pub profile: Option<Vec<u8>>,
    /// The Exif data, without the orientation: the colours are upright.
    pub exif: Option<Vec<u8>>,
}

impl From<&Picture> for Photograph {
    fn from(picture: &Picture) -> Self {
        Self {
            height: picture.height,
            width: picture.width,
            colours: picture
                .pixels
                .iter()
                .map(|&value| f32::from(value) / 255.0)
                .collect(),
            alpha: None,
            grey: false,
            deep: false,
            profile: None,
            exif: None,
        }
    }
}

impl Photograph {
    /// Reads a PNG or JPEG as [`Picture::read`] does, but for what it leaves out.
    ///
    /// # Errors
    /// As [`Picture::read`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let Decoded { image, profile, exif } = decode(path.as_ref())?;
        let (height, width) = (image.height() as usize, image.width() as usize);
        let color = image.color();
        let deep = color.bytes_per_pixel() / color.channel_count() > 1;
        let values: Vec<f32> = match deep {
            true => image
                .into_rgba16()
                .iter()
                .map(|&value| f32::from(value) / 65_535.0)
                .collect(),
            false => image
                .into_rgba8()
                .iter()
                .map(|&value| f32::from(value) / 255.0)
                .collect(),
        };
        let pixels = values.chunks_exact(4);
        Ok(Self {
            height,
            width,
            colours: pixels.clone().flat_map(|pixel| &pixel[..3]).copied().collect(),
            alpha: color.has_alpha().then(|| pixels.map(|pixel| pixel[3]).collect()),
            grey: !color.has_color(),
            deep,
            profile,
            exif,
        })
    }

    /// Whether the name of `path` ends in `.png`, `.jpg` or `.jpeg`, so that [`write`](Self::write) knows
    /// what to write.
    ///
    /// # Errors
    /// [`Error::File`] if it does not.
    pub fn check_name(path: impl AsRef<Path>) -> Result<()> {
        is_png(path.as_ref()).map(|_| ())
    }

    /// Writes it, atomically: as a PNG or, in 8 bits without its transparency, as a JPEG, as the name says.
    /// Colours are clamped to `[0, 1]`.
    ///
    /// # Errors
    /// [`Error::File`] if the name ends otherwise, or the photograph is too large for the format;
    /// [`Error::Shape`] if `alpha` or the colours have not the size of the photograph; [`Error::Io`] if it
    /// cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let png = is_png(path)?;
        let image = self.image(png)?;
        let mut bytes = vec![];
        match png {
            true => self.encode(&image, PngEncoder::new(&mut bytes)),
            false => self.encode(&image, JpegEncoder::new(&mut bytes)),
        }
        .map_err(|error| Error::file(path, error))?;
        write_atomic(path, &bytes)
    }

    fn encode(&self, image: &DynamicImage, mut encoder: impl ImageEncoder) -> image::ImageResult<()> {
        // What a format cannot hold is left out.
        if let Some(profile) = self
            .profile
            .as_ref()
            .filter(|profile| is_for(profile, image.color()))
        {
            let _ = encoder.set_icc_profile(profile.clone());
        }
        if let Some(exif) = &self.exif {
            let _ = encoder.set_exif_metadata(exif.clone());
        }
        image.write_with_encoder(encoder)
    }

    fn image(&self, png: bool) -> Result<DynamicImage> {
        let (height, width) = (self.height, self.width);
        let area = height.saturating_mul(width);
        if self.colours.len() != area.saturating_mul(3) {
            let expected = format!("[{height}, {width}, 3]");
            return Err(Error::shape("colours", expected, &[self.colours.len()]));
        }
        let alpha = self.alpha.as_ref().filter(|_| png);
        if let Some(alpha) = alpha.filter(|alpha| alpha.len() != area) {
            let expected = format!("[{height}, {width}]");
            return Err(Error::shape("alpha", expected, &[alpha.len()]));
        }
        let values = self.colours.chunks_exact(3).enumerate().flat_map(|(at, colour)| {
            let alpha = alpha.map_or(1.0, |alpha| alpha[at]);
            [colour[0], colour[1], colour[2], alpha]
        });
        let size = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        let (w, h) = (size(width), size(height));
        let deep = self.deep && png;
        let image = match deep {
            true => {
                let values = values.map(|value| (value.clamp(0.0, 1.0) * 65_535.0).round() as u16);
                ImageBuffer::<Rgba<u16>, _>::from_raw(w, h, values.collect()).map(DynamicImage::from)
            }
            false => {
                let values = values.map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8);
                ImageBuffer::<Rgba<u8>, _>::from_raw(w, h, values.collect()).map(DynamicImage::from)
            }
        };
        let Some(image) = image else {
            let found = [height, width, 3];
            return Err(Error::shape("colours", "sides of less than 2^32 pixels", &found));
        };
        Ok(match (self.grey, alpha.is_some(), deep) {
            (false, false, false) => image.into_rgb8().into(),
            (false, false, true) => image.into_rgb16().into(),
            (false, true, _) => image,
            (true, false, false) => image.into_luma8().into(),
            (true, false, true) => image.into_luma16().into(),
            (true, true, false) => image.into_luma_alpha8().into(),
            (true, true, true) => image.into_luma_alpha16().into(),
        })
    }
}

/// Whether a colour profile is one of such colours: a JPEG in CMYK becomes RGB, and loses its profile.
fn is_for(profile: &[u8], color: ColorType) -> bool {
    let space = if color.has_color() { b"RGB " } else { b"GRAY" };
    profile.get(16..20) == Some(space)
}

/// Whether the name is that of a PNG; if not, it is that of a JPEG.
fn is_png(path: &Path) -> Result<bool> {
    let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
    match ending.as_ref().and_then(|ending| ending.to_str()) {
        Some("png") => Ok(true),
        Some("jpg" | "jpeg") => Ok(false),
        _ => Err(Error::file(path, "expected a name that ends in .png or .jpg")),
    }
}

#[cfg(test)]
mod tests {
    use image::{GrayAlphaImage, GrayImage, ImageReader};

    use super::*;
    use crate::io::picture_tests::sample;

    #[test]
    fn transparency_and_grey_survive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.PNG");
        let pixels = vec![1, 200, 2, 0, 3, 255];
        GrayAlphaImage::from_raw(3, 1, pixels.clone())
            .unwrap()
            .save(&path)
            .unwrap();
        let photograph = Photograph::read(&path).unwrap();
        assert!(photograph.grey);
        assert_eq!(photograph.alpha, Some(vec![200.0 / 255.0, 0.0, 1.0]));
        photograph.write(&path).unwrap();
        let back = ImageReader::open(&path).unwrap().decode().unwrap();
        assert_eq!(back.color(), image::ColorType::La8);
        assert_eq!(back.as_bytes(), pixels);

        // JPEG has no transparency.
        let path = dir.path().join("a.jpeg");
        photograph.write(&path).unwrap();
        assert_eq!(
            ImageReader::open(&path).unwrap().decode().unwrap().color(),
            image::ColorType::L8
        );

        GrayImage::from_raw(2, 1, vec![5, 6])
            .unwrap()
            .save(&path)
            .unwrap();
        assert_eq!(Photograph::read(&path).unwrap().alpha, None);
    }

    #[test]
    fn sixteen_bits_profile_and_exif_survive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        let values: Vec<u16> = (0..18).map(|i| i * 3_001).collect();
        let image = ImageBuffer::<image::Rgb<u16>, _>::from_raw(3, 2, values.clone()).unwrap();
        let mut profile = vec![7; 128];
        profile[16..20].copy_from_slice(b"RGB ");
        // An orientation, which turns by a quarter, and nothing else.
        let exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let mut bytes = vec![];
        let mut encoder = PngEncoder::new(&mut bytes);
        encoder.set_icc_profile(profile.clone()).unwrap();
        encoder.set_exif_metadata(exif.to_vec()).unwrap();
        DynamicImage::from(image).write_with_encoder(encoder).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let photograph = Photograph::read(&path).unwrap();
        assert_eq!(
            (photograph.height, photograph.width, photograph.deep),
            (3, 2, true)
        );
        assert_eq!(photograph.profile, Some(profile.clone()));
        photograph.write(&path).unwrap();
        let again = Photograph::read(&path).unwrap();
        assert_eq!(again, photograph, "the turn is undone once");
        let Decoded { image, .. } = decode(&path).unwrap();
        let mut found = image.into_rgb16().into_raw();
        found.sort_unstable();
        assert_eq!(found, values);
        // A grey copy has colours of another profile.
        let grey = Photograph {
            grey: true,
            ..photograph
        };
        let path = dir.path().join("a.jpg");
        grey.write(&path).unwrap();
        let grey = Photograph::read(&path).unwrap();
        assert_eq!((grey.deep, grey.profile), (false, None));
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let photograph = Photograph::from(&sample(2, 3, 0));
        for name in ["a", "a.webp", "png", ".png"] {
            assert!(Photograph::check_name(name).is_err(), "{name}");
            let error = photograph.write(dir.path().join(name)).unwrap_err();
            assert!(error.to_string().contains(".png or .jpg"), "{error}");
        }
        let wrong = Photograph {
            alpha: Some(vec![0.0; 5]),
            ..photograph.clone()
        };
        assert!(wrong.write(dir.path().join("a.png")).is_err());
        let mut wrong = photograph;
        wrong.width = 4;
        assert!(wrong.write(dir.path().join("a.png")).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
