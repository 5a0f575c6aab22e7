//! Rollouts: a transition applied many times, with update masks, an alive mask and a memory policy.

mod fused;
mod memory;
#[cfg(feature = "wgpu")]
mod on_gpu;
mod recompute;
mod steps;

use std::ops::RangeInclusive;

use candle_core::Tensor;
use rand::Rng;

use crate::engine::Precision;
use crate::error::{Error, Result, check};
use crate::grid::draws::{FireRate, MOST_STEPS, check_steps};
use crate::random::Key;
use crate::transition::TransitionFn;

pub use memory::Memory;
#[cfg(feature = "wgpu")]
pub use on_gpu::GpuCells;

/// `n` applications of a transition to a grid of cells.
///
/// ```
/// # use candle_core::{DType, Device};
/// # use lnca::{Nafca, NafcaConfig, OutputStart, Rollout, TransitionFn, Weights, random::Key};
/// # let weights = Weights::new(0, DType::F32, &Device::Cpu);
/// # let transition = Nafca::new(NafcaConfig::default(), weights.builder())?;
/// # let latent = candle_core::Tensor::zeros((1, 8, 8, 16), DType::F32, &Device::Cpu)?;
/// let cells = transition.layout().seed(&latent, OutputStart::Half)?;
/// let rollout = Rollout::new(64).fire_rate(0.5).key(Key::new(42));
/// let cells = rollout.run(&transition, &cells)?; // [1, 8, 8, 64]
/// # Ok::<(), lnca::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Rollout {
    steps: usize,
    fire_rate: FireRate,
    key: Key,
    first_image: usize,
    training: bool,
    memory: Memory,
    masks: Option<Vec<Tensor>>,
    precision: Precision,
    plain: bool,
}

impl Rollout {
    /// `steps` steps in evaluation mode in which every cell fires, storing the state before each step.
    pub fn new(steps: usize) -> Self {
        Self {
            steps,
            fire_rate: FireRate::Same(1.0),
            key: Key::new(0),
            first_image: 0,
            training: false,
            memory: Memory::Every(1),
            masks: None,
            precision: Precision::F32,
            plain: false,
        }
    }

    /// A rollout of a number of steps that is uniform on `steps`, drawn from `key`, which is also the
    /// rollout's key.
    ///
    /// # Errors
    /// [`Error::Config`] if the range is empty, or ends above 2^32 - 1.
    pub fn sampled(steps: RangeInclusive<usize>, key: Key) -> Result<Self> {
        check_steps("steps", &steps, 0)?;
        let drawn = key.fold_in_name("steps").rng().random_range(steps);
        Ok(Self::new(drawn).key(key))
    }

    /// The probability in `[0, 1]` that a cell takes its update in a step: 1 unless set.
    pub fn fire_rate(mut self, rate: f64) -> Self {
        self.fire_rate = FireRate::Same(rate);
        self
    }

    /// A probability for each cell: `rates` is `[H, W]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if it does not have two axes.
    pub fn fire_rates(mut self, rates: &Tensor) -> Result<Self> {
        self.fire_rate = FireRate::each(rates)?;
        Ok(self)
    }

    /// The key from which update masks and dropout are drawn: that of seed 0 unless set.
    pub fn key(mut self, key: Key) -> Self {
        self.key = key;
        self
    }

    /// The index of the first image of the batch, so that images draw the same masks however they are
    /// batched: 0 unless set.
    pub fn first_image(mut self, index: usize) -> Self {
        self.first_image = index;
        self
    }

    /// Training mode, in which dropout is active: off unless set.
    pub fn training(mut self, training: bool) -> Self {
        self.training = training;
        self
    }

    /// What is stored for the backward pass: the state before each step unless set.
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Given update masks in place of drawn ones: one `[B, H, W, 1]` of zeros and ones for each step.
    pub fn masks(mut self, masks: Vec<Tensor>) -> Self {
        self.masks = Some(masks);
        self
    }

    /// The precision of an engine's matrix products, forwards and backwards: f32 unless set. Plain Candle
    /// operations ignore it.
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Plain Candle operations in place of an engine, which runs f32 cells where the transition has a
    /// program, on a CPU or, with the feature `cuda`, on an NVIDIA GPU: to compare the two.
    pub fn plain(mut self) -> Self {
        self.plain = true;
        self
    }

