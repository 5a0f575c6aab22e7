//! Activations, vectorised: Candle calls the C library for every element.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor};

use super::rows::values;
use super::{Function, gelu, simd};
use crate::error;

/// `f(x)`, element by element.
pub(crate) fn activate(x: &Tensor, f: Function) -> error::Result<Tensor> {
    match (x.device().is_cpu(), x.dtype()) {
        (true, DType::F32) => Ok(x.contiguous()?.apply_op1(Activate(f))?),
        _ => f.of(x),
    }
}

impl Function {
    /// The function of every element of `x`, of any shape.
    pub fn of(&self, x: &Tensor) -> error::Result<Tensor> {
        plain(x, *self)
    }
}

/// `f(x)` by Candle operations alone, on any device and number type.
pub(super) fn plain(x: &Tensor, f: Function) -> error::Result<Tensor> {
    let sigmoid = |x: &Tensor| -> candle_core::Result<Tensor> { ((x * 0.5)?.tanh()? * 0.5)? + 0.5 };
    Ok(match f {
        // Candle's own ReLU passes the gradient at 0, which is the value of dead cells.
        Function::Relu => (x * x.gt(0.0)?.to_dtype(x.dtype())?)?,
        Function::Elu => x.elu(1.0)?,
        Function::Gelu => gelu(x)?,
        Function::Silu => (x * sigmoid(x)?)?,
        Function::Sigmoid => sigmoid(x)?,
        Function::Tanh => x.tanh()?,
        Function::Clamp { min, max } => {
            let inside = (x.ge(min)? * x.le(max)?)?.to_dtype(x.dtype())?;
            let outside = x.detach().clamp(min, max)?;
            // Candle's own clamp passes only half of the gradient at the bounds.
            ((x * &inside)? + (outside * inside.affine(-1.0, 1.0)?)?)?
        }
        Function::Quantise { min, max, step } => {
            let clipped = plain(x, Function::Clamp { min, max })?;
            let (least, step) = (f64::from(min), f64::from(step));
            let place = ((clipped.detach() - least)? / step)?;
            let rounded = ((place + 0.5)?.floor()? * step)?;
            let change = ((rounded + least)? - clipped.detach())?;
            (clipped + change)?
        }
    })
}

struct Activate(Function);

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = simd::apply(self.0, values(x, layout)?);
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
        let dx = simd::slope(self.0, values(x, lx)?, values(grad, lg)?);
        Ok((CpuStorage::F32(dx), lx.shape().clone()))
    }
}
