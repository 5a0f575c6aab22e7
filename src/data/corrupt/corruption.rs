//! Synthetic corruptions: noise and motion blur.

use super::curriculum::Curriculum;
use super::motion_blur::{Rotation, check_images, motion_blur, motion_kernel};
use crate::error::{Error, Result, check};
use crate::grid::draws::check_rate;
use crate::ops::Function;
use crate::random::Key;
use candle_core::{Device, Tensor};
use rand::Rng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

/// Adds `noise` to `clean` (`[B, H, W, C]`) where `mask` is 1, and clips to `[0, 1]`. Noise and mask are `[B,
/// H, W, 1]`, the same for all channels.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit.
pub fn masked_noise(clean: &Tensor, mask: &Tensor, noise: &Tensor) -> Result<Tensor> {
    check_images("clean", clean)?;
    let expected = [&clean.dims()[..3], &[1]].concat();
    for (name, tensor) in [("mask", mask), ("noise", noise)] {
        if tensor.dims() != expected {
            return Err(Error::shape(name, format!("{expected:?}"), tensor.dims()));
        }
        check::as_other(name, tensor, "`clean`", clean)?;
    }
    // Not Candle's clamp, which makes a number of NaN.
    let noisy = clean.broadcast_add(&(mask * noise)?)?;
    Function::Clamp { min: 0.0, max: 1.0 }.of(&noisy)
}

/// A synthetic corruption of clean images. Its draws depend only on the key of each image.
///
/// Source: "Latent Neural Cellular Automata for Resource-Efficient Image Restoration" and the program
/// published with it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Corruption {
    /// Gaussian noise, equal in R, G and B, on random pixels. The difficulty is the probability that a pixel
    /// gets noise.
    Noise {
        /// Standard deviation, in image values.
        sigma: f64,
    },
    /// Independent Gaussian noise on every value of R, G and B, clipped to `[0, 1]` as files are. The
    /// difficulty multiplies its standard deviation.
    Gaussian {
        /// Standard deviation, in image values.
        sigma: f64,
        /// Whether an image's standard deviation is drawn uniformly from 0 to twice that, except that one
        /// image in eight stays clean: to train a model that finds out how much noise there is.
        blind: bool,
    },
    /// Motion blur at a random angle in whole degrees. The difficulty is the length in pixels, 1 to 255,
    /// truncated to an integer.
    Blur {
        /// How the line of the kernel is rotated.
        rotation: Rotation,
    },
}

impl Corruption {
    /// The paper's noise, of standard deviation 0.2.
    pub const NOISE: Self = Self::Noise { sigma: 0.2 };
    /// The field's usual noise, of standard deviation 25 / 255.
    pub const GAUSSIAN: Self = Self::Gaussian {
        sigma: 25.0 / 255.0,
        blind: false,
    };
    /// The paper's blur, with exact rotation.
    pub const BLUR: Self = Self::Blur {
        rotation: Rotation::Exact,
    };

    /// The difficulty of validation and test images: noise with probability 0.5, independent noise with its
    /// own standard deviation, or blur of 7 pixels.
    pub fn test_difficulty(&self) -> f64 {
        match self {
            Self::Noise { .. } => 0.5,
            Self::Gaussian { .. } => 1.0,
            Self::Blur { .. } => 7.0,
        }
    }

    /// The paper's curriculum; independent noise, which the paper has not, is as in the test.
    pub fn curriculum(&self) -> Curriculum {
        match self {
            Self::Noise { .. } => Curriculum::NOISE,
            Self::Gaussian { .. } => Curriculum::constant(self.test_difficulty()),
            Self::Blur { .. } => Curriculum::BLUR,
        }
    }

    /// An error unless its settings are in their ranges, and `difficulty` is one that it has.
    pub(crate) fn check(&self, difficulty: f64) -> Result<()> {
        match *self {
            Self::Noise { sigma } => {
                check_rate("difficulty", difficulty)?;
                check::not_negative("sigma", sigma)
            }
            Self::Gaussian { sigma, .. } => {
                check::not_negative("difficulty", difficulty)?;
                check::not_negative("sigma", sigma)
            }
            Self::Blur { .. } if (1.0..256.0).contains(&difficulty) => Ok(()),
            Self::Blur { .. } => {
                let expected = "a blur of 1 to 255 pixels";
                Err(Error::config("difficulty", expected, difficulty))
            }
        }
    }

