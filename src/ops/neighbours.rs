//! The 3x3 neighbourhood of each cell, and stencils over it.

use candle_core::{D, DType, Tensor};

use super::gather_sums::{gather, gather_sums};
use crate::error::{Result, check};
use crate::grid::{Padding, grid_dims};

/// The nine cells around each cell of `x` (`[B, H, W, C]`): `[B, H, W, 9, C]`.
///
/// Neighbours come in row-major order from the upper left; the fifth is the cell itself.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for another rank, an empty axis, or more than there is memory for;
/// [`Error::DType`](crate::Error::DType) unless `x` holds floating-point numbers.
pub fn neighbourhood(x: &Tensor, padding: Padding) -> Result<Tensor> {
    let (b, h, w, c) = grid_dims(x)?;
    check::float("x", x)?;
    check::elements("x", &[b, h, w, 9, c])?;
    let near = gather(&x.reshape((b, h * w, c))?, neighbours((h, w), padding))?;
    Ok(near.reshape((b, h, w, 9, c))?)
}

/// For each cell of a grid its nine neighbours as cell numbers, both in row-major order; `None` beyond a
/// zero-padded border.
pub(crate) fn neighbours((h, w): (usize, usize), padding: Padding) -> Vec<Option<usize>> {
    let mut near = Vec::with_capacity(9 * h * w);
    for (row, column) in (0..h).flat_map(|row| (0..w).map(move |column| (row, column))) {
        for (dy, dx) in (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dy, dx))) {
            let cell = (padding.coordinate(row, dy, h), padding.coordinate(column, dx, w));
            near.push(cell.0.zip(cell.1).map(|(row, column)| row * w + column));
        }
    }
    near
}

/// 3x3 filters applied to every channel: `x` (`[B, H, W, C]`) by `kernel` (`[C, filters, 9]`) to
/// `[B, H, W, C * filters]`; channel `c * filters + f` is filter f of channel c, not flipped. A tap of 0
/// reads nothing: no NaN and no infinity either.
pub(crate) fn stencil(x: &Tensor, kernel: &Tensor, padding: Padding) -> Result<Tensor> {
    let (_, h, w, _) = x.dims4()?;
    let padded = padding.pad(x)?;
    let filters = kernel.dim(1)?;
    let mut features: Vec<Option<Tensor>> = vec![None; filters];
    for n in 0..9 {
        let near = padded.narrow(1, n / 3, h)?.narrow(2, n % 3, w)?;
        for (f, feature) in features.iter_mut().enumerate() {
            let tap = tap(&near, &kernel.narrow(1, f, 1)?.narrow(2, n, 1)?.flatten_all()?)?;
            *feature = Some(match feature.take() {
                Some(sum) => (sum + tap)?,
                None => tap,
            });
        }
    }
    let features: Vec<Tensor> = features.into_iter().flatten().collect();
    Ok(Tensor::stack(&features, D::Minus1)?.flatten_from(3)?)
}

/// `near` times `factor` (`[C]`); 0 where that is 0.
fn tap(near: &Tensor, factor: &Tensor) -> Result<Tensor> {
    let product = near.broadcast_mul(factor)?;
    let zero = factor.eq(0.0)?;
    if zero.to_dtype(DType::U32)?.max_all()?.to_scalar::<u32>()? == 0 {
        return Ok(product);
    }
    // The factor's gradient passes here too: it may be learned.
    let seen = near.detach();
    let finite = seen.abs()?.lt(f64::INFINITY)?;
    let nothing = finite
        .where_cond(&seen, &seen.zeros_like()?)?
        .broadcast_mul(factor)?;
    Ok(zero
        .broadcast_as(product.shape())?
        .where_cond(&nothing, &product)?)
}

/// The sum over each cell's neighbours of the taps that they send to it: `[B, H, W, 9 C]` to `[B, H, W, C]`.
///
/// Channel `n * C + c` of a cell is added to channel c of the cell whose n-th neighbour it is. With taps that
/// are products of a cell and the columns of a 3x3 kernel, this is a convolution.
pub(crate) fn sum_taps(taps: &Tensor, padding: Padding) -> Result<Tensor> {
    let (b, h, w, channels) = grid_dims(taps)?;
    let c = channels / 9;
    let near = neighbours((h, w), padding).into_iter().enumerate();
    let index = near.map(|(n, cell)| cell.map(|cell| cell * 9 + n % 9)).collect();
    let sums = gather_sums(&taps.reshape((b, h * w * 9, c))?, index, 9)?;
    Ok(sums.reshape((b, h, w, c))?)
}
