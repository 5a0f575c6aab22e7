//! Layer norm, RMS norm and inverse RMS over the channels of each lane.

use pulp::Simd;

use super::halo::put;
use super::pointwise::total;
use super::{LANES, Size, View, ViewMut, arch};

/// Lanes normalised at once, so that their sums stay in registers.
const BLOCK: usize = 64;

/// The mean of each lane of a block.
#[inline(always)]
fn means(x: View<'_>, channels: usize, at: usize, n: usize) -> [f32; BLOCK] {
    let mut mean = [0f32; BLOCK];
    for c in 0..channels {
        let x = &x.data[c * x.stride + at..][..n];
        mean[..n].iter_mut().zip(x).for_each(|(m, x)| *m += x);
    }
    mean.iter_mut().for_each(|m| *m /= channels as f32);
    mean
}

/// Mean and 1 / deviation of each lane of a block.
#[inline(always)]
fn moments(x: View<'_>, channels: usize, at: usize, n: usize, eps: f32) -> ([f32; BLOCK], [f32; BLOCK]) {
    let (mean, mut scale) = (means(x, channels, at, n), [0f32; BLOCK]);
    for c in 0..channels {
        let x = &x.data[c * x.stride + at..][..n];
        for ((s, x), m) in scale[..n].iter_mut().zip(x).zip(&mean) {
            let centred = x - m;
            *s += centred * centred;
        }
    }
    scale
        .iter_mut()
        .for_each(|s| *s = 1.0 / (*s / channels as f32 + eps).sqrt());
    (mean, scale)
}

/// A layer norm and its input.
#[derive(Clone, Copy)]
pub(in crate::engine::cpu) struct Norm<'a> {
    pub x: View<'a>,
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub eps: f32,
}

#[inline(always)]
fn norm_block(of: Norm<'_>, y: &mut ViewMut<'_>, at: usize, n: usize) {
    let (mean, scale) = moments(of.x, of.weight.len(), at, n, of.eps);
    for (c, (weight, bias)) in of.weight.iter().zip(of.bias).enumerate() {
        let x = &of.x.data[c * of.x.stride + at..][..n];
        let y = &mut y.data[c * y.stride + at..][..n];
        for l in 0..n {
            y[l] = (x[l] - mean[l]) * scale[l] * weight + bias;
        }
    }
}

/// Layer norm over the channels of each lane.
#[pulp::with_simd(norm = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn norm_simd<'a, S: Simd>(_: S, of: Norm<'a>, y: ViewMut<'a>, lanes: usize) {
    let mut y = y;
    for at in (0..lanes).step_by(BLOCK) {
        // A full block gets its own instantiation, with a constant length.
        match lanes - at {
            n if n >= BLOCK => norm_block(of, &mut y, at, BLOCK),
            n => norm_block(of, &mut y, at, n),
        }
    }
}

/// Vectors of lanes that the backward pass processes at a time: few enough that their sums over channels stay
/// in registers. Sums over lanes are kept as vectors until the end.
const VECTORS: usize = 2;

const ONES: [f32; VECTORS * LANES] = [1.0; VECTORS * LANES];

type Strip<S> = [<S as Simd>::f32s; VECTORS];

/// The first lanes of `x`; missing lanes are 0.
#[inline(always)]
fn strip<S: Simd>(simd: S, x: &[f32]) -> Strip<S> {
    let mut strip = [simd.splat_f32s(0.0); VECTORS];
    match x.len() == VECTORS * S::F32_LANES {
        true => strip.copy_from_slice(S::as_simd_f32s(x).0),
        false => {
            let parts = x.chunks(S::F32_LANES);
            strip
                .iter_mut()
                .zip(parts)
                .for_each(|(to, x)| *to = simd.partial_load_f32s(x));
        }
    }
    strip
}

/// Sets `dx` to the gradient of [`norm`], or adds it; the gradients of its weights are added to `dw`.
#[pulp::with_simd(norm_back = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn norm_back_simd<'a, S: Simd>(
    simd: S,
    of: Norm<'a>,
    dy: View<'a>,
    dx: ViewMut<'a>,
    dw: (&'a mut [f32], &'a mut [f32]),
    (lanes, add): (usize, bool),
) {
    let mut dx = dx;
    let width = VECTORS * S::F32_LANES;
    let mut sums = vec![[simd.splat_f32s(0.0); 2]; of.weight.len()];
    for at in (0..lanes).step_by(width) {
        // A full strip gets its own instantiation, with a constant length.
        match lanes - at {
            n if n >= width => norm_back_strip(simd, of, dy, &mut dx, &mut sums, (at, width), add),
            n => norm_back_strip(simd, of, dy, &mut dx, &mut sums, (at, n), add),
        }
    }
    for ([weight, bias], (dw, db)) in sums.into_iter().zip(dw.0.iter_mut().zip(dw.1)) {
        *dw += simd.reduce_sum_f32s(weight);
        *db += simd.reduce_sum_f32s(bias);
    }
}

