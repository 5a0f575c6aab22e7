//! Digits like handwriting: a few strokes each, with random bends, slant and pen width.

use rand::Rng;
use rand_distr::StandardNormal;

use crate::random::{Key, Philox};

/// Pixels along a side.
pub(in crate::data) const DIGIT_SIDE: usize = 28;

/// Mean height of a digit in pixels; the rest is margin.
const HEIGHT: f64 = 19.0;

/// Standard deviation of the displacement of each point of a stroke, as a fraction of the digit's height.
const TREMBLE: f64 = 0.035;

/// Line segments between two points of a curve.
const PIECES: usize = 8;

type Point = (f64, f64);

/// The points of each stroke in the unit square: across, down.
fn strokes(digit: u8) -> &'static [&'static [Point]] {
    match digit {
        0 => &[&[
            (0.55, 0.0),
            (0.2, 0.2),
            (0.15, 0.65),
            (0.45, 1.0),
            (0.8, 0.75),
            (0.85, 0.3),
            (0.55, 0.0),
        ]],
        1 => &[&[(0.52, 0.0), (0.5, 0.5), (0.47, 1.0)]],
        2 => &[&[
            (0.18, 0.22),
            (0.48, 0.0),
            (0.8, 0.2),
            (0.6, 0.58),
            (0.14, 0.96),
            (0.5, 0.92),
            (0.9, 0.97),
        ]],
        3 => &[&[
            (0.18, 0.12),
            (0.5, 0.0),
            (0.78, 0.2),
            (0.42, 0.46),
            (0.84, 0.7),
            (0.55, 1.0),
            (0.12, 0.9),
        ]],
        4 => &[
            &[(0.3, 0.0), (0.16, 0.5), (0.5, 0.56), (0.88, 0.5)],
            &[(0.8, 0.04), (0.72, 0.5), (0.68, 1.0)],
        ],
        5 => &[
            &[
                (0.28, 0.04),
                (0.22, 0.42),
                (0.58, 0.4),
                (0.82, 0.7),
                (0.5, 1.0),
                (0.12, 0.9),
            ],
            &[(0.28, 0.04), (0.84, 0.0)],
        ],
        6 => &[&[
            (0.68, 0.0),
            (0.3, 0.35),
            (0.18, 0.78),
            (0.5, 1.0),
            (0.8, 0.76),
            (0.52, 0.54),
            (0.22, 0.72),
        ]],
        7 => &[&[(0.12, 0.08), (0.5, 0.06), (0.86, 0.04), (0.6, 0.5), (0.42, 1.0)]],
        8 => &[&[
            (0.78, 0.16),
            (0.46, 0.0),
            (0.22, 0.22),
            (0.55, 0.5),
            (0.8, 0.78),
            (0.5, 1.0),
            (0.2, 0.78),
            (0.5, 0.48),
            (0.78, 0.16),
        ]],
        _ => &[&[
            (0.8, 0.2),
            (0.5, 0.0),
            (0.2, 0.26),
            (0.46, 0.5),
            (0.78, 0.24),
            (0.74, 0.6),
            (0.62, 1.0),
        ]],
    }
}

/// A random digit: its label and its pixels, `[DIGIT_SIDE, DIGIT_SIDE]` of zeros and ones.
pub(in crate::data) fn digit(key: Key) -> (u8, Vec<u8>) {
    let mut rng = key.rng();
    let label = rng.random_range(0..10u8);
    let height = HEIGHT + normal(&mut rng).clamp(-2.0, 2.0);
    let width = height * (0.8 + 0.08 * normal(&mut rng)).clamp(0.6, 1.0);
    let (slant, turn) = (0.18 * normal(&mut rng), 0.08 * normal(&mut rng));
    let middle = DIGIT_SIDE as f64 / 2.0;
    let centre = (middle + 0.5 * normal(&mut rng), middle + 0.5 * normal(&mut rng));
    let pen: f64 = rng.random_range(0.9..1.7);
    let mut place = |&(x, y): &Point| {
        let x = x - 0.5 + TREMBLE * normal(&mut rng);
        let y = y - 0.5 + TREMBLE * normal(&mut rng);
        let (x, y) = (x * width - slant * y * height, y * height);
        let (sin, cos) = turn.sin_cos();
        (centre.0 + x * cos - y * sin, centre.1 + x * sin + y * cos)
    };
    let curves: Vec<Vec<Point>> = strokes(label)
        .iter()
        .map(|stroke| curve(&stroke.iter().map(&mut place).collect::<Vec<_>>()))
        .collect();
    let mut pixels = vec![0; DIGIT_SIDE * DIGIT_SIDE];
    for ends in curves.iter().flat_map(|curve| curve.windows(2)) {
        let span = |a: f64, b: f64| {
            let cell = |at: f64| (at.max(0.0) as usize).min(DIGIT_SIDE);
            cell(a.min(b) - pen)..cell(a.max(b) + pen + 1.0)
        };
        for row in span(ends[0].1, ends[1].1) {
            for column in span(ends[0].0, ends[1].0) {
                let at = (column as f64 + 0.5, row as f64 + 0.5);
                if distance(at, ends[0], ends[1]) < pen {
                    pixels[row * DIGIT_SIDE + column] = 1;
                }
            }
        }
    }
    (label, pixels)
}

fn normal(rng: &mut Philox) -> f64 {
    rng.sample(StandardNormal)
}

/// A Catmull-Rom spline through `points`, as short lines.
fn curve(points: &[Point]) -> Vec<Point> {
    let mut curve = points.first().copied().into_iter().collect::<Vec<_>>();
    for n in 1..points.len() {
        let at = |n: usize| points[n.min(points.len() - 1)];
        let [a, b, c, d] = [at(n.saturating_sub(2)), at(n - 1), at(n), at(n + 1)];
        for piece in 1..=PIECES {
            let t = piece as f64 / PIECES as f64;
            let blend = |a: f64, b: f64, c: f64, d: f64| {
                let (linear, square) = (c - a, 2.0 * a - 5.0 * b + 4.0 * c - d);
                let cube = 3.0 * (b - c) + d - a;
                b + 0.5 * t * (linear + t * (square + t * cube))
            };
            curve.push((blend(a.0, b.0, c.0, d.0), blend(a.1, b.1, c.1, d.1)));
        }
    }
    curve
}

/// The distance of a point from the segment between two others.
fn distance(at: Point, from: Point, to: Point) -> f64 {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length = dx * dx + dy * dy;
    let along = match length > 0.0 {
        true => (((at.0 - from.0) * dx + (at.1 - from.1) * dy) / length).clamp(0.0, 1.0),
        false => 0.0,
    };
    (at.0 - from.0 - along * dx).hypot(at.1 - from.1 - along * dy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_of_all_kinds_and_leave_a_border() {
        let mut counts = [0; 10];
        for n in 0..500 {
            let (label, pixels) = digit(Key::new(n));
            counts[usize::from(label)] += 1;
            let ink: usize = pixels.iter().map(|&pixel| usize::from(pixel)).sum();
            assert!((20..250).contains(&ink), "{ink} pixels of a {label}");
            let corner = [
                0,
                DIGIT_SIDE - 1,
                DIGIT_SIDE * (DIGIT_SIDE - 1),
                DIGIT_SIDE * DIGIT_SIDE - 1,
            ];
            assert!(corner.iter().all(|&n| pixels[n] == 0));
        }
        assert!(counts.iter().all(|&count| count > 20), "{counts:?}");
        assert_eq!(digit(Key::new(3)), digit(Key::new(3)));
    }
}
