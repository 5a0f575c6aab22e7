//! Random draws for cells, each a function of (key, stream, step, image, cell).

use std::sync::Arc;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::random::{Key, unit};
use crate::{Error, Result};

/// The stream of update masks.
pub(crate) const FIRE: u32 = 0;
/// The first stream of dropout; a transition's sites follow.
pub(crate) const DROPOUT: u32 = 1;

/// The probability that a cell takes its update in a step.
#[derive(Clone, Debug)]
pub(crate) enum FireRate {
    /// The same for all cells.
    Same(f64),
    /// One for each cell of a grid of this height and width.
    Each((usize, usize), Arc<[f32]>),
}

impl FireRate {
    /// The rates of `rates`, `[H, W]`.
    pub fn each(rates: &Tensor) -> Result<Self> {
        let &[h, w] = rates.dims() else {
            return Err(Error::shape("rates", "[H, W]", rates.dims()));
        };
        let values = rates.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        Ok(Self::Each((h, w), values.into()))
    }

    /// An error unless all rates are probabilities, and as many as there are cells.
    pub fn check(&self, (h, w): (usize, usize)) -> Result<()> {
        match self {
            Self::Same(rate) if !(0.0..=1.0).contains(rate) => {
                Err(Error::config("fire_rate", "in [0, 1]", rate))
            }
            Self::Each(size, _) if *size != (h, w) => {
                Err(Error::shape("rates", format!("[{h}, {w}]"), &[size.0, size.1]))
            }
            Self::Each(_, rates) => match rates.iter().find(|rate| !(0.0..=1.0).contains(*rate)) {
                Some(rate) => Err(Error::config("rates", "in [0, 1]", rate)),
                None => Ok(()),
            },
            Self::Same(_) => Ok(()),
        }
    }

    /// Whether every cell fires in every step.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Same(rate) if *rate >= 1.0)
    }

    /// The rate of a cell, in row-major order.
    pub fn of(&self, cell: usize) -> f32 {
        match self {
            Self::Same(rate) => *rate as f32,
            Self::Each(_, rates) => rates[cell],
        }
    }
}

/// Whether each cell fires under a given mask of zeros and ones, or `None` if it holds anything else.
pub(super) fn fires(mask: &Tensor) -> Result<Option<Vec<bool>>> {
    let values = mask.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    let fires = |value: f32| match value {
        0.0 => Some(false),
        1.0 => Some(true),
        _ => None,
    };
    Ok(values.into_iter().map(fires).collect())
}

pub(super) struct Draws {
    pub key: Key,
    pub stream: u32,
    pub step: usize,
    pub first_image: usize,
}

impl Draws {
    /// `f` of the number and a uniform draw of each of `elements` elements of each of `images` images.
    ///
    /// Element e of image i takes word `e % 4` of the counter `[e / 4, first_image + i, step, stream]`.
    pub fn map(&self, images: usize, elements: usize, f: impl Fn(usize, f32) -> f32 + Sync) -> Vec<f32> {
        let mut values = vec![0f32; images * elements];
        let images = values.par_chunks_mut(elements.max(1)).enumerate();
        images.for_each(|(image, values)| {
            for (block, values) in values.chunks_mut(4).enumerate() {
                let image = (self.first_image + image) as u32;
                let words = self
                    .key
                    .words([block as u32, image, self.step as u32, self.stream]);
                for ((element, value), word) in (4 * block..).zip(values).zip(words) {
                    *value = f(element, unit(word));
                }
            }
        });
        values
    }
}
