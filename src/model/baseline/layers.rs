//! The layers of both restoration networks, channels-last, with weights in PyTorch's shapes.

use candle_core::{D, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::error::{Error, Result, check};
use crate::grid::Padding;
use crate::nn::Linear;
use crate::ops::{add_channels, depthwise, neighbourhood};

/// PyTorch's default initialisation of a weight or bias: uniform within `1 / sqrt(fan_in)`.
fn uniform(fan_in: usize) -> Init {
    let limit = 1.0 / (fan_in as f64).sqrt();
    Init::Uniform {
        lo: -limit,
        up: limit,
    }
}

/// A convolution over `[B, H, W, C]` with the weights `weight` and, if it has one, `bias`.
#[derive(Clone, Debug)]
pub(super) struct Conv {
    kind: Kind,
    weight: Tensor,
    bias: Option<Tensor>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// 1x1.
    Point,
    /// 3x3 over a border of zeros.
    Near,
    /// 3x3 over a border of zeros, each channel on its own.
    Depthwise,
    /// 2x2 with stride 2.
    Halving,
}

impl Conv {
    fn new(kind: Kind, (input, output): (usize, usize), bias: bool, vb: VarBuilder) -> Result<Self> {
        let (each, side) = match kind {
            Kind::Point => (input, 1),
            Kind::Near => (input, 3),
            Kind::Depthwise => (1, 3),
            Kind::Halving => (input, 2),
        };
        check::channels("channels", input)?;
        check::channels("channels", output)?;
        let init = uniform(each * side * side);
        let bias = match bias {
            true => Some(vb.get_with_hints(output, "bias", init)?),
            false => None,
        };
        let weight = vb.get_with_hints((output, each, side, side), "weight", init)?;
        Ok(Self { kind, weight, bias })
    }

    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// 1x1.
    pub fn point(channels: (usize, usize), bias: bool, vb: VarBuilder) -> Result<Self> {
        Self::new(Kind::Point, channels, bias, vb)
    }

    /// 3x3.
    pub fn near(channels: (usize, usize), bias: bool, vb: VarBuilder) -> Result<Self> {
        Self::new(Kind::Near, channels, bias, vb)
    }

    /// 3x3, each channel on its own.
    pub fn depthwise(channels: usize, bias: bool, vb: VarBuilder) -> Result<Self> {
        Self::new(Kind::Depthwise, (channels, channels), bias, vb)
    }

    /// 2x2 with stride 2.
    pub fn halving(channels: (usize, usize), vb: VarBuilder) -> Result<Self> {
        Self::new(Kind::Halving, channels, true, vb)
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, h, w, c) = x.dims4()?;
        let output = self.weight.dim(0)?;
        let taps = match self.kind {
            Kind::Depthwise => {
                let y = depthwise(x, &self.weight.reshape((output, 9))?)?;
                return match &self.bias {
                    Some(bias) => add_channels(&y, bias),
                    None => Ok(y),
                };
            }
            Kind::Point => x.clone(),
            Kind::Near => neighbourhood(x, Padding::Zero)?.flatten_from(3)?,
            Kind::Halving => {
                let x = x
                    .reshape((b, h / 2, 2, w / 2, 2, c))?
                    .permute((0, 1, 3, 2, 4, 5))?;
                x.contiguous()?.flatten_from(3)?
            }
        };
        let weight = self.weight.permute((0, 2, 3, 1))?.reshape((output, ()))?;
        Linear::new(weight, self.bias.clone()).forward(&taps)
    }
}

/// Pixel shuffle: `[B, H, W, 4 C]` to `[B, 2 H, 2 W, C]`, channel `4 j + 2 a + b` to pixel (a, b).
pub(super) fn pixel_shuffle(x: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let x = x.reshape((b, h, w, c / 4, 2, 2))?.permute((0, 1, 4, 2, 5, 3))?;
    Ok(x.contiguous()?.reshape((b, 2 * h, 2 * w, c / 4))?)
}

/// Pixel unshuffle, the inverse of [`pixel_shuffle`].
pub(super) fn pixel_unshuffle(x: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let x = x
        .reshape((b, h / 2, 2, w / 2, 2, c))?
        .permute((0, 1, 3, 5, 2, 4))?;
    Ok(x.contiguous()?.reshape((b, h / 2, w / 2, 4 * c))?)
}

/// The halves of the last axis.
pub(super) fn halves(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let half = x.dim(D::Minus1)? / 2;
    // On views, Candle's operations take several times as long.
    let part = |start| x.narrow(D::Minus1, start, half)?.contiguous();
    Ok((part(0)?, part(half)?))
}

/// Height and width of images, `[B, H, W, 3]`, which are to be of the type and on the device of the first
/// layer.
pub(super) fn size(images: &Tensor, first: &Conv) -> Result<(usize, usize)> {
    match *images.dims() {
        [_, h, w, 3] if images.elem_count() > 0 => {
            check::as_other("images", images, "the weights", first.weight())?;
            Ok((h, w))
        }
        _ => Err(Error::shape(
            "images",
            "[B, H, W, 3] with no empty axis",
            images.dims(),
        )),
    }
}
