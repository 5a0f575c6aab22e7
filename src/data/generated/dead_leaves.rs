//! Dead-leaves images, a statistical model of natural scenes.

use crate::error::{Result, check};
use crate::random::{Key, Philox};
use rand::Rng;
use rand_distr::StandardNormal;
use std::f32::consts::TAU;

/// Samples along each side of a pixel, averaged against aliasing.
const SAMPLES: usize = 2;

/// Smallest radius of a leaf in samples.
const LEAST_RADIUS: f32 = 3.0;

/// An 8-bit RGB image, `[height, width, 3]`, of opaque shapes that occlude one another.
///
/// Ellipses and convex polygons with radii `r` distributed as `r^-3`, which makes the statistics
/// scale-invariant, are placed front to back until they cover the image. Each image has its own smallest
/// radius, since some photographs show foliage and some a wall. Leaves take their colours from a palette of
/// the image (bright and dark shades of a few related hues) and have slight shading and texture. Model: Lee,
/// Mumford and Huang, "Occlusion models for natural images" (2001).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for more pixels than 2^34, or than there is memory for.
pub fn dead_leaves(height: usize, width: usize, key: Key) -> Result<Vec<u8>> {
    let (rows, columns) = (height.saturating_mul(SAMPLES), width.saturating_mul(SAMPLES));
    check::elements("(height, width)", &[rows, columns, 3])?;
    let mut rng = key.rng();
    let side = (rows.max(columns) as f32).max(4.0 * LEAST_RADIUS);
    let least = LEAST_RADIUS * (side / 4.0 / LEAST_RADIUS).powf(rng.random());
    let palette = palette(&mut rng);
    let mut canvas: Vec<Option<[f32; 3]>> = vec![None; rows * columns];
    let mut bare = canvas.len();
    while bare > 0 {
        let leaf = Leaf::draw(&mut rng, &palette, (rows as f32, columns as f32), (least, side));
        let span = |centre: f32, size: usize| {
            let first = (centre - leaf.radius).floor().max(0.0) as usize;
            first..((centre + leaf.radius).ceil().max(0.0) as usize + 1).min(size)
        };
        for y in span(leaf.y, rows) {
            for x in span(leaf.x, columns) {
                let sample = &mut canvas[y * columns + x];
                if sample.is_none() {
                    *sample = leaf.colour_at(x as f32, y as f32);
                    bare -= usize::from(sample.is_some());
                }
            }
        }
    }
    let mut pixels = Vec::with_capacity(height * width * 3);
    for y in 0..height {
        for x in 0..width {
            let mut sum = [0.0; 3];
            for sample in 0..SAMPLES * SAMPLES {
                let row = y * SAMPLES + sample / SAMPLES;
                let colour = canvas[row * columns + x * SAMPLES + sample % SAMPLES];
                sum.iter_mut()
                    .zip(colour.unwrap_or_default())
                    .for_each(|(s, c)| *s += c);
            }
            pixels.extend(sum.map(|s| (s / (SAMPLES * SAMPLES) as f32 * 255.0).round() as u8));
        }
    }
    Ok(pixels)
}

fn normal(rng: &mut Philox) -> f32 {
    rng.sample(StandardNormal)
}

/// The palette of one image: shades around its mean brightness, each with its own chroma. Natural colours
/// vary much in brightness, less along blue to yellow and least along green to red.
fn palette(rng: &mut Philox) -> Vec<[f32; 3]> {
    let brightness = rng.random_range(0.3..0.6);
    let contrast = rng.random_range(0.08..0.25);
    let (warmth, green) = (0.05 * normal(rng), 0.02 * normal(rng));
    let shades = rng.random_range(4..9);
    (0..shades)
        .map(|_| {
            let light = (brightness + contrast * normal(rng)).clamp(0.04, 0.96);
            shade(light, warmth + 0.06 * normal(rng), green + 0.03 * normal(rng))
        })
        .collect()
}

/// A colour from its brightness and two opponent chromas, blue to yellow and red to green.
fn shade(light: f32, warmth: f32, green: f32) -> [f32; 3] {
    [
        light + warmth - green,
        light + 0.2 * warmth + green,
        light - 1.2 * warmth - green,
    ]
}

/// One shape with its colour, lengths in samples.
struct Leaf {
    x: f32,
    y: f32,
    /// Half of the length.
    radius: f32,
    /// Cosine and sine of the direction of the length, and the ratio of length to breadth.
    stretch: (f32, f32, f32),
    /// Outward normals and distances of a polygon's sides, before the stretch; empty for an ellipse.
    sides: Vec<(f32, f32, f32)>,
    colour: [f32; 3],
    /// Change of brightness per sample along x and y.
    shading: (f32, f32),
    /// Waves of brightness: amplitude, frequency along x and y, phase.
    texture: [(f32, f32, f32, f32); 4],
}

