//! Engines: rollouts of cell programs, fused, forwards and backwards.
//!
//! This is the face of all engines. It says which of them runs a program on given cells, or why none does, and hands
//! the rollout to it as one operation in Candle's graph. An engine is a folder beside [`cpu`]: what it asks of a
//! program (what is needed where, what is fused, where gradients flow) is in [`program`](crate::program), what is
//! drawn at random in [`grid::draws`](crate::grid::draws).

// An operation that is added and forgotten somewhere must not compile.
#![deny(clippy::wildcard_enum_match_arm)]

mod cpu;
mod custom_op;
mod fallback;

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::grid::draws::FireRate;
use crate::nn::pack;
use crate::program::Program;
use crate::random::Key;

use custom_op::RolloutOp;
pub(crate) use fallback::Fallback;

/// How exactly an engine multiplies matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// In f32.
    #[default]
    F32,
    /// Operands are rounded to bf16, a significand of eight bits; sums, states and everything else stay in f32.
    ///
    /// Faster where the processor has AVX512-BF16 (`docs/performance.md` says how much); elsewhere with the same
    /// rounding, and slower.
    Bf16,
}

/// The steps of a rollout and what is drawn and kept in them.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub steps: Range<usize>,
    pub key: Key,
    /// The number of the batch's first image among all images.
    pub first_image: usize,
    pub fire_rate: FireRate,
    /// For each step of the whole rollout, whether each cell fires, `[B, H, W]`.
    pub masks: Option<Arc<Vec<Vec<bool>>>>,
    pub training: bool,
    pub precision: Precision,
    /// The state before every so many steps is stored for the backward pass.
    pub every: usize,
    /// Whether values of the last steps may be stored as well.
    pub store_values: bool,
}

/// A program with its weights, ready to be rolled out on cells like those it was compiled for.
#[derive(Clone)]
pub(crate) struct Compiled {
    program: Arc<Program>,
    weights: PackedWeights,
}

/// The parameters of a program as one f32 tensor: first weights, then constants, whose gradients are summed in another
/// way.
#[derive(Clone)]
struct PackedWeights {
    tensor: Tensor,
    /// Where each parameter begins.
    offsets: Arc<[usize]>,
    /// Where the weights end and the constants begin.
    weights_end: usize,
    /// Which parameters get a gradient.
    trained: Arc<[bool]>,
}

impl Compiled {
    /// `program` for cells like `cells`, or why no engine runs it there.
    pub fn new(program: Program, cells: &Tensor) -> Result<std::result::Result<Self, Fallback>> {
        if let Some(reason) = fallback::reason(&program, cells) {
            return Ok(Err(reason));
        }
        let weights = PackedWeights::new(&program, cells.device())?;
        let program = Arc::new(program);
        Ok(Ok(Self { program, weights }))
    }

    /// The cells after the steps of `task`, differentiable with respect to `cells` and all weights.
    pub fn run(&self, task: Task, cells: &Tensor) -> Result<Tensor> {
        let PackedWeights { tensor, trained, .. } = &self.weights;
        let job = Job {
            program: self.program.clone(),
            weights: self.weights.clone(),
            differentiable: cells.track_op() || trained.contains(&true),
            task,
        };
        Ok(cells.contiguous()?.apply_op2(tensor, RolloutOp::new(job))?)
    }
}

impl PackedWeights {
    fn new(program: &Program, device: &Device) -> Result<Self> {
        let params = &program.params;
        let constants: Vec<usize> = program.constants().map(|(_, param)| param).collect();
        let weights = (0..params.len()).filter(|param| !constants.contains(param));
        let order: Vec<usize> = weights.chain(constants.iter().copied()).collect();
        let (mut offsets, mut end) = (vec![0; params.len()], 0);
        for &param in &order {
            offsets[param] = end;
            end += params[param].elem_count();
        }
        let tensor = pack(order.iter().map(|&param| &params[param]), DType::F32, device)?;
        Ok(Self {
            tensor: tensor.contiguous()?,
            offsets: offsets.into(),
            weights_end: end - constants.iter().map(|&c| params[c].elem_count()).sum::<usize>(),
            trained: params.iter().map(Tensor::track_op).collect(),
        })
    }
}

/// A rollout as an engine gets it.
struct Job {
    program: Arc<Program>,
    weights: PackedWeights,
    task: Task,
    /// Whether there will be a backward pass.
    differentiable: bool,
}

impl Job {
    /// Where a parameter lies among all of them.
    fn range(&self, param: usize) -> Range<usize> {
        let start = self.weights.offsets[param];
        start..start + self.program.params[param].elem_count()
    }

    fn is_trained(&self, param: usize) -> bool {
        self.weights.trained[param]
    }

    /// Whether some cells may keep their state in a step: they do not fire, or are dead.
    fn is_sparse(&self) -> bool {
        let task = &self.task;
        !task.fire_rate.is_full() || task.masks.is_some() || self.program.alive.is_some()
    }
}
