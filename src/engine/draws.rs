//! Update masks and dropout, from the same counters as everywhere.

use pulp::Simd;

use crate::random::{Key, unit};
use crate::rollout::mask::{DROPOUT, FIRE, FireRate};

use super::Task;
use super::kernels::{ViewMut, arch};

/// Which lanes of a group fire in a step; `None` where all do.
pub(super) fn fired(
    task: &Task,
    step: usize,
    first: usize,
    images: usize,
    lanes: usize,
) -> Option<Vec<bool>> {
    let cells = lanes / images;
    let mut fires = vec![false; lanes];
    if let Some(masks) = &task.masks {
        let mask = &masks[step];
        for (lane, fires) in fires.iter_mut().enumerate() {
            *fires = mask[(first + lane % images) * cells + lane / images];
        }
        return Some(fires);
    }
    if task.fire_rate.is_full() {
        return None;
    }
    for image in 0..images {
        let number = (task.first_image + first + image) as u32;
        let counter = [0, number, step as u32, FIRE];
        match &task.fire_rate {
            FireRate::Same(rate) => draw(task.key, counter, *rate as f32, &mut fires, (image, images)),
            FireRate::Each(_, rates) => {
                for (block, rates) in rates.chunks(4).enumerate() {
                    let words = task.key.words([block as u32, number, step as u32, FIRE]);
                    for ((cell, &rate), word) in (4 * block..).zip(rates).zip(words) {
                        fires[cell * images + image] = unit(word) < rate;
                    }
                }
            }
        }
    }
    Some(fires)
}

/// Counters whose words are computed side by side.
const SIDE: usize = 16;

/// Whether each lane of an image draws below `rate`: every `each`-th of `fires` from `start` on.
#[pulp::with_simd(draw = arch())]
#[inline(always)]
fn draw_simd<S: Simd>(
    _: S,
    key: Key,
    counter: [u32; 4],
    rate: f32,
    fires: &mut [bool],
    (start, each): (usize, usize),
) {
    let mut counter = counter;
    for fires in fires[start..].chunks_mut(4 * SIDE * each) {
        let mut counters = counter.map(|word| [word; SIDE]);
        for (first, i) in counters[0].iter_mut().zip(0..) {
            *first = first.wrapping_add(i);
        }
        let words = key.words_of(counters);
        let cells = fires.len().div_ceil(each);
        for i in 0..SIDE {
            for (w, words) in words.iter().enumerate() {
                let cell = 4 * i + w;
                if cell < cells {
                    fires[cell * each] = unit(words[i]) < rate;
                }
            }
        }
        counter[0] += SIDE as u32;
    }
}

/// The draws of a dropout in a step.
#[derive(Clone, Copy)]
pub(super) struct Dropout {
    pub key: Key,
    pub step: usize,
    pub rate: f64,
    pub site: u32,
}

impl Dropout {
    /// What a channel is multiplied by where its word is this.
    #[inline(always)]
    fn factor(&self, word: u32) -> f32 {
        let (rate, kept) = (self.rate as f32, (1.0 / (1.0 - self.rate)) as f32);
        if unit(word) < rate { 0.0 } else { kept }
    }
}

/// Sets `channels` of `y` to the factors of lanes of which cell and image are given.
#[pulp::with_simd(dropout = arch())]
#[inline(always)]
pub(super) fn dropout_simd<'a, S: Simd>(
    _: S,
    draws: Dropout,
    (cells, images): (&'a [u32], &'a [u32]),
    y: ViewMut<'a>,
    channels: usize,
) {
    let mut y = y;
    let (step, stream) = (draws.step as u32, DROPOUT + draws.site);
    // Four channels are the words of one counter; of another number of them, some are of two cells.
    if !channels.is_multiple_of(4) {
        for (lane, (&cell, &image)) in cells.iter().zip(images).enumerate() {
            let first = cell as usize * channels;
            for (c, element) in (first..first + channels).enumerate() {
                let words = draws.key.words([(element / 4) as u32, image, step, stream]);
                y.row(c, lane + 1)[lane] = draws.factor(words[element % 4]);
            }
        }
        return;
    }
    let blocks = (channels / 4) as u32;
    let lanes = cells.chunks(SIDE).zip(images.chunks(SIDE));
    for (at, (cells, images)) in (0..).step_by(SIDE).zip(lanes) {
        let mut counters = [[0; SIDE], [0; SIDE], [step; SIDE], [stream; SIDE]];
        counters[1][..images.len()].copy_from_slice(images);
        for block in 0..blocks {
            for (counter, cell) in counters[0].iter_mut().zip(cells) {
                *counter = cell.wrapping_mul(blocks).wrapping_add(block);
            }
            let words = draws.key.words_of(counters);
            for (c, words) in (4 * block as usize..).zip(words) {
                let to = &mut y.row(c, at + cells.len())[at..];
                to.iter_mut()
                    .zip(words)
                    .for_each(|(to, word)| *to = draws.factor(word));
            }
        }
    }
}
