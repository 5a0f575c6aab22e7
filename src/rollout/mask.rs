//! Random draws for cells, each a function of (key, stream, step, image, cell).

use rayon::prelude::*;

use crate::random::{Key, unit};

/// The stream of update masks.
pub(super) const FIRE: u32 = 0;
/// The first stream of dropout; a transition's sites follow.
pub(super) const DROPOUT: u32 = 1;

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
