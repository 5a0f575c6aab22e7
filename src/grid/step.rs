//! Where a transition is in a rollout.

use candle_core::Tensor;

use super::draws::{Draws, Stream, check_dropout, dropout_factor};
use crate::error::Result;
use crate::random::Key;

/// Where a transition is in a rollout: the source of its randomness.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub(crate) index: usize,
    pub(crate) training: bool,
    pub(crate) key: Key,
    /// The index of the first image of the batch among all images.
    pub(crate) first_image: usize,
}

impl Step {
    /// The number of this step, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Whether the rollout runs in training mode.
    pub fn training(&self) -> bool {
        self.training
    }

    /// Inverted dropout of `x` (`[B, ..]`): in training, elements are 0 with probability `rate` and
    /// divided by `1 - rate` otherwise; else `x` itself.
    ///
    /// Draws are independent for each step, image and element. Calls within one update need different `site`
    /// numbers to draw differently.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if `rate` is not in `[0, 1)`.
    pub fn dropout(&self, x: &Tensor, rate: f64, site: u32) -> Result<Tensor> {
        check_dropout(rate)?;
        if !self.training || rate == 0.0 {
            return Ok(x.clone());
        }
        let draws = Draws {
            key: self.key,
            stream: Stream::Dropout(site),
            step: self.index,
        };
        let images = x.dim(0)?;
        let each = x.elem_count() / images.max(1);
        let factors = draws.map((self.first_image, images), each, |_, draw| {
            dropout_factor(rate, draw)
        });
        let factors = Tensor::from_vec(factors, x.dims(), x.device())?.to_dtype(x.dtype())?;
        Ok((x * factors)?)
    }
}
