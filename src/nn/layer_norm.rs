//! Layer norm with a gradient.

use candle_core::{D, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::error::{Result, check};
use crate::ops::{last_axis, rows};

/// Layer norm over the last axis, `(x - mean) / sqrt(var + eps) * weight + bias`, biased variance.
///
/// Candle's own silently has no gradient on contiguous input.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Scale 1 and shift 0 over `channels`, named `weight` and `bias`.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if there is no channel, or `eps` is negative or no number.
    pub fn new(channels: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        check::channels("channels", channels)?;
        check::not_negative("eps", eps)?;
        Ok(Self {
            weight: vb.get_with_hints(channels, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(channels, "bias", Init::Const(0.0))?,
            eps,
        })
    }

    /// A layer from its scale and shift, both `[channels]`.
    pub(crate) fn from_weights(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias, eps }
    }

    /// The scale, `[channels]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The shift, `[channels]`.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// What is added to the variance.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// Normalises `x` (`[.., channels]`).
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if the last axis of `x` is not `channels`;
    /// [`Error::DType`](crate::Error::DType) or [`Error::Device`](crate::Error::Device) unless it is of the
    /// scale's type and on its device.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        last_axis(x, self.weight.elem_count())?;
        check::as_other("x", x, "the scale", &self.weight)?;
        if rows::supported(x) {
            return Ok(rows::layer_norm(x, &self.weight, &self.bias, self.eps)?);
        }
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        let normal = centred.broadcast_div(&deviation)?;
        Ok(normal.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)?)
    }
}
