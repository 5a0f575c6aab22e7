//! Random draws for cells, each a function of (key, stream, step, image, cell).

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::Result;
use crate::random::{Key, unit};

/// The stream of update masks.
pub(crate) const FIRE: u32 = 0;
/// The first stream of dropout; a transition's sites follow.
pub(crate) const DROPOUT: u32 = 1;

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
    /// `f` of a uniform draw for each of `elements` elements of each of `images` images.
    ///
    /// Element e of image i takes word `e % 4` of the counter `[e / 4, first_image + i, step, stream]`.
    pub fn map(&self, images: usize, elements: usize, f: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
        let mut values = vec![0f32; images * elements];
        let images = values.par_chunks_mut(elements.max(1)).enumerate();
        images.for_each(|(image, values)| {
            for (block, values) in values.chunks_mut(4).enumerate() {
                let image = (self.first_image + image) as u32;
                let words = self
                    .key
                    .words([block as u32, image, self.step as u32, self.stream]);
                values
                    .iter_mut()
                    .zip(words)
                    .for_each(|(value, word)| *value = f(unit(word)));
            }
        });
        values
    }
}
