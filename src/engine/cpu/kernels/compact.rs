//! Lanes that move: transposed, picked out, put back.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use pulp::Arch;

#[cfg(target_arch = "x86_64")]
use super::{Size, View, ViewMut, arch};

/// Lanes and channels of a tile: those of the widest vectors.
const TILE: usize = 16;

/// `to`, `[lanes, pitch]`, as the transpose of `size.0` channels of `size.1` lanes.
pub(in crate::engine::cpu) fn transpose(x: View<'_>, to: &mut [f32], pitch: usize, size: Size) {
    #[cfg(target_arch = "x86_64")]
    if let Arch::V4(simd) = arch() {
        return simd.vectorize(avx512::Transpose {
            simd,
            x,
            to,
            pitch,
            size,
        });
    }
    for c in (0..size.0).step_by(TILE) {
        for l in (0..size.1).step_by(TILE) {
            let tile = (c..size.0.min(c + TILE), l..size.1.min(l + TILE));
            transpose_tile(x, to, pitch, tile);
        }
    }
}

/// The channels and lanes of a tile, one by one.
#[inline(always)]
fn transpose_tile(
    x: View<'_>,
    to: &mut [f32],
    pitch: usize,
    (channels, lanes): (Range<usize>, Range<usize>),
) {
    for c in channels {
        for l in lanes.clone() {
            to[l * pitch + c] = x.data[c * x.stride + l];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{__m512, __m512i, _MM_HINT_T0, _mm_prefetch};

    use pulp::{NullaryFnOnce, cast, x86::V4};

    use super::{Size, TILE, View, ViewMut, transpose_tile};

    #[inline(always)]
    fn vector(x: &[f32], at: usize) -> __m512 {
        cast(*x[at..].first_chunk::<TILE>().unwrap_or(&[0.0; TILE]))
    }

    /// Has the line at `at` fetched into the cache: planes are too short for the processor to foresee the
    /// next one.
    #[inline(always)]
    fn prefetch(x: &[f32], at: usize) {
        // SAFETY: a prefetch touches no memory that a program could see, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(x.as_ptr().wrapping_add(at).cast()) };
    }

    pub struct Compress<'a> {
        pub simd: V4,
        pub x: View<'a>,
        pub masks: &'a [u16],
        pub y: ViewMut<'a>,
        pub channels: usize,
    }

    impl NullaryFnOnce for Compress<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            for c in 0..self.channels {
                let x = &self.x.data[c * self.x.stride..];
                let y = &mut self.y.data[c * self.y.stride..];
                let mut at = 0;
                for (block, &mask) in self.masks.iter().enumerate() {
                    prefetch(x, self.x.stride + block * TILE);
                    let lanes = vector(x, block * TILE);
                    let picked: [f32; TILE] = cast(self.simd.avx512f._mm512_maskz_compress_ps(mask, lanes));
                    y[at..at + TILE].copy_from_slice(&picked);
                    at += mask.count_ones() as usize;
                }
            }
        }
    }

    /// Adds to the lanes of `y`, or sets them, and the others to 0 or not.
    pub struct Expand<'a, const ADD: bool, const CLEAR: bool> {
        pub simd: V4,
        pub x: View<'a>,
        pub masks: &'a [u16],
        pub y: ViewMut<'a>,
        pub channels: usize,
    }

    impl<const ADD: bool, const CLEAR: bool> NullaryFnOnce for Expand<'_, ADD, CLEAR> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let avx = self.simd.avx512f;
            for c in 0..self.channels {
                let x = &self.x.data[c * self.x.stride..];
                let y = &mut self.y.data[c * self.y.stride..];
                let mut at = 0;
                for (block, &mask) in self.masks.iter().enumerate() {
                    prefetch(y, self.y.stride + block * TILE);
                    let (old, x) = (vector(y, block * TILE), vector(x, at));
                    let new: [f32; TILE] = cast(match (ADD, CLEAR) {
                        (true, _) => avx._mm512_add_ps(old, avx._mm512_maskz_expand_ps(mask, x)),
                        (false, true) => avx._mm512_maskz_expand_ps(mask, x),
                        (false, false) => avx._mm512_mask_expand_ps(old, mask, x),
                    });
                    y[block * TILE..][..TILE].copy_from_slice(&new);
                    at += mask.count_ones() as usize;
                }
            }
        }
    }

    pub struct Transpose<'a> {
        pub simd: V4,
        pub x: View<'a>,
        pub to: &'a mut [f32],
        pub pitch: usize,
        pub size: Size,
    }

    impl NullaryFnOnce for Transpose<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let avx = self.simd.avx512f;
            let low: __m512i = cast([0i32, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23]);
            let high: __m512i = cast([8i32, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31]);
            let (channels, lanes) = self.size;
            for c in (0..channels).step_by(TILE) {
                for l in (0..lanes).step_by(TILE) {
                    let ends = (channels.min(c + TILE), lanes.min(l + TILE));
                    if ends != (c + TILE, l + TILE) {
                        transpose_tile(self.x, self.to, self.pitch, (c..ends.0, l..ends.1));
                        continue;
                    }
                    let mut tile: [__m512; TILE] = [cast([0f32; TILE]); TILE];
                    let mut i = 0;
                    while i < TILE {
                        tile[i] = vector(self.x.data, (c + i) * self.x.stride + l);
                        i += 1;
                    }
                    // Four times the first half of the rows is shuffled with the second, as one does cards.
                    let mut round = 0;
                    while round < 4 {
                        let from = tile;
                        let mut i = 0;
                        while i < TILE / 2 {
                            let (a, b) = (from[i], from[i + TILE / 2]);
                            tile[2 * i] = avx._mm512_permutex2var_ps(a, low, b);
                            tile[2 * i + 1] = avx._mm512_permutex2var_ps(a, high, b);
                            i += 1;
                        }
                        round += 1;
                    }
                    let mut j = 0;
                    while j < TILE {
                        let row: [f32; TILE] = cast(tile[j]);
                        self.to[(l + j) * self.pitch + c..][..TILE].copy_from_slice(&row);
                        j += 1;
                    }
                }
            }
        }
    }
}

