//! The adjusted convolution: convolution or its transpose, batch norm, activation.

use candle_core::Tensor;
use candle_nn::{BatchNorm, Init, ModuleT, VarBuilder};

use crate::error::{Error, Result, check};
use crate::nn::glorot_uniform;
use crate::ops::convolution::{Window, convolve, convolve_transposed};
use crate::ops::{Function, activate};

const BATCH_NORM_EPS: f64 = 1e-3;
const BATCH_NORM_MOMENTUM: f64 = 0.01;

/// What follows the batch norm of an [`AdjustedConv`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `t * sigmoid(t)`.
    Swish,
    /// `1 / (1 + exp(-t))`.
    Sigmoid,
}

/// Whether an [`AdjustedConv`] is a convolution or a transposed convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Shrinks by the stride: n to ceil(n / stride).
    Down,
    /// Grows by the stride: n to n * stride.
    Up,
}

/// 3x3 (transposed) convolution with TensorFlow's "same" padding, batch norm, activation.
///
/// Weights: `conv.weight` (`[out, in, 3, 3]`, transposed `[in, out, 3, 3]`), optionally `conv.bias`,
/// `bn.weight`, `bn.bias`, `bn.running_mean`, `bn.running_var`.
#[derive(Clone, Debug)]
pub struct AdjustedConv {
    kernel: Tensor,
    bias: Option<Tensor>,
    norm: BatchNorm,
    direction: Direction,
    stride: usize,
    activation: Activation,
}

impl AdjustedConv {
    /// A layer from `input` to `output` channels, with or without a bias before its batch norm.
    ///
    /// # Errors
    /// [`Error::Config`] for a stride of 0.
    pub fn new(
        (input, output): (usize, usize),
        (direction, stride): (Direction, usize),
        activation: Activation,
        bias: bool,
        vb: VarBuilder,
    ) -> Result<Self> {
        if stride == 0 {
            return Err(Error::config("stride", "1 or more", stride));
        }
        check::channels("input", input)?;
        check::channels("output", output)?;
        let shape = match direction {
            Direction::Down => (output, input, 3, 3),
            Direction::Up => (input, output, 3, 3),
        };
        let conv = vb.pp("conv");
        let kernel = conv.get_with_hints(shape, "weight", glorot_uniform(9 * input, 9 * output))?;
        let bias = bias
            .then(|| conv.get_with_hints(output, "bias", Init::Const(0.0)))
            .transpose()?;
        let bn = vb.pp("bn");
        let row = |name: &str, value: f64| bn.get_with_hints(output, name, Init::Const(value));
        Ok(Self {
            kernel,
            bias,
            norm: BatchNorm::new_with_momentum(
                output,
                row("running_mean", 0.0)?,
                row("running_var", 1.0)?,
                row("weight", 1.0)?,
                row("bias", 0.0)?,
                BATCH_NORM_EPS,
                BATCH_NORM_MOMENTUM,
            )?,
            direction,
            stride,
            activation,
        })
    }

    pub(super) fn kernel(&self) -> &Tensor {
        &self.kernel
    }

    /// `[B, H, W, in]` to `[B, H', W', out]`. With `training`, the batch norm uses the statistics of this
    /// batch and updates its running ones.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` has other channels or an empty axis, or, with `training`, holds a single cell.
    pub fn forward(&self, x: &Tensor, training: bool) -> Result<Tensor> {
        let input = match self.direction {
            Direction::Down => self.kernel.dim(1)?,
            Direction::Up => self.kernel.dim(0)?,
        };
        if !matches!(*x.dims(), [b, h, w, c] if c == input && b * h * w > 0) {
            let expected = format!("[B, H, W, {input}] with no empty axis");
            return Err(Error::shape("x", expected, x.dims()));
        }
        check::as_other("x", x, "the weights", &self.kernel)?;
        let (h, w, stride) = (x.dim(1)?, x.dim(2)?, self.stride);
        let windows = |h: usize, w: usize| (Window::same(h, 3, stride), Window::same(w, 3, stride));
        let y = match self.direction {
            Direction::Down => convolve(x, &self.kernel, windows(h, w))?,
            Direction::Up => convolve_transposed(x, &self.kernel, windows(h * stride, w * stride))?,
        };
        let y = match &self.bias {
            // Subtracting the batch mean cancels the bias, so its gradient is exactly zero. What would be
            // computed is rounding noise, which matters once gradients are normalised.
            Some(bias) if training => y.broadcast_add(&bias.detach())?,
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        let (shape, channels) = (y.shape().clone(), y.dim(3)?);
        let y = y.reshape(((), channels))?;
        if training && y.dim(0)? < 2 {
            // The unbiased variance of one value does not exist.
            return Err(Error::shape(
                "x",
                "more than one cell for batch norm to train on",
                x.dims(),
            ));
        }
        let y = self.norm.forward_t(&y, training)?.reshape(shape)?;
        Ok(match self.activation {
            Activation::Swish => activate(&y, Function::Silu)?,
            Activation::Sigmoid => activate(&y, Function::Sigmoid)?,
        })
    }

    /// The same layer with weights that get no gradient; it shares their storage.
    pub fn frozen(&self) -> Result<Self> {
        let Some((weight, bias)) = self.norm.weight_and_bias() else {
            return Ok(self.clone());
        };
        Ok(Self {
            kernel: self.kernel.detach(),
            bias: self.bias.as_ref().map(Tensor::detach),
            norm: BatchNorm::new_with_momentum(
                weight.dim(0)?,
                self.norm.running_mean().clone(),
                self.norm.running_var().clone(),
                weight.detach(),
                bias.detach(),
                BATCH_NORM_EPS,
                BATCH_NORM_MOMENTUM,
            )?,
            ..*self
        })
    }
}
