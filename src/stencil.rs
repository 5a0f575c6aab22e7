//! What a cell sees: its 3x3 neighbourhood, and the padding at the border of the grid.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use crate::layers::picks::{Picks, sum_rows};
use crate::layers::rows::supported;
use crate::{Error, Result};

/// What lies outside the grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// Cells whose channels are all 0.
    #[default]
    Zero,
    /// The opposite side of the grid, which is then a torus.
    Circular,
}

impl Padding {
    /// The coordinate `at + offset` on an axis of length `len`, or `None` outside a zero-padded grid.
    pub(crate) fn coordinate(self, at: usize, offset: isize, len: usize) -> Option<usize> {
        let moved = at as isize + offset;
        match self {
            Padding::Zero => usize::try_from(moved).ok().filter(|&moved| moved < len),
            Padding::Circular => Some(moved.rem_euclid(len as isize) as usize),
        }
    }
}

/// `x` (`[B, H, W, C]`) with one more cell on each side: `[B, H + 2, W + 2, C]`.
pub fn pad(x: &Tensor, padding: Padding) -> Result<Tensor> {
    grid(x)?;
    let mut padded = x.clone();
    for axis in [1, 2] {
        padded = match padding {
            Padding::Zero => padded.pad_with_zeros(axis, 1, 1)?,
            Padding::Circular => {
                let last = padded.narrow(axis, padded.dim(axis)? - 1, 1)?;
                let first = padded.narrow(axis, 0, 1)?;
                Tensor::cat(&[&last, &padded, &first], axis)?
            }
        };
    }
    Ok(padded)
}

/// The nine cells around each cell of `x` (`[B, H, W, C]`): `[B, H, W, 9, C]`.
///
/// Neighbours come in row-major order from the upper left; the fifth is the cell itself.
pub fn neighbourhood(x: &Tensor, padding: Padding) -> Result<Tensor> {
    let (b, h, w, c) = grid(x)?;
    let near = gather(&x.reshape((b, h * w, c))?, neighbours((h, w), padding))?;
    Ok(near.reshape((b, h, w, 9, c))?)
}

/// For each cell of a grid in row-major order its nine neighbours, likewise, as cell numbers; `None`
/// beyond a zero-padded border.
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
/// `[B, H, W, C * filters]`; channel `c * filters + f` is filter f of channel c, not flipped.
pub(crate) fn depthwise(x: &Tensor, kernel: &Tensor, padding: Padding) -> Result<Tensor> {
    let (_, h, w, _) = x.dims4()?;
    let padded = pad(x, padding)?;
    let filters = kernel.dim(1)?;
    let mut features: Vec<Option<Tensor>> = vec![None; filters];
    for n in 0..9 {
        let near = padded.narrow(1, n / 3, h)?.narrow(2, n % 3, w)?;
        for (f, feature) in features.iter_mut().enumerate() {
            let tap = near.broadcast_mul(&kernel.narrow(1, f, 1)?.narrow(2, n, 1)?.flatten_all()?)?;
            *feature = Some(match feature.take() {
                Some(sum) => (sum + tap)?,
                None => tap,
            });
        }
    }
    let features: Vec<Tensor> = features.into_iter().flatten().collect();
    Ok(Tensor::stack(&features, D::Minus1)?.flatten_from(3)?)
}

/// The sum over each cell's neighbours of what they send to it: `[B, H, W, 9 C]` to `[B, H, W, C]`.
///
/// Channel `n * C + c` of a cell is what it sends to channel c of the cell that has it as its n-th
/// neighbour. With taps that are products of a cell and the columns of a 3x3 kernel, this is a convolution.
pub(crate) fn sum_taps(taps: &Tensor, padding: Padding) -> Result<Tensor> {
    let (b, h, w, channels) = grid(taps)?;
    let c = channels / 9;
    let near = neighbours((h, w), padding).into_iter().enumerate();
    let index = near.map(|(n, cell)| cell.map(|cell| cell * 9 + n % 9)).collect();
    let sums = gather_sums(&taps.reshape((b, h * w * 9, c))?, index, 9)?;
    Ok(sums.reshape((b, h, w, c))?)
}

/// Sums of `each` rows of `x` (`[B, N, C]`) that follow each other in `index`, where it is `Some`:
/// `[B, index.len() / each, C]`.
pub(crate) fn gather_sums(x: &Tensor, index: Vec<Option<usize>>, each: usize) -> Result<Tensor> {
    if supported(x) {
        return Ok(sum_rows(x, Picks::new(&index, each))?);
    }
    let (b, _, c) = x.dims3()?;
    let results = index.len() / each;
    Ok(gather(x, index)?.reshape((b, results, each, c))?.sum(2)?)
}

/// Rows of `x` (`[B, N, C]`) picked by `index`, zeros where it is `None`: `[B, index.len(), C]`.
pub(crate) fn gather(x: &Tensor, index: Vec<Option<usize>>) -> Result<Tensor> {
    if supported(x) {
        return Ok(sum_rows(x, Picks::new(&index, 1))?);
    }
    let (_, n, _) = x.dims3()?;
    let outside = u32::try_from(n).map_err(|_| Error::shape("x", "fewer than 2^32 cells", x.dims()))?;
    let needs_zero = index.iter().any(Option::is_none);
    let index: Vec<u32> = index
        .into_iter()
        .map(|row| row.map_or(outside, |row| row as u32))
        .collect();
    let index = Tensor::new(index, x.device())?;
    let x = if needs_zero {
        x.pad_with_zeros(1, 0, 1)?
    } else {
        x.contiguous()?
    };
    Ok(x.index_select(&index, 1)?)
}

fn grid(x: &Tensor) -> Result<(usize, usize, usize, usize)> {
    match *x.dims() {
        [b, h, w, c] if b * h * w > 0 => Ok((b, h, w, c)),
        _ => Err(Error::shape("x", "[B, H, W, C] with no empty axis", x.dims())),
    }
}
