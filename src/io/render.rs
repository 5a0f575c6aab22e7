//! Pictures from tensors: over a background, enlarged, in contact sheets.

use candle_core::{DType, Device, Tensor};

use super::picture::Picture;
use crate::error::{Error, Result};

/// The background behind transparent pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Background {
    /// White.
    #[default]
    White,
    /// A checkerboard of two greys with squares of this many pixels a side.
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

/// Pictures of `images` over a background. Images are premultiplied RGBA, `[B, H, W, 4]`, or RGB, `[B, H, W,
/// 3]`, in `[0, 1]`; other values are clipped, and NaN becomes black.
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

/// Undoes the skew of a hexagonal grid: cell (x, y) is shown at `(x + y / 2, y sqrt(3) / 2)`, on a torus. The
/// result has the same width and sqrt(3) / 2 of the height.
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

/// `picture` with every pixel enlarged to a square of `scale` pixels a side.
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

/// A contact sheet: rows of pictures on white, with `gap` pixels around each. Rows are as high as their
/// highest picture, columns as wide as their widest.
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
        // Half-transparent red, premultiplied; nothing; opaque, above 1 and NaN.
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
}
