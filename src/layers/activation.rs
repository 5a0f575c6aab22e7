//! Activations, vectorised where Candle calls the C library for every element.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor};

use super::rows::values;
use crate::engine;
use crate::program::Function;

/// `f(x)`, element by element.
pub(crate) fn activate(x: &Tensor, f: Function) -> crate::Result<Tensor> {
    match (x.device().is_cpu(), x.dtype()) {
        (true, DType::F32) => Ok(x.contiguous()?.apply_op1(Activate(f))?),
        _ => f.of(x),
    }
}

struct Activate(Function);

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = engine::map(self.0, values(x, layout)?);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        Ok(Some(x.detach().apply_op2_no_bwd(&grad, &Slope(self.0))?))
    }
}

/// The slope at `x` times the gradient.
struct Slope(Function);

impl CustomOp2 for Slope {
    fn name(&self) -> &'static str {
        "activation-gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        grad: &CpuStorage,
        lg: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let dx = engine::map_back(self.0, values(x, lx)?, values(grad, lg)?);
        Ok((CpuStorage::F32(dx), lx.shape().clone()))
    }
}
