//! The variational autoencoder with its weights, to create, save and load.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use super::config::{DecoderConfig, VaeConfig};
use super::decoder::{Broadcast, Decoder, Deconvolution, Doubling};
use super::encoder::Encoder;
use crate::error::{Error, Result, check};
use crate::io::card::{self, Card};
use crate::loss::{Posterior, iwelbo, log_bernoulli, log_prior};
use crate::nn::Weights;
use crate::random::Key;
use crate::rollout::{Memory, Rollout};
use crate::transition::{Vnca, VncaConfig};

/// Most latents decoded at once outside of training.
const AT_ONCE: usize = 64;

/// The card of a file: with the weights, all that is needed to use the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VaeCard {
    /// Version of the file format: 1.
    pub vae: u32,
    /// Sizes.
    pub config: VaeConfig,
    /// The training images; free text.
    pub data: String,
    /// How it was trained; free text.
    pub trained_by: String,
    /// The command or code that made it; free text.
    pub made_by: String,
}

impl VaeCard {
    /// A card with empty texts.
    pub fn new(config: VaeConfig) -> Self {
        Self {
            vae: 1,
            config,
            data: String::new(),
            trained_by: String::new(),
            made_by: String::new(),
        }
    }
}

impl Card for VaeCard {
    const KIND: &'static str = "vae";
}

/// Likelihood estimates of one image, in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The importance-weighted bound of the log-likelihood of all pixels.
    pub iwelbo: f64,
    /// The same bound for the pixels inside the border.
    pub inner: f64,
    /// The evidence lower bound, which training maximises: the mean log-likelihood of the samples minus `kl`.
    pub elbo: f64,
    /// The KL divergence of the posterior from the prior.
    pub kl: f64,
}

impl Estimate {
    /// The mean of estimates; NaN if there are none.
    pub fn mean(estimates: &[Self]) -> Self {
        let mean = |of: fn(&Self) -> f64| estimates.iter().map(of).sum::<f64>() / estimates.len() as f64;
        Self {
            iwelbo: mean(|e| e.iwelbo),
            inner: mean(|e| e.inner),
            elbo: mean(|e| e.elbo),
            kl: mean(|e| e.kl),
        }
    }
}

/// A variational autoencoder of binary images.
#[derive(Clone)]
pub struct Vae {
    card: VaeCard,
    encoder: Encoder,
    decoder: Decoder,
    weights: Weights,
}

impl Vae {
    /// An untrained model with weights drawn from `seed`.
    ///
    /// # Errors
    /// [`Error::Config`] if the sizes contradict each other.
    pub fn new(card: VaeCard, seed: u64, device: &Device) -> Result<Self> {
        Self::with_weights(card, Weights::new(seed, DType::F32, device))
    }

    fn with_weights(card: VaeCard, weights: Weights) -> Result<Self> {
        let VaeConfig {
            size,
            latent,
            encoder,
            ref decoder,
            ..
        } = card.config;
        card.config.check()?;
        let vb = weights.builder();
        let encoder = Encoder::new(size, latent, encoder, vb.pp("encoder"))?;
        let vb = vb.pp("decoder");
        let decoder = match *decoder {
            DecoderConfig::Doubling { blocks, .. } => {
                let config = VncaConfig {
                    blocks,
                    ..VncaConfig::doubling(latent)
                };
                let rule = Vnca::new(config, vb)?;
                Decoder::Doubling(Doubling::new(rule, size.trailing_zeros() as usize))
            }
            DecoderConfig::Broadcast { output_bias, .. } => {
                let config = VncaConfig {
                    output_bias,
                    ..VncaConfig::broadcast(latent)
                };
                Decoder::Broadcast(Broadcast::new(Vnca::new(config, vb)?, size))
            }
            DecoderConfig::Baseline { width } => {
                Decoder::Baseline(Deconvolution::new(size, latent, width, vb)?)
            }
        };
        Ok(Self {
            card,
            encoder,
            decoder,
            weights,
        })
    }

