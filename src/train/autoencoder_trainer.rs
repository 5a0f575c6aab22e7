//! Training of the autoencoder, such that the corruption is in its latent and not in its skip-connection.

use candle_core::Tensor;
use rand::Rng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use super::adam::{Adam, AdamConfig};
use super::trainer::{Reading, Trainer, descend};
use crate::data::{Batch, derangement};
use crate::error::{Error, Result, check};
use crate::loss;
use crate::loss::Term;
use crate::metric::similarity;
use crate::model::autoencoder::Autoencoder;
use crate::nn::Weights;
use crate::random::Key;

/// Settings of an [`AutoencoderTrainer`]; the defaults are the published ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderTrainerConfig {
    /// The optimiser: learning rate 1e-2.
    pub adam: AdamConfig,
    /// Weight of REC: 100.
    pub rec: f64,
    /// Weight of DIST: 10.
    pub dist: f64,
    /// Weight of TASK: 10.
    pub task: f64,
    /// Weight of EQ: 100.
    pub eq: f64,
    /// Weight of the total variation of the reconstructed anchors: 0, off.
    pub tv: f64,
    /// Margin of DIST: 1.
    pub margin: f64,
    /// Standard deviation of the noise on the clean latent in EQ: 0.5.
    pub perturbation: f64,
}

impl AutoencoderTrainerConfig {
    pub(super) fn check(&self) -> Result<()> {
        self.adam.check()?;
        for (name, value) in [
            ("rec", self.rec),
            ("dist", self.dist),
            ("task", self.task),
            ("eq", self.eq),
            ("tv", self.tv),
            ("perturbation", self.perturbation),
        ] {
            check::not_negative(name, value)?;
        }
        check::finite("margin", self.margin)
    }
}

impl Default for AutoencoderTrainerConfig {
    fn default() -> Self {
        Self {
            adam: AdamConfig::default(),
            rec: 100.0,
            dist: 10.0,
            task: 10.0,
            eq: 100.0,
            tv: 0.0,
            margin: 1.0,
            perturbation: 0.5,
        }
    }
}

/// The images of one batch, each `[B, H, W, 3]`.
#[derive(Clone, Debug)]
pub struct Triplet {
    /// Clean images.
    pub anchor: Tensor,
    /// The same images, corrupted.
    pub positive: Tensor,
    /// Clean images, each different from the anchor in the same place.
    pub negative: Tensor,
}

/// Trains an autoencoder with two updates per batch, each with its own loss.
///
/// First `100 REC + 10 DIST + 10 TASK`: reconstruct clean and corrupted images, with latents that differ more
/// between images than between corruptions. Then `100 EQ`: with the latents of clean and corrupted image
/// swapped, the latent alone must decide whether the result is corrupted. Source: "Latent Neural Cellular
/// Automata for Resource-Efficient Image Restoration" and its program.
pub struct AutoencoderTrainer {
    config: AutoencoderTrainerConfig,
    autoencoder: Autoencoder,
    weights: Weights,
    adam: Adam,
}

impl AutoencoderTrainer {
    /// A trainer of `autoencoder`, whose weights are `weights`.
    ///
    /// # Errors
    /// [`Error::Config`] for settings out of range.
    pub fn new(
        autoencoder: &Autoencoder,
        weights: &Weights,
        config: AutoencoderTrainerConfig,
    ) -> Result<Self> {
        config.check()?;
        Ok(Self {
            adam: Adam::new(weights.vars(), config.adam.clone())?,
            autoencoder: autoencoder.clone(),
            weights: weights.clone(),
            config,
        })
    }

