//! Local attention: a cell weighs its nine neighbours by how well their keys match its query.
//!
//! Both passes are made of two sums. [`correlate`] is the dot product of a cell's channels with each
//! neighbour's: one number for each neighbour. [`mix`] is the sum of the neighbours' channels, each neighbour
//! weighted by one number. Both work on blocks of up to three rows, which read five rows in all, so that a
//! neighbour is read once for three cells. *Shares* are the softmax of the scores.

use pulp::Simd;

use super::halo::{Neighbours, put};
use super::{View, ViewMut, arch, exp};

/// Sizes of an attention.
#[derive(Clone, Copy)]
pub(in crate::engine::cpu) struct Shape {
    pub heads: usize,
    /// Channels of a head.
    pub depth: usize,
    /// Lanes of a row.
    pub width: usize,
}

/// A number for each head, neighbour and cell.
pub(in crate::engine::cpu) enum Weights<'a> {
    /// The weights that each cell has for its neighbours: nine channels a head.
    Own(View<'a>),
    /// The weights that the neighbours have for the cell, read from their nine channels a head, padded.
    Others(Neighbours<'a>),
}

/// Sets channel `9 head + n` of `y` to `scale` times the dot product, over the head's channels, of `a` with
/// `b` of neighbour n.
pub(in crate::engine::cpu) fn correlate(a: View<'_>, b: &Neighbours<'_>, y: ViewMut<'_>, of: Shape) {
    let scale = 1.0 / (of.depth as f32).sqrt();
    correlate_rows(a, b, y, of, scale);
}

/// Sets `y` to the sum over neighbours of `weights` times their `x`, or adds it.
pub(in crate::engine::cpu) fn mix(
    weights: &Weights<'_>,
    x: &Neighbours<'_>,
    (y, add): (ViewMut<'_>, bool),
    of: Shape,
) {
    mix_rows(weights, x, y, add, of);
}

/// Most rows of a block: what registers allow.
const ROWS: usize = 3;

/// How many rows from `row` on can form a block: each has to read the next as its neighbour.
#[inline(always)]
fn together<S: Simd>(rows: &[[usize; 3]], row: usize) -> usize {
    let most = if S::REGISTER_COUNT >= 32 { ROWS } else { 1 };
    let follows = |pair: &&[[usize; 3]]| pair[0][1..] == pair[1][..2];
    1 + rows[row..].windows(2).take(most - 1).take_while(follows).count()
}

/// Where the `R + 2` rows begin that `R` rows from `row` on read.
#[inline(always)]
fn starts<const R: usize>(rows: &[[usize; 3]], row: usize) -> [usize; ROWS + 2] {
    let mut starts = [0; ROWS + 2];
    starts[0] = rows[row][0];
    for r in 0..R {
        starts[r + 1] = rows[row + r][1];
    }
    starts[R + 1] = rows[row + R - 1][2];
    starts
}

/// A vector of a row of lanes: its head, its first row, its first lane in the rows and how many lanes are
/// wanted.
#[derive(Clone, Copy)]
struct Place {
    head: usize,
    row: usize,
    at: usize,
    n: usize,
}

/// Calls a function for `R` rows at once on every vector of every head.
macro_rules! each_block {
    ($simd:ident: $S:ident, $rows:expr, $of:expr, $function:ident($($argument:expr),*)) => {
        for head in 0..$of.heads {
            let mut row = 0;
            while row < $rows.len() {
                let count = together::<$S>($rows, row);
                for at in (0..$of.width).step_by($S::F32_LANES) {
                    let n = $S::F32_LANES.min($of.width - at);
                    let place = Place { head, row, at, n };
                    match count {
                        1 => $function::<$S, 1>($simd, place, $of, $($argument),*),
                        2 => $function::<$S, 2>($simd, place, $of, $($argument),*),
                        _ => $function::<$S, ROWS>($simd, place, $of, $($argument),*),
                    }
                }
                row += count;
            }
        }
    };
}

#[pulp::with_simd(correlate_rows = arch())]
#[inline(always)]
fn correlate_simd<'a, S: Simd>(
    simd: S,
    a: View<'a>,
    b: &'a Neighbours<'a>,
    y: ViewMut<'a>,
    of: Shape,
    scale: f32,
) {
    let mut y = y;
    b.check(of.heads * of.depth, of.width);
    each_block!(simd: S, &b.rows, of, correlate_block(a, b, &mut y, scale));
}

#[inline(always)]
fn correlate_block<S: Simd, const R: usize>(
    simd: S,
    Place { head, row, at, n }: Place,
    of: Shape,
    a: View<'_>,
    b: &Neighbours<'_>,
    y: &mut ViewMut<'_>,
    scale: f32,
) {
    let starts = starts::<R>(&b.rows, row);
    let mut sums = [[simd.splat_f32s(0.0); 9]; R];
    for c in head * of.depth..(head + 1) * of.depth {
        let mut own = [simd.splat_f32s(0.0); R];
        for (r, own) in own.iter_mut().enumerate() {
            *own = load(simd, a, c, (row + r) * of.width + at, n);
        }
        for j in 0..R + 2 {
            for i in 0..3 {
                // SAFETY: `correlate_simd` has checked all channels of all heads; `at` is below the width.
                let near = unsafe { b.load::<S>(c * b.plane + at + starts[j] + i * b.images) };
                for r in 0..R {
                    if r <= j && j < r + 3 {
                        let sum = &mut sums[r][3 * (j - r) + i];
                        *sum = simd.mul_add_e_f32s(own[r], near, *sum);
                    }
                }
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (i, sum) in sums.into_iter().enumerate() {
            let to = &mut y.row(9 * head + i, (row + r) * of.width + at + n)[(row + r) * of.width + at..];
            put(simd, to, simd.mul_f32s(sum, simd.splat_f32s(scale)), false);
        }
    }
}

#[pulp::with_simd(mix_rows = arch())]
#[inline(always)]
fn mix_simd<'a, S: Simd>(
    simd: S,
    weights: &'a Weights<'a>,
    x: &'a Neighbours<'a>,
    y: ViewMut<'a>,
    add: bool,
    of: Shape,
) {
    let mut y = y;
    x.check(of.heads * of.depth, of.width);
    if let Weights::Others(weights) = weights {
        weights.check(9 * of.heads, of.width);
    }
    each_block!(simd: S, &x.rows, of, mix_block(weights, x, &mut y, add));
}

#[inline(always)]
fn mix_block<S: Simd, const R: usize>(
    simd: S,
    Place { head, row, at, n }: Place,
    of: Shape,
    weights: &Weights<'_>,
    x: &Neighbours<'_>,
    y: &mut ViewMut<'_>,
    add: bool,
) {
    let mut factors = [[simd.splat_f32s(0.0); 9]; R];
    for (r, factors) in factors.iter_mut().enumerate() {
        for (i, factor) in factors.iter_mut().enumerate() {
            *factor = match weights {
                Weights::Own(weights) => load(simd, *weights, 9 * head + i, (row + r) * of.width + at, n),
                Weights::Others(weights) => {
                    // A neighbour reads the cell at the opposite offset.
                    let channel = (9 * head + 8 - i) * weights.plane;
                    let start = weights.rows[row + r][i / 3] + i % 3 * weights.images;
                    // SAFETY: `mix_simd` has checked nine channels a head; `at` is below the width.
                    unsafe { weights.load::<S>(channel + start + at) }
                }
            };
        }
    }
    let starts = starts::<R>(&x.rows, row);
    for c in head * of.depth..(head + 1) * of.depth {
        let mut sums = [simd.splat_f32s(0.0); R];
        for j in 0..R + 2 {
            for i in 0..3 {
                // SAFETY: `mix_simd` has checked all channels of all heads; `at` is below the width.
                let near = unsafe { x.load::<S>(c * x.plane + at + starts[j] + i * x.images) };
                for r in 0..R {
                    if r <= j && j < r + 3 {
                        sums[r] = simd.mul_add_e_f32s(factors[r][3 * (j - r) + i], near, sums[r]);
                    }
                }
            }
        }
        for (r, sum) in sums.into_iter().enumerate() {
            let lane = (row + r) * of.width + at;
            put(simd, &mut y.data[c * y.stride + lane..][..n], sum, add);
        }
    }
}

/// Up to a vector of the lanes of a channel; missing lanes are 0.
#[inline(always)]
fn load<S: Simd>(simd: S, x: View<'_>, channel: usize, lane: usize, n: usize) -> S::f32s {
    let at = channel * x.stride + lane;
    match n == S::F32_LANES {
        true => S::as_simd_f32s(&x.data[at..at + S::F32_LANES]).0[0],
        false => simd.partial_load_f32s(&x.data[at..at + n]),
    }
}

/// Lanes that the softmax processes at a time.
const BLOCK: usize = 64;

/// Turns nine scores a head into shares.
#[pulp::with_simd(softmax = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn softmax_simd<'a, S: Simd>(
    _: S,
    scores: ViewMut<'a>,
    heads: usize,
    lanes: usize,
) {
    let mut scores = scores;
    for head in 0..heads {
        for at in (0..lanes).step_by(BLOCK) {
            // A full block gets its own instantiation, with a constant length.
            match lanes - at {
                n if n >= BLOCK => softmax_block(scores.reborrow(9 * head), at, BLOCK),
                n => softmax_block(scores.reborrow(9 * head), at, n),
            }
        }
    }
}

#[inline(always)]
fn softmax_block(scores: ViewMut<'_>, at: usize, n: usize) {
    let stride = scores.stride;
    let (mut greatest, mut sum) = ([f32::NEG_INFINITY; BLOCK], [0f32; BLOCK]);
    for i in 0..9 {
        let scores = &scores.data[i * stride + at..][..n];
        for (greatest, &score) in greatest.iter_mut().zip(scores) {
            *greatest = if score > *greatest { score } else { *greatest };
        }
    }
    for i in 0..9 {
        let scores = &mut scores.data[i * stride + at..][..n];
        for ((score, greatest), sum) in scores.iter_mut().zip(&greatest).zip(&mut sum) {
            *score = exp(*score - greatest);
            *sum += *score;
        }
    }
    sum.iter_mut().for_each(|sum| *sum = 1.0 / *sum);
    for i in 0..9 {
        let scores = &mut scores.data[i * stride + at..][..n];
        scores.iter_mut().zip(&sum).for_each(|(score, sum)| *score *= sum);
    }
}

/// Turns the gradients of nine shares a head into those of the scores.
#[pulp::with_simd(softmax_back = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn softmax_back_simd<'a, S: Simd>(
    _: S,
    shares: View<'a>,
    grads: ViewMut<'a>,
    heads: usize,
    lanes: usize,
) {
    let mut grads = grads;
    for head in 0..heads {
        for at in (0..lanes).step_by(BLOCK) {
            let shares = View {
                data: &shares.data[9 * head * shares.stride..],
                ..shares
            };
            match lanes - at {
                n if n >= BLOCK => softmax_back_block(shares, grads.reborrow(9 * head), at, BLOCK),
                n => softmax_back_block(shares, grads.reborrow(9 * head), at, n),
            }
        }
    }
}

#[inline(always)]
fn softmax_back_block(shares: View<'_>, grads: ViewMut<'_>, at: usize, n: usize) {
    let mut mean = [0f32; BLOCK];
    for i in 0..9 {
        let shares = &shares.data[i * shares.stride + at..][..n];
        let grads = &grads.data[i * grads.stride + at..][..n];
        for ((mean, share), grad) in mean.iter_mut().zip(shares).zip(grads) {
            *mean += share * grad;
        }
    }
    for i in 0..9 {
        let shares = &shares.data[i * shares.stride + at..][..n];
        let grads = &mut grads.data[i * grads.stride + at..][..n];
        for ((mean, share), grad) in mean.iter().zip(shares).zip(grads) {
            *grad = share * (*grad - mean);
        }
    }
}