    /// Loads a file written by [`Vae::save`].
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::File`] if it is of another kind or a weight is missing or
    /// has not the shape its card gives, [`Error::Weight`] if one is left over.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        card::load(path.as_ref(), device, |card, values| {
            let weights = Weights::given(values, DType::F32, device);
            Ok((Self::with_weights(card, weights.clone())?, weights))
        })
    }

    /// Writes weights and card to a safetensors file, atomically.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written, [`Error::Weight`] if a weight holds NaN or an infinity.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.weights.check_finite()?;
        card::save(path.as_ref(), &self.weights, &self.card)
    }

    /// Its card.
    pub fn card(&self) -> &VaeCard {
        &self.card
    }

    /// Its card, to edit before saving. The sizes must not change.
    pub fn card_mut(&mut self) -> &mut VaeCard {
        &mut self.card
    }

    /// Its encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Its decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Its weights, under `encoder.` and `decoder.`.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// A rollout of the decoder: `steps` steps at its fire rate, update masks drawn from `key`, no gradient.
    pub fn rollout(&self, steps: usize, key: Key) -> Rollout {
        let fire_rate = match self.card.config.decoder {
            DecoderConfig::Broadcast { fire_rate, .. } => fire_rate,
            _ => 1.0,
        };
        let rollout = Rollout::new(steps).fire_rate(fire_rate).key(key);
        rollout.memory(Memory::Nothing)
    }

    /// The posterior over the latents of `images` (`[B, size, size, 1]` of zeros and ones), without a
    /// gradient.
    ///
    /// # Errors
    /// [`Error::Shape`] if they have another size.
    pub fn encode(&self, images: &Tensor) -> Result<Posterior> {
        Ok(self.encoder.forward(images)?.detach())
    }

    /// The logits of pixels (`[B, size, size, 1]`) for latents `z` (`[B, Z]`), without a gradient.
    ///
    /// # Errors
    /// [`Error::Shape`] if the latents do not fit.
    pub fn decode(&self, z: &Tensor, key: Key) -> Result<Tensor> {
        let rollout = self.rollout(self.card.config.decoder.steps(), key);
        Ok(self.decoder.decode(&z.detach(), &rollout)?.detach())
    }

    /// `count` latents drawn from the prior: `[count, Z]`.
    ///
    /// # Errors
    /// [`Error::Config`] if `count` is 0, [`Error::Shape`] for more than there is memory for.
    pub fn prior(&self, count: usize, key: Key) -> Result<Tensor> {
        check::count(
            "count",
            count,
            (1, check::MOST_ELEMENTS / self.card.config.latent),
        )?;
        self.noise(count, 1, key)?.squeeze(1).map_err(Error::from)
    }

    /// Standard normal draws, `[images, samples, Z]`; those of an image depend only on the key and its
    /// number.
    pub(crate) fn noise(&self, images: usize, samples: usize, key: Key) -> Result<Tensor> {
        self.noise_from(0, (images, samples), key)
    }

    fn noise_from(&self, first: usize, (images, samples): (usize, usize), key: Key) -> Result<Tensor> {
        let latent = self.card.config.latent;
        check::elements("samples", &[images, samples, latent])?;
        check::count("first_image", first, (0, usize::MAX - images))?;
        let mut values: Vec<f32> = Vec::with_capacity(images * samples * latent);
        for image in first..first + images {
            let mut rng = key.fold_in_name("noise").fold_in(image as u64).rng();
            values.extend((0..samples * latent).map(|_| rng.sample::<f32, _>(StandardNormal)));
        }
        let shape = (images, samples, latent);
        Ok(Tensor::from_vec(values, shape, self.weights.device())?)
    }

    /// Likelihood estimates of `images` (`[B, size, size, 1]` of zeros and ones), from `samples` latents
    /// each. `first_image` is the number of the first image: an image draws the same latents in any batch.
    ///
    /// # Errors
    /// [`Error::Shape`] if the images have another size, [`Error::Config`] if `samples` is 0.
    pub fn estimate(
        &self,
        images: &Tensor,
        samples: usize,
        key: Key,
        first_image: usize,
    ) -> Result<Vec<Estimate>> {
        if samples == 0 {
            return Err(Error::config("samples", "at least 1", 0));
        }
        let posterior = self.encode(images)?;
        let VaeConfig {
            size, border, latent, ..
        } = self.card.config;
        let within = |x: &Tensor, axis: usize| -> Result<Tensor> {
            let side = size - 2 * border;
            Ok(x.narrow(axis, border, side)?.narrow(axis + 1, border, side)?)
        };
        let (b, inner_images) = (images.dim(0)?, within(images, 1)?);
        let z = posterior.sample(&self.noise_from(first_image, (b, samples), key)?)?;
        let (mut all, mut inner) = (vec![], vec![]);
        let share = (AT_ONCE / b).max(1);
        for first in (0..samples).step_by(share) {
            let count = share.min(samples - first);
            let some = z.narrow(1, first, count)?.reshape((b * count, latent))?;
            let logits = self.decode(&some, key.fold_in_name("masks").fold_in(first as u64))?;
            let logits = logits.reshape((b, count, size, size, 1))?;
            all.push(log_bernoulli(images, &logits)?);
            inner.push(log_bernoulli(&inner_images, &within(&logits, 2)?)?);
        }
        let (all, inner) = (Tensor::cat(&all, 1)?, Tensor::cat(&inner, 1)?);
        let (prior, density) = (log_prior(&z)?, posterior.log_density(&z)?);
        let numbers = |x: Tensor| -> Result<Vec<f64>> { Ok(x.to_dtype(DType::F64)?.to_vec1()?) };
        let kl = numbers(posterior.kl()?)?;
        let likelihood = numbers(all.mean(1)?)?;
        let bounds = numbers(iwelbo(&all, &prior, &density)?)?;
        let inner = numbers(iwelbo(&inner, &prior, &density)?)?;
        let each = bounds.into_iter().zip(inner).zip(likelihood).zip(kl);
        Ok(each
            .map(|(((iwelbo, inner), likelihood), kl)| Estimate {
                iwelbo,
                inner,
                elbo: likelihood - kl,
                kl,
            })
            .collect())
    }
}
