//! Padding: the cells beyond the border of a grid.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, check};

/// Which cells lie beyond the border of a grid.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lnca::Padding;
///
/// let row = Tensor::new(&[[[[1f32], [2.], [3.]]]], &Device::Cpu)?; // [1, 1, 3, 1]
/// let zeros = Padding::Zero.pad(&row)?.narrow(1, 1, 1)?.flatten_all()?;
/// assert_eq!(zeros.to_vec1::<f32>()?, [0., 1., 2., 3., 0.]);
/// let torus = Padding::Circular.pad(&row)?.narrow(1, 1, 1)?.flatten_all()?;
/// assert_eq!(torus.to_vec1::<f32>()?, [3., 1., 2., 3., 1.]);
/// # Ok::<(), lnca::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

    /// `x` (`[B, H, W, C]`) with one more cell on each side: `[B, H + 2, W + 2, C]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for another rank or an empty axis.
    pub fn pad(self, x: &Tensor) -> Result<Tensor> {
        let (b, h, w, c) = grid_dims(x)?;
        check::elements("x", &[b, h + 2, w + 2, c])?;
        let mut padded = x.clone();
        for axis in [1, 2] {
            padded = match self {
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
}

/// The axes of a grid of cells.
pub(crate) fn grid_dims(x: &Tensor) -> Result<(usize, usize, usize, usize)> {
    match *x.dims() {
        [b, h, w, c] if b > 0 && h > 0 && w > 0 => Ok((b, h, w, c)),
        _ => Err(Error::shape("x", "[B, H, W, C] with no empty axis", x.dims())),
    }
}