#[inline(always)]
fn norm_back_strip<S: Simd>(
    simd: S,
    of: Norm<'_>,
    dy: View<'_>,
    dx: &mut ViewMut<'_>,
    sums: &mut [[S::f32s; 2]],
    (at, n): (usize, usize),
    add: bool,
) {
    let channels = of.weight.len();
    let zero = [simd.splat_f32s(0.0); VECTORS];
    let share = simd.splat_f32s(1.0 / channels as f32);
    let of_x = |c: usize| strip(simd, &of.x.data[c * of.x.stride + at..][..n]);
    let of_dy = |c: usize| strip(simd, &dy.data[c * dy.stride + at..][..n]);
    let (mut mean, mut scale) = (zero, zero);
    if n < VECTORS * S::F32_LANES {
        // On missing lanes the square root must not be 0.
        let is_there = strip(simd, &ONES[..n]);
        (0..VECTORS).for_each(|v| scale[v] = simd.sub_f32s(simd.splat_f32s(1.0), is_there[v]));
    }
    for c in 0..channels {
        let x = of_x(c);
        (0..VECTORS).for_each(|v| mean[v] = simd.add_f32s(mean[v], x[v]));
    }
    mean.iter_mut()
        .for_each(|mean| *mean = simd.mul_f32s(*mean, share));
    for c in 0..channels {
        let x = of_x(c);
        for v in 0..VECTORS {
            let centred = simd.sub_f32s(x[v], mean[v]);
            scale[v] = simd.mul_add_e_f32s(centred, centred, scale[v]);
        }
    }
    let eps = simd.splat_f32s(of.eps);
    for scale in &mut scale {
        let root = simd.sqrt_f32s(simd.mul_add_e_f32s(*scale, share, eps));
        *scale = simd.div_f32s(simd.splat_f32s(1.0), root);
    }
    let (mut sum, mut along) = (zero, zero);
    for (c, (&weight, sums)) in of.weight.iter().zip(sums).enumerate() {
        let (x, dy, weight) = (of_x(c), of_dy(c), simd.splat_f32s(weight));
        for v in 0..VECTORS {
            let normal = simd.mul_f32s(simd.sub_f32s(x[v], mean[v]), scale[v]);
            let product = simd.mul_f32s(dy[v], normal);
            sum[v] = simd.mul_add_e_f32s(dy[v], weight, sum[v]);
            along[v] = simd.mul_add_e_f32s(product, weight, along[v]);
            *sums = [simd.add_f32s(sums[0], product), simd.add_f32s(sums[1], dy[v])];
        }
    }
    for v in 0..VECTORS {
        sum[v] = simd.mul_f32s(sum[v], share);
        along[v] = simd.mul_f32s(along[v], share);
    }
    for (c, &weight) in of.weight.iter().enumerate() {
        let (x, dy, weight) = (of_x(c), of_dy(c), simd.splat_f32s(weight));
        let to = dx.data[c * dx.stride + at..][..n].chunks_mut(S::F32_LANES);
        for (v, to) in to.enumerate() {
            let normal = simd.mul_f32s(simd.sub_f32s(x[v], mean[v]), scale[v]);
            let common = simd.mul_add_e_f32s(normal, along[v], sum[v]);
            let slope = simd.sub_f32s(simd.mul_f32s(dy[v], weight), common);
            put(simd, to, simd.mul_f32s(scale[v], slope), add);
        }
    }
}

/// An RMS norm and its input.
#[derive(Clone, Copy)]
pub(in crate::engine::cpu) struct RmsNorm<'a> {
    pub x: View<'a>,
    pub scale: &'a [f32],
    pub eps: f32,
}

/// 1 / root mean square of each lane of a block.
#[inline(always)]
fn inverses(of: RmsNorm<'_>, at: usize, n: usize) -> [f32; BLOCK] {
    let (channels, mut inverse) = (of.scale.len(), [0f32; BLOCK]);
    for c in 0..channels {
        let x = &of.x.data[c * of.x.stride + at..][..n];
        inverse[..n].iter_mut().zip(x).for_each(|(s, x)| *s += x * x);
    }
    inverse
        .iter_mut()
        .for_each(|s| *s = 1.0 / (*s / channels as f32 + of.eps).sqrt());
    inverse
}

#[inline(always)]
fn rms_norm_block(of: RmsNorm<'_>, y: &mut ViewMut<'_>, at: usize, n: usize) {
    let inverse = inverses(of, at, n);
    for (c, scale) in of.scale.iter().enumerate() {
        let x = &of.x.data[c * of.x.stride + at..][..n];
        let y = &mut y.data[c * y.stride + at..][..n];
        for l in 0..n {
            y[l] = x[l] * inverse[l] * scale;
        }
    }
}

