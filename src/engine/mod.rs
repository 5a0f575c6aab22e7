//! Engines: they run rollouts of cell programs fused, forwards and backwards.
//!
//! This module chooses the engine that runs a program on given cells, or says why none can. The rollout is
//! then one operation in Candle's graph. An engine is a folder beside [`cpu`]. What every engine asks of a
//! program (what is needed where, what is fused, where gradients flow) is in [`program`](crate::program);
//! random draws are in [`grid::draws`](crate::grid::draws).

// A `match` that forgets a new operation must not compile.
#![deny(clippy::wildcard_enum_match_arm)]

mod cpu;
#[doc(hidden)]
pub mod cuda;
mod custom_op;
mod device_name;
mod fallback;
#[cfg(feature = "wgpu")]
mod gpu;
mod job;
mod kernel_plan;
mod wgsl;

use std::sync::Arc;

use candle_core::Tensor;

use crate::error::Result;
use crate::program::Program;

use custom_op::RolloutOp;
pub use device_name::DeviceName;
pub(crate) use fallback::Fallback;
#[cfg(feature = "wgpu")]
pub use gpu::Gpu;
#[cfg(feature = "wgpu")]
pub(crate) use gpu::Grid;
pub use job::Precision;
pub(crate) use job::Task;
use job::{Job, PackedWeights};
pub(crate) use kernel_plan::Packing;
pub use wgsl::Shader;

/// A program with its weights, compiled for cells of one shape, type and device.
#[derive(Clone)]
pub(crate) struct Compiled {
    program: Arc<Program>,
    weights: PackedWeights,
    cpu: Arc<cpu::Bindings>,
}

impl Compiled {
    /// `program` for cells like `cells`, or why no engine runs it there.
    pub fn new(program: Program, cells: &Tensor) -> Result<std::result::Result<Self, Fallback>> {
        if let Some(reason) = fallback::reason(&program, cells) {
            return Ok(Err(reason));
        }
        let weights = PackedWeights::new(&program, cells.device())?;
        Ok(Ok(Self {
            program: Arc::new(program),
            weights,
            cpu: Arc::default(),
        }))
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
        Ok(cells
            .contiguous()?
            .apply_op2(tensor, RolloutOp::new(job, self.cpu.clone()))?)
    }
}
