//! Update masks and dropout, drawn from the counters of `grid::draws`.

use pulp::Simd;

use crate::grid::draws::{Draws, FireRate, Stream, WORDS, dropout_factor};
use crate::random::unit;

use super::kernels::{ViewMut, arch};
use crate::engine::job::Task;

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
    let draws = Draws {
        key: task.key,
        stream: Stream::Fire,
        step,
    };
    for image in 0..images {
        let number = (task.first_image + first + image) as u32;
        match &task.fire_rate {
            FireRate::Same(rate) => draw(draws, number, *rate as f32, &mut fires, (image, images)),
            FireRate::Each(_, rates) => {
                for (block, rates) in rates.chunks(WORDS).enumerate() {
                    let words = draws.words(block as u32, number);
                    for ((cell, &rate), word) in (WORDS * block..).zip(rates).zip(words) {
                        fires[cell * images + image] = unit(word) < rate;
                    }
                }
            }
        }
    }
    Some(fires)
}

/// Counters whose words are computed together.
const SIDE: usize = 16;

/// Whether each lane of an image draws below `rate`; its lanes are every `each`-th of `fires` from `start`
/// on.
#[pulp::with_simd(draw = arch())]
#[inline(always)]
fn draw_simd<S: Simd>(
    _: S,
    draws: Draws,
    image: u32,
    rate: f32,
    fires: &mut [bool],
    (start, each): (usize, usize),
) {
    let mut block = 0u32;
    for fires in fires[start..].chunks_mut(WORDS * SIDE * each) {
        let blocks = std::array::from_fn(|i| block.wrapping_add(i as u32));
        let words = draws.words_of::<SIDE>(blocks, [image; SIDE]);
        let cells = fires.len().div_ceil(each);
        for i in 0..SIDE {
            for (w, words) in words.iter().enumerate() {
                let cell = WORDS * i + w;
                if cell < cells {
                    fires[cell * each] = unit(words[i]) < rate;
                }
            }
        }
        block += SIDE as u32;
    }
}

/// Sets `channels` of `y` to dropout factors at `rate`; lane l is cell `cells[l]` of image `images[l]`.
#[pulp::with_simd(dropout = arch())]
#[inline(always)]
pub(super) fn dropout_simd<'a, S: Simd>(
    _: S,
    (draws, rate): (Draws, f64),
    (cells, images): (&'a [u32], &'a [u32]),
    y: ViewMut<'a>,
    channels: usize,
) {
    let mut y = y;
    let factor = |word| dropout_factor(rate, unit(word));
    // A counter has a word for each of four channels; unless 4 divides the channels, some counters span two
    // cells.
    if !channels.is_multiple_of(WORDS) {
        for (lane, (&cell, &image)) in cells.iter().zip(images).enumerate() {
            let first = cell as usize * channels;
            for (c, element) in (first..first + channels).enumerate() {
                let words = draws.words((element / WORDS) as u32, image);
                y.row(c, lane + 1)[lane] = factor(words[element % WORDS]);
            }
        }
        return;
    }
    let each = (channels / WORDS) as u32;
    let lanes = cells.chunks(SIDE).zip(images.chunks(SIDE));
    for (at, (cells, images)) in (0..).step_by(SIDE).zip(lanes) {
        let mut numbers = [0; SIDE];
        numbers[..images.len()].copy_from_slice(images);
        for block in 0..each {
            let mut blocks = [0u32; SIDE];
            for (counter, cell) in blocks.iter_mut().zip(cells) {
                *counter = cell.wrapping_mul(each).wrapping_add(block);
            }
            let words = draws.words_of(blocks, numbers);
            for (c, words) in (WORDS * block as usize..).zip(words) {
                let to = &mut y.row(c, at + cells.len())[at..];
                to.iter_mut().zip(words).for_each(|(to, word)| *to = factor(word));
            }
        }
    }
}
