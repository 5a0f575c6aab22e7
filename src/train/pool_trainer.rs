//! Training of an NCA that restores images, with a pool of states.

use std::ops::RangeInclusive;
use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::adam::{Adam, AdamConfig};
use super::pool::Pool;
use super::trainer::{Reading, Trainer, descend};
use super::weight_average::WeightAverage;
use crate::data::Batch;
use crate::engine::Precision;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, check};
use crate::grid::draws::{MOST_STEPS, check_rate, check_steps};
use crate::io::safetensors::{Tensors, add_prefixed, take_prefixed};
use crate::loss::RestorationLoss;
use crate::metric::similarity;
use crate::model::Restorer;
use crate::nn::Weights;
use crate::random::Key;
use crate::rollout::{Memory, Rollout};

/// Which of the two updates of a batch comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolOrder {
    /// The fresh batch, then a batch from the pool: the latent models.
    #[default]
    FreshFirst,
    /// A batch from the pool if it holds more than one, then the fresh batch: ViTCA.
    PoolFirst,
}

/// Settings of a [`PoolTrainer`]; the defaults are those of the latent models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolTrainerConfig {
    /// The optimiser: learning rate 1e-2.
    pub adam: AdamConfig,
    /// The loss: that of the latent models.
    pub loss: RestorationLoss,
    /// States in the pool: 1024.
    pub pool: usize,
    /// Which update comes first: fresh.
    pub order: PoolOrder,
    /// Steps of an update, drawn uniformly from this range: 8 to 32. If all have 0, the system is trained
    /// without its automaton, see [`Recipe::without_automaton`](super::Recipe::without_automaton).
    pub steps: RangeInclusive<usize>,
    /// Steps in validation: 64.
    pub validation_steps: usize,
    /// The probability that a cell takes its update in a step: 1.
    pub fire_rate: f64,
    /// Precision of matrix products in training: f32.
    pub precision: Precision,
    /// Decay of an exponential moving average of the weights, which is validated and kept instead of them:
    /// none.
    pub average: Option<f64>,
}

impl PoolTrainerConfig {
    pub(super) fn check(&self) -> Result<()> {
        self.adam.check()?;
        self.loss.check()?;
        // An update of no step cannot train a transition: either all have none, or none has.
        check_steps("steps", &self.steps, usize::from(*self.steps.end() > 0))?;
        check::count("validation_steps", self.validation_steps, (0, MOST_STEPS))?;
        check_rate("fire_rate", self.fire_rate)?;
        self.average.map_or(Ok(()), |decay| check_rate("average", decay))
    }
}

impl Default for PoolTrainerConfig {
    fn default() -> Self {
        Self {
            adam: AdamConfig::default(),
            loss: RestorationLoss::default(),
            pool: 1024,
            order: PoolOrder::FreshFirst,
            steps: 8..=32,
            validation_steps: 64,
            fire_rate: 1.0,
            precision: Precision::F32,
            average: None,
        }
    }
}

impl PoolTrainerConfig {
    /// The settings published for ViTCA on pixels: learning rate 1e-3, fire rate 0.5, pool first.
    pub fn vitca() -> Self {
        Self {
            adam: AdamConfig {
                learning_rate: 1e-3,
                ..AdamConfig::default()
            },
            loss: RestorationLoss::vitca(),
            order: PoolOrder::PoolFirst,
            fire_rate: 0.5,
            ..Self::default()
        }
    }
}

/// Trains a [`Restorer`], in latent space or on pixels, with any transition.
///
/// Each batch makes two updates: one from seeds, whose last states join the pool, and one from states of the
/// pool, which are written back evolved. Source: "Latent Neural Cellular Automata for Resource-Efficient
/// Image Restoration" and its program.
pub struct PoolTrainer {
    config: PoolTrainerConfig,
    restorer: Arc<dyn Restorer>,
    weights: Weights,
    adam: Adam,
    pool: Pool,
    average: Option<WeightAverage>,
    memory: Memory,
    phase: &'static str,
}

impl PoolTrainer {
    /// A trainer of `weights`, the weights of `restorer` that learn.
    ///
    /// # Errors
    /// [`Error::Config`] for a range of steps that is empty or holds 0, a fire rate or decay outside `[0,
    /// 1]`, or other settings out of range.
    pub fn new(restorer: Arc<dyn Restorer>, weights: &Weights, config: PoolTrainerConfig) -> Result<Self> {
        config.check()?;
        Ok(Self {
            average: config.average.map(WeightAverage::new),
            adam: Adam::new(weights.vars(), config.adam.clone())?,
            pool: Pool::new(config.pool),
            weights: weights.clone(),
            restorer,
            config,
            memory: Memory::Every(1),
            phase: "nca",
        })
    }

    /// Renames this phase of training from `nca`, for a second phase. Random draws depend on the name.
    pub fn with_phase(mut self, phase: &'static str) -> Self {
        self.phase = phase;
        self
    }

