//! 5x5 convolutions with a bias, as PyTorch initialises them.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::nn::uniform;
use crate::ops::add_channels;
use crate::ops::convolution::{Window, convolve, convolve_transposed};

/// A 5x5 convolution or its transpose, the same along both axes.
#[derive(Clone, Debug)]
pub(super) struct Conv {
    kernel: Tensor,
    bias: Tensor,
    transposed: bool,
}

impl Conv {
    /// A convolution from `input` to `output` channels; its kernel is `[output, input, 5, 5]`.
    pub fn new((input, output): (usize, usize), vb: VarBuilder) -> Result<Self> {
        Self::with_shape((input, output), (output, input, 5, 5), vb)
    }

    /// The transposed convolution; its kernel is `[input, output, 5, 5]`.
    pub fn transposed((input, output): (usize, usize), vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            transposed: true,
            ..Self::with_shape((input, output), (input, output, 5, 5), vb)?
        })
    }

    fn with_shape(
        (input, output): (usize, usize),
        shape: (usize, usize, usize, usize),
        vb: VarBuilder,
    ) -> Result<Self> {
        if input * output == 0 {
            let found = format!("{input} in, {output} out at `{}`", vb.prefix());
            return Err(Error::config("channels", "at least 1 in and 1 out", found));
        }
        let init = uniform(25 * input);
        Ok(Self {
            kernel: vb.get_with_hints(shape, "weight", init)?,
            bias: vb.get_with_hints(output, "bias", init)?,
            transposed: false,
        })
    }

    /// `[B, H, W, input]` to `[B, H', W', output]` with the sides of `window`; the transpose goes from its
    /// output to its input.
    pub fn forward(&self, x: &Tensor, window: Window) -> Result<Tensor> {
        let y = match self.transposed {
            false => convolve(x, &self.kernel, (window, window))?,
            true => convolve_transposed(x, &self.kernel, (window, window))?,
        };
        add_channels(&y, &self.bias)
    }
}
