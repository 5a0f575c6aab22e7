//! What cells see of their neighbours: stencils and local attention.
//!
//! Operands are first spread out: every row gets the cells beyond either border, so that a neighbour is
//! a fixed distance away and no lane is special.

use pulp::Simd;

use super::LANES;
use super::kernels::{View, ViewMut, arch};
use crate::stencil::Padding;

/// Rows of two spans of a grid: those that are computed, and those that they look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hop {
    /// First row and number of rows that are computed. Rows may lie beyond the grid of a torus.
    pub to: (isize, usize),
    /// First row and number of rows that are there to be looked at.
    pub from: (isize, usize),
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
        let whole = self.from == (0, self.height);
        let at = if whole {
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

    /// Where the three rows begin that row `row` of `hop` sees, in each plane.
    fn rows(&self, hop: &Hop, row: usize) -> [usize; 3] {
        [-1, 0, 1].map(|dy| hop.row(row, dy).unwrap_or(self.rows) * self.pitch)
    }
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

/// Lanes computed at once.
const BLOCK: usize = 32;

/// Channel c of `y` becomes, or gets added, the sum of `taps[c]` over neighbours.
pub(super) fn stencil(x: &Spread, hop: &Hop, taps: &[Vec<Tap>], y: ViewMut<'_>, width: usize, add: bool) {
    let rows: Vec<[usize; 3]> = (0..hop.to.1).map(|row| x.rows(hop, row)).collect();
    stencil_rows(&x.data, (x.plane, x.images), &rows, taps, y, width, add);
}

#[pulp::with_simd(stencil_rows = arch())]
#[inline(always)]
fn stencil_rows_simd<'a, S: Simd>(
    _: S,
    x: &'a [f32],
    (plane, images): (usize, usize),
    rows: &'a [[usize; 3]],
    taps: &'a [Vec<Tap>],
    y: ViewMut<'a>,
    width: usize,
    add: bool,
) {
    let mut y = y;
    for (c, taps) in taps.iter().enumerate() {
        let y = y.row(c, rows.len() * width);
        for (starts, y) in rows.iter().zip(y.chunks_exact_mut(width)) {
            for (block, y) in y.chunks_mut(BLOCK).enumerate() {
                let mut sums = [0f32; BLOCK];
                for tap in taps {
                    let row = starts[tap.neighbour / 3] + (tap.neighbour % 3) * images;
                    let x = &x[tap.channel * plane + row + block * BLOCK..][..BLOCK];
                    for l in 0..BLOCK {
                        sums[l] += tap.factor * x[l];
                    }
                }
                match add {
                    true => y.iter_mut().zip(&sums).for_each(|(y, s)| *y += s),
                    false => y.copy_from_slice(&sums[..y.len()]),
                }
            }
        }
    }
}

/// The gradient of a depthwise kernel, `[channels, filters, 9]`, added to `kernel`.
pub(super) fn kernel_back(
    x: &Spread,
    hop: &Hop,
    dy: View<'_>,
    kernel: &mut [f32],
    filters: usize,
    width: usize,
) {
    let rows: Vec<[usize; 3]> = (0..hop.to.1).map(|row| x.rows(hop, row)).collect();
    kernel_back_rows(&x.data, (x.plane, x.images), &rows, dy, kernel, filters, width);
}

#[pulp::with_simd(kernel_back_rows = arch())]
#[inline(always)]
fn kernel_back_rows_simd<'a, S: Simd>(
    _: S,
    x: &'a [f32],
    (plane, images): (usize, usize),
    rows: &'a [[usize; 3]],
    dy: View<'a>,
    kernel: &'a mut [f32],
    filters: usize,
    width: usize,
) {
    for (channel, kernel) in kernel.chunks_exact_mut(9).enumerate() {
        let x = &x[channel / filters * plane..][..plane];
        let dy = dy.row(channel, rows.len() * width);
        for (n, kernel) in kernel.iter_mut().enumerate() {
            let mut parts = [0f32; LANES];
            for (starts, dy) in rows.iter().zip(dy.chunks_exact(width)) {
                let x = &x[starts[n / 3] + n % 3 * images..][..width];
                for (x, dy) in x.chunks(LANES).zip(dy.chunks(LANES)) {
                    for (part, (x, dy)) in parts.iter_mut().zip(x.iter().zip(dy)) {
                        *part += x * dy;
                    }
                }
            }
            *kernel += parts.iter().sum::<f32>();
        }
    }
}