    /// Corrupts `clean`, `[B, H, W, C]` in `[0, 1]`. Image `b` depends only on `keys[b]`: not on its place in
    /// the batch, other images or the number of threads.
    ///
    /// # Errors
    /// [`Error::Shape`] if `clean` does not have four axes or there is not one key per image,
    /// [`Error::Config`] if `difficulty` or `sigma` is out of range.
    pub fn apply(&self, clean: &Tensor, difficulty: f64, keys: &[Key]) -> Result<Tensor> {
        check_images("clean", clean)?;
        self.check(difficulty)?;
        let (images, height, width, _) = clean.dims4()?;
        if images != keys.len() {
            let expected = format!("[{}, H, W, C], one image per key", keys.len());
            return Err(Error::shape("clean", expected, clean.dims()));
        }
        match *self {
            Self::Noise { sigma } => {
                let pixels = height * width;
                let mut mask = Vec::with_capacity(images * pixels);
                let mut noise = Vec::with_capacity(images * pixels);
                for key in keys {
                    let mut rng = key.rng();
                    for _ in 0..pixels {
                        let hit = f64::from(rng.random::<f32>()) < difficulty;
                        mask.push(f32::from(hit));
                        let draw: f64 = if hit { rng.sample(StandardNormal) } else { 0.0 };
                        noise.push((sigma * draw) as f32);
                    }
                }
                let like_clean = |values: Vec<f32>| -> Result<Tensor> {
                    let tensor = Tensor::from_vec(values, (images, height, width, 1), &Device::Cpu)?;
                    Ok(tensor.to_dtype(clean.dtype())?.to_device(clean.device())?)
                };
                masked_noise(clean, &like_clean(mask)?, &like_clean(noise)?)
            }
            Self::Gaussian { sigma, blind } => {
                let values = clean.elem_count() / images;
                let mut noise = Vec::with_capacity(images * values);
                for key in keys {
                    let mut rng = key.rng();
                    let factor = match blind {
                        true if rng.random_ratio(1, 8) => 0.0,
                        true => 2.0 * rng.random::<f64>(),
                        false => 1.0,
                    };
                    let sigma = factor * difficulty * sigma;
                    let draw = |_| (sigma * rng.sample::<f64, _>(StandardNormal)) as f32;
                    noise.extend((0..values).map(draw));
                }
                let noise = Tensor::from_vec(noise, clean.shape(), &Device::Cpu)?;
                let noise = noise.to_dtype(clean.dtype())?.to_device(clean.device())?;
                Function::Clamp { min: 0.0, max: 1.0 }.of(&(clean + noise)?)
            }
            Self::Blur { rotation } => {
                let size = difficulty as usize;
                let kernels: Result<Vec<_>> = keys
                    .iter()
                    .map(|key| motion_kernel(size, key.rng().random_range(0..360), rotation))
                    .collect();
                motion_blur(clean, &kernels?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    fn values(tensor: &Tensor) -> Result<Vec<f32>> {
        Ok(tensor.flatten_all()?.to_vec1()?)
    }

    fn grey(images: usize) -> Result<Tensor> {
        Ok(Tensor::full(0.5f32, (images, 32, 32, 3), &Device::Cpu)?)
    }

    #[test]
    fn an_image_is_corrupted_alike_in_any_batch_and_on_any_number_of_threads() -> Result<()> {
        let keys: Vec<Key> = (0..5).map(|i| Key::new(9).fold_in(i)).collect();
        let ramp = Tensor::arange(0f32, 5.0 * 48.0, &Device::Cpu)?.reshape((5, 4, 4, 3))?;
        let clean = (ramp / 240.0)?;
        let blind = Corruption::Gaussian {
            sigma: 0.1,
            blind: true,
        };
        for corruption in [Corruption::NOISE, Corruption::GAUSSIAN, blind, Corruption::BLUR] {
            let difficulty = corruption.test_difficulty();
            let together = values(&corruption.apply(&clean, difficulty, &keys)?)?;
            let mut apart = Vec::new();
            for (i, key) in keys.iter().enumerate() {
                let one = corruption.apply(&clean.narrow(0, i, 1)?, difficulty, &[*key])?;
                apart.extend(values(&one)?);
            }
            assert_eq!(together, apart);
            let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            let alone = one_thread.install(|| corruption.apply(&clean, difficulty, &keys))?;
            assert_eq!(together, values(&alone)?);
        }
        Ok(())
    }

    #[test]
    fn noise_hits_its_share_of_pixels_and_all_channels_alike() -> Result<()> {
        let noisy = Corruption::NOISE.apply(&grey(8)?, 0.3, &[0, 1, 2, 3, 4, 5, 6, 7].map(Key::new))?;
        let noisy = values(&noisy)?;
        let hit: Vec<f64> = noisy
            .chunks(3)
            .filter(|pixel| pixel[0] != 0.5)
            .map(|pixel| f64::from(pixel[0]) - 0.5)
            .collect();
        assert!(
            noisy
                .chunks(3)
                .all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2])
        );
        let share = hit.len() as f64 / 8192.0;
        assert!((share - 0.3).abs() < 0.02, "share {share}");
        let deviation = (hit.iter().map(|d| d * d).sum::<f64>() / hit.len() as f64).sqrt();
        assert!((deviation - 0.2).abs() < 0.01, "deviation {deviation}");
        Ok(())
    }

    #[test]
    fn independent_noise_has_its_deviation_on_every_value() -> Result<()> {
        let keys: Vec<Key> = (0..64).map(Key::new).collect();
        let deviations = |corruption: Corruption| -> Result<Vec<f64>> {
            let noisy = corruption.apply(&grey(keys.len())?, 1.0, &keys)?;
            let each = |image: Tensor| {
                let squares = values(&image)?;
                let sum: f64 = squares.iter().map(|v| (f64::from(*v) - 0.5).powi(2)).sum();
                Ok((sum / squares.len() as f64).sqrt() * 255.0)
            };
            (0..keys.len()).map(|image| each(noisy.get(image)?)).collect()
        };
        let gaussian = |blind: bool| Corruption::Gaussian {
            sigma: 20.0 / 255.0,
            blind,
        };
        for deviation in deviations(gaussian(false))? {
            assert!((deviation - 20.0).abs() < 1.0, "{deviation}");
        }
        let blind = deviations(gaussian(true))?;
        let clean = blind.iter().filter(|deviation| **deviation == 0.0).count();
        assert!((2..20).contains(&clean), "{clean} of {} stay clean", blind.len());
        assert!(blind.iter().all(|deviation| *deviation < 42.0) && blind.iter().any(|d| *d > 30.0));
        let noisy = Corruption::GAUSSIAN.apply(&grey(1)?, 1.0, &keys[..1])?;
        let pixels = values(&noisy)?;
        assert!(pixels.chunks(3).all(|rgb| rgb[0] != rgb[1] && rgb[1] != rgb[2]));
        Ok(())
    }

    #[test]
    fn noise_is_clipped() -> Result<()> {
        let draws = Tensor::new(&[[[[0.9f32], [-0.9]]]], &Device::Cpu)?;
        let clean = Tensor::full(0.5f32, (1, 1, 2, 3), &Device::Cpu)?;
        let noisy = masked_noise(&clean, &draws.ones_like()?, &draws)?;
        assert_eq!(values(&noisy)?, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        Ok(())
    }

    #[test]
    fn blur_keeps_the_middle_of_a_flat_image_and_truncates_its_length() -> Result<()> {
        let blurred = Corruption::BLUR.apply(&grey(1)?, 7.9, &[Key::new(3)])?;
        let same = Corruption::BLUR.apply(&grey(1)?, 7.0, &[Key::new(3)])?;
        assert_eq!(values(&blurred)?, values(&same)?);
        let middle = values(&blurred.narrow(1, 8, 16)?.narrow(2, 8, 16)?)?;
        assert!(middle.iter().all(|v| (v - 0.5).abs() < 1e-6));
        Ok(())
    }

    #[test]
    fn out_of_range_settings_are_errors() -> Result<()> {
        let (clean, keys) = (grey(1)?, [Key::new(0)]);
        for difficulty in [-0.1, 1.1, f64::NAN] {
            assert!(Corruption::NOISE.apply(&clean, difficulty, &keys).is_err());
        }
        for difficulty in [-3.0, 0.5, 256.0, f64::NAN, f64::INFINITY] {
            assert!(Corruption::BLUR.apply(&clean, difficulty, &keys).is_err());
        }
        assert!(
            Corruption::Noise { sigma: -1.0 }
                .apply(&clean, 0.5, &keys)
                .is_err()
        );
        assert!(Corruption::NOISE.apply(&clean, 0.5, &[]).is_err());
        let flat = Tensor::zeros((4, 4), DType::F32, &Device::Cpu)?;
        assert!(Corruption::NOISE.apply(&flat, 0.5, &keys).is_err());
        Ok(())
    }
}
