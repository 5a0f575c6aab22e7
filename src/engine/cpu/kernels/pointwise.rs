//! Sums, products and copies, channel by channel, and sums over lanes or channels.

use pulp::Simd;

use super::{Size, View, ViewMut, arch};
use crate::ops::simd::{relu_gradient, zip};

/// `y = a + b`.
#[pulp::with_simd(sum = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn sum_simd<'a, S: Simd>(
    _: S,
    a: View<'a>,
    b: View<'a>,
    y: ViewMut<'a>,
    size: Size,
) {
    let mut y = y;
    for c in 0..size.0 {
        let rows = a.row(c, size.1).iter().zip(b.row(c, size.1));
        for (y, (a, b)) in y.row(c, size.1).iter_mut().zip(rows) {
            *y = a + b;
        }
    }
}

/// `y = x` or `y += x`.
pub(in crate::engine::cpu) fn pass(x: View<'_>, y: ViewMut<'_>, size: Size, add: bool) {
    match add {
        true => add_to(x, y, size),
        false => copy(x, y, size),
    }
}

/// `y += x`.
#[pulp::with_simd(add_to = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn add_to_simd<'a, S: Simd>(_: S, x: View<'a>, y: ViewMut<'a>, size: Size) {
    let mut y = y;
    zip!(size, x, y, |a, b| *b += a);
}

/// `y = x`.
#[pulp::with_simd(copy = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn copy_simd<'a, S: Simd>(_: S, x: View<'a>, y: ViewMut<'a>, size: Size) {
    let mut y = y;
    for c in 0..size.0 {
        y.row(c, size.1).copy_from_slice(x.row(c, size.1));
    }
}

/// `y = a b` or `y += a b`; a view `b` of stride 0 multiplies every channel.
#[pulp::with_simd(product = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn product_simd<'a, S: Simd>(
    _: S,
    a: View<'a>,
    b: View<'a>,
    y: ViewMut<'a>,
    size: Size,
    add: bool,
) {
    let mut y = y;
    for c in 0..size.0 {
        let rows = a.row(c, size.1).iter().zip(b.row(c, size.1));
        let rows = y.row(c, size.1).iter_mut().zip(rows);
        match add {
            true => rows.for_each(|(y, (a, b))| *y += a * b),
            false => rows.for_each(|(y, (a, b))| *y = a * b),
        }
    }
}

/// Per channel `y = x scale + shift`, or `y += x scale`.
#[pulp::with_simd(affine = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn affine_simd<'a, S: Simd>(
    _: S,
    x: View<'a>,
    scale: Option<&'a [f32]>,
    shift: Option<&'a [f32]>,
    y: ViewMut<'a>,
    size: Size,
    add: bool,
) {
    let mut y = y;
    for c in 0..size.0 {
        let scale = scale.map_or(1.0, |scale| scale[c]);
        let shift = shift.map_or(0.0, |shift| shift[c]);
        let rows = y.row(c, size.1).iter_mut().zip(x.row(c, size.1));
        match add {
            true => rows.for_each(|(y, x)| *y += x * scale),
            false => rows.for_each(|(y, x)| *y = x * scale + shift),
        }
    }
}

/// The gradient of a ReLU: sets `dy` to 0 where its result `y` is 0, and to NaN where that is NaN.
#[pulp::with_simd(cut_off = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn cut_off_simd<'a, S: Simd>(_: S, y: View<'a>, dy: ViewMut<'a>, size: Size) {
    let mut dy = dy;
    zip!(size, y, dy, |a, b| *b = relu_gradient(a, *b));
}

/// Partial sums of a dot product, so that it is vectorised.
const PARTS: usize = 16;

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut parts = [0f32; PARTS];
    let (blocks_a, blocks_b) = (a.chunks_exact(PARTS), b.chunks_exact(PARTS));
    let rest: f32 = blocks_a
        .remainder()
        .iter()
        .zip(blocks_b.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in blocks_a.zip(blocks_b) {
        for l in 0..PARTS {
            parts[l] += a[l] * b[l];
        }
    }
    parts.iter().sum::<f32>() + rest
}

#[inline(always)]
pub(super) fn total(a: &[f32]) -> f32 {
    let mut parts = [0f32; PARTS];
    let blocks = a.chunks_exact(PARTS);
    let rest: f32 = blocks.remainder().iter().sum();
    for a in blocks {
        for l in 0..PARTS {
            parts[l] += a[l];
        }
    }
    parts.iter().sum::<f32>() + rest
}

/// `to[c] +=` the sum over lanes of `x`.
#[pulp::with_simd(sum_lanes = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn sum_lanes_simd<'a, S: Simd>(_: S, x: View<'a>, to: &'a mut [f32], size: Size) {
    for (c, to) in to.iter_mut().enumerate().take(size.0) {
        *to += total(x.row(c, size.1));
    }
}

/// `to[c] +=` the sum over lanes of `x y`.
#[pulp::with_simd(dot_lanes = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn dot_lanes_simd<'a, S: Simd>(
    _: S,
    x: View<'a>,
    y: View<'a>,
    to: &'a mut [f32],
    size: Size,
) {
    for (c, to) in to.iter_mut().enumerate().take(size.0) {
        *to += dot(x.row(c, size.1), y.row(c, size.1));
    }
}

/// `y +=` the sum over channels of `a b`: one channel.
#[pulp::with_simd(dot_channels = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn dot_channels_simd<'a, S: Simd>(
    _: S,
    a: View<'a>,
    b: View<'a>,
    y: &'a mut [f32],
    size: Size,
) {
    for c in 0..size.0 {
        let rows = a.row(c, size.1).iter().zip(b.row(c, size.1));
        for (y, (a, b)) in y[..size.1].iter_mut().zip(rows) {
            *y += a * b;
        }
    }
}
