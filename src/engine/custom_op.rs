//! A rollout as one operation in Candle's graph, whose backward pass is an operation itself: no value leaves
//! its device.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};

use super::job::Job;
use super::{cpu, cuda};
use crate::ops::rows::values;

/// Maps (first cells, packed weights) to the cells after a rollout.
pub(super) struct RolloutOp {
    job: Job,
    cpu: Arc<cpu::Bindings>,
    /// What the forward pass stores for the backward pass.
    saved: Mutex<Option<Saved>>,
}

/// What an engine stores for its backward pass.
enum Saved {
    Cpu(cpu::Saved),
    Cuda(cuda::Saved),
}

impl RolloutOp {
    pub fn new(job: Job, cpu: Arc<cpu::Bindings>) -> Self {
        Self {
            job,
            cpu,
            saved: Mutex::default(),
        }
    }

    fn save(&self, saved: Saved) {
        if self.job.differentiable {
            *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
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
        if let Some(driver) = cuda::emulator() {
            let mut last = vec![0f32; cells.len()];
            let inputs = cuda::Inputs::on_host(cells, weights, shape.dims4()?);
            let saved = cuda::forward((&self.job, &*driver), inputs, last.as_mut_ptr() as u64)?;
            self.save(Saved::Cuda(saved));
            return Ok((CpuStorage::F32(last), shape.clone()));
        }
        let (last, saved) = cpu::forward((&self.job, &self.cpu), cells, weights, shape.dims4()?);
        self.save(Saved::Cpu(saved));
        Ok((CpuStorage::F32(last), shape.clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        cells: &CudaStorage,
        cells_layout: &Layout,
        weights: &CudaStorage,
        weights_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let driver = cuda::Device::new(cells.device())?;
        let cells = driver.values(cells, cells_layout)?;
        let weights = driver.values(weights, weights_layout)?;
        let shape = cells_layout.shape();
        let inputs = cuda::Inputs::on_device(&cells, &weights, shape.dims4()?);
        let (last, saved) = driver.written(shape.elem_count(), |last| {
            cuda::forward((&self.job, &driver), inputs, last)
        })?;
        self.save(Saved::Cuda(saved));
        Ok((last, shape.clone()))
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
        cells: &CpuStorage,
        cells_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (weights, grad) = (values(weights, weights_layout)?, values(grad, grad_layout)?);
        let op = self.0;
        let dims = cells_layout.shape().dims4()?;
        let grads = match &*op.saved.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Saved::Cpu(saved)) => cpu::backward(&op.job, saved, grad, weights, dims),
            Some(Saved::Cuda(saved)) => {
                let cells = values(cells, cells_layout)?;
                let mut grads = vec![0f32; cells.len() + weights.len()];
                let Some(driver) = cuda::emulator() else {
                    candle_core::bail!("the emulator of the forward pass is gone");
                };
                let inputs = cuda::Inputs::on_host(cells, weights, dims);
                let ends = (grad.as_ptr() as u64, grads.as_mut_ptr() as u64, weights.len());
                cuda::backward((&op.job, &*driver), inputs, saved, ends)?;
                grads
            }
            None => candle_core::bail!("{NOT_RUN}"),
        };
        let shape = Shape::from(grads.len());
        Ok((CpuStorage::F32(grads), shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        cells: &CudaStorage,
        cells_layout: &Layout,
        weights: &CudaStorage,
        weights_layout: &Layout,
        grad: &CudaStorage,
        grad_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let op = self.0;
        let saved = op.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Saved::Cuda(saved)) = &*saved else {
            candle_core::bail!("{NOT_RUN}");
        };
        let driver = cuda::Device::new(cells.device())?;
        let cells = driver.values(cells, cells_layout)?;
        let weights = driver.values(weights, weights_layout)?;
        let grad = driver.values(grad, grad_layout)?;
        let inputs = cuda::Inputs::on_device(&cells, &weights, cells_layout.shape().dims4()?);
        let count = cells.count + weights.count;
        let (grads, ()) = driver.written(count, |grads| {
            cuda::backward(
                (&op.job, &driver),
                inputs,
                saved,
                (grad.address, grads, weights.count),
            )
        })?;
        Ok((grads, Shape::from(count)))
    }
}

const NOT_RUN: &str = "the gradient of a rollout that was not run, or had nothing to be differentiated";
