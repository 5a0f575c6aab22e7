//! Training of variational autoencoders of binary images.

use std::ops::RangeInclusive;
use std::path::Path;

use candle_core::{DType, Tensor};
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::adam::{Adam, AdamConfig};
use super::checkpoint::{self, Identity};
use super::learner::Learner;
use super::pool::Pool;
use super::trainer::{Reading, descend};
use crate::data::BinaryImages;
use crate::error::{Error, Result, check};
use crate::grid::Damage;
use crate::grid::draws::check_steps;
use crate::loss::{Posterior, Term, log_bernoulli};
use crate::model::vae::{Broadcast, Decoder, DecoderConfig, Vae};
use crate::random::Key;
use crate::rollout::{Memory, Rollout};

/// Settings of a [`VaeTrainer`]; the defaults are the article's, except that it trained the broadcast decoder
/// with a batch of 128.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaeTrainerConfig {
    /// The optimiser: learning rate 1e-4, gradients clipped to a norm of 10, not normalised.
    pub adam: AdamConfig,
    /// Images in an update: 32.
    pub batch: usize,
    /// Weight β of the KL divergence: 1.
    pub beta: f64,
    /// Steps of an update of the broadcast decoder, drawn uniformly from this range: 32 to 64.
    pub steps: RangeInclusive<usize>,
    /// Grids in the pool of the broadcast decoder; 0 is no pool: 1024. Half of an update's images come from
    /// the pool, half of these with damaged grids.
    pub pool: usize,
    /// Whether the KL divergence of images from the pool counts, although their grids did not start from
    /// these latents: true.
    pub pool_kl: bool,
    /// Seed of everything drawn: images, latents, steps, update masks, damage, order of the pool.
    pub seed: u64,
}

impl Default for VaeTrainerConfig {
    fn default() -> Self {
        Self {
            adam: AdamConfig {
                learning_rate: 1e-4,
                eps: 1e-8,
                eps_after_correction: true,
                normalise: false,
                clip: Some(10.0),
                ..AdamConfig::default()
            },
            batch: 32,
            beta: 1.0,
            steps: 32..=64,
            pool: 1024,
            pool_kl: true,
            seed: 0,
        }
    }
}

/// Grids of the pool, to be evolved further in an update.
#[derive(Clone, Debug)]
pub struct Evolving {
    /// `[P, H, W, Z]`, the grids of the last P images of the update.
    pub cells: Tensor,
    /// Whether the KL divergence of these images counts.
    pub kl: bool,
}

/// Trains a [`Vae`] to maximise the evidence lower bound of images, with one latent sample each. The readings
/// of an update are `nll`, the negative log-likelihood, and `kl`, both means over images in nats.
///
/// All draws of an update are a function of the seed and the update's number, so a resumed run gives the same
/// bits as one that never stopped. Source: Palm, González Duque, Sudhakaran and Risi, "Variational Neural
/// Cellular Automata" (ICLR 2022).
///
/// ```
/// use lnca::data::BinaryImages;
/// use lnca::prelude::*;
/// use lnca::train::{VaeTrainer, VaeTrainerConfig};
/// use lnca::{Vae, VaeCard, VaeConfig};
///
/// # fn main() -> lnca::Result<()> {
/// let images = BinaryImages::digits(20, 7)?.padded(2)?;
/// let vae = Vae::new(VaeCard::new(VaeConfig::small()), 7, &Device::Cpu)?;
/// let config = VaeTrainerConfig { batch: 4, ..VaeTrainerConfig::default() };
/// let mut trainer = VaeTrainer::new(&vae, images.clone(), config)?;
/// for _ in 0..2 {
///     let readings = trainer.update()?;
///     println!("{}: {:.1} nats", trainer.updates(), lnca::train::Reading::total(&readings));
/// }
/// let estimates = vae.estimate(&images.batch(&[0, 1], &Device::Cpu)?, 4, Key::new(1), 0)?;
/// assert!(estimates.iter().all(|estimate| estimate.iwelbo < 0.0));
/// # Ok(())
/// # }
/// ```
pub struct VaeTrainer {
    config: VaeTrainerConfig,
    vae: Vae,
    images: BinaryImages,
    adam: Adam,
    pool: Pool,
    memory: Memory,
}

impl VaeTrainer {
    /// A trainer of `vae` on `images`.
    ///
    /// # Errors
    /// [`Error::Config`] for settings out of range, [`Error::Shape`] if the images have another size than the
    /// model's.
    pub fn new(vae: &Vae, images: BinaryImages, config: VaeTrainerConfig) -> Result<Self> {
        let size = vae.card().config.size;
        if images.is_empty() {
            return Err(Error::config("images", "at least one", 0));
        }
        if images.side() != size {
            let (side, expected) = (images.side(), format!("[N, {size}, {size}], as the model"));
            return Err(Error::shape("images", expected, &[images.len(), side, side]));
        }
        if config.batch == 0 {
            return Err(Error::config("batch", "at least 1", 0));
        }
        check_steps("steps", &config.steps, 1)?;
        check::elements("batch", &[config.batch, size, size])?;
        check::not_negative("beta", config.beta)?;
        if matches!(vae.decoder(), Decoder::Broadcast(_)) && (1..config.batch / 2).contains(&config.pool) {
            let expected = format!("0, or {} and more, half of a batch", config.batch / 2);
            return Err(Error::config("pool", expected, config.pool));
        }
        Ok(Self {
            adam: Adam::new(vae.weights().vars(), config.adam.clone())?,
            pool: Pool::new(config.pool),
            vae: vae.clone(),
            images,
            config,
            memory: Memory::Every(1),
        })
    }

