//! Training of automata towards a target image or texture.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::adam::{Adam, AdamConfig};
use super::checkpoint::{self, Identity};
use super::learner::Learner;
use super::pool::one;
use super::trainer::{Reading, descend};
use crate::error::{Error, Result, check};
use crate::grid::Damage;
use crate::grid::draws::{check_rate, check_steps};
use crate::io::safetensors::Tensors;
use crate::loss::PatternLoss;
use crate::nn::Weights;
use crate::random::Key;
use crate::rollout::{Memory, Rollout};
use crate::transition::TransitionFn;

/// When a state of the batch is replaced by the seed, so that the automaton never unlearns to start from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reseed {
    /// In every update, the state with the greatest loss: Growing NCA.
    Worst,
    /// Every this many updates, the first state: textures.
    Every(usize),
}

/// Settings of a [`PatternTrainer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PatternTrainerConfig {
    /// The optimiser.
    pub adam: AdamConfig,
    /// States in the pool. With 0 there is no pool, and every update starts from seeds.
    pub pool: usize,
    /// States in an update.
    pub batch: usize,
    /// Steps of an update, drawn uniformly from this range.
    pub steps: RangeInclusive<usize>,
    /// The probability that a cell takes its update in a step.
    pub fire_rate: f64,
    /// When a state is replaced by the seed.
    pub reseed: Reseed,
    /// States with an absolute value above this are replaced by the seed in the pool. With `None`, only
    /// states containing NaN or infinities are replaced.
    pub bound: Option<f64>,
    /// Number of states damaged before each update: those with the least loss.
    pub damaged: usize,
    /// Seed of everything drawn: pool states, steps, update masks, damage.
    pub seed: u64,
}

impl Default for PatternTrainerConfig {
    /// [`PatternTrainerConfig::regenerating`].
    fn default() -> Self {
        Self::regenerating()
    }
}

impl PatternTrainerConfig {
    /// The first regime published for Growing NCA: every update starts from the seed. The pattern grows and
    /// then decays.
    pub fn growing() -> Self {
        Self {
            pool: 0,
            ..Self::persistent()
        }
    }

    /// The second regime: with a pool, in which the worst state of each update is replaced by the seed. The
    /// pattern persists.
    pub fn persistent() -> Self {
        Self {
            damaged: 0,
            ..Self::regenerating()
        }
    }

    /// The third regime: the three best states of each update are damaged. The pattern regenerates.
    pub fn regenerating() -> Self {
        Self {
            adam: AdamConfig {
                learning_rate: 2e-3,
                drops: vec![(2000, 0.1)],
                ..AdamConfig::default()
            },
            pool: 1024,
            batch: 8,
            steps: 64..=96,
            fire_rate: 0.5,
            reseed: Reseed::Worst,
            bound: None,
            damaged: 3,
            seed: 0,
        }
    }

    /// The settings published for textures with sliced optimal transport ("V3", June 2022).
    pub fn texture() -> Self {
        Self {
            adam: AdamConfig {
                learning_rate: 1e-3,
                drops: vec![(1000, 0.3), (2000, 0.3)],
                eps: 1e-8,
                eps_after_correction: true,
                ..AdamConfig::default()
            },
            pool: 256,
            batch: 4,
            steps: 32..=95,
            fire_rate: 0.5,
            reseed: Reseed::Every(8),
            bound: None,
            damaged: 0,
            seed: 0,
        }
    }

    fn check(&self) -> Result<()> {
        // An update of no step cannot train a transition.
        check_steps("steps", &self.steps, 1)?;
        self.bound
            .map_or(Ok(()), |bound| check::positive("bound", bound))?;
        check_rate("fire_rate", self.fire_rate)?;
        if self.batch == 0 || (self.pool > 0 && self.pool < self.batch) {
            let expected = match self.pool {
                0 => "at least 1".to_string(),
                pool => format!("1 to {pool}, the states of the pool"),
            };
            return Err(Error::config("batch", expected, self.batch));
        }
        if self.damaged >= self.batch {
            let expected = format!("below {}, the states of an update", self.batch);
            return Err(Error::config("damaged", expected, self.damaged));
        }
        if self.reseed == Reseed::Every(0) {
            return Err(Error::config("reseed", "at least every update", 0));
        }
        Ok(())
    }
}

