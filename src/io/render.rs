//! Pictures and motion: cells as images, enlarged, side by side, and as animations.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, Frame, RgbaImage};

use super::picture::Picture;
use crate::error::{Error, Result};

/// What is seen through transparent pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Background {
    /// White.
    #[default]
    White,
    /// Light and lighter grey squares of so many pixels.
    Checker(usize),
}

impl Background {
    fn at(self, row: usize, column: usize) -> f32 {
        match self {
            Self::White => 1.0,
            Self::Checker(side) => {
                let side = side.max(1);
                if (row / side + column / side).is_multiple_of(2) {
                    0.9
                } else {
                    0.75
                }
            }
        }
    }
}

/// Pictures of `images` over a background: `[B, H, W, 4]` of RGBA premultiplied by alpha, or `[B, H, W, 3]` of RGB,
/// in `[0, 1]`; what is outside is clipped, and what is no number is black.
///
/// # Errors
/// [`Error::Shape`] for another shape.
pub fn pictures(images: &Tensor, background: Background) -> Result<Vec<Picture>> {
    let (height, width, channels) = match *images.dims() {
        [_, h, w, c] if (c == 3 || c == 4) && h * w > 0 => (h, w, c),
        _ => return Err(Error::shape("images", "[B, H, W, 3 or 4]", images.dims())),
    };
    let values = images.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let values: Vec<f32> = values.flatten_all()?.to_vec1()?;
    let one = |image: &[f32]| {
        let pixels = image.chunks_exact(channels).enumerate().flat_map(|(at, pixel)| {
            let behind = match pixel.get(3) {
                Some(alpha) => (1.0 - alpha.clamp(0.0, 1.0)) * background.at(at / width, at % width),
                None => 0.0,
            };
            [0, 1, 2].map(|c| ((pixel[c] + behind).clamp(0.0, 1.0) * 255.0).round() as u8)
        });
        Picture {
            height,
            width,
            pixels: pixels.collect(),
        }
    };
    Ok(values.chunks_exact(height * width * channels).map(one).collect())
}

/// A picture of a hexagonal grid, stored skewed: column x of row y is shown at `(x + y / 2, y sqrt(3) / 2)`, on a
/// torus. The picture has as many columns and a factor of 0.87 of the rows.
pub fn unskewed(picture: &Picture) -> Picture {
    let rise = 3f64.sqrt() / 2.0;
    let height = (picture.height as f64 * rise).round() as usize;
    let mut pixels = Vec::with_capacity(height * picture.width * 3);
    for (row, column) in (0..height).flat_map(|row| (0..picture.width).map(move |column| (row, column))) {
        let y = (row as f64 / rise).round() as usize % picture.height.max(1);
        let x = (column as f64 - y as f64 / 2.0)
            .round()
            .rem_euclid(picture.width as f64) as usize;
        let at = (y * picture.width + x % picture.width) * 3;
        pixels.extend(&picture.pixels[at..at + 3]);
    }
    Picture {
        height,
        width: picture.width,
        pixels,
    }
}

/// `picture` with every pixel a square of `scale` pixels.
pub fn enlarged(picture: &Picture, scale: usize) -> Picture {
    let mut pixels = Vec::with_capacity(picture.pixels.len() * scale * scale);
    for row in picture.pixels.chunks_exact(3 * picture.width.max(1)) {
        let wide: Vec<u8> = row
            .chunks_exact(3)
            .flat_map(|pixel| pixel.repeat(scale))
            .collect();
        (0..scale).for_each(|_| pixels.extend(&wide));
    }
    Picture {
        height: picture.height * scale,
        width: picture.width * scale,
        pixels,
    }
}

/// Rows of pictures on white, `gap` pixels around each; rows are as high as their highest picture and columns as
/// wide as their widest.
pub fn sheet(rows: &[Vec<Picture>], gap: usize) -> Picture {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|p| p.width)
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| widest(column).unwrap_or(0)).collect();
    let heights: Vec<usize> = rows
        .iter()
        .map(|row| row.iter().map(|p| p.height).max().unwrap_or(0))
        .collect();
    let full = |sizes: &[usize]| sizes.iter().sum::<usize>() + gap * (sizes.len() + 1);
    let (height, width) = (full(&heights), full(&widths));
    let mut pixels = vec![255u8; height * width * 3];
    let mut top = gap;
    for (row, high) in rows.iter().zip(&heights) {
        let mut left = gap;
        for (picture, wide) in row.iter().zip(&widths) {
            for (y, line) in picture.pixels.chunks_exact(3 * picture.width.max(1)).enumerate() {
                let start = ((top + y) * width + left) * 3;
                pixels[start..start + line.len()].copy_from_slice(line);
            }
            left += wide + gap;
        }
        top += high + gap;
    }
    Picture {
        height,
        width,
        pixels,
    }
}

