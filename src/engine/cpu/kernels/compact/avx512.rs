//! Lanes moved sixteen at a time by AVX-512, which compresses and expands by a mask.

use std::arch::x86_64::{__m512, __m512i, _MM_HINT_T0, _mm_prefetch};

use pulp::{NullaryFnOnce, cast, x86::V4};

use super::{Size, TILE, View, ViewMut, transpose_tile};

#[inline(always)]
fn vector(x: &[f32], at: usize) -> __m512 {
    cast(*x[at..].first_chunk::<TILE>().unwrap_or(&[0.0; TILE]))
}

/// Prefetches the cache line at `at`: planes are too short for the hardware prefetcher.
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

/// Adds to the picked lanes of `y` (`ADD`) or sets them; sets the others to 0 (`CLEAR`) or leaves them.
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
                // Transposes by four perfect shuffles: each interleaves the first half of the rows with the
                // second.
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
