//! Damage: cells that are erased, to see whether a pattern grows back.

use candle_core::{DType, Device, Tensor};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, check};
use crate::random::Key;

/// A part of a grid whose cells are erased: all their channels become 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// An ellipse, in coordinates that run from -1 to 1 over the grid's columns and rows.
    Circle {
        /// Column and row of the centre.
        centre: (f64, f64),
        /// Radius along both axes; cells strictly inside are erased.
        radius: f64,
    },
    /// The rows from the middle on.
    LowerHalf,
    /// The rows before the middle.
    UpperHalf,
    /// The columns before the middle.
    LeftHalf,
    /// The columns from the middle on.
    RightHalf,
    /// A square in the middle, with this many cells a side.
    Centre(usize),
    /// The cells of some rows and columns.
    Rectangle {
        /// First row and the one after the last.
        rows: (usize, usize),
        /// First column and the one after the last.
        columns: (usize, usize),
    },
}

impl Damage {
    /// The circles that Growing NCA is trained against: centre within half of the grid, radius from 0.1
    /// to 0.4 (Mordvintsev et al. 2020).
    pub fn random_circle(key: Key) -> Self {
        let mut rng = key.rng();
        Self::Circle {
            centre: (rng.random_range(-0.5..0.5), rng.random_range(-0.5..0.5)),
            radius: rng.random_range(0.1..0.4),
        }
    }

    /// A square of `side` cells anywhere inside a grid of `height` and `width`.
    ///
    /// # Errors
    /// [`Error::Config`] if it does not fit.
    pub fn random_square(side: usize, (height, width): (usize, usize), key: Key) -> Result<Self> {
        let Some((rows, columns)) = height.checked_sub(side).zip(width.checked_sub(side)) else {
            let expected = format!("at most {}, the smaller side of the grid", height.min(width));
            return Err(Error::config("side", expected, side));
        };
        let mut rng = key.rng();
        let (top, left) = (rng.random_range(0..=rows), rng.random_range(0..=columns));
        Ok(Self::Rectangle {
            rows: (top, top + side),
            columns: (left, left + side),
        })
    }

    /// Whether it erases the cell at a row and column of a grid of `height` and `width`.
    pub fn erases(&self, (row, column): (usize, usize), (height, width): (usize, usize)) -> bool {
        match *self {
            Self::Circle { centre, radius } => {
                let along = |at: usize, of: usize| match of {
                    0 | 1 => -1.0,
                    _ => -1.0 + 2.0 * at as f64 / (of - 1) as f64,
                };
                let x = (along(column, width) - centre.0) / radius;
                let y = (along(row, height) - centre.1) / radius;
                x * x + y * y < 1.0
            }
            Self::LowerHalf => row >= height / 2,
            Self::UpperHalf => row < height / 2,
            Self::LeftHalf => column < width / 2,
            Self::RightHalf => column >= width / 2,
            Self::Centre(side) => {
                let inside = |at: usize, of: usize| {
                    let first = of.saturating_sub(side) / 2;
                    (first..first.saturating_add(side)).contains(&at)
                };
                inside(row, height) && inside(column, width)
            }
            Self::Rectangle { rows, columns } => {
                (rows.0..rows.1).contains(&row) && (columns.0..columns.1).contains(&column)
            }
        }
    }

    /// 0 where cells are erased, else 1: `[height, width, 1]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for more than 2^34 cells, or than there is memory for.
    pub fn mask(&self, size: (usize, usize), dtype: DType, device: &Device) -> Result<Tensor> {
        let (height, width) = size;
        check::elements("size", &[height, width])?;
        let cells = (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
        let mask = cells.map(|cell| f32::from(u8::from(!self.erases(cell, size))));
        let mask = Tensor::from_iter(mask, device)?.reshape((height, width, 1))?;
        Ok(mask.to_dtype(dtype)?)
    }

    /// `cells` (`[B, H, W, C]` or `[H, W, C]`) with all channels of the erased ones 0.
    ///
    /// # Errors
    /// [`Error::Shape`] for a tensor of another rank, [`Error::DType`] unless it holds floating-point
    /// numbers.
    pub fn apply(&self, cells: &Tensor) -> Result<Tensor> {
        let size = match *cells.dims() {
            [_, h, w, _] | [h, w, _] => (h, w),
            _ => return Err(Error::shape("cells", "[B, H, W, C] or [H, W, C]", cells.dims())),
        };
        check::float("cells", cells)?;
        // Not a product with the mask: erased cells may hold NaN.
        let kept = self.mask(size, DType::F32, cells.device())?.ne(0.0)?;
        let kept = kept.broadcast_as(cells.shape())?;
        Ok(kept.where_cond(cells, &cells.detach().zeros_like()?)?)
    }
}
