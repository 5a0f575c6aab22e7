//! The encoder: from images to the posterior over their latents.

use candle_core::{D, Tensor};
use candle_nn::VarBuilder;

use super::conv::Conv;
use crate::error::{Error, Result, check};
use crate::loss::Posterior;
use crate::nn::Linear;
use crate::ops::convolution::Window;
use crate::ops::{Function, activate};

/// Strides of the convolutions; each but the first has twice the channels of the one before.
const STRIDES: [usize; 5] = [1, 2, 2, 2, 2];

/// Five 5x5 convolutions with padding 2, an ELU after each, and a linear layer.
///
/// Weights: `convolutions.N.weight` (`[out, in, 5, 5]`), `convolutions.N.bias`, `output.weight` (`[2 Z,
/// features]`, features in the order channel, row, column; the first Z rows are the mean, the last the
/// logarithm of the variance), `output.bias`.
#[derive(Clone, Debug)]
pub struct Encoder {
    size: usize,
    convolutions: Vec<Conv>,
    output: Linear,
}

impl Encoder {
    /// An encoder of images with a side of `size` pixels into `latent` dimensions, whose first convolution
    /// has `width` channels; in the article 32, 256 and 32.
    ///
    /// # Errors
    /// [`Error::Config`] if one of them is not 1 to 65536.
    pub fn new(size: usize, latent: usize, width: usize, vb: VarBuilder) -> Result<Self> {
        if ![size, latent, width].iter().all(|n| (1..=1 << 16).contains(n)) {
            let found = format!("size {size}, latent {latent}, width {width}");
            return Err(Error::config("encoder", "1 to 65536 each", found));
        }
        let (mut side, mut channels) = (size, 1);
        let mut convolutions = vec![];
        for (n, stride) in STRIDES.into_iter().enumerate() {
            let vb = vb.pp("convolutions").pp(n);
            convolutions.push(Conv::new((channels, width << n), vb)?);
            (side, channels) = (Window::padded(side, 5, stride, 2).out, width << n);
        }
        let features = side * side * channels;
        Ok(Self {
            size,
            convolutions,
            output: Linear::uniform(features, 2 * latent, true, vb.pp("output"))?,
        })
    }

    /// The posterior over the latents of `images` (`[B, size, size, 1]`).
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape.
    pub fn forward(&self, images: &Tensor) -> Result<Posterior> {
        let size = self.size;
        if !matches!(*images.dims(), [b, h, w, 1] if b > 0 && (h, w) == (size, size)) {
            let expected = format!("[B, {size}, {size}, 1]");
            return Err(Error::shape("images", expected, images.dims()));
        }
        check::as_other("images", images, "the weights", self.output.weight())?;
        let mut x = images.clone();
        for (conv, stride) in self.convolutions.iter().zip(STRIDES) {
            let window = Window::padded(x.dim(1)?, 5, stride, 2);
            x = activate(&conv.forward(&x, window)?, Function::Elu)?;
        }
        let features = x.permute((0, 3, 1, 2))?.flatten_from(1)?;
        let both = self.output.forward(&features)?;
        let latent = both.dim(1)? / 2;
        Ok(Posterior {
            mean: both.narrow(D::Minus1, 0, latent)?,
            log_variance: both.narrow(D::Minus1, latent, latent)?,
        })
    }
}