/// Lanes of attention at once: nine scores of so many lanes stay in registers.
const CHUNK: usize = 16;

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

/// Copies up to a chunk of lanes; what is missing is 0.
#[inline(always)]
fn load(x: &[f32], n: usize) -> [f32; CHUNK] {
    let mut lanes = [0f32; CHUNK];
    if n == CHUNK {
        lanes.copy_from_slice(&x[..CHUNK]);
    } else {
        lanes[..n].copy_from_slice(&x[..n]);
    }
    lanes
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
    let scale = 1.0 / (of.depth as f32).sqrt();
    for head in 0..of.heads {
        let channels = head * of.depth..(head + 1) * of.depth;
        for (row, starts) in rows.iter().enumerate() {
            for at in (0..width).step_by(CHUNK) {
                let n = CHUNK.min(width - at);
                let lane = row * width + at;
                let mut scores = [[0f32; CHUNK]; 9];
                for c in channels.clone() {
                    let q = load(&of.q.data[c * of.q.stride + lane..], n);
                    nine(&of.k.data[c * plane + at..], starts, images, |i, k| {
                        for l in 0..CHUNK {
                            scores[i][l] += q[l] * k[l];
                        }
                    });
                }
                softmax(simd, &mut scores, scale);
                for (i, share) in scores.iter().enumerate() {
                    shares.data[(head * 9 + i) * shares.stride + lane..][..n].copy_from_slice(&share[..n]);
                }
                for c in channels.clone() {
                    let mut sum = [0f32; CHUNK];
                    nine(&of.v.data[c * plane + at..], starts, images, |i, v| {
                        for l in 0..CHUNK {
                            sum[l] += scores[i][l] * v[l];
                        }
                    });
                    y.data[c * y.stride + lane..][..n].copy_from_slice(&sum[..n]);
                }
            }
        }
    }
}

/// Calls `f` with each neighbour's number and lanes.
#[inline(always)]
fn nine(x: &[f32], starts: &[usize; 3], images: usize, mut f: impl FnMut(usize, &[f32])) {
    let mut i = 0;
    while i < 9 {
        f(i, &x[starts[i / 3] + i % 3 * images..][..CHUNK]);
        i += 1;
    }
}

#[inline(always)]
fn softmax<S: Simd>(_: S, scores: &mut [[f32; CHUNK]; 9], scale: f32) {
    let mut greatest = scores[0];
    for score in &scores[1..] {
        for l in 0..CHUNK {
            greatest[l] = if score[l] > greatest[l] {
                score[l]
            } else {
                greatest[l]
            };
        }
    }
    let mut sum = [0f32; CHUNK];
    for score in scores.iter_mut() {
        for l in 0..CHUNK {
            score[l] = super::kernels::exp((score[l] - greatest[l]) * scale);
            sum[l] += score[l];
        }
    }
    for score in scores.iter_mut() {
        for l in 0..CHUNK {
            score[l] /= sum[l];
        }
    }
}

/// What flows back through attention to queries and, still to be gathered by the neighbours, to scores.
pub(super) struct AttentionBack<'a> {
    pub of: Attention<'a>,
    pub dy: View<'a>,
    pub shares: View<'a>,
}

impl AttentionBack<'_> {
    /// Adds the gradient of the queries to `dq` and leaves those of the scores in `scores`.
    pub fn queries(&self, dq: ViewMut<'_>, scores: ViewMut<'_>) {
        let of = &self.of;
        let rows: Vec<[usize; 3]> = (0..of.hop.to.1).map(|row| of.k.rows(&of.hop, row)).collect();
        queries_back(self, &rows, dq, scores);
    }
}

