//! What cells see of their neighbours: stencils and local attention.
//!
//! Operands are first spread out: every row gets the cells beyond either border, so that a neighbour is
//! a fixed distance away and no lane is special.

use pulp::Simd;

use super::LANES;
use super::kernels::{View, ViewMut, arch, exp};
use crate::stencil::Padding;

/// Rows of two spans of a grid: those that are computed, and those that they look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hop {
    /// First row and number of rows that are computed. Rows may lie beyond the grid of a torus.
    pub to: (isize, usize),
    /// First row and number of rows that are there to be looked at.
    pub from: (isize, usize),
    /// Whether either is the whole grid.
    pub whole: bool,
    /// Rows of the grid.
    pub height: usize,
    pub padding: Padding,
}

impl Hop {
    /// The row of `from` that row `row` of `to` sees at distance `dy`, if there is one.
    fn row(&self, row: usize, dy: isize) -> Option<usize> {
        let height = self.height as isize;
        let at = self.to.0 + row as isize;
        let beyond = !(0..height).contains(&(at.rem_euclid(height) + dy));
        if self.padding == Padding::Zero && beyond {
            return None;
        }
        let at = if self.whole {
            (at + dy).rem_euclid(height)
        } else {
            at + dy - self.from.0
        };
        usize::try_from(at).ok().filter(|&at| at < self.from.1)
    }

    /// The hop that gradients take.
    pub fn back(self) -> Self {
        Self {
            to: self.from,
            from: self.to,
            ..self
        }
    }
}

/// Channels with the cells beyond the borders of their rows, and a row of zeros last.
#[derive(Default)]
pub(super) struct Spread {
    data: Vec<f32>,
    plane: usize,
    pitch: usize,
    rows: usize,
    images: usize,
}

impl Spread {
    /// Spreads `channels` of `rows` rows of `width` lanes, `images` of them a column of the grid.
    pub fn fill(
        &mut self,
        x: View<'_>,
        channels: usize,
        (rows, width, images): (usize, usize, usize),
        padding: Padding,
    ) {
        self.pitch = width + 2 * images;
        self.rows = rows;
        self.images = images;
        self.plane = ((rows + 1) * self.pitch).next_multiple_of(LANES) + LANES;
        let needed = channels * self.plane + 2 * LANES;
        if self.data.len() < needed {
            self.data.resize(needed, 0.0);
        }
        spread(
            x,
            &mut self.data,
            (channels, self.plane),
            (rows, width, images),
            padding,
        );
    }

    /// What the rows of `hop` see.
    pub fn around(&self, hop: &Hop) -> Around<'_> {
        Around {
            data: &self.data,
            plane: self.plane,
            images: self.images,
            rows: (0..hop.to.1).map(|row| self.rows(hop, row)).collect(),
        }
    }

    /// Where the three rows begin that row `row` of `hop` sees, in each plane.
    fn rows(&self, hop: &Hop, row: usize) -> [usize; 3] {
        [-1, 0, 1].map(|dy| hop.row(row, dy).unwrap_or(self.rows) * self.pitch)
    }
}

/// Spread channels, and where in each of them the three rows begin that a row sees.
pub(super) struct Around<'a> {
    data: &'a [f32],
    plane: usize,
    images: usize,
    rows: Vec<[usize; 3]>,
}

#[pulp::with_simd(spread = arch())]
#[inline(always)]
fn spread_simd<'a, S: Simd>(
    _: S,
    x: View<'a>,
    to: &'a mut [f32],
    (channels, plane): (usize, usize),
    (rows, width, images): (usize, usize, usize),
    padding: Padding,
) {
    let pitch = width + 2 * images;
    for c in 0..channels {
        let x = x.row(c, rows * width);
        let to = &mut to[c * plane..][..plane];
        for (x, to) in x.chunks_exact(width).zip(to.chunks_exact_mut(pitch)) {
            to[images..images + width].copy_from_slice(x);
            match padding {
                Padding::Zero => {
                    to[..images].fill(0.0);
                    to[images + width..].fill(0.0);
                }
                Padding::Circular => {
                    to[..images].copy_from_slice(&x[width - images..]);
                    to[images + width..].copy_from_slice(&x[..images]);
                }
            }
        }
        to[rows * pitch..].fill(0.0);
    }
}

/// One summand of a stencil: a channel, one of nine neighbours, a factor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tap {
    pub channel: usize,
    pub neighbour: usize,
    pub factor: f32,
}

