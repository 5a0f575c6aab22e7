//! A linear layer.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};

use super::weights::{glorot_uniform, uniform};
use crate::error::{Error, Result, check};
use crate::ops::{last_axis, matmul, rows};

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
    /// [`Error::Shape`] if the last axis of `x` is not `input`; [`Error::DType`] or [`Error::Device`] unless
    /// it is of the kernel's type and on its device.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (output, input) = self.weight.dims2()?;
        let rest = last_axis(x, input)?;
        check::as_other("x", x, "the kernel", &self.weight)?;
        let rows = x.reshape((x.elem_count() / input, input))?;
        let y = matmul(&rows, &self.weight.t()?)?;
        let y = match &self.bias {
            Some(bias) if rows::supported(&y) => rows::add_row(&y, bias)?,
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        Ok(y.reshape([rest, &[output]].concat())?)
    }
}
