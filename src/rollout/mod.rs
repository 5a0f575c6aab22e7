//! Rollouts: a transition applied many times, with update masks, an alive mask and a memory policy.

mod recompute;

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use candle_core::{D, DType, Tensor};
use rand::Rng;

use crate::engine::{self, Fallback, Precision};
use crate::error::{Error, Result};
use crate::grid::Step;
use crate::grid::draws::{Draws, FireRate, Stream};
use crate::random::Key;
use crate::transition::TransitionFn;

/// What is kept of a rollout for its backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Every intermediate of every step: no recomputation, and a graph as deep as the rollout, which
    /// long rollouts can make too deep for the stack of a thread.
    Everything,
    /// The state before every n-th step; each stretch is computed again in the backward pass. With n = 1, and
    /// where every cell fires, the engine also keeps values of the last steps, if those of half of the steps take no more
    /// than 32 MiB.
    Every(usize),
    /// As many states, evenly spread over the steps, as fit in so many bytes together with those of the
    /// stretch that is being computed again; where too few fit, the fewest that will do, about twice the
    /// root of the number of steps.
    Budget(usize),
    /// Nothing: the result has no gradient.
    Nothing,
}

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
    /// `steps` steps in evaluation mode in which every cell fires, keeping the state before each step.
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

    /// A number of steps uniform on `steps`, drawn from `key`, which the rollout then uses too.
    ///
    /// # Errors
    /// [`Error::Config`] if the range is empty.
    pub fn sampled(steps: RangeInclusive<usize>, key: Key) -> Result<Self> {
        if steps.is_empty() {
            return Err(Error::config(
                "steps",
                "a range that is not empty",
                format!("{steps:?}"),
            ));
        }
        let drawn = key.fold_in_name("steps").rng().random_range(steps);
        Ok(Self::new(drawn).key(key))
    }

    /// The probability in `[0, 1]` that a cell takes its update in a step: 1 unless set.
    pub fn fire_rate(mut self, rate: f64) -> Self {
        self.fire_rate = FireRate::Same(rate);
        self
    }

    /// The same for each cell of its own: `rates` is `[H, W]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if it has not two axes.
    pub fn fire_rates(mut self, rates: &Tensor) -> Result<Self> {
        self.fire_rate = FireRate::each(rates)?;
        Ok(self)
    }

    /// The key from which update masks and dropout are drawn: that of seed 0 unless set.
    pub fn key(mut self, key: Key) -> Self {
        self.key = key;
        self
    }

    /// The number of the first image of the batch, so that images draw the same masks however they
    /// are batched: 0 unless set.
    pub fn first_image(mut self, index: usize) -> Self {
        self.first_image = index;
        self
    }

    /// Training mode, in which dropout is active: off unless set.
    pub fn training(mut self, training: bool) -> Self {
        self.training = training;
        self
    }

    /// What is kept for the backward pass: the state before each step unless set.
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Given update masks in place of drawn ones: one `[B, H, W, 1]` of zeros and ones a step.
    pub fn masks(mut self, masks: Vec<Tensor>) -> Self {
        self.masks = Some(masks);
        self
    }

    /// How exactly the engine multiplies matrices, forwards and backwards: in f32 unless set. Plain Candle operations
    /// take no notice.
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Plain Candle operations in place of the engine, which runs f32 cells on a CPU where the
    /// transition has a program: to compare the two.
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
    /// outside `[0, 1]`, a stretch of 0 steps or a wrong number of masks.
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
            let steps = start..self.steps.min(start + stretch);
            cells = recompute::stretch(transition, self, &cells, steps)?;
        }
        Ok(cells)
    }

    /// The cells after every step, the last included: `steps` times `[B, H, W, C]`.
    ///
    /// # Errors
    /// As [`Rollout::run`].
    pub fn trajectory<T>(&self, transition: &T, cells: &Tensor) -> Result<Vec<Tensor>>
    where
        T: TransitionFn + Clone + 'static,
    {
        self.check(transition, cells)?;
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

    /// Steps between two states that are kept.
    fn stretch(&self, cells: &Tensor) -> usize {
        match self.memory {
            Memory::Every(stretch) => stretch,
            Memory::Everything | Memory::Nothing => 1,
            Memory::Budget(bytes) => {
                // Kept are the states before each stretch and, while one is computed again, those in it.
                let fit = bytes / (cells.elem_count() * cells.dtype().size_in_bytes()).max(1);
                let kept = |stretch: &usize| match stretch {
                    1 => self.steps,
                    _ => self.steps.div_ceil(*stretch) + stretch,
                };
                let stretches = 1..=self.steps.max(1);
                let least = stretches.clone().min_by_key(kept).unwrap_or(1);
                stretches.clone().find(|s| kept(s) <= fit).unwrap_or(least)
            }
        }
    }

    fn check(&self, transition: &impl TransitionFn, cells: &Tensor) -> Result<()> {
        let (b, h, w) = transition.layout().check(cells)?;
        self.fire_rate.check((h, w))?;
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
        }
        Ok(())
    }

    /// The transition compiled for an engine, if one runs it on `cells`.
    fn compile<T: TransitionFn>(&self, transition: &T, cells: &Tensor) -> Result<Option<Fused<'_>>> {
        if self.plain || self.steps == 0 {
            return Ok(None);
        }
        let fallback = |reason: Fallback| {
            reason.tell();
            Ok(None)
        };
        if self.memory == Memory::Everything {
            return fallback(Fallback::Everything);
        }
        let Some(mut program) = transition.program(cells)? else {
            return fallback(Fallback::NoProgram);
        };
        if program.layout() != transition.layout() {
            let (expected, found) = (transition.layout(), program.layout());
            let expected = format!("the layout of its transition, {expected:?}");
            return Err(Error::config("program", expected, format!("{found:?}")));
        }
        let masks = self
            .masks
            .iter()
            .flatten()
            .map(fires)
            .collect::<Result<Option<Vec<_>>>>()?;
        let Some(masks) = masks else {
            return fallback(Fallback::Mask);
        };
        if self.memory == Memory::Nothing {
            program = program.detached();
        }
        match engine::Compiled::new(program, cells)? {
            Ok(compiled) => Ok(Some(Fused {
                rollout: self,
                compiled,
                masks: self.masks.is_some().then(|| Arc::new(masks)),
                every: self.stretch(cells),
            })),
            Err(reason) => fallback(reason),
        }
    }

    fn advance<T: TransitionFn>(
        &self,
        transition: &T,
        cells: &Tensor,
        steps: Range<usize>,
    ) -> Result<Tensor> {
        steps
            .into_iter()
            .try_fold(cells.clone(), |cells, step| self.step(transition, &cells, step))
    }

    /// The cells after `steps` without their graph, and the variables that the steps used.
    fn advance_detached<T: TransitionFn>(
        &self,
        transition: &T,
        cells: &Tensor,
        steps: Range<usize>,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let mut vars: Vec<Tensor> = Vec::new();
        let mut cells = cells.detach();
        for step in steps {
            let next = self.step(transition, &cells, step)?;
            for node in next.sorted_nodes() {
                if node.is_variable() && vars.iter().all(|var| var.id() != node.id()) {
                    vars.push(node.clone());
                }
            }
            cells = next.detach();
        }
        Ok((cells, vars))
    }

    /// One step: the in channels stay, the cells that fire take their update, dead cells become 0.
    fn step<T: TransitionFn>(&self, transition: &T, cells: &Tensor, index: usize) -> Result<Tensor> {
        let layout = transition.layout();
        let (b, h, w) = layout.check(cells)?;
        let update = transition.update(cells, &self.step_at(index))?;
        let expected = [b, h, w, layout.update_channels()];
        if update.dims() != expected {
            return Err(Error::shape("update", format!("{expected:?}"), update.dims()));
        }
        let update = match self.mask(index, (b, h, w), cells)? {
            Some(mask) => update.broadcast_mul(&mask)?,
            None => update,
        };
        let next = match layout.input {
            0 => (cells + update)?,
            input => (cells + update.pad_with_zeros(D::Minus1, input, 0)?)?,
        };
        match transition.alive_mask() {
            Some(rule) => {
                let alive = (rule.of(cells)? * rule.of(&next)?)?;
                Ok(next.broadcast_mul(&alive)?)
            }
            None => Ok(next),
        }
    }

    fn step_at(&self, index: usize) -> Step {
        Step {
            index,
            training: self.training,
            key: self.key,
            first_image: self.first_image,
        }
    }

    /// The update mask of a step, `[B, H, W, 1]`, or `None` where every cell fires.
    fn mask(&self, step: usize, size: (usize, usize, usize), like: &Tensor) -> Result<Option<Tensor>> {
        if let Some(masks) = &self.masks {
            return Ok(Some(
                masks[step].to_device(like.device())?.to_dtype(like.dtype())?,
            ));
        }
        if self.fire_rate.is_full() {
            return Ok(None);
        }
        let draws = Draws {
            key: self.key,
            stream: Stream::Fire,
            step,
        };
        let below = |cell, draw| f32::from(u8::from(draw < self.fire_rate.of(cell)));
        let mask = draws.map((self.first_image, size.0), size.1 * size.2, below);
        let mask = Tensor::from_vec(mask, (size.0, size.1, size.2, 1), like.device())?;
        Ok(Some(mask.to_dtype(like.dtype())?))
    }
}

