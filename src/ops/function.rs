//! Functions of one number.

use crate::error::{Error, Result};

/// A function of one number, applied to every channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// `max(x, 0)`.
    Relu,
    /// `x` where positive, else `exp(x) - 1`.
    Elu,
    /// `x / 2 (1 + erf(x / sqrt 2))`.
    Gelu,
    /// `x sigmoid(x)`.
    Silu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// `x` clipped to an interval; no gradient outside it.
    Clamp {
        /// The least value.
        min: f32,
        /// The greatest value.
        max: f32,
    },
    /// `x` clipped to `[min, max]` and rounded to one of 256 equally spaced values, one of them 0:
    /// TensorFlow's fake quantisation. Inside the interval gradients pass as if nothing were rounded. Made by
    /// [`Function::quantise`].
    Quantise {
        /// The least value.
        min: f32,
        /// The greatest value.
        max: f32,
        /// The distance between two values.
        step: f32,
    },
}

impl Function {
    /// An error unless its bounds are numbers in order, and its step is finite and above 0.
    pub(crate) fn check(&self) -> Result<()> {
        let (name, is_right) = match *self {
            Self::Clamp { min, max } => ("clamp", min <= max),
            Self::Quantise { min, max, step } => (
                "quantise",
                min < max && min.is_finite() && max.is_finite() && step > 0.0 && step.is_finite(),
            ),
            Self::Relu | Self::Elu | Self::Gelu | Self::Silu | Self::Sigmoid | Self::Tanh => return Ok(()),
        };
        match is_right {
            true => Ok(()),
            false => Err(Error::config(
                name,
                "bounds that are numbers, the lower one first",
                format!("{self:?}"),
            )),
        }
    }

    /// Rounding to 256 values from about `min` to about `max`, moved so that 0 is one of them.
    pub fn quantise(min: f32, max: f32) -> Self {
        let step = (max - min) / 255.0;
        let zero = (-min / step + 0.5).floor().clamp(0.0, 255.0);
        Self::Quantise {
            min: -zero * step,
            max: (255.0 - zero) * step,
            step,
        }
    }
}