/// Trains a transition to minimise a [`PatternLoss`] of its last states.
///
/// All draws of an update are a function of the seed and the update's number, so a resumed run gives the same
/// bits as one that never stopped. Sources: Mordvintsev et al., "Growing Neural Cellular Automata" (Distill
/// 2020); Niklasson et al., "Self-Organising Textures" (Distill 2021).
///
/// ```
/// use lnca::loss::ImageLoss;
/// use lnca::prelude::*;
/// use lnca::data::Emblem;
/// use lnca::train::{PatternTrainer, PatternTrainerConfig};
///
/// # fn main() -> lnca::Result<()> {
/// let target = Emblem::Fish.draw(16, 4)?; // [24, 24, 4]
/// let weights = Weights::new(0, DType::F32, &Device::Cpu);
/// let rule = Growing::new(Default::default(), weights.builder())?;
/// let seed = rule.layout().single_cell((1, 24, 24), DType::F32, &Device::Cpu)?;
/// let config = PatternTrainerConfig { steps: 20..=24, ..PatternTrainerConfig::growing() };
/// let mut trainer = PatternTrainer::new(rule, &weights, ImageLoss::new(target)?, &seed, config)?;
/// for _ in 0..2 {
///     let readings = trainer.update()?;
///     println!("{} {:.4}", trainer.updates(), readings[0].value);
/// }
/// # Ok(())
/// # }
/// ```
pub struct PatternTrainer<T> {
    config: PatternTrainerConfig,
    transition: T,
    weights: Weights,
    loss: Arc<dyn PatternLoss>,
    /// `[H, W, C]`.
    seed: Tensor,
    adam: Adam,
    /// `None` stands for the seed.
    pool: Vec<Option<Tensor>>,
    memory: Memory,
}