/// Writes a picture as a PNG, whole or not at all.
///
/// # Errors
/// [`Error::Io`] if it cannot be written, [`Error::File`] if it is empty.
pub fn write_png(picture: &Picture, path: impl AsRef<Path>) -> Result<()> {
    let (width, height) = (picture.width as u32, picture.height as u32);
    written(path.as_ref(), |file, path| {
        let mut encoder = png::Encoder::new(file, width, height);
        encoder.set_color(png::ColorType::Rgb);
        let wrong = |error: png::EncodingError| Error::file(path, error);
        let mut writer = encoder.write_header().map_err(wrong)?;
        writer.write_image_data(&picture.pixels).map_err(wrong)?;
        writer.finish().map_err(wrong)
    })
}

/// Pictures of one size that follow each other.
#[derive(Clone, Debug, Default)]
pub struct Animation {
    frames: Vec<Picture>,
}

impl Animation {
    /// No frames yet.
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

    /// Writes the frames, `milliseconds` each and over again: as a GIF of 256 colours a frame if the name ends in
    /// `.gif`, as an animated PNG without loss if it ends in `.png` or `.apng`, and otherwise as a folder of
    /// PNG files `0000.png`, `0001.png` and so on.
    ///
    /// # Errors
    /// [`Error::Config`] without a frame, [`Error::Io`] or [`Error::File`] if it cannot be written.
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
            Some("gif") => written(path, |file, path| self.gif(file, path, milliseconds)),
            Some("png" | "apng") => written(path, |file, path| self.apng(first, file, path, milliseconds)),
            _ => {
                fs::create_dir_all(path).map_err(Error::io(path))?;
                let mut frames = self.frames.iter().enumerate();
                frames.try_for_each(|(n, frame)| write_png(frame, path.join(format!("{n:04}.png"))))
            }
        }
    }

    fn gif(&self, file: &mut dyn Write, path: &Path, milliseconds: u32) -> Result<()> {
        let wrong = |error: image::ImageError| Error::file(path, error);
        let mut encoder = GifEncoder::new_with_speed(file, 10);
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
        Ok(())
    }

    fn apng(&self, first: &Picture, file: &mut dyn Write, path: &Path, milliseconds: u32) -> Result<()> {
        let wrong = |error: png::EncodingError| Error::file(path, error);
        let mut encoder = png::Encoder::new(file, first.width as u32, first.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_animated(self.frames.len() as u32, 0).map_err(wrong)?;
        let delay = u16::try_from(milliseconds).unwrap_or(u16::MAX);
        encoder.set_frame_delay(delay, 1000).map_err(wrong)?;
        let mut writer = encoder.write_header().map_err(wrong)?;
        for frame in &self.frames {
            writer.write_image_data(&frame.pixels).map_err(wrong)?;
        }
        writer.finish().map_err(wrong)
    }
}

/// Writes a file by `content`, which gets its final name for errors; the file appears when it is complete.
fn written(path: &Path, content: impl FnOnce(&mut dyn Write, &Path) -> Result<()>) -> Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = Path::new(&partial);
    let mut file = BufWriter::new(File::create(partial).map_err(Error::io(path))?);
    let done = content(&mut file, path)
        .and_then(|()| file.flush().map_err(Error::io(path)))
        .and_then(|()| fs::rename(partial, path).map_err(Error::io(path)));
    if done.is_err() {
        // The error at hand says more than a failure to tidy up would.
        let _ = fs::remove_file(partial);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(value: u8) -> Picture {
        Picture {
            height: 2,
            width: 3,
            pixels: vec![value; 18],
        }
    }

    #[test]
    fn transparent_pixels_show_the_background() -> Result<()> {
        // Half-transparent red, premultiplied; nothing; opaque overshoot and a value that is no number.
        let values = [0.5, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 2.0, f32::NAN, -1.0, 1.0];
        let image = Tensor::from_slice(&values, (1, 1, 3, 4), &Device::Cpu)?;
        let white = &pictures(&image, Background::White)?[0];
        assert_eq!(white.pixels, [255, 128, 128, 255, 255, 255, 255, 0, 0]);
        let checker = &pictures(&image, Background::Checker(1))?[0];
        assert_eq!(checker.pixels[3..6], [191; 3]);
        Ok(())
    }

    #[test]
    fn a_sheet_keeps_pictures_apart() {
        let small = frame(0);
        let large = enlarged(&frame(9), 2);
        assert_eq!((large.height, large.width), (4, 6));
        let sheet = sheet(&[vec![small.clone(), large], vec![small]], 1);
        assert_eq!((sheet.height, sheet.width), (4 + 2 + 3, 3 + 6 + 3));
        let at = |row: usize, column: usize| sheet.pixels[(row * sheet.width + column) * 3];
        assert_eq!(
            (at(0, 0), at(1, 1), at(1, 4), at(1, 5), at(4, 10), at(6, 1)),
            (255, 0, 255, 9, 9, 0)
        );
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