    /// The two updates of one batch. `noise` (`[B, h, w, D]`, standard normal) perturbs the clean latent.
    ///
    /// # Errors
    /// As [`Trainer::learn`], and [`Error::Shape`] if the images or the noise do not fit.
    pub fn update(&mut self, images: &Triplet, noise: &Tensor) -> Result<Vec<Reading>> {
        let Triplet {
            anchor,
            positive,
            negative,
        } = images;
        let (config, autoencoder) = (&self.config, &self.autoencoder);
        // Three forward passes rather than one, so that each has its own batch statistics.
        let through = |images: &Tensor| -> Result<(Tensor, Tensor)> {
            let encoded = autoencoder.encode(images, true)?;
            Ok((
                autoencoder.decode(&encoded.latent, &encoded.skip, true)?,
                encoded.latent,
            ))
        };
        let (rec_a, latent_a) = through(anchor)?;
        let (rec_p, latent_p) = through(positive)?;
        let (rec_n, latent_n) = through(negative)?;
        let mask = loss::corruption_mask(anchor, positive)?;
        let all = |a: &Tensor, p: &Tensor, n: &Tensor| Tensor::cat(&[a, p, n], 0);
        let rec = loss::mse(&all(&rec_a, &rec_p, &rec_n)?, &all(anchor, positive, negative)?)?;
        let mut terms = vec![
            Term::new("rec", config.rec, rec),
            Term::new(
                "dist",
                config.dist,
                loss::dist(&latent_a, &latent_p, &latent_n, config.margin)?,
            ),
            Term::new("task", config.task, loss::masked_mse(positive, &rec_p, &mask)?),
        ];
        if config.tv != 0.0 {
            terms.push(Term::new("tv", config.tv, loss::total_variation(&rec_a, anchor)?));
        }
        let mut readings = descend(&mut self.adam, &terms, true)?;

        let clean = autoencoder.encode(anchor, true)?;
        let corrupted = autoencoder.encode(positive, true)?;
        if noise.dims() != clean.latent.dims() {
            let expected = format!("{:?}", clean.latent.dims());
            return Err(Error::shape("noise", expected, noise.dims()));
        }
        let perturbed = (&clean.latent + (noise * config.perturbation)?)?;
        let still_clean = autoencoder.decode(&perturbed, &corrupted.skip, true)?;
        let still_corrupted = autoencoder.decode(&corrupted.latent, &clean.skip, true)?;
        let eq = (loss::masked_mse(anchor, &still_clean, &mask)?
            + loss::masked_mse(positive, &still_corrupted, &mask)?)?;
        readings.extend(descend(&mut self.adam, &[Term::new("eq", config.eq, eq)], true)?);
        Ok(readings)
    }
}

impl Trainer for AutoencoderTrainer {
    fn phase(&self) -> &'static str {
        "autoencoder"
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!(self.config)
    }

    fn weights(&self) -> &Weights {
        &self.weights
    }

    fn optimiser(&self) -> &Adam {
        &self.adam
    }

    fn optimiser_mut(&mut self) -> &mut Adam {
        &mut self.adam
    }

    fn updates_per_batch(&self) -> usize {
        2
    }

    fn learn(&mut self, batch: &Batch, key: Key) -> Result<Vec<Reading>> {
        let (b, h, w, _) = batch.clean.dims4()?;
        let device = batch.clean.device();
        let order: Vec<u32> = derangement(b, key.fold_in_name("derangement"))?
            .into_iter()
            .map(|i| i as u32)
            .collect();
        let negative = batch.clean.index_select(&Tensor::new(order, device)?, 0)?;
        let scale = self.autoencoder.multiple();
        let shape = (b, h / scale, w / scale, self.autoencoder.config().latent_channels);
        let mut rng = key.fold_in_name("perturbation").rng();
        let noise: Vec<f32> = (0..shape.0 * shape.1 * shape.2 * shape.3)
            .map(|_| rng.sample(StandardNormal))
            .collect();
        let noise = Tensor::from_vec(noise, shape, device)?.to_dtype(batch.clean.dtype())?;
        let images = Triplet {
            anchor: batch.clean.clone(),
            positive: batch.corrupted.clone(),
            negative,
        };
        self.update(&images, &noise)
    }

    /// The mean over the reconstructions of an image as anchor, positive and negative. Negatives are the
    /// clean images in another order.
    fn validate(&self, batch: &Batch, _: usize) -> Result<Vec<f64>> {
        let score = |images: &Tensor| -> Result<Vec<f64>> {
            let encoded = self.autoencoder.encode(images, false)?;
            let decoded = self.autoencoder.decode(&encoded.latent, &encoded.skip, false)?;
            Ok(similarity(&decoded, images)?.to_vec1()?)
        };
        let (clean, corrupted) = (score(&batch.clean)?, score(&batch.corrupted)?);
        Ok(clean
            .into_iter()
            .zip(corrupted)
            .map(|(clean, corrupted)| (2.0 * clean + corrupted) / 3.0)
            .collect())
    }
}
