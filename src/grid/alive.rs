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
    /// Alive is strictly above.
    pub threshold: f64,
    /// Where neighbours beyond the border are; with [`Padding::Zero`] they never count.
    pub padding: Padding,
}

impl AliveMask {
    /// An error unless cells of so many `channels` have the one that is compared.
    pub(crate) fn check(&self, channels: usize) -> Result<()> {
        match self.channel < channels {
            true => Ok(()),
            false => Err(Error::config(
                "alive.channel",
                format!("below {channels}"),
                self.channel,
            )),
        }
    }

    /// 1 where a cell of `cells` (`[B, H, W, C]`) has a living neighbour or lives itself, else 0: `[B, H, W,
    /// 1]`, a constant for gradients.
    pub(crate) fn of(&self, cells: &Tensor) -> Result<Tensor> {
        let above = cells
            .detach()
            .narrow(3, self.channel, 1)?
            .gt(self.threshold)?
            .to_dtype(DType::F32)?;
        // What lies beyond a zero-padded border is 0 here too: not above.
        let padded = self.padding.pad(&above)?;
        let (_, h, w, _) = cells.dims4()?;
        let mut any = above;
        for n in (0..9).filter(|&n| n != 4) {
            any = any.maximum(&padded.narrow(1, n / 3, h)?.narrow(2, n % 3, w)?)?;
        }
        Ok(any.to_dtype(cells.dtype())?)
    }
}