    /// The number of steps.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The cells after the last step: `[B, H, W, C]` to the same shape.
    ///
    /// # Errors
    /// [`Error::Shape`] if `cells` do not fit the transition's layout, a given mask does not fit the
    /// cells or an update is not `[B, H, W, output + hidden]`; [`Error::Config`] for a fire rate
    /// outside `[0, 1]`, a stretch of 0 steps, a wrong number of masks, or 2^32 steps and more;
    /// [`Error::DType`] or [`Error::Device`] unless cells and weights hold floating-point numbers of one type
    /// on one device.
    pub fn run<T>(&self, transition: &T, cells: &Tensor) -> Result<Tensor>
    where
        T: TransitionFn + Clone + 'static,
    {
        self.check(transition, cells)?;
        if let Some(fused) = self.compile(transition, cells)? {
            return fused.run(cells, 0..self.steps);
        }
        let stretch = match self.memory {
            Memory::Everything => return self.advance(transition, cells, 0..self.steps),
            Memory::Nothing => return Ok(self.advance_detached(transition, cells, 0..self.steps)?.0),
            Memory::Every(_) | Memory::Budget(_) => self.stretch(cells),
        };
        let mut cells = cells.clone();
        for start in (0..self.steps).step_by(stretch) {
            let steps = start..self.steps.min(start.saturating_add(stretch));
            cells = recompute::stretch(transition, self, &cells, steps)?;
        }
        Ok(cells)
    }

    /// The cells after every step, the last included: `steps` times `[B, H, W, C]`.
    ///
    /// # Errors
    /// As [`Rollout::run`], and [`Error::Shape`] if all cells are more than 2^34 numbers, or than there is
    /// memory for.
    pub fn trajectory<T>(&self, transition: &T, cells: &Tensor) -> Result<Vec<Tensor>>
    where
        T: TransitionFn + Clone + 'static,
    {
        self.check(transition, cells)?;
        check::elements("steps", &[self.steps, cells.elem_count()])?;
        let mut cells = cells.clone();
        let fused = self.compile(transition, &cells)?;
        let step = |step: usize| {
            let steps = step..step + 1;
            let fused = fused.as_ref().map(|fused| fused.run(&cells, steps.clone()));
            cells = match (fused.transpose()?, self.memory) {
                (Some(cells), _) => cells,
                (None, Memory::Everything) => self.advance(transition, &cells, steps)?,
                (None, Memory::Every(_) | Memory::Budget(_)) => {
                    recompute::stretch(transition, self, &cells, steps)?
                }
                (None, Memory::Nothing) => self.advance_detached(transition, &cells, steps)?.0,
            };
            Ok(cells.clone())
        };
        (0..self.steps).map(step).collect()
    }

    /// Steps between two stored states.
    fn stretch(&self, cells: &Tensor) -> usize {
        let bytes = cells.elem_count() * cells.dtype().size_in_bytes();
        self.memory.stretch(self.steps, bytes)
    }

    fn check(&self, transition: &impl TransitionFn, cells: &Tensor) -> Result<()> {
        let (b, h, w) = transition.layout().check(cells)?;
        check::float("cells", cells)?;
        let channels = transition.layout().channels();
        transition
            .alive_mask()
            .iter()
            .try_for_each(|rule| rule.check(channels))?;
        self.fire_rate.check((h, w))?;
        check::count("steps", self.steps, (0, MOST_STEPS))?;
        let first = MOST_STEPS.saturating_sub(b - 1);
        check::count("first_image", self.first_image, (0, first))?;
        if self.memory == Memory::Every(0) {
            return Err(Error::config("memory", "stretches of at least one step", 0));
        }
        if let Some(masks) = &self.masks {
            if masks.len() != self.steps {
                let expected = format!("one a step, {} in all", self.steps);
                return Err(Error::config("masks", expected, masks.len()));
            }
            if let Some(mask) = masks.iter().find(|mask| mask.dims() != [b, h, w, 1]) {
                return Err(Error::shape("masks", format!("[{b}, {h}, {w}, 1]"), mask.dims()));
            }
            masks
                .iter()
                .try_for_each(|mask| check::finite_values("masks", mask))?;
        }
        Ok(())
    }
}