    /// Sets what rollouts keep for the backward pass. It changes no result.
    pub fn with_memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// The model being trained.
    pub fn vae(&self) -> &Vae {
        &self.vae
    }

    /// The pool; empty before the first update, and for decoders without one.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// An update with half of its images from the pool, together with the grids that earlier updates left;
    /// half of these grids are damaged.
    fn update_with_pool(&mut self, decoder: &Broadcast, key: Key) -> Result<Vec<Reading>> {
        if self.pool.is_empty() {
            self.fill(decoder, key.fold_in_name("fill"))?;
        }
        let batch = self.config.batch;
        let old = (batch / 2).min(self.pool.len());
        let images = self.draw(batch - old, key)?;
        let (images, evolving) = match old {
            0 => (images, None),
            _ => {
                let (_, old_images, cells) = self.pool.first(old)?;
                let evolving = Evolving {
                    cells: self.damaged(&cells, key.fold_in_name("damage"))?,
                    kl: self.config.pool_kl,
                };
                (Tensor::cat(&[&images, &old_images], 0)?, Some(evolving))
            }
        };
        let noise = self.vae.noise(batch, 1, key)?.squeeze(1)?;
        let rollout = self.rollout(key)?;
        let (readings, cells) = self.update_from(&images, &noise, evolving.as_ref(), &rollout)?;
        if let Some(cells) = cells {
            self.pool.drop_first(old);
            if let Some((images, cells)) = sound(&images, &cells)? {
                // The image is both the origin and the target of its grid.
                self.pool.append(&images, &images, &cells)?;
            }
            self.pool.shuffle(key.fold_in_name("pool"))?;
        }
        Ok(readings)
    }

    /// One update from given images (`[B, size, size, 1]`), standard normal `noise` (`[B, Z]`) and a rollout,
    /// which a doubling decoder runs after each doubling. Also returns the last grids of a broadcast decoder.
    ///
    /// # Errors
    /// As [`Learner::update`]; [`Error::Config`] for `evolving` grids unless the decoder is a broadcast one.
    pub fn update_from(
        &mut self,
        images: &Tensor,
        noise: &Tensor,
        evolving: Option<&Evolving>,
        rollout: &Rollout,
    ) -> Result<(Vec<Reading>, Option<Tensor>)> {
        let rollout = rollout.clone().training(true).memory(self.memory);
        let posterior = self.vae.encoder().forward(images)?;
        let z = posterior.sample(&noise.unsqueeze(1)?)?.squeeze(1)?;
        let (logits, cells) = match (self.vae.decoder(), evolving) {
            (Decoder::Broadcast(decoder), _) => {
                let mut cells = decoder.seed(&z)?;
                if let Some(old) = evolving {
                    let fresh = fresh(images, old)?;
                    cells = Tensor::cat(&[&cells.narrow(0, 0, fresh)?, &old.cells], 0)?;
                }
                let cells = rollout.run(decoder.rule(), &cells)?;
                (decoder.logits(&cells)?, Some(cells.detach()))
            }
            (decoder, None) => (decoder.decode(&z, &rollout)?, None),
            (_, Some(_)) => {
                let name = self.vae.card().config.decoder.name();
                return Err(Error::config("evolving", "none, without a grid that lasts", name));
            }
        };
        let nll = log_bernoulli(images, &logits)?.mean_all()?.neg()?;
        let kl = counted_kl(&posterior, images, evolving)?;
        let terms = [Term::new("nll", 1.0, nll), Term::new("kl", self.config.beta, kl)];
        Ok((descend(&mut self.adam, &terms, true)?, cells))
    }

    /// Images drawn with replacement.
    fn draw(&self, count: usize, key: Key) -> Result<Tensor> {
        let mut rng = key.fold_in_name("images").rng();
        let drawn: Vec<usize> = (0..count)
            .map(|_| rng.random_range(0..self.images.len()))
            .collect();
        self.images.batch(&drawn, self.vae.weights().device())
    }

    fn rollout(&self, key: Key) -> Result<Rollout> {
        let decoder = &self.vae.card().config.decoder;
        let steps = match decoder {
            DecoderConfig::Broadcast { .. } => {
                Rollout::sampled(self.config.steps.clone(), key.fold_in_name("rollout"))?.steps()
            }
            _ => decoder.steps(),
        };
        Ok(self.vae.rollout(steps, key.fold_in_name("masks")))
    }

