//! Targets for growing patterns: pictures with transparency, drawn by code or read from a file.

use std::path::Path;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, check};
use crate::io::{decode, lanczos_resize};

/// Samples along each side of a pixel.
const SAMPLES: usize = 4;

type Colour = [f64; 3];

const ORANGE: Colour = [0.96, 0.52, 0.13];
const WHITE: Colour = [0.98, 0.97, 0.93];
const INK: Colour = [0.13, 0.12, 0.16];
const YELLOW: Colour = [1.0, 0.80, 0.19];
const PINK: Colour = [0.90, 0.30, 0.48];
const GREEN: Colour = [0.26, 0.60, 0.25];

/// A small picture drawn by code, like an emoji.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Emblem {
    /// An orange fish with white stripes.
    Fish,
    /// A pink flower with a stem and two leaves.
    Flower,
}

impl Emblem {
    /// Its name: `fish` or `flower`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fish => "fish",
            Self::Flower => "flower",
        }
    }

    /// The picture in a square of `side` pixels, with `padding` transparent pixels on every side:
    /// premultiplied RGBA in `[0, 1]`, `[side + 2 padding, side + 2 padding, 4]`.
    ///
    /// # Errors
    /// [`Error::Config`] if `side` is 0, [`Error::Shape`] if the picture has more than 2^34 numbers, or than
    /// there is memory for.
    pub fn draw(&self, side: usize, padding: usize) -> Result<Tensor> {
        if side == 0 {
            return Err(Error::config("side", "at least 1", 0));
        }
        let mut pixels = Vec::with_capacity(check::elements("side", &[side, side, 4])?);
        with_padding((side, side), padding)?;
        let fine = (side * SAMPLES) as f64;
        for (row, column) in (0..side).flat_map(|row| (0..side).map(move |column| (row, column))) {
            let mut sum = [0.0; 4];
            for (i, j) in (0..SAMPLES).flat_map(|i| (0..SAMPLES).map(move |j| (i, j))) {
                let along = |pixel: usize, sample: usize| {
                    2.0 * ((pixel * SAMPLES + sample) as f64 + 0.5) / fine - 1.0
                };
                let (x, y) = (along(column, j), along(row, i));
                let colour = match self {
                    Self::Fish => fish(x, y),
                    Self::Flower => flower(x, y),
                };
                if let Some([r, g, b]) = colour {
                    sum.iter_mut().zip([r, g, b, 1.0]).for_each(|(sum, v)| *sum += v);
                }
            }
            pixels.extend(sum.map(|v| (v / (SAMPLES * SAMPLES) as f64) as f32));
        }
        padded(pixels, (side, side), padding)
    }
}

/// Whether a point lies in the ellipse around `centre`.
fn in_ellipse(x: f64, y: f64, centre: (f64, f64), radii: (f64, f64)) -> bool {
    ((x - centre.0) / radii.0).powi(2) + ((y - centre.1) / radii.1).powi(2) < 1.0
}

fn fish(x: f64, y: f64) -> Option<Colour> {
    let body = |grown: f64| in_ellipse(x, y, (-0.12, 0.0), (0.72 + grown, 0.50 + grown));
    let tail = |grown: f64| {
        let along = (x - 0.42) / 0.48;
        (0.0..1.0 + grown).contains(&along) && y.abs() < 0.08 + 0.46 * along + grown - 0.16 * along * along
    };
    let fin = |grown: f64| in_ellipse(x, y, (-0.05, -0.50), (0.34 + grown, 0.22 + grown)) && y < -0.2;
    if in_ellipse(x, y, (-0.50, -0.12), (0.075, 0.095)) {
        return Some(INK);
    }
    if in_ellipse(x, y, (-0.50, -0.12), (0.14, 0.16)) {
        return Some(WHITE);
    }
    if body(0.0) {
        let bend = 0.10 * (1.0 - (y / 0.5).powi(2));
        let stripe = |at: f64, wide: f64| (x - at + bend).abs() < wide;
        return Some(match () {
            () if stripe(-0.13, 0.075) || stripe(0.32, 0.065) => WHITE,
            () if stripe(-0.13, 0.115) || stripe(0.32, 0.105) => INK,
            () if y > 0.22 => [0.91, 0.42, 0.11],
            () => ORANGE,
        });
    }
    if tail(0.0) || fin(0.0) {
        return Some(YELLOW);
    }
    (body(0.05) || tail(0.05) || fin(0.05)).then_some(INK)
}

