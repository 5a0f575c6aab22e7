//! Antialiased Lanczos resampling of 8-bit images, bit for bit equal to Pillow's `LANCZOS` filter.

use crate::error::{Error, Result};

/// Fractional bits of the fixed-point weights: 32 minus 8 for the pixel and 2 for sign and overshoot.
const BITS: u32 = 22;

/// Lobes of the Lanczos kernel.
const LOBES: f64 = 3.0;

/// Resizes an 8-bit `[height, width, C]` image to `[new_height, new_width, C]` with a Lanczos kernel
/// (a = 3) whose support grows with the shrink factor.
///
/// The horizontal pass comes first, with rounding to 8 bits between the passes; an axis that keeps its size
/// is not filtered. `C` follows from the length of `pixels`.
///
/// # Errors
/// [`Error::Config`] if a new size is 0, [`Error::Shape`] if `pixels` is not `[height, width, C]`.
pub fn lanczos_resize(
    pixels: &[u8],
    height: usize,
    width: usize,
    new_height: usize,
    new_width: usize,
) -> Result<Vec<u8>> {
    if new_height == 0 || new_width == 0 {
        let found = format!("{new_height}x{new_width}");
        return Err(Error::config("new_height, new_width", "at least 1x1", found));
    }
    let area = height * width;
    if area == 0 || pixels.is_empty() || !pixels.len().is_multiple_of(area) {
        let expected = format!("[{height}, {width}, C] with no axis empty");
        return Err(Error::shape("pixels", expected, &[pixels.len()]));
    }
    let channels = pixels.len() / area;
    let wide = if new_width == width {
        pixels.to_vec()
    } else {
        let taps = taps(width, new_width);
        let mut out = Vec::with_capacity(height * new_width * channels);
        for row in pixels.chunks_exact(width * channels) {
            for tap in &taps {
                out.extend((0..channels).map(|c| tap.sum(|i| row[i * channels + c])));
            }
        }
        out
    };
    if new_height == height {
        return Ok(wide);
    }
    let stride = new_width * channels;
    let mut out = Vec::with_capacity(new_height * stride);
    for tap in taps(height, new_height) {
        out.extend((0..stride).map(|x| tap.sum(|i| wide[i * stride + x])));
    }
    Ok(out)
}

/// The weights of one output pixel: `weights[i]` belongs to input pixel `first + i`.
struct Tap {
    first: usize,
    weights: Vec<i32>,
}

impl Tap {
    fn sum(&self, pixel: impl Fn(usize) -> u8) -> u8 {
        let sum = self
            .weights
            .iter()
            .enumerate()
            .fold(1 << (BITS - 1), |sum, (i, &weight)| {
                sum + i32::from(pixel(self.first + i)) * weight
            });
        (sum >> BITS).clamp(0, 255) as u8
    }
}

fn taps(size: usize, new_size: usize) -> Vec<Tap> {
    let scale = size as f64 / new_size as f64;
    let shrink = scale.max(1.0);
    let support = LOBES * shrink;
    (0..new_size)
        .map(|out| {
            let centre = (out as f64 + 0.5) * scale;
            // A float-to-integer cast saturates at 0, which clips the window at the near edge.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(size);
            let weights: Vec<f64> = (first..end)
                .map(|i| lanczos((i as f64 - centre + 0.5) * (1.0 / shrink)))
                .collect();
            let total: f64 = weights.iter().sum();
            let fixed = |w: f64| (w / total * f64::from(1 << BITS)).round() as i32;
            Tap {
                first,
                weights: weights.into_iter().map(fixed).collect(),
            }
        })
        .collect()
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| {
        if x == 0.0 {
            return 1.0;
        }
        let x = x * std::f64::consts::PI;
        x.sin() / x
    };
    if (-LOBES..LOBES).contains(&x) {
        sinc(x) * sinc(x / LOBES)
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_image_stays_flat_at_any_size() -> Result<()> {
        for (height, width) in [(1, 1), (7, 3), (64, 45)] {
            let out = lanczos_resize(&vec![137; 20 * 17 * 3], 20, 17, height, width)?;
            assert_eq!(out, vec![137; height * width * 3]);
        }
        Ok(())
    }

    #[test]
    fn the_same_size_changes_nothing() -> Result<()> {
        let pixels: Vec<u8> = (0..60).map(|i| i * 4).collect();
        assert_eq!(lanczos_resize(&pixels, 4, 5, 4, 5)?, pixels);
        Ok(())
    }

    #[test]
    fn wrong_lengths_and_empty_sizes_are_errors() {
        assert!(lanczos_resize(&[0; 11], 2, 2, 4, 4).is_err());
        assert!(lanczos_resize(&[0; 12], 2, 2, 0, 4).is_err());
        assert!(lanczos_resize(&[], 0, 2, 4, 4).is_err());
    }
}