/// Channel c of `y` becomes, or gets added, the sum of `taps[c]` over neighbours.
#[pulp::with_simd(stencil = arch())]
#[inline(always)]
pub(super) fn stencil_simd<'a, S: Simd>(
    simd: S,
    x: Around<'a>,
    taps: &'a [Vec<Tap>],
    y: ViewMut<'a>,
    width: usize,
    add: bool,
) {
    let mut y = y;
    let mut at: Vec<(usize, f32)> = vec![];
    let lanes = S::F32_LANES;
    for (c, taps) in taps.iter().enumerate() {
        let y = y.row(c, x.rows.len() * width);
        for (starts, y) in x.rows.iter().zip(y.chunks_exact_mut(width)) {
            at.clear();
            at.extend(taps.iter().map(|tap| {
                let row = starts[tap.neighbour / 3] + (tap.neighbour % 3) * x.images;
                (tap.channel * x.plane + row, tap.factor)
            }));
            for (block, y) in y.chunks_mut(2 * lanes).enumerate() {
                let mut sums = [simd.splat_f32s(0.0); 2];
                for &(at, factor) in &at {
                    let (at, factor) = (at + block * 2 * lanes, simd.splat_f32s(factor));
                    sums[0] = simd.mul_add_e_f32s(factor, lanes_at::<S>(x.data, at), sums[0]);
                    sums[1] = simd.mul_add_e_f32s(factor, lanes_at::<S>(x.data, at + lanes), sums[1]);
                }
                for (sum, y) in sums.into_iter().zip(y.chunks_mut(lanes)) {
                    put(simd, y, sum, add);
                }
            }
        }
    }
}

/// A vector of the lanes from `at`.
#[inline(always)]
fn lanes_at<S: Simd>(x: &[f32], at: usize) -> S::f32s {
    S::as_simd_f32s(&x[at..at + S::F32_LANES]).0[0]
}

/// The gradient of a depthwise kernel, `[channels, filters, 9]`, added to `kernel`.
#[pulp::with_simd(kernel_back = arch())]
#[inline(always)]
pub(super) fn kernel_back_simd<'a, S: Simd>(
    _: S,
    x: Around<'a>,
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

/// Local attention. `q` and the result have the rows of `hop.to`, `k` and `v` are spread out; the shares,
/// nine of a head, are left in `shares`.
pub(super) struct Attention<'a> {
    pub q: View<'a>,
    pub k: &'a Spread,
    pub v: &'a Spread,
    pub hop: Hop,
    pub heads: usize,
    pub width: usize,
    pub depth: usize,
}

impl Attention<'_> {
    pub fn forward(&self, y: ViewMut<'_>, shares: ViewMut<'_>) {
        let rows: Vec<[usize; 3]> = (0..self.hop.to.1)
            .map(|row| self.k.rows(&self.hop, row))
            .collect();
        attend(self, &rows, y, shares);
    }
}

/// The vectors at `at` that the nine neighbours of a vector hold.
#[inline(always)]
fn nine<S: Simd>(x: &[f32], at: usize, starts: &[usize; 3], images: usize) -> [S::f32s; 9] {
    let mut near = [lanes_at::<S>(x, at + starts[0]); 9];
    let mut i = 1;
    while i < 9 {
        near[i] = lanes_at::<S>(x, at + starts[i / 3] + i % 3 * images);
        i += 1;
    }
    near
}

/// The sum of nine products.
#[inline(always)]
fn weigh<S: Simd>(simd: S, weights: &[S::f32s; 9], near: &[S::f32s; 9]) -> S::f32s {
    let mut sum = simd.mul_f32s(weights[0], near[0]);
    let mut i = 1;
    while i < 9 {
        sum = simd.mul_add_e_f32s(weights[i], near[i], sum);
        i += 1;
    }
    sum
}

/// Adds a multiple of nine vectors to nine others.
#[inline(always)]
fn gain<S: Simd>(simd: S, sums: &mut [S::f32s; 9], by: S::f32s, near: &[S::f32s; 9]) {
    let mut i = 0;
    while i < 9 {
        sums[i] = simd.mul_add_e_f32s(by, near[i], sums[i]);
        i += 1;
    }
}

/// Up to a vector of the lanes of a channel; what is missing is 0.
#[inline(always)]
fn load<S: Simd>(simd: S, x: View<'_>, channel: usize, lane: usize, n: usize) -> S::f32s {
    let at = channel * x.stride + lane;
    match n == S::F32_LANES {
        true => lanes_at::<S>(x.data, at),
        false => simd.partial_load_f32s(&x.data[at..at + n]),
    }
}

