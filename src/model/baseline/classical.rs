//! Classical filters: what a trained restorer must beat.

use crate::data::Corruption;
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A filter of images `[B, H, W, C]`, channel by channel, edges replicated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassicalFilter {
    /// Smoothing with a Gaussian, cut off at four standard deviations.
    Gaussian {
        /// Standard deviation in pixels, above 0 and at most 64.
        sigma: f32,
    },
    /// The median of a square window.
    Median {
        /// Side of the window in pixels, odd, at most 63.
        window: usize,
    },
    /// Unsharp masking: `x + amount * (x - gaussian(x))`, clipped to `[0, 1]`.
    Unsharp {
        /// Standard deviation in pixels, above 0 and at most 64.
        sigma: f32,
        /// How much of the difference is added; finite.
        amount: f32,
    },
}

impl fmt::Display for ClassicalFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gaussian { sigma } => write!(f, "gaussian s={sigma:?}"),
            Self::Median { window } => write!(f, "median {window}x{window}"),
            Self::Unsharp { sigma, amount } => write!(f, "unsharp s={sigma:?} a={amount:?}"),
        }
    }
}

impl ClassicalFilter {
    /// Candidate filters against a corruption, to choose from on validation data: smoothing, and for blur
    /// also sharpening.
    pub fn candidates(corruption: &Corruption) -> Vec<Self> {
        let sigmas = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5];
        let gaussians = sigmas.map(|sigma| Self::Gaussian { sigma });
        let medians = [3, 5, 7].map(|window| Self::Median { window });
        let mut candidates: Vec<Self> = gaussians.into_iter().chain(medians).collect();
        if let Corruption::Blur { .. } = corruption {
            for sigma in [0.7, 1.0, 1.5, 2.0, 3.0] {
                let amounts = [0.25, 0.5, 1.0, 1.5, 2.0, 3.0];
                candidates.extend(amounts.map(|amount| Self::Unsharp { sigma, amount }));
            }
        }
        candidates
    }

    /// Filters every image of a batch, `[B, H, W, C]`, in parallel on the CPU. The result has the shape,
    /// dtype and device of `images`; it is computed in f32.
    ///
    /// # Errors
    /// `images` is not of four axes, or a setting is out of its range.
    pub fn apply(&self, images: &Tensor) -> Result<Tensor> {
        if images.rank() != 4 {
            return Err(Error::shape("images", "[B, H, W, C]", images.dims()));
        }
        self.check()?;
        let (_, height, width, channels) = images.dims4()?;
        let grid = Grid {
            height,
            width,
            channels,
        };
        let host = images.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let input = host.flatten_all()?.to_vec1::<f32>()?;
        let len = (height * width * channels).max(1);
        let filtered: Vec<Vec<f32>> = input
            .par_chunks(len)
            .map(|image| match *self {
                Self::Gaussian { sigma } => grid.gaussian(image, sigma),
                Self::Median { window } => grid.median(image, window),
                Self::Unsharp { sigma, amount } => {
                    let smooth = grid.gaussian(image, sigma);
                    let sharper = |(x, s): (&f32, f32)| (x + amount * (x - s)).clamp(0.0, 1.0);
                    image.iter().zip(smooth).map(sharper).collect()
                }
            })
            .collect();
        let output = Tensor::from_vec(filtered.concat(), images.shape(), &Device::Cpu)?;
        Ok(output.to_dtype(images.dtype())?.to_device(images.device())?)
    }

    fn check(&self) -> Result<()> {
        match *self {
            Self::Gaussian { sigma } | Self::Unsharp { sigma, .. } if !(sigma > 0.0 && sigma <= 64.0) => {
                Err(Error::config("sigma", "above 0 and at most 64 pixels", sigma))
            }
            Self::Unsharp { amount, .. } if !amount.is_finite() => {
                Err(Error::config("amount", "a finite number", amount))
            }
            Self::Median { window } if window.is_multiple_of(2) || window > 63 => {
                Err(Error::config("window", "an odd number, at most 63", window))
            }
            _ => Ok(()),
        }
    }
}

/// The shape of one image.
#[derive(Clone, Copy)]
struct Grid {
    height: usize,
    width: usize,
    channels: usize,
}

impl Grid {
    /// The coordinate `offset` from `at`, held inside `0..size`.
    fn near(at: usize, offset: isize, size: usize) -> usize {
        at.saturating_add_signed(offset).min(size - 1)
    }

    fn gaussian(self, image: &[f32], sigma: f32) -> Vec<f32> {
        let radius = (4.0 * sigma).ceil() as isize;
        let bell = (-radius..=radius).map(|i| (-0.5 * (i as f32 / sigma).powi(2)).exp());
        let total: f32 = bell.clone().sum();
        let weights: Vec<(isize, f32)> = (-radius..=radius).zip(bell.map(|w| w / total)).collect();
        let stride = self.width * self.channels;
        let mut across = vec![0.0; image.len()];
        for (row, out) in image.chunks(stride).zip(across.chunks_mut(stride)) {
            for (x, out) in out.chunks_mut(self.channels).enumerate() {
                for &(offset, weight) in &weights {
                    let source = &row[Self::near(x, offset, self.width) * self.channels..];
                    out.iter_mut().zip(source).for_each(|(o, s)| *o += weight * s);
                }
            }
        }
        let mut down = vec![0.0; image.len()];
        for (y, out) in down.chunks_mut(stride).enumerate() {
            for &(offset, weight) in &weights {
                let source = &across[Self::near(y, offset, self.height) * stride..];
                out.iter_mut().zip(source).for_each(|(o, s)| *o += weight * s);
            }
        }
        down
    }

