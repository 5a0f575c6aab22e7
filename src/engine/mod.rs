//! Engines: rollouts of cell programs, fused, forwards and backwards.

mod cpu;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::grid::draws::FireRate;
use crate::random::Key;

pub(crate) use cpu::{run, supports};

/// How exactly an engine multiplies matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// In f32.
    #[default]
    F32,
    /// Operands are rounded to bf16, eight bits of them; sums, states and everything else stay in f32.
    ///
    /// Faster where the processor has AVX512-BF16 (how much is told in `docs/performance.md`); elsewhere with the same
    /// rounding, and slower.
    Bf16,
}

/// What is to be done: the steps of a rollout with its draws.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub steps: Range<usize>,
    pub key: Key,
    pub first_image: usize,
    pub fire_rate: FireRate,
    /// For each step, whether each cell fires, `[B, H, W]`.
    pub masks: Option<Vec<Vec<bool>>>,
    pub training: bool,
    /// Of the operands of matrix products.
    pub precision: Precision,
    /// A state is kept for the backward pass before every so many steps.
    pub every: usize,
    /// Whether values of the last steps may be kept as well.
    pub traces: bool,
}