#[pulp::with_simd(queries_back = arch())]
#[inline(always)]
fn queries_back_simd<'a, S: Simd>(
    _: S,
    back: &'a AttentionBack<'a>,
    rows: &'a [[usize; 3]],
    dq: ViewMut<'a>,
    scores: ViewMut<'a>,
) {
    let of = &back.of;
    let (mut dq, mut scores, width) = (dq, scores, of.width);
    let (plane, images) = (of.k.plane, of.k.images);
    let scale = 1.0 / (of.depth as f32).sqrt();
    for head in 0..of.heads {
        let channels = head * of.depth..(head + 1) * of.depth;
        for (row, starts) in rows.iter().enumerate() {
            for at in (0..width).step_by(CHUNK) {
                let n = CHUNK.min(width - at);
                let lane = row * width + at;
                let mut slopes = [[0f32; CHUNK]; 9];
                for c in channels.clone() {
                    let dy = load(&back.dy.data[c * back.dy.stride + lane..], n);
                    nine(&of.v.data[c * plane + at..], starts, images, |i, v| {
                        for l in 0..CHUNK {
                            slopes[i][l] += dy[l] * v[l];
                        }
                    });
                }
                let mut mean = [0f32; CHUNK];
                let mut shares = [[0f32; CHUNK]; 9];
                for i in 0..9 {
                    let row = (head * 9 + i) * back.shares.stride + lane;
                    shares[i] = load(&back.shares.data[row..], n);
                    for l in 0..CHUNK {
                        mean[l] += shares[i][l] * slopes[i][l];
                    }
                }
                for i in 0..9 {
                    for l in 0..CHUNK {
                        slopes[i][l] = scale * shares[i][l] * (slopes[i][l] - mean[l]);
                    }
                    let row = (head * 9 + i) * scores.stride + lane;
                    scores.data[row..][..n].copy_from_slice(&slopes[i][..n]);
                }
                for c in channels.clone() {
                    let mut sum = [0f32; CHUNK];
                    nine(&of.k.data[c * plane + at..], starts, images, |i, k| {
                        for l in 0..CHUNK {
                            sum[l] += slopes[i][l] * k[l];
                        }
                    });
                    let dq = &mut dq.data[c * dq.stride + lane..][..n];
                    dq.iter_mut().zip(&sum).for_each(|(dq, s)| *dq += s);
                }
            }
        }
    }
}

/// Adds to `to` what each cell is sent by those that look at it: the sum over neighbours of `weights`,
/// nine a head, times `x`. `hop` is that of the forward pass, turned back.
pub(super) fn send_back(
    x: &Spread,
    weights: &Spread,
    hop: &Hop,
    to: ViewMut<'_>,
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
    _: S,
    (x, weights): (&'a [f32], &'a [f32]),
    (plane, images): (usize, usize),
    rows: &'a [[usize; 3]],
    to: ViewMut<'a>,
    (heads, depth, width): (usize, usize, usize),
) {
    let mut to = to;
    for head in 0..heads {
        for (row, starts) in rows.iter().enumerate() {
            for at in (0..width).step_by(CHUNK) {
                let n = CHUNK.min(width - at);
                let mut near = [[0f32; CHUNK]; 9];
                for i in 0..9 {
                    // The cell at distance i sees this one at the opposite distance.
                    let weights = &weights[(head * 9 + 8 - i) * plane + at..];
                    near[i].copy_from_slice(&weights[starts[i / 3] + i % 3 * images..][..CHUNK]);
                }
                for c in head * depth..(head + 1) * depth {
                    let mut sum = [0f32; CHUNK];
                    nine(&x[c * plane + at..], starts, images, |i, x| {
                        for l in 0..CHUNK {
                            sum[l] += near[i][l] * x[l];
                        }
                    });
                    let to = &mut to.data[c * to.stride + row * width + at..][..n];
                    to.iter_mut().zip(&sum).for_each(|(to, s)| *to += s);
                }
            }
        }
    }
}
