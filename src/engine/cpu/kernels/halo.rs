//! What cells see of their neighbours, and stencils.
//!
//! Operands are first spread out: every row gets the cells beyond either border, so that a neighbour is
//! a fixed distance away and no lane is special.

use pulp::Simd;

use std::ops::Range;

use super::compact::Picked;
use super::{LANES, View, ViewMut, arch, compact};
use crate::grid::Padding;

/// Rows of two spans of a grid: those that are computed, and those that they look at.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::cpu) struct Hop {
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

    /// The same, where the whole grid is there to be looked at.
    pub fn on_grid(self) -> Self {
        Self {
            from: (0, self.height),
            whole: true,
            ..self
        }
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
pub(in crate::engine::cpu) struct Spread {
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
        self.shape(channels, (rows, width, images));
        spread(
            x,
            &mut self.data,
            (channels, self.plane),
            (rows, width, images),
            padding,
        );
    }

    /// Zeros for `channels` of a whole grid.
    pub fn zeros(channels: usize, (height, width, images): (usize, usize, usize)) -> Self {
        let mut spread = Self::default();
        spread.shape(channels, (height, width, images));
        spread
    }

    fn shape(&mut self, channels: usize, (rows, width, images): (usize, usize, usize)) {
        self.pitch = width + 2 * images;
        self.rows = rows;
        self.images = images;
        self.plane = ((rows + 1) * self.pitch).next_multiple_of(LANES) + LANES;
        let needed = channels * self.plane + 2 * LANES;
        if self.data.len() < needed {
            self.data.resize(needed, 0.0);
        }
    }

    /// Sets picked lanes of the rows `rows` to the lanes of `x`, which come one after the other.
    pub fn put(
        &mut self,
        x: View<'_>,
        (rows, picks): (&Range<usize>, &[bool]),
        channels: usize,
        padding: Padding,
    ) {
        let (width, images, pitch) = (picks.len() / rows.len(), self.images, self.pitch);
        let mut spread = vec![false; rows.len() * pitch];
        for (spread, picks) in spread.chunks_exact_mut(pitch).zip(picks.chunks_exact(width)) {
            spread[images..images + width].copy_from_slice(picks);
        }
        let to = ViewMut {
            data: &mut self.data[rows.start * pitch..],
            stride: self.plane,
        };
        compact::put(x, &Picked::new(&spread), to, channels);
        if padding == Padding::Circular {
            for c in 0..channels {
                let plane = &mut self.data[c * self.plane..][..rows.end * pitch];
                for row in plane[rows.start * pitch..].chunks_exact_mut(pitch) {
                    row.copy_within(width..width + images, 0);
                    row.copy_within(images..2 * images, images + width);
                }
            }
        }
    }

    /// What the rows of `hop` see, of the channels from `channel` on.
    pub fn around(&self, hop: &Hop, channel: usize) -> Around<'_> {
        Around {
            data: &self.data[channel * self.plane..],
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
pub(in crate::engine::cpu) struct Around<'a> {
    data: &'a [f32],
    pub plane: usize,
    pub images: usize,
    pub rows: Vec<[usize; 3]>,
}

impl Around<'_> {
    /// Panics unless [`Self::near`] may be called for every neighbour of `width` lanes a row of `channels`
    /// channels.
    pub fn check(&self, channels: usize, width: usize) {
        let last = self.rows.iter().flatten().max().unwrap_or(&0) + 2 * self.images;
        let end = channels.saturating_sub(1) * self.plane + last + width.next_multiple_of(2 * LANES);
        assert!(end <= self.data.len(), "what is spread out is too short");
    }

    /// A vector from lane `at`, which is `channel * plane + start + column * images + lane` with a start of
    /// `rows`, a column of 0 to 2 and `lane + S::F32_LANES <= width.next_multiple_of(2 * LANES)`.
    ///
    /// # Safety
    /// [`Self::check`] has not panicked for more channels than `channel` and for this width.
    #[inline(always)]
    pub unsafe fn near<S: Simd>(&self, at: usize) -> S::f32s {
        debug_assert!(at + S::F32_LANES <= self.data.len());
        // SAFETY: by the caller's promise `at` and the vector behind it lie within `data`; it is read
        // unaligned.
        unsafe { self.data.as_ptr().add(at).cast::<S::f32s>().read_unaligned() }
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
pub(in crate::engine::cpu) struct Tap {
    pub channel: usize,
    pub neighbour: usize,
    pub factor: f32,
}

/// Channel c of `y` becomes, or gets added, the sum of `taps[c]` over neighbours.
#[pulp::with_simd(stencil = arch())]
#[inline(always)]
pub(in crate::engine::cpu) fn stencil_simd<'a, S: Simd>(
    simd: S,
    x: Around<'a>,
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

/// The first `N` vectors of `y`, or what there is of them; how many lanes that is at most.
#[inline(always)]
fn stencil_block<S: Simd, const N: usize>(
    simd: S,
    x: &Around<'_>,
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
            let near = unsafe { x.near::<S>(at + i * S::F32_LANES) };
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

/// Sets up to a vector of lanes, or adds to them.
#[inline(always)]
pub(in crate::engine::cpu) fn put<S: Simd>(simd: S, to: &mut [f32], lanes: S::f32s, add: bool) {
    if let ([whole], []) = S::as_mut_simd_f32s(to) {
        *whole = if add { simd.add_f32s(*whole, lanes) } else { lanes };
        return;
    }
    let lanes = match add {
        true => simd.add_f32s(simd.partial_load_f32s(to), lanes),
        false => lanes,
    };
    simd.partial_store_f32s(to, lanes);
}
