//! Layers over cell vectors that Candle lacks, or whose gradients it drops or computes slowly.

mod activation;
pub(crate) mod convolution;
mod depthwise;
pub(crate) mod picks;
pub(crate) mod rows;

use candle_core::{D, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::stencil::{self, Padding};
use crate::weights::{glorot_uniform, uniform};
use crate::{Error, Result};
pub(crate) use activation::activate;

/// Layer norm over the last axis, `(x - mean) / sqrt(var + eps) * weight + bias`, biased variance.
///
/// Candle's own has no gradient on contiguous input, silently.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Scale 1 and shift 0 over `channels`, named `weight` and `bias`.
    pub fn new(channels: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
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
    /// [`Error::Shape`] if the last axis of `x` is not `channels`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        last_axis(x, self.weight.elem_count())?;
        if rows::supported(x) {
            return Ok(rows::layer_norm(x, &self.weight, &self.bias, self.eps)?);
        }
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        let normal = centred.broadcast_div(&deviation)?;
        Ok(normal.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)?)
    }
}

/// A linear layer over the last axis, `x * weight^T + bias`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// A layer from its kernel (`[output, input]`) and shift (`[output]`).
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// A Glorot-uniform kernel `weight` (`[output, input]`) and a zero `bias`.
    pub fn glorot(input: usize, output: usize, vb: VarBuilder) -> Result<Self> {
        Self::with_init(input, output, glorot_uniform(input, output), vb)
    }

    /// A kernel `weight` that starts as `init` and a zero `bias`.
    ///
    /// # Errors
    /// [`Error::Config`] if it has no input or no output.
    pub fn with_init(input: usize, output: usize, init: Init, vb: VarBuilder) -> Result<Self> {
        if input == 0 || output == 0 {
            let found = format!("{input} in, {output} out at `{}`", vb.prefix());
            return Err(Error::config("channels", "at least 1 in and 1 out", found));
        }
        let weight = vb.get_with_hints((output, input), "weight", init)?;
        let bias = vb.get_with_hints(output, "bias", Init::Const(0.0))?;
        Ok(Self::new(weight, Some(bias)))
    }

    /// Kernel and, if there is one, shift uniform within `1 / sqrt(input)`: PyTorch's default.
    ///
    /// # Errors
    /// [`Error::Config`] if it has no input or no output.
    pub fn uniform(input: usize, output: usize, bias: bool, vb: VarBuilder) -> Result<Self> {
        if input == 0 || output == 0 {
            let found = format!("{input} in, {output} out at `{}`", vb.prefix());
            return Err(Error::config("channels", "at least 1 in and 1 out", found));
        }
        let init = uniform(input);
        let bias = bias
            .then(|| vb.get_with_hints(output, "bias", init))
            .transpose()?;
        Ok(Self::new(
            vb.get_with_hints((output, input), "weight", init)?,
            bias,
        ))
    }

    /// The kernel, `[output, input]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The shift, `[output]`, if there is one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// `[.., input]` to `[.., output]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the last axis of `x` is not `input`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (output, input) = self.weight.dims2()?;
        let rest = last_axis(x, input)?;
        let y = x
            .reshape((x.elem_count() / input, input))?
            .matmul(&self.weight.t()?)?;
        let y = match &self.bias {
            Some(bias) if rows::supported(&y) => rows::add_row(&y, bias)?,
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        Ok(y.reshape([rest, &[output]].concat())?)
    }
}

/// GELU, `x / 2 (1 + erf(x / sqrt 2))`.
///
/// Candle's own rounds a constant of its gradient to six digits, which f64 shows.
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    let erf = (x * std::f64::consts::FRAC_1_SQRT_2)?.erf()?;
    Ok((((erf + 1.0)? * 0.5)? * x)?)
}

/// `x` (`[.., C]`) with each channel scaled by its own element of `scale` (`[C]`).
pub(crate) fn scale_channels(x: &Tensor, scale: &Tensor) -> Result<Tensor> {
    last_axis(x, scale.elem_count())?;
    match rows::supported(x) {
        true => Ok(rows::mul_row(x, scale)?),
        false => Ok(x.broadcast_mul(scale)?),
    }
}

/// `x` (`[.., C]`) with each channel shifted by its own element of `shift` (`[C]`).
pub(crate) fn add_channels(x: &Tensor, shift: &Tensor) -> Result<Tensor> {
    last_axis(x, shift.elem_count())?;
    match rows::supported(x) {
        true => Ok(rows::add_row(x, shift)?),
        false => Ok(x.broadcast_add(shift)?),
    }
}

/// Each of the B parts of `x` (`[B, .., C]`) with its channels scaled by its own row of `scale` (`[B, C]`).
pub(crate) fn scale_parts(x: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let (b, c) = scale.dims2()?;
    let cells = x.reshape((b, (), c))?;
    let scaled = match rows::supported(x) {
        true => rows::mul_row(&cells, scale)?,
        false => cells.broadcast_mul(&scale.unsqueeze(1)?)?,
    };
    Ok(scaled.reshape(x.shape())?)
}

/// 3x3 filters of `kernel` (`[C, 9]`, not flipped), one a channel of `x` (`[B, H, W, C]`), over a border of zeros.
pub(crate) fn depthwise(x: &Tensor, kernel: &Tensor) -> Result<Tensor> {
    match rows::supported(x) {
        true => Ok(depthwise::depthwise(x, &kernel.t()?)?),
        false => stencil::depthwise(x, &kernel.unsqueeze(1)?, Padding::Zero),
    }
}

/// All axes of `x` but the last, which must be `channels` and not empty.
fn last_axis(x: &Tensor, channels: usize) -> Result<&[usize]> {
    match x.dims().split_last() {
        Some((&last, rest)) if last == channels && last > 0 => Ok(rest),
        _ => Err(Error::shape("x", format!("[.., {channels}]"), x.dims())),
    }
}
