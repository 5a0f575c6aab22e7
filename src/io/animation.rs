//! Animations: GIF, animated PNG, or a folder of frames.

use std::fs;
use std::path::Path;

use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, Frame, RgbaImage};

use super::atomic::write_atomic;
use super::picture::{Picture, write_png};
use crate::error::{Error, Result};

/// An animation: pictures of one size.
#[derive(Clone, Debug, Default)]
pub struct Animation {
    frames: Vec<Picture>,
}

impl Animation {
    /// An animation without frames.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// [`Error::Shape`] unless it has the size of the others.
    pub fn push(&mut self, frame: Picture) -> Result<()> {
        if let Some(first) = self.frames.first()
            && (first.height, first.width) != (frame.height, frame.width)
        {
            let expected = format!("[{}, {}, 3], that of the first", first.height, first.width);
            return Err(Error::shape("frame", expected, &[frame.height, frame.width, 3]));
        }
        self.frames.push(frame);
        Ok(())
    }

    /// The frames.
    pub fn frames(&self) -> &[Picture] {
        &self.frames
    }

    /// Writes the frames, `milliseconds` each, in an endless loop: as a GIF with 256 colours per frame if the
    /// name ends in `.gif`, as a lossless animated PNG if it ends in `.png` or `.apng`, and otherwise as a
    /// folder of PNG files `0000.png`, `0001.png` and so on.
    ///
    /// # Errors
    /// [`Error::Config`] if there is no frame, [`Error::Io`] or [`Error::File`] if it cannot be written.
    pub fn write(&self, path: impl AsRef<Path>, milliseconds: u32) -> Result<()> {
        let path = path.as_ref();
        let Some(first) = self.frames.first() else {
            return Err(Error::config("frames", "at least one", 0));
        };
        let ending = path
            .extension()
            .and_then(|ending| ending.to_str())
            .map(str::to_lowercase);
        match ending.as_deref() {
            Some("gif") => write_atomic(path, &self.gif(path, milliseconds)?),
            Some("png" | "apng") => write_atomic(path, &self.apng(first, path, milliseconds)?),
            _ => {
                fs::create_dir_all(path).map_err(Error::io(path))?;
                let mut frames = self.frames.iter().enumerate();
                frames.try_for_each(|(n, frame)| write_png(frame, path.join(format!("{n:04}.png"))))
            }
        }
    }

    /// The bytes of a GIF; `path` is for error messages.
    fn gif(&self, path: &Path, milliseconds: u32) -> Result<Vec<u8>> {
        let wrong = |error: image::ImageError| Error::file(path, error);
        let mut bytes = vec![];
        let mut encoder = GifEncoder::new_with_speed(&mut bytes, 10);
        encoder.set_repeat(Repeat::Infinite).map_err(wrong)?;
        for frame in &self.frames {
            let pixels = frame
                .pixels
                .chunks_exact(3)
                .flat_map(|p| [p[0], p[1], p[2], 255])
                .collect();
            let Some(image) = RgbaImage::from_raw(frame.width as u32, frame.height as u32, pixels) else {
                return Err(Error::file(path, "a frame has not the pixels of its size"));
            };
            let delay = Delay::from_numer_denom_ms(milliseconds, 1);
            encoder
                .encode_frame(Frame::from_parts(image, 0, 0, delay))
                .map_err(wrong)?;
        }
        drop(encoder);
        Ok(bytes)
    }

    /// The bytes of an animated PNG; `path` is for error messages.
    fn apng(&self, first: &Picture, path: &Path, milliseconds: u32) -> Result<Vec<u8>> {
        let wrong = |error: png::EncodingError| Error::file(path, error);
        let mut bytes = vec![];
        let mut encoder = png::Encoder::new(&mut bytes, first.width as u32, first.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_animated(self.frames.len() as u32, 0).map_err(wrong)?;
        let delay = u16::try_from(milliseconds).unwrap_or(u16::MAX);
        encoder.set_frame_delay(delay, 1000).map_err(wrong)?;
        let mut writer = encoder.write_header().map_err(wrong)?;
        for frame in &self.frames {
            writer.write_image_data(&frame.pixels).map_err(wrong)?;
        }
        writer.finish().map_err(wrong)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::io::enlarged;

    fn frame(value: u8) -> Picture {
        Picture {
            height: 2,
            width: 3,
            pixels: vec![value; 18],
        }
    }

    #[test]
    fn an_animation_reads_back_frame_by_frame() -> Result<()> {
        let folder = tempfile::tempdir().map_err(Error::io("."))?;
        let mut animation = Animation::new();
        for value in [0, 100, 255] {
            animation.push(frame(value))?;
        }
        assert!(animation.push(enlarged(&frame(0), 2)).is_err());
        for name in ["a.gif", "a.png", "frames"] {
            animation.write(folder.path().join(name), 50)?;
        }
        use image::AnimationDecoder;
        let read = |name: &str| {
            let file = File::open(folder.path().join(name)).map_err(Error::io(name))?;
            Ok::<_, Error>(std::io::BufReader::new(file))
        };
        let values = |frames: image::Frames<'_>| -> Vec<u8> {
            let first = |frame: Result<Frame, _>| frame.map(|frame| frame.buffer().as_raw()[0]);
            frames
                .map(first)
                .collect::<Result<_, image::ImageError>>()
                .unwrap_or_default()
        };
        let wrong = |error: image::ImageError| Error::file("a", error);
        let gif = image::codecs::gif::GifDecoder::new(read("a.gif")?).map_err(wrong)?;
        assert_eq!(values(gif.into_frames()), [0, 100, 255]);
        let apng = image::codecs::png::PngDecoder::new(read("a.png")?).map_err(wrong)?;
        assert_eq!(values(apng.apng().map_err(wrong)?.into_frames()), [0, 100, 255]);
        assert_eq!(Picture::read(folder.path().join("frames/0002.png"))?, frame(255));
        assert!(
            Animation::new()
                .write(folder.path().join("none.gif"), 50)
                .is_err()
        );
        Ok(())
    }
}