#[inline(always)]
fn store<S: Simd>(simd: S, x: &mut ViewMut<'_>, channel: usize, lane: usize, n: usize, lanes: S::f32s) {
    simd.partial_store_f32s(&mut x.data[channel * x.stride + lane..][..n], lanes);
}

#[pulp::with_simd(attend = arch())]
#[inline(always)]
fn attend_simd<'a, S: Simd>(
    simd: S,
    of: &'a Attention<'a>,
    rows: &'a [[usize; 3]],
    y: ViewMut<'a>,
    shares: ViewMut<'a>,
) {
    let (mut y, mut shares, width) = (y, shares, of.width);
    let (plane, images) = (of.k.plane, of.k.images);
    let scale = simd.splat_f32s(1.0 / (of.depth as f32).sqrt());
    for head in 0..of.heads {
        let channels = head * of.depth..(head + 1) * of.depth;
        for (row, starts) in rows.iter().enumerate() {
            for at in (0..width).step_by(S::F32_LANES) {
                let n = S::F32_LANES.min(width - at);
                let lane = row * width + at;
                let mut scores = [simd.splat_f32s(0.0); 9];
                for c in channels.clone() {
                    let q = load(simd, of.q, c, lane, n);
                    gain(
                        simd,
                        &mut scores,
                        q,
                        &nine::<S>(&of.k.data, c * plane + at, starts, images),
                    );
                }
                for (i, &score) in scores.iter().enumerate() {
                    store(
                        simd,
                        &mut shares,
                        head * 9 + i,
                        lane,
                        n,
                        simd.mul_f32s(score, scale),
                    );
                }
            }
        }
        softmax(&mut shares, head, rows.len() * width);
        for (row, starts) in rows.iter().enumerate() {
            for at in (0..width).step_by(S::F32_LANES) {
                let n = S::F32_LANES.min(width - at);
                let lane = row * width + at;
                let mut weights = [simd.splat_f32s(0.0); 9];
                let all = View {
                    data: shares.data,
                    stride: shares.stride,
                };
                for (i, weight) in weights.iter_mut().enumerate() {
                    *weight = load(simd, all, head * 9 + i, lane, n);
                }
                for c in channels.clone() {
                    let near = nine::<S>(&of.v.data, c * plane + at, starts, images);
                    store(simd, &mut y, c, lane, n, weigh(simd, &weights, &near));
                }
            }
        }
    }
}

/// Turns the nine scores of a head on all lanes into shares.
#[inline(always)]
fn softmax(scores: &mut ViewMut<'_>, head: usize, lanes: usize) {
    let (stride, first) = (scores.stride, head * 9 * scores.stride);
    for block in (0..lanes).step_by(BLOCK) {
        let n = BLOCK.min(lanes - block);
        let (mut greatest, mut sum) = ([f32::NEG_INFINITY; BLOCK], [0f32; BLOCK]);
        for i in 0..9 {
            let scores = &scores.data[first + i * stride + block..][..n];
            for (greatest, &score) in greatest.iter_mut().zip(scores) {
                *greatest = if score > *greatest { score } else { *greatest };
            }
        }
        for i in 0..9 {
            let scores = &mut scores.data[first + i * stride + block..][..n];
            for ((score, greatest), sum) in scores.iter_mut().zip(&greatest).zip(&mut sum) {
                *score = exp(*score - greatest);
                *sum += *score;
            }
        }
        sum.iter_mut().for_each(|sum| *sum = 1.0 / *sum);
        for i in 0..9 {
            let scores = &mut scores.data[first + i * stride + block..][..n];
            scores.iter_mut().zip(&sum).for_each(|(score, sum)| *score *= sum);
        }
    }
}

/// Lanes of a softmax at once.
const BLOCK: usize = 64;

/// What flows back through attention to queries and, still to be gathered by the neighbours, to scores.
pub(super) struct AttentionBack<'a> {
    pub of: Attention<'a>,
    pub dy: View<'a>,
    pub shares: View<'a>,
}

impl AttentionBack<'_> {
    /// Sets `dq` to the gradient of the queries, or adds it, and leaves those of the scores in `scores`.
    pub fn queries(&self, (dq, add): (ViewMut<'_>, bool), scores: ViewMut<'_>) {
        let of = &self.of;
        let rows: Vec<[usize; 3]> = (0..of.hop.to.1).map(|row| of.k.rows(&of.hop, row)).collect();
        queries_back(self, &rows, (dq, add), scores);
    }
}

