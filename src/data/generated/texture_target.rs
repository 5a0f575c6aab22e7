//! Targets for textures: drawn by code or read from a file.

use std::path::Path;

use candle_core::{Device, Tensor};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, check};
use crate::io::{Picture, lanczos_resize};
use crate::random::Key;

/// A texture drawn by code, which tiles the plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Swatch {
    /// Round bubbles with light rims, of several sizes, on blue.
    Bubbles,
    /// Bands of two colours woven over and under each other.
    Weave,
}

/// Samples along each side of a pixel.
const SAMPLES: usize = 3;

impl Swatch {
    /// Its name: `bubbles` or `weave`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bubbles => "bubbles",
            Self::Weave => "weave",
        }
    }

    /// The texture as a square of `side` pixels, RGB in `[0, 1]`: `[side, side, 3]`.
    ///
    /// # Errors
    /// [`Error::Config`] if `side` is 0, [`Error::Shape`] if the texture has more than 2^34 numbers, or than
    /// there is memory for.
    pub fn draw(&self, side: usize) -> Result<Tensor> {
        if side == 0 {
            return Err(Error::config("side", "at least 1", 0));
        }
        let count = check::elements("side", &[side, side, 3])?;
        let bubbles = match self {
            Self::Bubbles => bubbles(side as f64),
            Self::Weave => vec![],
        };
        let mut pixels = Vec::with_capacity(count);
        for (row, column) in (0..side).flat_map(|row| (0..side).map(move |column| (row, column))) {
            let mut sum = [0.0; 3];
            for (i, j) in (0..SAMPLES).flat_map(|i| (0..SAMPLES).map(move |j| (i, j))) {
                let along =
                    |pixel: usize, sample: usize| pixel as f64 + (sample as f64 + 0.5) / SAMPLES as f64;
                let (x, y) = (along(column, j), along(row, i));
                let colour = match self {
                    Self::Bubbles => bubble_colour(x, y, side as f64, &bubbles),
                    Self::Weave => weave_colour(x, y, side as f64),
                };
                sum.iter_mut().zip(colour).for_each(|(sum, v)| *sum += v);
            }
            pixels.extend(sum.map(|v| (v / (SAMPLES * SAMPLES) as f64) as f32));
        }
        Ok(Tensor::from_vec(pixels, (side, side, 3), &Device::Cpu)?)
    }
}

/// A disc: column and row of the centre, radius.
type Disc = (f64, f64, f64);

/// Discs on a torus that do not touch, large ones first.
fn bubbles(side: f64) -> Vec<Disc> {
    let mut rng = Key::new(0).fold_in_name("bubbles").rng();
    let mut discs: Vec<Disc> = vec![];
    for tried in 0..4000 {
        let radius = if tried < 1500 {
            rng.random_range(7.0..11.0)
        } else {
            rng.random_range(3.0..6.0)
        };
        let (x, y) = (rng.random_range(0.0..side), rng.random_range(0.0..side));
        let apart = |&(u, v, r): &Disc| distance((x, y), (u, v), side) > radius + r + 1.0;
        if discs.iter().all(apart) {
            discs.push((x, y, radius));
        }
    }
    discs
}

/// Distance of two points on a torus.
fn distance(a: (f64, f64), b: (f64, f64), side: f64) -> f64 {
    let along = |a: f64, b: f64| {
        let d = (a - b).abs();
        d.min(side - d)
    };
    along(a.0, b.0).hypot(along(a.1, b.1))
}

fn bubble_colour(x: f64, y: f64, side: f64, discs: &[Disc]) -> [f64; 3] {
    let inside = discs
        .iter()
        .map(|&(u, v, r)| distance((x, y), (u, v), side) / r)
        .find(|&near| near < 1.0);
    let mix = |a: [f64; 3], b: [f64; 3], t: f64| std::array::from_fn(|c| a[c] + (b[c] - a[c]) * t);
    match inside {
        None => [0.10, 0.22, 0.42],
        Some(near) if near > 0.78 => [0.93, 0.96, 0.98],
        Some(near) => mix([0.55, 0.83, 0.92], [0.22, 0.50, 0.74], near * near),
    }
}

fn weave_colour(x: f64, y: f64, side: f64) -> [f64; 3] {
    // An even number of bands, about 16 pixels wide, so that it tiles.
    let bands = (side / 32.0).round().max(1.0) * 2.0;
    let (u, v) = (x * bands / side, y * bands / side);
    let across = |t: f64| 2.0 * (t.fract() - 0.5).abs();
    let over = (u.floor() + v.floor()) % 2.0 == 0.0;
    // A band gets darker where it passes below another.
    let shade = |wide: f64, long: f64| (1.0 - 0.35 * wide * wide) * (1.0 - 0.30 * long * long);
    let (upright, flat) = ([0.87, 0.62, 0.26], [0.55, 0.16, 0.18]);
    let gap = 0.86;
    let (colour, light) = match (over, across(u) < gap, across(v) < gap) {
        (true, true, _) | (false, true, false) => (upright, shade(across(u), across(v))),
        (false, _, true) | (true, false, true) => (flat, shade(across(v), across(u))),
        _ => ([0.12, 0.07, 0.06], 1.0),
    };
    colour.map(|c| c * light)
}

/// Reads a texture: RGB in `[0, 1]`, `[H, W, 3]`, shrunk such that no side exceeds `largest` pixels, with its
/// aspect ratio kept.
///
/// # Errors
/// [`Error::Io`] or [`Error::File`] if the file cannot be read or is neither PNG nor JPEG; [`Error::Config`]
/// if `largest` is 0.
pub fn read_swatch(path: impl AsRef<Path>, largest: usize) -> Result<Tensor> {
    if largest == 0 {
        return Err(Error::config("largest", "at least 1", 0));
    }
    let Picture {
        height,
        width,
        pixels,
    } = Picture::read(path)?;
    let longest = height.max(width);
    let fit = |of: usize| match longest > largest {
        true => ((of * largest + longest / 2) / longest).max(1),
        false => of,
    };
    let pixels = lanczos_resize(&pixels, height, width, fit(height), fit(width))?;
    let pixels: Vec<f32> = pixels.into_iter().map(|value| f32::from(value) / 255.0).collect();
    Ok(Tensor::from_vec(
        pixels,
        (fit(height), fit(width), 3),
        &Device::Cpu,
    )?)
}