    fn median(self, image: &[f32], window: usize) -> Vec<f32> {
        let reach = (window / 2) as isize;
        let mut values = Vec::with_capacity(window * window);
        let mut output = Vec::with_capacity(image.len());
        for y in 0..self.height {
            for x in 0..self.width {
                for channel in 0..self.channels {
                    values.clear();
                    for dy in -reach..=reach {
                        let row = Self::near(y, dy, self.height) * self.width;
                        let at = |dx| (row + Self::near(x, dx, self.width)) * self.channels + channel;
                        values.extend((-reach..=reach).map(|dx| image[at(dx)]));
                    }
                    let middle = values.len() / 2;
                    output.push(*values.select_nth_unstable_by(middle, f32::total_cmp).1);
                }
            }
        }
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every() -> Vec<ClassicalFilter> {
        let both = [Corruption::NOISE, Corruption::BLUR];
        both.iter().flat_map(ClassicalFilter::candidates).collect()
    }

    fn values(tensor: &Tensor) -> Result<Vec<f32>> {
        Ok(tensor.flatten_all()?.to_vec1()?)
    }

    #[test]
    fn a_flat_image_stays_flat_up_to_its_edges() -> Result<()> {
        let flat = Tensor::full(0.25f32, (2, 5, 7, 3), &Device::Cpu)?;
        for filter in every() {
            let filtered = values(&filter.apply(&flat)?)?;
            assert!(filtered.iter().all(|v| (v - 0.25).abs() < 1e-6), "{filter}");
        }
        Ok(())
    }

    #[test]
    fn a_ramp_is_kept_in_the_middle_by_smoothing() -> Result<()> {
        let ramp = Tensor::arange(0f32, 15.0, &Device::Cpu)?.reshape((1, 15, 1, 1))?;
        for filter in [
            ClassicalFilter::Gaussian { sigma: 1.0 },
            ClassicalFilter::Median { window: 3 },
        ] {
            let filtered = values(&filter.apply(&ramp)?)?;
            assert!((filtered[7] - 7.0).abs() < 1e-5, "{filter}: {filtered:?}");
        }
        Ok(())
    }

    #[test]
    fn the_gaussian_of_a_point_is_the_bell() -> Result<()> {
        let mut point = vec![0f32; 81];
        point[40] = 1.0;
        let point = Tensor::from_vec(point, (1, 9, 9, 1), &Device::Cpu)?;
        let bell = values(&ClassicalFilter::Gaussian { sigma: 0.8 }.apply(&point)?)?;
        assert!((bell.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        assert!((bell[41] / bell[40] - (-0.5f32 / 0.64).exp()).abs() < 1e-5);
        assert!((bell[41] - bell[31]).abs() < 1e-7);
        Ok(())
    }

    #[test]
    fn a_median_takes_out_a_single_bright_pixel() -> Result<()> {
        let image = Tensor::new(&[0f32, 1.0, 0.0, 0.0, 0.5, 0.5], &Device::Cpu)?.reshape((1, 2, 3, 1))?;
        let filtered = values(&ClassicalFilter::Median { window: 3 }.apply(&image)?)?;
        assert_eq!(filtered, [0.0, 0.0, 0.5, 0.0, 0.5, 0.5]);
        Ok(())
    }

    #[test]
    fn an_unsharp_mask_steepens_an_edge_and_clips() -> Result<()> {
        let edge = Tensor::new(&[0.4f32, 0.4, 0.4, 0.6, 0.6, 1.0], &Device::Cpu)?.reshape((1, 1, 6, 1))?;
        let filter = ClassicalFilter::Unsharp {
            sigma: 0.7,
            amount: 1.0,
        };
        let sharp = values(&filter.apply(&edge)?)?;
        assert!(sharp[2] < 0.4 && sharp[3] > 0.6 && sharp[5] == 1.0, "{sharp:?}");
        Ok(())
    }

    #[test]
    fn names_are_short() {
        let names = [
            ClassicalFilter::Median { window: 3 },
            ClassicalFilter::Gaussian { sigma: 0.7 },
            ClassicalFilter::Unsharp {
                sigma: 1.5,
                amount: 1.0,
            },
        ];
        let names = names.map(|filter| filter.to_string());
        assert_eq!(names, ["median 3x3", "gaussian s=0.7", "unsharp s=1.5 a=1.0"]);
    }

    #[test]
    fn settings_out_of_range_are_errors() -> Result<()> {
        let image = Tensor::zeros((1, 2, 2, 3), DType::F32, &Device::Cpu)?;
        for filter in [
            ClassicalFilter::Gaussian { sigma: 0.0 },
            ClassicalFilter::Gaussian { sigma: f32::NAN },
            ClassicalFilter::Median { window: 4 },
            ClassicalFilter::Median { window: 65 },
            ClassicalFilter::Unsharp {
                sigma: 1.0,
                amount: f32::INFINITY,
            },
        ] {
            assert!(filter.apply(&image).is_err(), "{filter}");
        }
        assert!(
            ClassicalFilter::Median { window: 3 }
                .apply(&image.flatten_all()?)
                .is_err()
        );
        Ok(())
    }
}
