//! What cells read of their neighbours.
//!
//! Operands are first padded: every row gets the cells beyond either border, so that a neighbour is
//! a fixed distance away and no lane is special.

use pulp::Simd;

use std::ops::Range;

use super::compact::Picked;
use super::{LANES, View, ViewMut, arch, compact};
use crate::grid::Padding;

/// The rows of a grid that are computed, and the rows that these read.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::cpu) struct Window {
    /// First row and number of rows that are computed. Rows may lie beyond the grid of a torus.
    pub computed: (isize, usize),
    /// First row and number of rows that can be read.
    pub read: (isize, usize),
    /// Whether either is the whole grid.
    pub whole: bool,
    /// Rows of the grid.
    pub height: usize,
    pub padding: Padding,
}

impl Window {
    /// The row of `read` that row `row` of `computed` reads at distance `dy`, if there is one.
    fn row(&self, row: usize, dy: isize) -> Option<usize> {
        let height = self.height as isize;
        let at = self.computed.0 + row as isize;
        let beyond = !(0..height).contains(&(at.rem_euclid(height) + dy));
        if self.padding == Padding::Zero && beyond {
            return None;
        }
        let at = if self.whole {
            (at + dy).rem_euclid(height)
        } else {
            at + dy - self.read.0
        };
        usize::try_from(at).ok().filter(|&at| at < self.read.1)
    }

    /// The same window where the whole grid can be read.
    pub fn on_grid(self) -> Self {
        Self {
            read: (0, self.height),
            whole: true,
            ..self
        }
    }

    /// The window of the gradients: what is read and what is computed trade places.
    pub fn reversed(self) -> Self {
        Self {
            computed: self.read,
            read: self.computed,
            ..self
        }
    }
}

/// Padded channels: every row with the cells beyond its two borders, and a row of zeros last.
#[derive(Default)]
pub(in crate::engine::cpu) struct Padded {
    data: Vec<f32>,
    plane: usize,
    pitch: usize,
    rows: usize,
    images: usize,
}

impl Padded {
    /// Pads `channels` of `rows` rows of `width` lanes, `images` of them a column of the grid.
    pub fn fill(
        &mut self,
        x: View<'_>,
        channels: usize,
        (rows, width, images): (usize, usize, usize),
        padding: Padding,
    ) {
        self.shape(channels, (rows, width, images));
        pad(
            x,
            &mut self.data,
            (channels, self.plane),
            (rows, width, images),
            padding,
        );
    }

    /// Zeros for `channels` of a whole grid.
    pub fn zeros(channels: usize, (height, width, images): (usize, usize, usize)) -> Self {
        let mut padded = Self::default();
        padded.shape(channels, (height, width, images));
        padded
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

    /// Sets picked lanes of the rows `rows` to the compressed lanes `x`.
    pub fn put(
        &mut self,
        x: View<'_>,
        (rows, picks): (&Range<usize>, &[bool]),
        channels: usize,
        padding: Padding,
    ) {
        let (width, images, pitch) = (picks.len() / rows.len(), self.images, self.pitch);
        let mut picked = vec![false; rows.len() * pitch];
        for (picked, picks) in picked.chunks_exact_mut(pitch).zip(picks.chunks_exact(width)) {
            picked[images..images + width].copy_from_slice(picks);
        }
        let to = ViewMut {
            data: &mut self.data[rows.start * pitch..],
            stride: self.plane,
        };
        compact::put(x, &Picked::new(&picked), to, channels);
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

    /// What the rows of `window` read of the channels from `channel` on.
    pub fn neighbours(&self, window: &Window, channel: usize) -> Neighbours<'_> {
        Neighbours {
            data: &self.data[channel * self.plane..],
            plane: self.plane,
            images: self.images,
            rows: (0..window.computed.1).map(|row| self.rows(window, row)).collect(),
        }
    }

    /// Where the three rows begin that row `row` of `window` reads, in each plane.
    fn rows(&self, window: &Window, row: usize) -> [usize; 3] {
        [-1, 0, 1].map(|dy| window.row(row, dy).unwrap_or(self.rows) * self.pitch)
    }
}

/// Padded channels, and where in each of them the three rows begin that a row reads.
pub(in crate::engine::cpu) struct Neighbours<'a> {
    pub data: &'a [f32],
    pub plane: usize,
    pub images: usize,
    pub rows: Vec<[usize; 3]>,
}

impl Neighbours<'_> {
    /// Panics unless [`Self::load`] may be called for every neighbour of `width` lanes a row of `channels`
    /// channels.
    pub fn check(&self, channels: usize, width: usize) {
        let last = self.rows.iter().flatten().max().unwrap_or(&0) + 2 * self.images;
        let end = channels.saturating_sub(1) * self.plane + last + width.next_multiple_of(2 * LANES);
        assert!(end <= self.data.len(), "a padded value is too short");
    }

    /// A vector from lane `at`, which is `channel * plane + start + column * images + lane` with a start of
    /// `rows`, a column of 0 to 2 and `lane + S::F32_LANES <= width.next_multiple_of(2 * LANES)`.
    ///
    /// # Safety
    /// [`Self::check`] has not panicked for more channels than `channel` and for this width.
    #[inline(always)]
    pub unsafe fn load<S: Simd>(&self, at: usize) -> S::f32s {
        debug_assert!(at + S::F32_LANES <= self.data.len());
        // SAFETY: by the caller's promise `at` and the vector behind it lie within `data`; it is read
        // unaligned.
        unsafe { self.data.as_ptr().add(at).cast::<S::f32s>().read_unaligned() }
    }
}

#[pulp::with_simd(pad = arch())]
#[inline(always)]
fn pad_simd<'a, S: Simd>(
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