/// RMS norm over the channels of each lane.
#[pulp::with_simd(rms_norm = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn rms_norm_simd<'a, S: Simd>(
    _: S,
    of: RmsNorm<'a>,
    y: ViewMut<'a>,
    lanes: usize,
) {
    let mut y = y;
    for at in (0..lanes).step_by(BLOCK) {
        match lanes - at {
            n if n >= BLOCK => rms_norm_block(of, &mut y, at, BLOCK),
            n => rms_norm_block(of, &mut y, at, n),
        }
    }
}

#[inline(always)]
fn rms_norm_back_block(
    of: RmsNorm<'_>,
    dy: View<'_>,
    dx: &mut ViewMut<'_>,
    dscale: &mut [f32],
    (at, n, add): (usize, usize, bool),
) {
    let (inverse, mut along) = (inverses(of, at, n), [0f32; BLOCK]);
    for (c, &scale) in of.scale.iter().enumerate() {
        let x = &of.x.data[c * of.x.stride + at..][..n];
        let dy = &dy.data[c * dy.stride + at..][..n];
        let mut products = [0f32; BLOCK];
        for l in 0..n {
            products[l] = dy[l] * (x[l] * inverse[l]);
            along[l] += products[l] * scale;
        }
        // Beyond the last lane the products are 0.
        dscale[c] += total(&products);
    }
    let share = 1.0 / of.scale.len() as f32;
    for (c, &scale) in of.scale.iter().enumerate() {
        let x = &of.x.data[c * of.x.stride + at..][..n];
        let dy = &dy.data[c * dy.stride + at..][..n];
        let dx = &mut dx.data[c * dx.stride + at..][..n];
        for l in 0..n {
            let normal = x[l] * inverse[l];
            let slope = inverse[l] * (dy[l] * scale - share * normal * along[l]);
            dx[l] = if add { dx[l] + slope } else { slope };
        }
    }
}

/// `dx =` the gradient of [`rms_norm`], or that added to `dx`; that of its scale is added to `dscale`.
#[pulp::with_simd(rms_norm_back = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn rms_norm_back_simd<'a, S: Simd>(
    _: S,
    of: RmsNorm<'a>,
    dy: View<'a>,
    dx: ViewMut<'a>,
    dscale: &'a mut [f32],
    (lanes, add): (usize, bool),
) {
    let mut dx = dx;
    for at in (0..lanes).step_by(BLOCK) {
        match lanes - at {
            n if n >= BLOCK => rms_norm_back_block(of, dy, &mut dx, dscale, (at, BLOCK, add)),
            n => rms_norm_back_block(of, dy, &mut dx, dscale, (at, n, add)),
        }
    }
}

/// `y = 1 / sqrt(mean of squares + eps)` over the channels of each lane, with or without their mean
/// subtracted: one channel.
#[pulp::with_simd(inverse_rms = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn inverse_rms_simd<'a, S: Simd>(
    _: S,
    x: View<'a>,
    eps: f32,
    centred: bool,
    y: &'a mut [f32],
    size: Size,
) {
    let y = &mut y[..size.1];
    if centred {
        for at in (0..size.1).step_by(BLOCK) {
            let n = BLOCK.min(size.1 - at);
            let (_, scale) = match n {
                BLOCK => moments(x, size.0, at, BLOCK, eps),
                n => moments(x, size.0, at, n, eps),
            };
            y[at..at + n].copy_from_slice(&scale[..n]);
        }
        return;
    }
    y.fill(0.0);
    for c in 0..size.0 {
        y.iter_mut().zip(x.row(c, size.1)).for_each(|(y, x)| *y += x * x);
    }
    let share = 1.0 / size.0 as f32;
    y.iter_mut().for_each(|y| *y = 1.0 / (*y * share + eps).sqrt());
}

/// Sets `dx` to the gradient of [`inverse_rms`], whose result is `y`, or adds it.
#[pulp::with_simd(inverse_rms_back = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn inverse_rms_back_simd<'a, S: Simd>(
    _: S,
    x: View<'a>,
    centred: bool,
    (y, dy): (&'a [f32], &'a [f32]),
    dx: ViewMut<'a>,
    size: Size,
    add: bool,
) {
    let mut dx = dx;
    let share = -1.0 / size.0 as f32;
    for at in (0..size.1).step_by(BLOCK) {
        let n = BLOCK.min(size.1 - at);
        let mean = match centred {
            true => means(x, size.0, at, n),
            false => [0.0; BLOCK],
        };
        let mut slope = [0f32; BLOCK];
        for ((slope, y), dy) in slope.iter_mut().zip(&y[at..at + n]).zip(&dy[at..at + n]) {
            *slope = share * dy * (y * y * y);
        }
        for c in 0..size.0 {
            let x = &x.row(c, at + n)[at..];
            let rows = dx.row(c, at + n)[at..].iter_mut().zip(x).zip(&mean).zip(&slope);
            match add {
                true => rows.for_each(|(((dx, x), mean), slope)| *dx += (x - mean) * slope),
                false => rows.for_each(|(((dx, x), mean), slope)| *dx = (x - mean) * slope),
            }
        }
    }
}
