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
    ///
    /// # Errors
    /// [`Error::DType`](crate::Error::DType) unless `x` holds floating-point numbers,
    /// [`Error::Config`](crate::Error::Config) if bounds are in the wrong order or no numbers.
    pub fn of(&self, x: &Tensor) -> error::Result<Tensor> {
        error::check::float("x", x)?;
        self.check()?;
        plain(x, *self)
    }
}

/// `x` where `condition` does not hold, else `value`. Not a product with the mask, which would be NaN where
/// `x` is infinite or NaN.
pub(crate) fn replace(x: &Tensor, condition: &Tensor, value: f64) -> candle_core::Result<Tensor> {
    let value = (x.detach().zeros_like()? + value)?;
    condition.where_cond(&value, x)
}

/// `x` within bounds; NaN stays. Candle's own clamp passes only half of the gradient at the bounds.
fn clip(x: &Tensor, min: f64, max: f64) -> candle_core::Result<Tensor> {
    let x = replace(x, &x.lt(min)?, min)?;
    replace(&x, &x.gt(max)?, max)
}

/// 1, or NaN where `x` is NaN: a factor that gives what is NaN a gradient of NaN.
fn one_or_nan(x: &Tensor) -> candle_core::Result<Tensor> {
    replace(&x.detach(), &x.eq(x)?, 1.0)
}

/// Where a sigmoid is 0 or 1, in any number type.
const SATURATED: f64 = 1000.0;

/// `f(x)` by Candle operations alone, on any device and number type.
pub(super) fn plain(x: &Tensor, f: Function) -> error::Result<Tensor> {
    let sigmoid = |x: &Tensor| -> candle_core::Result<Tensor> { ((x * 0.5)?.tanh()? * 0.5)? + 0.5 };
    Ok(match f {
        // Candle's own ReLU passes the gradient at 0, which is the value of dead cells.
        Function::Relu => (replace(x, &x.le(0.0)?, 0.0)? * one_or_nan(x)?)?,
        Function::Elu => {
            // Candle's own has a gradient of NaN at infinity.
            let below = (clip(x, f64::NEG_INFINITY, 0.0)?.exp()? - 1.0)?;
            x.gt(0.0)?.where_cond(x, &below)?
        }
        Function::Gelu => {
            let near = gelu(&clip(x, -SATURATED, SATURATED)?)?;
            x.gt(SATURATED)?.where_cond(x, &near)?
        }
        Function::Silu => {
            let near = clip(x, -SATURATED, SATURATED)?;
            let near = (&near * sigmoid(&near)?)?;
            x.gt(SATURATED)?.where_cond(x, &near)?
        }
        Function::Sigmoid => sigmoid(x)?,
        Function::Tanh => x.tanh()?,
        Function::Clamp { min, max } => (clip(x, min.into(), max.into())? * one_or_nan(x)?)?,
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
