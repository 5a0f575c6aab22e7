//! Random draws for cells: update masks and dropout. Each draw is a function of (key, stream, step, image,
//! element).
//!
//! Only this file decides which counter a draw has. Element e of image i takes word `e % 4` of the counter
//! `[e / 4, i, step, stream]`. So four elements share one call of the generator, and engines draw the same in
//! any order.

use std::ops::RangeInclusive;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result, check};
use crate::random::{Key, unit};

/// What draws are for. Streams are independent of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Which cells take their update: one element for each cell.
    Fire,
    /// A transition's dropout of this number: one element for each channel of each cell.
    Dropout(u32),
}

/// Words of one counter.
pub(crate) const WORDS: usize = 4;

/// The draws of one stream in one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draws {
    pub key: Key,
    pub stream: Stream,
    pub step: usize,
}

impl Draws {
    /// The counter of elements `4 block..4 block + 4` of an image, which is numbered among all images.
    #[inline(always)]
    pub fn counter(&self, block: u32, image: u32) -> [u32; 4] {
        let stream = match self.stream {
            Stream::Fire => 0,
            Stream::Dropout(site) => 1 + site,
        };
        [block, image, self.step as u32, stream]
    }

    /// The words of four elements of an image.
    #[inline(always)]
    pub fn words(&self, block: u32, image: u32) -> [u32; WORDS] {
        self.key.words(self.counter(block, image))
    }

    /// The words of four elements of `N` images, word by word.
    #[inline(always)]
    pub fn words_of<const N: usize>(&self, blocks: [u32; N], images: [u32; N]) -> [[u32; N]; WORDS] {
        let [_, _, step, stream] = self.counter(0, 0);
        self.key.words_of([blocks, images, [step; N], [stream; N]])
    }

    /// `f(element, uniform draw)` for each of `elements` elements of each of `images` images, numbered from
    /// `first_image`.
    pub fn map(
        &self,
        (first_image, images): (usize, usize),
        elements: usize,
        f: impl Fn(usize, f32) -> f32 + Sync,
    ) -> Vec<f32> {
        let mut values = vec![0f32; images * elements];
        let images = values.par_chunks_mut(elements.max(1)).enumerate();
        images.for_each(|(image, values)| {
            for (block, values) in values.chunks_mut(WORDS).enumerate() {
                let words = self.words(block as u32, first_image.wrapping_add(image) as u32);
                for ((element, value), word) in (WORDS * block..).zip(values).zip(words) {
                    *value = f(element, unit(word));
                }
            }
        });
        values
    }
}

/// The factor of inverted dropout at `rate` for an element with uniform draw `draw`: 0 or `1 / (1 - rate)`.
#[inline(always)]
pub(crate) fn dropout_factor(rate: f64, draw: f32) -> f32 {
    let (rate, kept) = (rate as f32, (1.0 / (1.0 - rate)) as f32);
    if draw < rate { 0.0 } else { kept }
}

/// An error unless `rate` is in `[0, 1)`, as dropout needs.
pub(crate) fn check_dropout(rate: f64) -> Result<()> {
    match (0.0..1.0).contains(&rate) {
        true => Ok(()),
        false => Err(Error::config("rate", "in [0, 1)", rate)),
    }
}

/// An error unless the setting `name` is a probability.
pub(crate) fn check_rate(name: &'static str, rate: f64) -> Result<()> {
    match (0.0..=1.0).contains(&rate) {
        true => Ok(()),
        false => Err(Error::config(name, "in [0, 1]", rate)),
    }
}

/// The most steps of a rollout: each has its own draws.
pub(crate) const MOST_STEPS: usize = u32::MAX as usize;

/// An error unless the setting `name` is a range of at least one number, all from `least` to [`MOST_STEPS`].
pub(crate) fn check_steps(name: &'static str, steps: &RangeInclusive<usize>, least: usize) -> Result<()> {
    match !steps.is_empty() && *steps.start() >= least && *steps.end() <= MOST_STEPS {
        true => Ok(()),
        false => {
            let expected = format!("a range that is not empty, within {least}..={MOST_STEPS}");
            Err(Error::config(name, expected, format!("{steps:?}")))
        }
    }
}

/// The probability that a cell takes its update in a step.
#[derive(Clone, Debug)]
pub(crate) enum FireRate {
    /// One for all cells.
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
        check::float("rates", rates)?;
        let values = rates.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        Ok(Self::Each((h, w), values.into()))
    }

    /// An error unless all rates are probabilities, one for each cell.
    pub fn check(&self, (h, w): (usize, usize)) -> Result<()> {
        match self {
            Self::Same(rate) => check_rate("fire_rate", *rate),
            Self::Each(size, _) if *size != (h, w) => {
                Err(Error::shape("rates", format!("[{h}, {w}]"), &[size.0, size.1]))
            }
            Self::Each(_, rates) => rates
                .iter()
                .try_for_each(|&rate| check_rate("rates", rate.into())),
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
