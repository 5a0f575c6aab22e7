//! The rule by which cells live and die.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::Padding;
use crate::error::{Error, Result};

/// A cell lives while the largest value of one channel in its 3x3 neighbourhood exceeds a threshold,
/// before **and** after an update; all channels of a dead cell are 0 (Mordvintsev et al. 2020).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AliveMask {
    /// The channel that is compared, from 0.
    pub channel: usize,
    /// A cell is alive strictly above it.
    pub threshold: f64,
    /// Which neighbours cells have beyond the border; with [`Padding::Zero`] those never count.
    pub padding: Padding,
}

impl AliveMask {
    /// An error unless cells of `channels` channels have the one that is compared, with a number.
    pub(crate) fn check(&self, channels: usize) -> Result<()> {
        if self.channel >= channels {
            return Err(Error::config(
                "alive.channel",
                format!("below {channels}"),
                self.channel,
            ));
        }
        match self.threshold.is_nan() {
            true => Err(Error::config("alive.threshold", "a number", self.threshold)),
            false => Ok(()),
        }
    }

    /// 1 where a cell of `cells` (`[B, H, W, C]`) is alive, else 0: `[B, H, W, 1]`, a constant for gradients.
    pub(crate) fn of(&self, cells: &Tensor) -> Result<Tensor> {
        let above = cells
            .detach()
            .narrow(3, self.channel, 1)?
            .gt(self.threshold)?
            .to_dtype(DType::F32)?;
        // Beyond a zero-padded border this is 0 too: not above the threshold.
        let padded = self.padding.pad(&above)?;
        let (_, h, w, _) = cells.dims4()?;
        let mut any = above;
        for n in (0..9).filter(|&n| n != 4) {
            any = any.maximum(&padded.narrow(1, n / 3, h)?.narrow(2, n % 3, w)?)?;
        }
        Ok(any.to_dtype(cells.dtype())?)
    }
}
