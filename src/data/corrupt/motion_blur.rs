//! Motion blur along a straight line at an angle.

use crate::error::{Error, Result, check};
use candle_core::{DType, Device, Tensor, WithDType};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// How the line of a motion-blur kernel is rotated to its angle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// Bilinear interpolation at the exact source position.
    #[default]
    Exact,
    /// OpenCV 4's fixed-point positions, a 32nd of a pixel apart, which the paper's program used.
    /// Kernels differ from the exact ones by at most 0.7 % of full weight.
    FixedPoint,
}

/// A square motion-blur kernel: a one-pixel line through the middle, at an angle.
#[derive(Clone, Debug, PartialEq)]
pub struct MotionKernel {
    /// Side in pixels.
    pub size: usize,
    /// The rotated line, row by row, in units of a full pixel.
    pub raw: Vec<f64>,
    /// The kernel: `raw` divided by its sum.
    pub weights: Vec<f64>,
}

/// The kernel of a motion of `size` pixels (1 to 255) at an angle of `degrees`.
///
/// Row `(size - 1) / 2` of a zero image is set to one and rotated about the image's centre; values beyond the
/// image are zero. Source: the program published with "Latent Neural Cellular Automata for Resource-Efficient
/// Image Restoration".
///
/// # Errors
/// [`Error::Config`] if `size` is out of range.
pub fn motion_kernel(size: usize, degrees: i32, rotation: Rotation) -> Result<MotionKernel> {
    if !(1..=255).contains(&size) {
        return Err(Error::config("size", "a blur of 1 to 255 pixels", size));
    }
    let centre = size as f64 / 2.0 - 0.5;
    let (sin, cos) = f64::from(degrees).to_radians().sin_cos();
    // Rows of the inverse map: source x and y from target x, target y and 1.
    let map = [
        [cos, -sin, (1.0 - cos) * centre + sin * centre],
        [sin, cos, (1.0 - cos) * centre - sin * centre],
    ];
    let line = ((size - 1) / 2) as i64;
    let inside = 0..size as i64;
    let mut raw = Vec::with_capacity(size * size);
    for y in 0..size {
        for x in 0..size {
            let [(column, right), (row, down)] = map.map(|[a, b, c]| match rotation {
                Rotation::Exact => {
                    let position = a * x as f64 + b * y as f64 + c;
                    (position.floor() as i64, position - position.floor())
                }
                Rotation::FixedPoint => {
                    let start = ((b * y as f64 + c) * 1024.0).round_ties_even() as i64 + 16;
                    let position = (start + (a * x as f64 * 1024.0).round_ties_even() as i64) >> 5;
                    (position >> 5, (position & 31) as f64 / 32.0)
                }
            });
            // The line is constant along x, so the two axes' weights factor.
            let weight = |at: bool, weight: f64| if at { weight } else { 0.0 };
            let across =
                weight(inside.contains(&column), 1.0 - right) + weight(inside.contains(&(column + 1)), right);
            let along = weight(row == line, 1.0 - down) + weight(row + 1 == line, down);
            raw.push(across * along);
        }
    }
    let total: f64 = raw.iter().sum();
    let share = |weight: &f64| match rotation {
        Rotation::Exact => weight / total,
        // The published program multiplies by the inverse sum in single precision.
        Rotation::FixedPoint => f64::from(*weight as f32 * (1.0 / total as f32)),
    };
    Ok(MotionKernel {
        size,
        weights: raw.iter().map(share).collect(),
        raw,
    })
}

/// Blurs image `b` of `images`, `[B, H, W, C]` in f32 or f64, with `kernels[b]`.
///
/// Every channel is cross-correlated with the kernel (which is not flipped). Images are padded with zeros,
/// `(size - 1) / 2` pixels before and `size / 2` after, so they darken at the border.
///
/// # Errors
/// An error if `images` does not have four axes or has another dtype, there is not one kernel per image, or
/// the weights of a kernel are not a square of its size.
pub fn motion_blur(images: &Tensor, kernels: &[MotionKernel]) -> Result<Tensor> {
    check_images("images", images)?;
    if images.dim(0)? != kernels.len() {
        let expected = format!("[{}, H, W, C], one image per kernel", kernels.len());
        return Err(Error::shape("images", expected, images.dims()));
    }
    for kernel in kernels {
        if kernel.size == 0 || kernel.size.checked_mul(kernel.size) != Some(kernel.weights.len()) {
            let expected = format!("[{0}, {0}], with `size` at least 1", kernel.size);
            return Err(Error::shape("weights", expected, &[kernel.weights.len()]));
        }
    }
    match images.dtype() {
        DType::F32 => correlate::<f32>(images, kernels),
        DType::F64 => correlate::<f64>(images, kernels),
        found => Err(Error::DType {
            argument: "images",
            expected: "F32 or F64".into(),
            found,
        }),
    }
}

