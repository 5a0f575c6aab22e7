//! A rollout as an engine receives it: a program, a task and the weights.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::grid::draws::FireRate;
use crate::nn::pack;
use crate::program::Program;
use crate::random::Key;

/// The precision of an engine's matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// In f32.
    #[default]
    F32,
    /// On a GPU operands are rounded to TF32, with its significand of eleven bits; sums, states and
    /// everything else stay in f32. On a CPU this is [`Precision::F32`].
    Tf32,
    /// Operands are rounded to bf16, with its significand of eight bits; sums, states and everything else
    /// stay in f32.
    ///
    /// Faster on processors with AVX512-BF16 (`docs/performance.md` says by how much); on others slower, with
    /// the same rounding.
    Bf16,
}

/// The steps of a rollout, and what is drawn and stored in them.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub steps: Range<usize>,
    pub key: Key,
    /// The index of the batch's first image among all images.
    pub first_image: usize,
    pub fire_rate: FireRate,
    /// For each step of the whole rollout, whether each cell fires, `[B, H, W]`.
    pub masks: Option<Arc<Vec<Vec<bool>>>>,
    pub training: bool,
    pub precision: Precision,
    /// Steps between two states that are stored for the backward pass.
    pub every: usize,
    /// Whether values of the last steps may be stored as well.
    pub store_values: bool,
}

/// The parameters of a program as one f32 tensor: weights first, then constants, whose gradients are summed
/// differently.
#[derive(Clone)]
pub(super) struct PackedWeights {
    pub tensor: Tensor,
    /// Where each parameter begins.
    pub offsets: Arc<[usize]>,
    /// Where the weights end and the constants begin.
    pub weights_end: usize,
    /// Which parameters get a gradient.
    pub trained: Arc<[bool]>,
}

impl PackedWeights {
    pub fn new(program: &Program, device: &Device) -> Result<Self> {
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

/// A rollout as an engine receives it.
pub(super) struct Job {
    pub program: Arc<Program>,
    pub weights: PackedWeights,
    pub task: Task,
    /// Whether there will be a backward pass.
    pub differentiable: bool,
}

impl Job {
    /// The elements of a parameter in the packed tensor.
    pub fn range(&self, param: usize) -> Range<usize> {
        let start = self.weights.offsets[param];
        start..start + self.program.params[param].elem_count()
    }

    pub fn is_trained(&self, param: usize) -> bool {
        self.weights.trained[param]
    }

    /// Whether some cells may be unchanged by a step, because they do not fire or are dead.
    pub fn is_sparse(&self) -> bool {
        let task = &self.task;
        !task.fire_rate.is_full() || task.masks.is_some() || self.program.alive.is_some()
    }
}