    /// Fills the pool with the first images and the seeds of their latents.
    fn fill(&mut self, decoder: &Broadcast, key: Key) -> Result<()> {
        let count = self.config.pool.min(self.images.len());
        for first in (0..count).step_by(self.config.batch) {
            let chosen: Vec<usize> = (first..count.min(first + self.config.batch)).collect();
            let images = self.images.batch(&chosen, self.vae.weights().device())?;
            let noise = self.vae.noise(chosen.len(), 1, key.fold_in(first as u64))?;
            let z = self.vae.encode(&images)?.sample(&noise)?.squeeze(1)?;
            self.pool.append(&images, &images, &decoder.seed(&z)?)?;
        }
        Ok(())
    }

    /// `cells` (`[P, H, W, Z]`), in the first half of which a random square of half the side is erased.
    fn damaged(&self, cells: &Tensor, key: Key) -> Result<Tensor> {
        let (count, h, w, _) = cells.dims4()?;
        let mut grids = Vec::with_capacity(count);
        for n in 0..count {
            let grid = cells.get(n)?;
            grids.push(match n < count / 2 {
                true => Damage::random_square(h / 2, (h, w), key.fold_in(n as u64))?.apply(&grid)?,
                false => grid,
            });
        }
        Ok(Tensor::stack(&grids, 0)?)
    }

    fn identity(&self) -> Identity {
        Identity {
            phase: "vae".into(),
            settings: serde_json::json!({
                "trainer": self.config,
                "model": self.vae.card().config,
                "images": self.images.len(),
            }),
        }
    }
}

impl Learner for VaeTrainer {
    fn updates(&self) -> usize {
        self.adam.updates()
    }

    fn learning_rate(&self) -> f64 {
        self.adam.learning_rate()
    }

    fn update(&mut self) -> Result<Vec<Reading>> {
        let key = Key::new(self.config.seed)
            .fold_in_name("vae")
            .fold_in(self.updates() as u64);
        if let (Decoder::Broadcast(decoder), true) = (self.vae.decoder(), self.config.pool > 0) {
            let decoder = decoder.clone();
            return self.update_with_pool(&decoder, key);
        }
        let images = self.draw(self.config.batch, key)?;
        let noise = self.vae.noise(self.config.batch, 1, key)?.squeeze(1)?;
        let rollout = self.rollout(key)?;
        Ok(self.update_from(&images, &noise, None, &rollout)?.0)
    }

    fn defer(&mut self, is_deferred: bool) {
        self.adam.defer(is_deferred);
    }

    fn settle(&mut self) -> Result<Vec<Reading>> {
        self.adam.settle()
    }

    fn save(&self, path: &Path) -> Result<()> {
        let state = checkpoint::State::<()> {
            trainer: self.pool.state()?,
            ..Default::default()
        };
        checkpoint::save(path, self.identity(), (self.vae.weights(), &self.adam), state)
    }

    fn resume(&mut self, path: &Path) -> Result<()> {
        let (identity, weights) = (self.identity(), self.vae.weights());
        let learned = (weights, &mut self.adam);
        let state: checkpoint::State<()> = checkpoint::restore(path, &identity, learned, weights.device())?;
        self.pool.restore(state.trainer)
    }
}

/// The images whose grids are finite. NaN would never leave the pool again.
fn sound(images: &Tensor, cells: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
    // Checked by a sum, since a maximum may miss NaN.
    let sums = cells
        .flatten_from(1)?
        .sum(1)?
        .to_dtype(DType::F64)?
        .to_vec1::<f64>()?;
    let finite = (0..).zip(&sums).filter(|(_, sum)| sum.is_finite());
    let finite: Vec<u32> = finite.map(|(n, _)| n).collect();
    if finite.len() == sums.len() {
        return Ok(Some((images.clone(), cells.clone())));
    }
    if finite.is_empty() {
        return Ok(None);
    }
    let finite = Tensor::new(finite, cells.device())?;
    Ok(Some((
        images.index_select(&finite, 0)?,
        cells.index_select(&finite, 0)?,
    )))
}

/// Number of images of an update whose grids start from their latents.
fn fresh(images: &Tensor, old: &Evolving) -> Result<usize> {
    let (count, old) = (images.dim(0)?, old.cells.dim(0)?);
    let wrong = || Error::config("evolving", format!("at most {count}, one an image"), old);
    count.checked_sub(old).ok_or_else(wrong)
}

/// The mean over images of the KL divergence, where it counts.
fn counted_kl(posterior: &Posterior, images: &Tensor, evolving: Option<&Evolving>) -> Result<Tensor> {
    let (kl, count) = (posterior.kl()?, images.dim(0)?);
    match evolving {
        Some(old) if !old.kl => {
            let counted = kl.narrow(0, 0, fresh(images, old)?)?;
            Ok((counted.sum_all()? / count as f64)?)
        }
        _ => Ok(kl.mean_all()?),
    }
}