impl<T: TransitionFn + Clone + 'static> PatternTrainer<T> {
    /// A trainer of `weights`, the weights of `transition`. Rollouts start from `seed`, `[1, H, W, C]`.
    ///
    /// # Errors
    /// [`Error::Config`] for settings out of range, [`Error::Shape`] if the seed does not fit the transition.
    pub fn new(
        transition: T,
        weights: &Weights,
        loss: impl PatternLoss + 'static,
        seed: &Tensor,
        config: PatternTrainerConfig,
    ) -> Result<Self> {
        config.check()?;
        loss.check()?;
        transition.layout().check(seed)?;
        check::float("seed", seed)?;
        check::finite_values("seed", seed)?;
        if seed.dim(0)? != 1 {
            return Err(Error::shape("seed", "[1, H, W, C]", seed.dims()));
        }
        check::elements("batch", &[config.batch, seed.elem_count()])?;
        check::elements("pool", &[config.pool, seed.elem_count()])?;
        Ok(Self {
            adam: Adam::new(weights.vars(), config.adam.clone())?,
            pool: vec![None; config.pool],
            transition,
            weights: weights.clone(),
            loss: Arc::new(loss),
            seed: seed.squeeze(0)?.detach(),
            config,
            memory: Memory::Every(1),
        })
    }

    /// Sets what rollouts keep for the backward pass. It changes no result.
    pub fn with_memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// The transition being trained.
    pub fn transition(&self) -> &T {
        &self.transition
    }

    /// One update from given states (`[B, H, W, C]`) by a given rollout. Also returns the last states.
    ///
    /// # Errors
    /// As [`Learner::update`].
    pub fn update_from(
        &mut self,
        states: &Tensor,
        rollout: &Rollout,
        key: Key,
    ) -> Result<(Vec<Reading>, Tensor)> {
        let rollout = rollout.clone().training(true).memory(self.memory);
        let cells = rollout.run(&self.transition, states)?;
        let terms = self.loss.terms(&cells, key)?;
        Ok((descend(&mut self.adam, &terms, true)?, cells.detach()))
    }

    /// Prepares a batch for an update, by the settings: sorts `states` (`[B, H, W, C]`), replaces the first
    /// by the seed and applies `damage` to the last ones. Returns the order (indices into `states`) and the
    /// batch.
    ///
    /// # Errors
    /// [`Error::Shape`] if the states do not fit the loss.
    pub fn prepare(&self, states: &Tensor, damage: &[Damage]) -> Result<(Vec<usize>, Tensor)> {
        let count = states.dim(0)?;
        let mut order: Vec<usize> = (0..count).collect();
        let reseed = match self.config.reseed {
            // Without a pool, all states are seeds already.
            _ if self.config.pool == 0 => false,
            Reseed::Worst => {
                let losses = self.loss.each(&states.detach())?;
                // Greatest loss first; NaN ranks above all.
                let rank = |loss: f64| if loss.is_nan() { f64::INFINITY } else { loss };
                order.sort_by(|&a, &b| rank(losses[b]).total_cmp(&rank(losses[a])));
                true
            }
            Reseed::Every(updates) => self.updates().is_multiple_of(updates),
        };
        let mut batch = Vec::with_capacity(count);
        for (n, &place) in order.iter().enumerate() {
            let state = match n {
                0 if reseed => self.seed.clone(),
                _ => states.get(place)?,
            };
            let damage = (n + damage.len()).checked_sub(count).and_then(|d| damage.get(d));
            batch.push(match damage {
                Some(damage) => damage.apply(&state)?,
                None => state,
            });
        }
        Ok((order, Tensor::stack(&batch, 0)?))
    }

    /// The first `n` states of the pool, or all if there are fewer: `[n, H, W, C]`.
    pub fn pool(&self, n: usize) -> Result<Tensor> {
        let states = self.pool.iter().take(n).map(|state| self.state(state));
        let states: Vec<Tensor> = states.collect();
        match states.is_empty() {
            true => Ok(self.seed.unsqueeze(0)?),
            false => Ok(Tensor::stack(&states, 0)?),
        }
    }

    /// Which states (`[B, H, W, C]`) may go back into the pool, in one copy to the host.
    fn are_sound(&self, states: &Tensor) -> Result<Vec<bool>> {
        let states = states.flatten_from(1)?;
        let largest = states.abs()?.max(1)?;
        // Checked by a sum, since a maximum may miss NaN.
        let both = Tensor::stack(&[largest, states.sum(1)?], 1)?.to_dtype(DType::F64)?;
        let bound = self.config.bound.unwrap_or(f64::INFINITY);
        let is_sound =
            |of: &Vec<f64>| matches!(of[..], [largest, sum] if sum.is_finite() && largest <= bound);
        Ok(both.to_vec2()?.iter().map(is_sound).collect())
    }

    fn state(&self, state: &Option<Tensor>) -> Tensor {
        state.as_ref().unwrap_or(&self.seed).clone()
    }

    /// Draws indices into the pool without replacement, and returns them with their states; seeds if there is
    /// no pool.
    fn draw(&self, key: Key) -> Result<(Vec<usize>, Tensor)> {
        let mut rng = key.rng();
        let mut slots: Vec<usize> = Vec::with_capacity(self.config.batch);
        while slots.len() < self.config.batch.min(self.pool.len()) {
            let slot = rng.random_range(0..self.pool.len());
            if !slots.contains(&slot) {
                slots.push(slot);
            }
        }
        let states: Vec<Tensor> = match slots.is_empty() {
            true => vec![self.seed.clone(); self.config.batch],
            false => slots.iter().map(|&slot| self.state(&self.pool[slot])).collect(),
        };
        Ok((slots, Tensor::stack(&states, 0)?))
    }

    fn identity(&self) -> Identity {
        Identity {
            phase: "pattern".into(),
            settings: serde_json::json!({
                "trainer": self.config,
                "loss": self.loss.settings(),
                "seed": self.seed.dims(),
            }),
        }
    }
}

