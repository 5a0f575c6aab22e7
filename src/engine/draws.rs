//! Update masks and dropout, from the same counters as everywhere.

use pulp::Simd;

use crate::random::{Key, unit};
use crate::rollout::mask::{DROPOUT, FIRE, FireRate};

use super::Task;
use super::kernels::arch;

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
        let words = key.words_of::<SIDE>(counter);
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

/// Calls `f` with each channel's factor at one cell.
pub(super) fn dropout(
    task: &Task,
    (step, image, cell): (usize, usize, usize),
    (rate, site): (f64, u32),
    channels: usize,
    mut f: impl FnMut(usize, f32),
) {
    let (rate, kept) = (rate as f32, (1.0 / (1.0 - rate)) as f32);
    let image = (task.first_image + image) as u32;
    let (first, end) = (cell * channels, (cell + 1) * channels);
    for block in first / 4..end.div_ceil(4) {
        let words = task.key.words([block as u32, image, step as u32, DROPOUT + site]);
        for (word, element) in words.into_iter().zip(4 * block..) {
            if (first..end).contains(&element) {
                f(element - first, if unit(word) < rate { 0.0 } else { kept });
            }
        }
    }
}