fn flower(x: f64, y: f64) -> Option<Colour> {
    let (cx, cy) = (x, y + 0.30);
    let radius = cx.hypot(cy);
    if radius < 0.19 {
        return Some(if radius < 0.13 { YELLOW } else { [0.93, 0.63, 0.10] });
    }
    let angle = cy.atan2(cx) + std::f64::consts::FRAC_PI_2;
    let petal = (3.0 * angle).cos().abs();
    if radius < 0.36 + 0.26 * petal {
        let shade = if petal < 0.35 || radius < 0.27 { 0.86 } else { 1.0 };
        return Some(PINK.map(|c| c * shade));
    }
    let leaf = |side: f64| {
        let (u, v) = (side * x - 0.05, y - 0.72);
        in_ellipse(
            0.82 * u - 0.57 * v,
            0.57 * u + 0.82 * v,
            (0.30, 0.0),
            (0.32, 0.13),
        )
    };
    if leaf(1.0) || leaf(-1.0) {
        return Some([0.35, 0.70, 0.30]);
    }
    let stem = (x - 0.04 * (4.0 * y).sin()).abs() < 0.055 && (0.0..0.96).contains(&y);
    stem.then_some(GREEN)
}

/// Reads a picture with transparency as a target, scaled to fit a square of `side` pixels with its aspect
/// ratio kept, and with `padding` transparent pixels on every side: premultiplied RGBA in `[0, 1]`, `[height
/// + 2 padding, width + 2 padding, 4]`.
///
/// # Errors
/// [`Error::Io`] or [`Error::File`] if the file cannot be read or is neither PNG nor JPEG; [`Error::Config`]
/// if `side` is 0; [`Error::Shape`] if the target has more than 2^34 numbers, or than there is memory for.
pub fn read_target(path: impl AsRef<Path>, side: usize, padding: usize) -> Result<Tensor> {
    if side == 0 {
        return Err(Error::config("side", "at least 1", 0));
    }
    check::elements("side", &[side, side, 4])?;
    with_padding((side, side), padding)?;
    let image = decode(path.as_ref())?.image.into_rgba8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    let longest = height.max(width);
    let fit = |of: usize| ((of * side + longest / 2) / longest).max(1);
    let mut pixels = image.into_raw();
    for pixel in pixels.chunks_exact_mut(4) {
        let alpha = f32::from(pixel[3]) / 255.0;
        pixel[..3]
            .iter_mut()
            .for_each(|colour| *colour = (f32::from(*colour) * alpha).round() as u8);
    }
    let size = (fit(height), fit(width));
    let pixels = lanczos_resize(&pixels, height, width, size.0, size.1)?;
    let mut pixels: Vec<f32> = pixels.into_iter().map(|value| f32::from(value) / 255.0).collect();
    // Lanczos resampling overshoots, but no premultiplied colour may exceed alpha.
    for pixel in pixels.chunks_exact_mut(4) {
        let alpha = pixel[3];
        pixel[..3]
            .iter_mut()
            .for_each(|colour| *colour = colour.min(alpha));
    }
    padded(pixels, size, padding)
}

/// An error unless there is memory for a picture of `size` and its padding.
fn with_padding(size: (usize, usize), padding: usize) -> Result<()> {
    let both = padding.saturating_mul(2);
    let [height, width] = [size.0, size.1].map(|side| side.saturating_add(both));
    check::elements("padding", &[height, width, 4]).map(|_| ())
}

fn padded(pixels: Vec<f32>, (height, width): (usize, usize), padding: usize) -> Result<Tensor> {
    let picture = Tensor::from_vec(pixels, (height, width, 4), &Device::Cpu)?;
    let tall = picture.pad_with_zeros(0, padding, padding)?;
    Ok(tall.pad_with_zeros(1, padding, padding)?)
}
