//! Fixed filters of perception: identity, gradients and Laplacian, on square and hexagonal lattices.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Result, check};

/// The lattice that an array of cells stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lattice {
    /// Square: eight neighbours.
    #[default]
    Square,
    /// Hexagonal, stored skewed: the cell of column x and row y is at `(x + y / 2, y sqrt(3) / 2)` and has
    /// the six neighbours (±1, 0), (0, ±1), (1, -1) and (-1, 1).
    Hexagonal,
}

const IDENTITY: [f64; 9] = [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0];

impl Lattice {
    /// The derivative along columns: Sobel's filter, or its hexagonal counterpart. Unscaled.
    fn x_gradient(self) -> [f64; 9] {
        match self {
            Self::Square => [-1.0, 0.0, 1.0, -2.0, 0.0, 2.0, -1.0, 0.0, 1.0],
            Self::Hexagonal => [0.0, -1.0, 1.0, -2.0, 0.0, 2.0, -1.0, 1.0, 0.0],
        }
    }

    /// The derivative along rows.
    fn y_gradient(self) -> [f64; 9] {
        match self {
            Self::Square => [-1.0, -2.0, -1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 1.0],
            Self::Hexagonal => [0.0, -2.0, -2.0, 0.0, 0.0, 0.0, 2.0, 2.0, 0.0],
        }
    }

    fn laplacian(self) -> [f64; 9] {
        match self {
            Self::Square => [1.0, 2.0, 1.0, 2.0, -12.0, 2.0, 1.0, 2.0, 1.0],
            Self::Hexagonal => [0.0, 2.0, 2.0, 2.0, -12.0, 2.0, 2.0, 2.0, 0.0],
        }
    }
}

/// Identity, x-gradient, y-gradient and, if asked for, Laplacian, `[3 or 4, 3, 3]`. All but the identity are
/// multiplied by `scale`, the gradients rotated by `angle` (`gx cos - gy sin`, `gx sin + gy cos`).
pub(super) fn perception(
    lattice: Lattice,
    angle: f64,
    scale: f64,
    laplacian: bool,
    like: &Tensor,
) -> Result<Tensor> {
    check::finite("angle", angle)?;
    let (sin, cos) = angle.sin_cos();
    let (x, y) = (lattice.x_gradient(), lattice.y_gradient());
    let both = || x.iter().zip(y);
    let mut filters = IDENTITY.to_vec();
    filters.extend(both().map(|(x, y)| (x * cos - y * sin) * scale));
    filters.extend(both().map(|(x, y)| (x * sin + y * cos) * scale));
    if laplacian {
        filters.extend(lattice.laplacian().map(|l| l * scale));
    }
    let filters = Tensor::from_vec(filters.clone(), (filters.len() / 9, 3, 3), like.device())?;
    Ok(filters.to_dtype(like.dtype())?)
}
