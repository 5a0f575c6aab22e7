//! Operations on the channels of each cell.

use candle_core::Tensor;

use super::rows;
use crate::error::{Error, Result};

/// GELU, `x / 2 (1 + erf(x / sqrt 2))`.
///
/// Candle's own rounds a constant of its gradient to six digits, too few for f64.
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    let erf = (x * std::f64::consts::FRAC_1_SQRT_2)?.erf()?;
    Ok((((erf + 1.0)? * 0.5)? * x)?)
}

/// `x` (`[.., C]`) with each channel scaled by its own element of `scale` (`[C]`).
pub(crate) fn scale_channels(x: &Tensor, scale: &Tensor) -> Result<Tensor> {
    last_axis(x, scale.elem_count())?;
    match rows::supported(x) {
        true => Ok(rows::mul_row(x, scale)?),
        false => Ok(x.broadcast_mul(scale)?),
    }
}

/// `x` (`[.., C]`) with each channel shifted by its own element of `shift` (`[C]`).
pub(crate) fn add_channels(x: &Tensor, shift: &Tensor) -> Result<Tensor> {
    last_axis(x, shift.elem_count())?;
    match rows::supported(x) {
        true => Ok(rows::add_row(x, shift)?),
        false => Ok(x.broadcast_add(shift)?),
    }
}

/// `x` (`[B, .., C]`) with the channels of its b-th part scaled by row b of `scale` (`[B, C]`).
pub(crate) fn scale_parts(x: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let (b, c) = scale.dims2()?;
    let cells = x.reshape((b, (), c))?;
    let scaled = match rows::supported(x) {
        true => rows::mul_row(&cells, scale)?,
        false => cells.broadcast_mul(&scale.unsqueeze(1)?)?,
    };
    Ok(scaled.reshape(x.shape())?)
}

/// All axes of `x` but the last, which must be `channels` and not empty.
pub(crate) fn last_axis(x: &Tensor, channels: usize) -> Result<&[usize]> {
    match x.dims().split_last() {
        Some((&last, rest)) if last == channels && last > 0 => Ok(rest),
        _ => Err(Error::shape("x", format!("[.., {channels}]"), x.dims())),
    }
}
