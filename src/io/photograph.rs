//! Photographs: pictures with what RGB leaves out, read from and written to files of PNG or JPEG.

use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{DynamicImage, RgbImage};

use super::atomic::write_atomic;
use super::picture::{Picture, decode};
use crate::error::{Error, Result};

/// A picture, its transparency, and whether it is grey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Photograph {
    /// The colours.
    pub picture: Picture,
    /// 0 where it is transparent and 255 where it is opaque, `[height, width]`; `None` if the file has none.
    pub alpha: Option<Vec<u8>>,
    /// Whether the file knows no colours.
    pub grey: bool,
}

impl Photograph {
    /// Reads a PNG or JPEG as [`Picture::read`] does.
    ///
    /// # Errors
    /// As [`Picture::read`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let image = decode(path.as_ref())?;
        let (width, height) = (image.width() as usize, image.height() as usize);
        let color = image.color();
        let alpha = || image.to_rgba8().pixels().map(|pixel| pixel.0[3]).collect();
        Ok(Self {
            alpha: color.has_alpha().then(alpha),
            grey: !color.has_color(),
            picture: Picture {
                height,
                width,
                pixels: image.into_rgb8().into_raw(),
            },
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

    /// Writes it, atomically: as a PNG or, without its transparency, as a JPEG, as the name says.
    ///
    /// # Errors
    /// [`Error::File`] if the name ends otherwise, or the photograph is too large for the format;
    /// [`Error::Shape`] if `alpha` or the pixels have not the size of the picture; [`Error::Io`] if it cannot
    /// be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let png = is_png(path)?;
        let image = self.image(png)?;
        let mut bytes = vec![];
        match png {
            true => image.write_with_encoder(PngEncoder::new(&mut bytes)),
            false => image.write_with_encoder(JpegEncoder::new(&mut bytes)),
        }
        .map_err(|error| Error::file(path, error))?;
        write_atomic(path, &bytes)
    }

    fn image(&self, with_alpha: bool) -> Result<DynamicImage> {
        let Picture {
            height,
            width,
            pixels,
        } = &self.picture;
        let size = |side: &usize| u32::try_from(*side).unwrap_or(u32::MAX);
        let image = RgbImage::from_raw(size(width), size(height), pixels.clone());
        let image = image.filter(|_| pixels.len() == height * width * 3);
        let Some(image) = image else {
            let expected = format!("[{height}, {width}, 3]");
            return Err(Error::shape("pixels", expected, &[pixels.len()]));
        };
        let image = DynamicImage::from(image);
        let Some(alpha) = self.alpha.as_ref().filter(|_| with_alpha) else {
            return Ok(if self.grey {
                image.into_luma8().into()
            } else {
                image
            });
        };
        if alpha.len() != height * width {
            return Err(Error::shape(
                "alpha",
                format!("[{height}, {width}]"),
                &[alpha.len()],
            ));
        }
        let mut image = image.into_rgba8();
        for (pixel, &alpha) in image.pixels_mut().zip(alpha) {
            pixel.0[3] = alpha;
        }
        let image = DynamicImage::from(image);
        Ok(if self.grey {
            image.into_luma_alpha8().into()
        } else {
            image
        })
    }
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
        assert_eq!(photograph.alpha.as_deref(), Some(&[200, 0, 255][..]));
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
    fn what_cannot_be_written_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let photograph = Photograph {
            picture: sample(2, 3, 0),
            alpha: None,
            grey: false,
        };
        for name in ["a", "a.webp", "png", ".png"] {
            assert!(Photograph::check_name(name).is_err(), "{name}");
            let error = photograph.write(dir.path().join(name)).unwrap_err();
            assert!(error.to_string().contains(".png or .jpg"), "{error}");
        }
        let wrong = Photograph {
            alpha: Some(vec![0; 5]),
            ..photograph.clone()
        };
        assert!(wrong.write(dir.path().join("a.png")).is_err());
        let mut wrong = photograph;
        wrong.picture.width = 4;
        assert!(wrong.write(dir.path().join("a.png")).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