impl Leaf {
    fn draw(
        rng: &mut Philox,
        palette: &[[f32; 3]],
        (rows, columns): (f32, f32),
        (least, greatest): (f32, f32),
    ) -> Self {
        // The inverse distribution function of r^-3 between the two radii.
        let (a, b) = (least.powi(-2), greatest.powi(-2));
        let radius = (a - rng.random::<f32>() * (a - b)).powf(-0.5);
        let angle = rng.random_range(0.0..TAU);
        let stretch = (angle.cos(), angle.sin(), 1.0 / rng.random_range(0.25f32..1.0));
        let sides = match rng.random_range(0..7) {
            corners @ 3..=6 => {
                let side = |i| {
                    let angle = TAU * (i as f32 + rng.random_range(-0.25..0.25)) / corners as f32;
                    (angle.cos(), angle.sin(), radius * rng.random_range(0.4..0.9))
                };
                (0..corners).map(side).collect()
            }
            _ => Vec::new(),
        };
        let jitter = shade(0.04 * normal(rng), 0.015 * normal(rng), 0.01 * normal(rng));
        let mut colour = palette[rng.random_range(0..palette.len())];
        colour.iter_mut().zip(jitter).for_each(|(c, j)| *c += j);
        let roughness = 0.002 * rng.random::<f32>();
        let mut wave = || {
            let (angle, length) = (rng.random_range(0.0..TAU), rng.random_range(3.0..20.0));
            let frequency = TAU / length;
            // Long waves are stronger, as in nature.
            (
                roughness * length,
                frequency * angle.cos(),
                frequency * angle.sin(),
                rng.random_range(0.0..TAU),
            )
        };
        let texture = [wave(), wave(), wave(), wave()];
        let slope = 0.08 / radius;
        Self {
            x: rng.random_range(-radius..columns + radius),
            y: rng.random_range(-radius..rows + radius),
            radius,
            stretch,
            sides,
            colour,
            shading: (slope * normal(rng), slope * normal(rng)),
            texture,
        }
    }

    /// The colour, in `[0, 1]`, of the sample at `(x, y)` if the leaf covers it.
    fn colour_at(&self, x: f32, y: f32) -> Option<[f32; 3]> {
        let (dx, dy) = (x - self.x, y - self.y);
        let (cos, sin, longer) = self.stretch;
        let (along, across) = (dx * cos + dy * sin, (dy * cos - dx * sin) * longer);
        let covered = along * along + across * across <= self.radius * self.radius
            && self
                .sides
                .iter()
                .all(|(nx, ny, distance)| along * nx + across * ny <= *distance);
        covered.then(|| {
            let shading = self.shading.0 * dx + self.shading.1 * dy;
            let waves = self.texture.iter();
            let texture: f32 = waves
                .map(|(a, fx, fy, phase)| a * (fx * x + fy * y + phase).sin())
                .sum();
            self.colour.map(|c| (c + shading + texture).clamp(0.0, 1.0))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_function_of_its_key() -> Result<()> {
        let image = dead_leaves(32, 24, Key::new(5))?;
        assert_eq!(image.len(), 32 * 24 * 3);
        assert_eq!(image, dead_leaves(32, 24, Key::new(5))?);
        assert_ne!(image, dead_leaves(32, 24, Key::new(6))?);
        assert!(dead_leaves(0, 3, Key::new(1))?.is_empty());
        assert_eq!(dead_leaves(1, 1, Key::new(1))?.len(), 3);
        Ok(())
    }

    #[test]
    fn neighbours_are_alike_and_channels_correlate() {
        let images: Vec<u8> = (0..40)
            .flat_map(|i| dead_leaves(32, 32, Key::new(i)).unwrap())
            .collect();
        let value = |i: usize| f64::from(images[i]);
        let correlation = |pairs: Vec<(f64, f64)>| {
            let n = pairs.len() as f64;
            let mean = |f: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(f).sum::<f64>() / n;
            let (a, b) = (mean(&|p| p.0), mean(&|p| p.1));
            let cov = mean(&|p| (p.0 - a) * (p.1 - b));
            cov / (mean(&|p| (p.0 - a).powi(2)) * mean(&|p| (p.1 - b).powi(2))).sqrt()
        };
        let next = (0..images.len() - 3).map(|i| (value(i), value(i + 3))).collect();
        let channels = (0..images.len() / 3)
            .map(|i| (value(3 * i), value(3 * i + 2)))
            .collect();
        let (next, channels) = (correlation(next), correlation(channels));
        assert!((0.7..0.98).contains(&next), "neighbours {next}");
        assert!((0.4..0.97).contains(&channels), "channels {channels}");
    }
}
