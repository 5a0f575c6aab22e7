//! Overflow losses: how far values leave their range.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::grid::CellLayout;

/// What divides the sum of an overflow loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverflowNorm {
    /// All elements: the published program, for which the loss weights were tuned.
    #[default]
    Elements,
    /// The batch and the channels: the published article.
    Channels,
    /// Nothing: the published texture NCA.
    One,
}

/// OVER: how far `x` (`[B, H, W, C]`) is outside of `[low, high]`, `|x - clip(x, low, high)|` summed and
/// divided. 0 if there are no elements.
pub fn overflow(x: &Tensor, low: f64, high: f64, norm: OverflowNorm) -> Result<Tensor> {
    if x.elem_count() == 0 {
        // Cells without hidden channels. Their mean is NaN, and on CUDA no operation takes them.
        return Ok(Tensor::zeros((), x.dtype(), x.device())?);
    }
    let excess = excess(x, low, high)?;
    Ok(match norm {
        OverflowNorm::Elements => excess.mean_all()?,
        OverflowNorm::Channels => {
            let divisor = x.dim(0)? * x.dim(D::Minus1)?;
            (excess.sum_all()? / divisor as f64)?
        }
        OverflowNorm::One => excess.sum_all()?,
    })
}

/// How far each element of `x` is outside of `[low, high]`, `|x - clip(x, low, high)|`.
pub fn excess(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    // Masks, since Candle's clamp and ReLU have gradients other than 0 at the bounds.
    let above = ((x - high)? * x.gt(high)?.to_dtype(x.dtype())?)?;
    let below = ((low - x)? * x.lt(low)?.to_dtype(x.dtype())?)?;
    Ok((above + below)?)
}

/// OVER_out and OVER_hid of cells: output channels outside of `[0, 1]`, hidden ones outside of `[-1, 1]`.
pub fn cell_overflow(layout: &CellLayout, cells: &Tensor, norm: OverflowNorm) -> Result<(Tensor, Tensor)> {
    Ok((
        overflow(&layout.output(cells)?, 0.0, 1.0, norm)?,
        overflow(&layout.hidden(cells)?, -1.0, 1.0, norm)?,
    ))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn no_channels_are_no_overflow() -> Result<()> {
        let layout = CellLayout {
            input: 0,
            output: 3,
            hidden: 0,
        };
        let cells = Tensor::full(1.5f32, (1, 2, 2, 3), &Device::Cpu)?;
        for norm in [OverflowNorm::Elements, OverflowNorm::Channels, OverflowNorm::One] {
            let (_, hidden) = cell_overflow(&layout, &cells, norm)?;
            assert_eq!(hidden.to_dtype(DType::F32)?.to_scalar::<f32>()?, 0.0);
        }
        Ok(())
    }
}