#[pulp::with_simd(queries_back = arch())]
#[inline(always)]
fn queries_back_simd<'a, S: Simd>(
    simd: S,
    back: &'a AttentionBack<'a>,
    rows: &'a [[usize; 3]],
    (dq, add): (ViewMut<'a>, bool),
    scores: ViewMut<'a>,
) {
    let of = &back.of;
    let (mut scores, width) = (scores, of.width);
    let (plane, images) = (of.k.plane, of.k.images);
    let scale = simd.splat_f32s(1.0 / (of.depth as f32).sqrt());
    for head in 0..of.heads {
        let channels = head * of.depth..(head + 1) * of.depth;
        for (row, starts) in rows.iter().enumerate() {
            for at in (0..width).step_by(S::F32_LANES) {
                let n = S::F32_LANES.min(width - at);
                let lane = row * width + at;
                let mut slopes = [simd.splat_f32s(0.0); 9];
                for c in channels.clone() {
                    let dy = load(simd, back.dy, c, lane, n);
                    gain(
                        simd,
                        &mut slopes,
                        dy,
                        &nine::<S>(&of.v.data, c * plane + at, starts, images),
                    );
                }
                let mut shares = [simd.splat_f32s(0.0); 9];
                for (i, share) in shares.iter_mut().enumerate() {
                    *share = load(simd, back.shares, head * 9 + i, lane, n);
                }
                let mean = weigh(simd, &shares, &slopes);
                for (i, (slope, &share)) in slopes.iter_mut().zip(&shares).enumerate() {
                    let centred = simd.sub_f32s(*slope, mean);
                    *slope = simd.mul_f32s(simd.mul_f32s(scale, share), centred);
                    store(simd, &mut scores, head * 9 + i, lane, n, *slope);
                }
                for c in channels.clone() {
                    let near = nine::<S>(&of.k.data, c * plane + at, starts, images);
                    let to = &mut dq.data[c * dq.stride + lane..][..n];
                    let sum = weigh(simd, &slopes, &near);
                    put(simd, to, sum, add);
                }
            }
        }
    }
}

/// Sets `to` to, or adds to it, what each cell is sent by those that look at it: the sum over neighbours of `weights`,
/// nine a head, times `x`. `hop` is that of the forward pass, turned back.
pub(super) fn send_back(
    x: &Spread,
    weights: &Spread,
    hop: &Hop,
    to: (ViewMut<'_>, bool),
    (heads, depth, width): (usize, usize, usize),
) {
    let rows: Vec<[usize; 3]> = (0..hop.to.1).map(|row| x.rows(hop, row)).collect();
    send_back_rows(
        (&x.data, &weights.data),
        (x.plane, x.images),
        &rows,
        to,
        (heads, depth, width),
    );
}

#[pulp::with_simd(send_back_rows = arch())]
#[inline(always)]
fn send_back_rows_simd<'a, S: Simd>(
    simd: S,
    (x, weights): (&'a [f32], &'a [f32]),
    (plane, images): (usize, usize),
    rows: &'a [[usize; 3]],
    (to, add): (ViewMut<'a>, bool),
    (heads, depth, width): (usize, usize, usize),
) {
    for head in 0..heads {
        for (row, starts) in rows.iter().enumerate() {
            for at in (0..width).step_by(S::F32_LANES) {
                let n = S::F32_LANES.min(width - at);
                let mut near = [simd.splat_f32s(0.0); 9];
                for (i, near) in near.iter_mut().enumerate() {
                    // The cell at distance i sees this one at the opposite distance.
                    let plane = (head * 9 + 8 - i) * plane;
                    *near = lanes_at::<S>(weights, plane + at + starts[i / 3] + i % 3 * images);
                }
                for c in head * depth..(head + 1) * depth {
                    let sum = weigh(simd, &near, &nine::<S>(x, c * plane + at, starts, images));
                    let to = &mut to.data[c * to.stride + row * width + at..][..n];
                    put(simd, to, sum, add);
                }
            }
        }
    }
}

/// Sets up to a vector of lanes, or adds to them.
#[inline(always)]
fn put<S: Simd>(simd: S, to: &mut [f32], lanes: S::f32s, add: bool) {
    let lanes = match add {
        true => simd.add_f32s(simd.partial_load_f32s(to), lanes),
        false => lanes,
    };
    simd.partial_store_f32s(to, lanes);
}