impl<T: TransitionFn + Clone + 'static> Learner for PatternTrainer<T> {
    fn updates(&self) -> usize {
        self.adam.updates()
    }

    fn learning_rate(&self) -> f64 {
        self.adam.learning_rate()
    }

    fn update(&mut self) -> Result<Vec<Reading>> {
        let key = Key::new(self.config.seed)
            .fold_in_name("pattern")
            .fold_in(self.updates() as u64);
        let (slots, states) = self.draw(key.fold_in_name("draw"))?;
        let damage: Vec<Damage> = (0..self.config.damaged)
            .map(|n| Damage::random_circle(key.fold_in_name("damage").fold_in(n as u64)))
            .collect();
        let (order, states) = self.prepare(&states, &damage)?;
        let rollout = Rollout::sampled(self.config.steps.clone(), key)?.fire_rate(self.config.fire_rate);
        let (readings, cells) = self.update_from(&states, &rollout, key.fold_in_name("loss"))?;
        if slots.is_empty() {
            return Ok(readings);
        }
        for ((&place, is_sound), state) in order.iter().zip(self.are_sound(&cells)?).zip(0..) {
            if let Some(slot) = slots.get(place) {
                self.pool[*slot] = is_sound.then(|| one(&cells, state)).transpose()?;
            }
        }
        Ok(readings)
    }

    fn defer(&mut self, is_deferred: bool) {
        self.adam.defer(is_deferred);
    }

    fn settle(&mut self) -> Result<Vec<Reading>> {
        self.adam.settle()
    }

    fn save(&self, path: &Path) -> Result<()> {
        let changed = self.pool.iter().enumerate();
        let changed: Vec<(usize, &Tensor)> = changed
            .filter_map(|(slot, state)| state.as_ref().map(|state| (slot, state)))
            .collect();
        let mut memory = Tensors::new();
        if !changed.is_empty() {
            let slots: Vec<u32> = changed.iter().map(|&(slot, _)| slot as u32).collect();
            let states: Vec<&Tensor> = changed.iter().map(|&(_, state)| state).collect();
            memory.insert("slots".into(), Tensor::new(slots, self.seed.device())?);
            memory.insert("states".into(), Tensor::stack(&states, 0)?);
        }
        let state = checkpoint::State::<()> {
            trainer: memory,
            ..Default::default()
        };
        checkpoint::save(path, self.identity(), (&self.weights, &self.adam), state)
    }

    fn resume(&mut self, path: &Path) -> Result<()> {
        let identity = self.identity();
        let learned = (&self.weights, &mut self.adam);
        let mut state: checkpoint::State<()> =
            checkpoint::restore(path, &identity, learned, self.seed.device())?;
        self.pool = vec![None; self.config.pool];
        let (slots, states) = (state.trainer.remove("slots"), state.trainer.remove("states"));
        let Some((slots, states)) = slots.zip(states) else {
            return Ok(());
        };
        let slots = slots.to_vec1::<u32>()?;
        let fits = states.dims().split_first().map(|(n, state)| (*n, state));
        if fits != Some((slots.len(), self.seed.dims()))
            || slots.iter().any(|&s| s as usize >= self.pool.len())
        {
            return Err(Error::Weight {
                key: "memory.states".into(),
                expected: format!("{} states of shape {:?}", slots.len(), self.seed.dims()),
                found: format!("shape {:?}", states.dims()),
            });
        }
        for (n, &slot) in slots.iter().enumerate() {
            self.pool[slot as usize] = Some(one(&states, n)?);
        }
        Ok(())
    }
}
