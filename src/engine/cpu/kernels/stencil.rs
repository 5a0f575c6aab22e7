//! Stencils: sums of taps over neighbours.

use pulp::Simd;

use super::halo::{Neighbours, put};
use super::{LANES, View, ViewMut, arch};

/// One summand of a stencil: a channel, one of nine neighbours, a factor.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::cpu) struct Tap {
    pub channel: usize,
    pub neighbour: usize,
    pub factor: f32,
}

/// Sets channel c of `y` to the sum of `taps[c]` over neighbours, or adds it.
#[pulp::with_simd(stencil = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn stencil_simd<'a, S: Simd>(
    simd: S,
    x: Neighbours<'a>,
    taps: &'a [Vec<Tap>],
    y: ViewMut<'a>,
    width: usize,
    add: bool,
) {
    let mut y = y;
    let channels = taps.iter().flatten().map(|tap| tap.channel + 1).max();
    x.check(channels.unwrap_or(0), width);
    for (c, taps) in taps.iter().enumerate() {
        let y = y.row(c, x.rows.len() * width);
        for (starts, y) in x.rows.iter().zip(y.chunks_exact_mut(width)) {
            let mut at = 0;
            while at < width {
                let rest = &mut y[at..];
                at += match rest.len().div_ceil(S::F32_LANES) {
                    1 => stencil_block::<S, 1>(simd, &x, (starts, at), taps, rest, add),
                    2 | 3 => stencil_block::<S, 2>(simd, &x, (starts, at), taps, rest, add),
                    _ => stencil_block::<S, 4>(simd, &x, (starts, at), taps, rest, add),
                };
            }
        }
    }
}

/// Computes the first `N` vectors of `y`, or fewer at its end. Returns the lanes of `N` vectors.
#[inline(always)]
fn stencil_block<S: Simd, const N: usize>(
    simd: S,
    x: &Neighbours<'_>,
    (starts, lane): (&[usize; 3], usize),
    taps: &[Tap],
    y: &mut [f32],
    add: bool,
) -> usize {
    let mut sums = [simd.splat_f32s(0.0); N];
    for tap in taps {
        let start = starts[tap.neighbour / 3] + tap.neighbour % 3 * x.images;
        let (at, factor) = (tap.channel * x.plane + start + lane, simd.splat_f32s(tap.factor));
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `stencil` has checked all channels; `N` vectors from `lane` on end below the width,
            // rounded up to whole vectors.
            let near = unsafe { x.load::<S>(at + i * S::F32_LANES) };
            *sum = simd.mul_add_e_f32s(factor, near, *sum);
        }
    }
    for (sum, y) in sums.into_iter().zip(y.chunks_mut(S::F32_LANES)) {
        put(simd, y, sum, add);
    }
    N * S::F32_LANES
}

/// The gradient of a depthwise kernel, `[channels, filters, 9]`, added to `kernel`.
#[pulp::with_simd(kernel_back = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn kernel_back_simd<'a, S: Simd>(
    _: S,
    x: Neighbours<'a>,
    dy: View<'a>,
    kernel: &'a mut [f32],
    filters: usize,
    width: usize,
) {
    for (channel, kernel) in kernel.chunks_exact_mut(9).enumerate() {
        let plane = &x.data[channel / filters * x.plane..][..x.plane];
        let dy = dy.row(channel, x.rows.len() * width);
        for (n, kernel) in kernel.iter_mut().enumerate() {
            let mut parts = [0f32; LANES];
            for (starts, dy) in x.rows.iter().zip(dy.chunks_exact(width)) {
                let near = &plane[starts[n / 3] + n % 3 * x.images..][..width];
                for (x, dy) in near.chunks(LANES).zip(dy.chunks(LANES)) {
                    for (part, (x, dy)) in parts.iter_mut().zip(x.iter().zip(dy)) {
                        *part += x * dy;
                    }
                }
            }
            *kernel += parts.iter().sum::<f32>();
        }
    }
}