fn correlate<T: WithDType>(images: &Tensor, kernels: &[MotionKernel]) -> Result<Tensor> {
    let (_, height, width, channels) = images.dims4()?;
    let input = images.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<T>()?;
    let mut output = vec![T::zero(); input.len()];
    let stride = width * channels;
    let len = (height * stride).max(1);
    let each = output.par_chunks_mut(len).zip(input.par_chunks(len)).zip(kernels);
    each.for_each(|((output, input), kernel)| {
        let before = ((kernel.size - 1) / 2) as isize;
        let taps = kernel
            .weights
            .iter()
            .enumerate()
            .filter(|(_, weight)| **weight != 0.0);
        for (tap, &weight) in taps {
            let weight = T::from_f64(weight);
            let down = (tap / kernel.size) as isize - before;
            let right = (tap % kernel.size) as isize - before;
            // The columns whose source is inside the image, as one contiguous slice.
            let first = (-right).max(0) as usize * channels;
            let run = width.saturating_sub(right.unsigned_abs()) * channels;
            let source_first = right.max(0) as usize * channels;
            for y in (-down).max(0)..height as isize - down.max(0) {
                let target = &mut output[y as usize * stride..][..stride];
                let source = &input[(y + down) as usize * stride..][..stride];
                if run > 0 {
                    let source = &source[source_first..][..run];
                    target[first..][..run]
                        .iter_mut()
                        .zip(source)
                        .for_each(|(t, &s)| *t += weight * s);
                }
            }
        }
    });
    Ok(Tensor::from_vec(output, images.shape(), &Device::Cpu)?.to_device(images.device())?)
}

/// An error unless this argument is a batch of images, `[B, H, W, C]`.
pub(super) fn check_images(argument: &'static str, tensor: &Tensor) -> Result<()> {
    match tensor.rank() {
        4 => check::float(argument, tensor),
        _ => Err(Error::shape(argument, "[B, H, W, C]", tensor.dims())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_sum_to_one_at_every_angle() -> Result<()> {
        for rotation in [Rotation::Exact, Rotation::FixedPoint] {
            for size in 1..=12 {
                for degrees in 0..360 {
                    let kernel = motion_kernel(size, degrees, rotation)?;
                    let sum: f64 = kernel.weights.iter().sum();
                    assert!((sum - 1.0).abs() < 1e-6, "{size} pixels at {degrees}: {sum}");
                    assert!(kernel.raw.iter().all(|w| (0.0..=1.0 + 1e-9).contains(w)));
                }
            }
        }
        Ok(())
    }

    #[test]
    fn fixed_point_is_near_the_exact_rotation() -> Result<()> {
        for degrees in 0..360 {
            let exact = motion_kernel(7, degrees, Rotation::Exact)?;
            let fixed = motion_kernel(7, degrees, Rotation::FixedPoint)?;
            for (a, b) in exact.weights.iter().zip(&fixed.weights) {
                assert!((a - b).abs() < 0.007);
            }
        }
        Ok(())
    }

    #[test]
    fn a_blur_agrees_with_the_sum_over_all_taps() -> Result<()> {
        let (h, w, c) = (6, 5, 2);
        let images = Tensor::arange(0f64, (h * w * c) as f64, &Device::Cpu)?.reshape((1, h, w, c))?;
        for size in [1, 3, 4, 13] {
            let kernel = motion_kernel(size, 35, Rotation::Exact)?;
            let blurred = motion_blur(&images, std::slice::from_ref(&kernel))?;
            let found = blurred.flatten_all()?.to_vec1::<f64>()?;
            let before = ((size - 1) / 2) as isize;
            for (at, found) in found.into_iter().enumerate() {
                let (y, x, channel) = ((at / (w * c)) as isize, (at / c % w) as isize, at % c);
                let mut sum = 0.0;
                for (tap, weight) in kernel.weights.iter().enumerate() {
                    let y = y + (tap / size) as isize - before;
                    let x = x + (tap % size) as isize - before;
                    if (0..h as isize).contains(&y) && (0..w as isize).contains(&x) {
                        sum += weight * ((y as usize * w + x as usize) * c + channel) as f64;
                    }
                }
                assert!((found - sum).abs() < 1e-12);
            }
        }
        Ok(())
    }

    #[test]
    fn bad_sizes_counts_and_dtypes_are_errors() -> Result<()> {
        assert!(motion_kernel(0, 0, Rotation::Exact).is_err());
        assert!(motion_kernel(256, 0, Rotation::Exact).is_err());
        let kernel = motion_kernel(3, 0, Rotation::Exact)?;
        let images = Tensor::zeros((2, 4, 4, 3), DType::F32, &Device::Cpu)?;
        assert!(motion_blur(&images, std::slice::from_ref(&kernel)).is_err());
        let pair = [kernel.clone(), kernel];
        assert!(motion_blur(&images, &pair).is_ok());
        assert!(motion_blur(&images.to_dtype(DType::U8)?, &pair).is_err());
        let empty = MotionKernel {
            size: 0,
            raw: vec![],
            weights: vec![],
        };
        assert!(motion_blur(&images, &[empty.clone(), empty]).is_err());
        Ok(())
    }
}
