//! A rollout as one operation in Candle's graph, whose backward pass is an operation itself: no value leaves
//! its device.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::cpu;
use super::job::Job;
use crate::ops::rows::values;

/// Maps (first cells, packed weights) to the cells after a rollout.
pub(super) struct RolloutOp {
    job: Job,
    cpu: Arc<cpu::Bindings>,
    /// What the forward pass stores for the backward pass.
    saved: Mutex<Option<cpu::Saved>>,
}

impl RolloutOp {
    pub fn new(job: Job, cpu: Arc<cpu::Bindings>) -> Self {
        Self {
            job,
            cpu,
            saved: Mutex::default(),
        }
    }
}

impl CustomOp2 for RolloutOp {
    fn name(&self) -> &'static str {
        "rollout"
    }

    fn cpu_fwd(
        &self,
        cells: &CpuStorage,
        cells_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (cells, weights) = (values(cells, cells_layout)?, values(weights, weights_layout)?);
        let shape = cells_layout.shape();
        let (last, saved) = cpu::forward((&self.job, &self.cpu), cells, weights, shape.dims4()?);
        if self.job.differentiable {
            *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        }
        Ok((CpuStorage::F32(last), shape.clone()))
    }

    fn bwd(
        &self,
        cells: &Tensor,
        weights: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (cells, weights) = (cells.detach(), weights.detach());
        let both = cells.apply_op3_no_bwd(&weights, &grad.contiguous()?, &Backward(self))?;
        let count = cells.elem_count();
        let of_cells = both.narrow(0, 0, count)?.reshape(cells.shape())?;
        let of_weights = both.narrow(0, count, weights.elem_count())?;
        Ok((Some(of_cells), Some(of_weights)))
    }
}

/// Maps (first cells, packed weights, gradient of the last cells) to the gradients of the first cells and of
/// the packed weights, concatenated.
struct Backward<'a>(&'a RolloutOp);

impl CustomOp3 for Backward<'_> {
    fn name(&self) -> &'static str {
        "rollout-gradient"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        cells_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (weights, grad) = (values(weights, weights_layout)?, values(grad, grad_layout)?);
        let saved = self.0.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(saved) = &*saved else {
            candle_core::bail!(
                "the gradient of a rollout that was not run, or had nothing to be differentiated"
            );
        };
        let grads = cpu::backward(&self.0.job, saved, grad, weights, cells_layout.shape().dims4()?);
        let shape = Shape::from(grads.len());
        Ok((CpuStorage::F32(grads), shape))
    }
}
