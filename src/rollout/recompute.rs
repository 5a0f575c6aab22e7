//! Gradient checkpointing: a stretch of steps as one operation, recomputed in the backward pass.
//!
//! Candle stores every intermediate of its graph. Here a stretch runs without a graph, as a single operation
//! from (cells, weights) to cells. Its backward pass builds the graph of this stretch alone, so no graph is
//! deeper than one stretch.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, Shape, Storage, Tensor, Var};

use super::Rollout;
use crate::error::Result;
use crate::nn::pack;
use crate::transition::TransitionFn;

/// The cells after `steps`, differentiable with respect to `cells` and every variable that the
/// transition uses.
pub(super) fn stretch<T>(
    transition: &T,
    rollout: &Rollout,
    cells: &Tensor,
    steps: Range<usize>,
) -> Result<Tensor>
where
    T: TransitionFn + Clone + 'static,
{
    let (last, vars) = rollout.advance_detached(transition, cells, steps.clone())?;
    let packed = pack(&vars, cells.dtype(), cells.device())?;
    let op = Stretch {
        transition: transition.clone(),
        rollout: rollout.clone(),
        steps,
        vars,
        last: Mutex::new(Some(last.contiguous()?)),
    };
    Ok(cells.apply_op2(&packed, op)?)
}

struct Stretch<T> {
    transition: T,
    rollout: Rollout,
    steps: Range<usize>,
    vars: Vec<Tensor>,
    /// The result until the forward pass hands it over.
    last: Mutex<Option<Tensor>>,
}

impl<T> Stretch<T> {
    fn take(&self) -> candle_core::Result<Tensor> {
        match self.last.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(last) => Ok(last),
            None => candle_core::bail!("a rollout stretch runs forward once"),
        }
    }
}

impl<T: TransitionFn> CustomOp2 for Stretch<T> {
    fn name(&self) -> &'static str {
        "rollout-stretch"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let last = self.take()?;
        let (storage, layout) = last.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.try_clone(layout)?, last.shape().clone())),
            _ => candle_core::bail!("the transition moved its cells to {:?}", last.device()),
        }
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let last = self.take()?;
        let (storage, layout) = last.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, last.shape().clone())),
            _ => candle_core::bail!("the transition moved its cells to {:?}", last.device()),
        }
    }

    fn bwd(
        &self,
        cells: &Tensor,
        packed: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let start = Var::from_tensor(&cells.detach())?;
        let last = self
            .rollout
            .advance(&self.transition, start.as_tensor(), self.steps.clone())?;
        let grads = (last * grad.detach())?.sum_all()?.backward()?;
        let of = |tensor: &Tensor| match grads.get(tensor) {
            Some(grad) => Ok(grad.clone()),
            None => tensor.zeros_like(),
        };
        let grads = self
            .vars
            .iter()
            .map(of)
            .collect::<candle_core::Result<Vec<_>>>()?;
        let packed = pack(&grads, packed.dtype(), packed.device()).map_err(candle_core::Error::wrap)?;
        Ok((Some(of(start.as_tensor())?), Some(packed)))
    }
}