/// Some of the lanes of a band, in order.
pub(in crate::engine::cpu) struct Picked {
    pub index: Vec<u32>,
    /// The same as a bit for each lane.
    masks: Vec<u16>,
    /// How many lanes they are picked from.
    lanes: usize,
}

/// A bit for each of up to 16 lanes.
fn bits(picks: &[bool]) -> u16 {
    let eight = |picks: &[bool]| {
        let mut bytes = [0u8; 8];
        bytes
            .iter_mut()
            .zip(picks)
            .for_each(|(byte, &picked)| *byte = u8::from(picked));
        // Byte i is shifted to bit 56 + i.
        (u64::from_le_bytes(bytes).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u16
    };
    let (low, high) = picks.split_at(picks.len().min(8));
    eight(low) | eight(high) << 8
}

impl Picked {
    pub fn new(picks: &[bool]) -> Self {
        let mut index = vec![0u32; picks.len() + 1];
        let mut count = 0;
        for (i, &picked) in picks.iter().enumerate() {
            index[count] = i as u32;
            count += usize::from(picked);
        }
        index.truncate(count);
        Self {
            index,
            masks: picks.chunks(TILE).map(bits).collect(),
            lanes: picks.len(),
        }
    }
}

/// The picked lanes of `x`, one after the other; whole vectors of `y` are written.
pub(in crate::engine::cpu) fn compress(x: View<'_>, picked: &Picked, mut y: ViewMut<'_>, channels: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Arch::V4(simd) = arch() {
        return simd.vectorize(avx512::Compress {
            simd,
            x,
            masks: &picked.masks,
            y,
            channels,
        });
    }
    for c in 0..channels {
        let x = &x.data[c * x.stride..];
        let y = y.row(c, picked.index.len());
        y.iter_mut()
            .zip(&picked.index)
            .for_each(|(y, &i)| *y = x[i as usize]);
    }
}

/// Adds lanes, one after the other, to the picked lanes of `y`; whole vectors of `x` are read.
pub(in crate::engine::cpu) fn expand(x: View<'_>, picked: &Picked, y: ViewMut<'_>, channels: usize) {
    at_places::<true, false>(x, picked, y, channels);
}

/// Sets the picked lanes of `y` to lanes that come one after the other, and the others to 0; whole vectors of
/// `x` are read and of `y` written.
pub(in crate::engine::cpu) fn expand_or_zero(x: View<'_>, picked: &Picked, y: ViewMut<'_>, channels: usize) {
    at_places::<false, true>(x, picked, y, channels);
}

/// Sets the picked lanes of `y` to lanes that come one after the other; whole vectors of `x` are read, and of
/// `y` written.
pub(in crate::engine::cpu) fn put(x: View<'_>, picked: &Picked, y: ViewMut<'_>, channels: usize) {
    at_places::<false, false>(x, picked, y, channels);
}

fn at_places<const ADD: bool, const CLEAR: bool>(
    x: View<'_>,
    picked: &Picked,
    y: ViewMut<'_>,
    channels: usize,
) {
    #[cfg(target_arch = "x86_64")]
    if let Arch::V4(simd) = arch() {
        return simd.vectorize(avx512::Expand::<ADD, CLEAR> {
            simd,
            x,
            masks: &picked.masks,
            y,
            channels,
        });
    }
    for c in 0..channels {
        let y = &mut y.data[c * y.stride..];
        let x = x.row(c, picked.index.len());
        if CLEAR {
            y[..picked.lanes].fill(0.0);
        }
        x.iter().zip(&picked.index).for_each(|(x, &i)| match ADD {
            true => y[i as usize] += x,
            false => y[i as usize] = *x,
        });
    }
}