    /// Sets what rollouts keep for the backward pass. It changes no result.
    pub fn with_memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// The pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The pool, mutable.
    pub fn pool_mut(&mut self) -> &mut Pool {
        &mut self.pool
    }

    /// One update from the seeds of `batch`. The last states are appended to the pool.
    ///
    /// # Errors
    /// As [`Trainer::learn`].
    pub fn fresh_update(&mut self, batch: &Batch, rollout: &Rollout) -> Result<Vec<Reading>> {
        let seed = self.restorer.seed(&batch.corrupted)?;
        let cells = self.restorer.evolve(&seed, rollout)?;
        let readings = self.descend(&cells, (&batch.corrupted, &batch.clean), true)?;
        self.pool.append(&batch.clean, &batch.corrupted, &cells)?;
        Ok(readings)
    }

    /// One update from the first `n` states of the pool. The last states are written back.
    ///
    /// # Errors
    /// As [`Trainer::learn`], and [`Error::Config`] if the pool holds fewer than `n`.
    pub fn pool_update(&mut self, n: usize, rollout: &Rollout) -> Result<Vec<Reading>> {
        let (clean, corrupted, cells) = self.pool.first(n)?;
        let cells = self.restorer.evolve(&cells, rollout)?;
        let readings = self.descend(&cells, (&corrupted, &clean), false)?;
        self.pool.write_back(&cells)?;
        Ok(readings)
    }

    /// An update whose losses are told where that is deferred, or only checked: those of a batch are of its
    /// fresh update.
    fn descend(
        &mut self,
        cells: &Tensor,
        (corrupted, clean): (&Tensor, &Tensor),
        told: bool,
    ) -> Result<Vec<Reading>> {
        let restored = self.restorer.readout(cells, corrupted)?;
        let target = || self.restorer.target(clean);
        let layout = self.restorer.layout();
        let terms = self
            .config
            .loss
            .terms(&layout, cells, (&restored, clean), target)?;
        let readings = descend(&mut self.adam, &terms, told)?;
        if let Some(average) = &mut self.average {
            average.follow(&self.weights, self.adam.updates())?;
        }
        Ok(readings)
    }

    fn rollout(&self, key: Key) -> Result<Rollout> {
        let rollout = Rollout::sampled(self.config.steps.clone(), key)?;
        Ok(rollout
            .fire_rate(self.config.fire_rate)
            .training(true)
            .precision(self.config.precision)
            .memory(self.memory))
    }

    fn learn_from(&mut self, source: Source, key: Key) -> Result<Vec<Reading>> {
        let rollout = self.rollout(key)?;
        let readings = match source {
            Source::Fresh(batch) => self.fresh_update(batch, &rollout)?,
            Source::Pool(n) => self.pool_update(n, &rollout)?,
        };
        self.pool.shuffle(key.fold_in_name("pool"))?;
        Ok(readings)
    }
}

enum Source<'a> {
    Fresh(&'a Batch),
    Pool(usize),
}

impl Trainer for PoolTrainer {
    fn phase(&self) -> &'static str {
        self.phase
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!(self.config)
    }

    fn weights(&self) -> &Weights {
        &self.weights
    }

    fn average(&self) -> Option<&Tensors> {
        let values = self.average.as_ref()?.values();
        (!values.is_empty()).then_some(values)
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
        let (fresh, n) = (Source::Fresh(batch), batch.clean.dim(0)?);
        match self.config.order {
            PoolOrder::FreshFirst => {
                let readings = self.learn_from(fresh, key.fold_in(0))?;
                if self.pool.len() >= n {
                    self.learn_from(Source::Pool(n), key.fold_in(1))?;
                }
                Ok(readings)
            }
            PoolOrder::PoolFirst => {
                if self.pool.len() > n {
                    self.learn_from(Source::Pool(n), key.fold_in(0))?;
                }
                self.learn_from(fresh, key.fold_in(1))
            }
        }
    }

    fn validate(&self, batch: &Batch, first_image: usize) -> Result<Vec<f64>> {
        let rollout = Rollout::new(self.config.validation_steps)
            .fire_rate(self.config.fire_rate)
            .key(Key::new(0).fold_in_name("validation"))
            .first_image(first_image);
        let restored = self.restorer.restore(&batch.corrupted, &rollout)?;
        Ok(similarity(&restored, &batch.clean)?.to_vec1()?)
    }

    fn state(&self) -> Result<Tensors> {
        let mut state = self.pool.state()?;
        if let Some(average) = &self.average {
            add_prefixed(&mut state, "average.", average.values().clone());
        }
        Ok(state)
    }

    fn restore_state(&mut self, mut state: Tensors) -> Result<()> {
        let values = take_prefixed(&mut state, "average.");
        if let Some(average) = &mut self.average {
            average.restore(values);
        }
        self.pool.restore(state)
    }
}