/// A rollout on an engine.
struct Fused<'a> {
    rollout: &'a Rollout,
    compiled: engine::Compiled,
    masks: Option<Arc<Vec<Vec<bool>>>>,
    every: usize,
}

impl Fused<'_> {
    /// The cells after `steps`.
    fn run(&self, cells: &Tensor, steps: Range<usize>) -> Result<Tensor> {
        let of = self.rollout;
        let task = engine::Task {
            steps,
            key: of.key,
            first_image: of.first_image,
            fire_rate: of.fire_rate.clone(),
            masks: self.masks.clone(),
            training: of.training,
            precision: of.precision,
            every: self.every,
            store_values: of.memory == Memory::Every(1),
        };
        match of.memory {
            Memory::Nothing => self.compiled.run(task, &cells.detach()),
            Memory::Everything | Memory::Every(_) | Memory::Budget(_) => self.compiled.run(task, cells),
        }
    }
}

/// Whether each cell fires under a given mask of zeros and ones, or `None` if it holds anything else.
fn fires(mask: &Tensor) -> Result<Option<Vec<bool>>> {
    let values = mask.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    let fires = |value: f32| match value {
        0.0 => Some(false),
        1.0 => Some(true),
        _ => None,
    };
    Ok(values.into_iter().map(fires).collect())
}
