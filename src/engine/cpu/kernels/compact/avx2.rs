//! Lanes moved eight at a time by AVX2, which has no instructions to compress or expand: tables give the
//! order of lanes for each mask.

use std::arch::x86_64::{__m256, __m256i, _MM_HINT_T0, _mm_prefetch};

use pulp::{NullaryFnOnce, cast, x86::V3};

use super::{Size, TILE, View, ViewMut};

/// Lanes of a vector.
const EIGHT: usize = 8;

/// For each mask, the lanes that it picks, in order: a byte each.
static PICKED: [u64; 256] = {
    let mut table = [0; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut lane, mut count) = (0, 0);
        while lane < EIGHT {
            if mask >> lane & 1 == 1 {
                table[mask] |= (lane as u64) << (8 * count);
                count += 1;
            }
            lane += 1;
        }
        mask += 1;
    }
    table
};

/// For each mask, a byte for each lane: how many lanes are picked before it, and the highest bit if it is
/// picked itself.
static PLACES: [u64; 256] = {
    let mut table = [0; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut lane, mut count) = (0, 0);
        while lane < EIGHT {
            let picked = (mask >> lane & 1) as u64;
            table[mask] |= (count | picked << 7) << (8 * lane);
            count += picked;
            lane += 1;
        }
        mask += 1;
    }
    table
};

/// The bytes of an entry, each as a lane; their highest bits become the lanes' signs.
#[inline(always)]
fn lanes(simd: V3, entry: u64) -> __m256i {
    simd.avx2._mm256_cvtepi8_epi32(cast([entry, 0]))
}

#[inline(always)]
fn vector(x: &[f32], at: usize) -> __m256 {
    let lanes = x.get(at..).and_then(|x| x.first_chunk::<EIGHT>());
    cast(*lanes.unwrap_or(&[0.0; EIGHT]))
}

#[inline(always)]
fn store(y: &mut [f32], at: usize, lanes: __m256) {
    let lanes: [f32; EIGHT] = cast(lanes);
    y[at..at + EIGHT].copy_from_slice(&lanes);
}

/// Prefetches the cache line at `at`: planes are too short for the hardware prefetcher.
#[inline(always)]
fn prefetch(x: &[f32], at: usize) {
    // SAFETY: a prefetch touches no memory that a program could see, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(x.as_ptr().wrapping_add(at).cast()) };
}

pub struct Compress<'a> {
    pub simd: V3,
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
            let mut to = 0;
            for (block, mask) in self.masks.iter().enumerate() {
                prefetch(x, self.x.stride + block * TILE);
                for (half, mask) in mask.to_le_bytes().into_iter().enumerate() {
                    let order = lanes(self.simd, PICKED[usize::from(mask)]);
                    let x = vector(x, block * TILE + half * EIGHT);
                    store(y, to, self.simd.avx2._mm256_permutevar8x32_ps(x, order));
                    to += mask.count_ones() as usize;
                }
            }
        }
    }
}

/// Adds to the picked lanes of `y` (`ADD`) or sets them; sets the others to 0 (`CLEAR`) or leaves them.
pub struct Expand<'a, const ADD: bool, const CLEAR: bool> {
    pub simd: V3,
    pub x: View<'a>,
    pub masks: &'a [u16],
    pub y: ViewMut<'a>,
    pub channels: usize,
}

impl<const ADD: bool, const CLEAR: bool> NullaryFnOnce for Expand<'_, ADD, CLEAR> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (avx, avx2) = (self.simd.avx, self.simd.avx2);
        let zero: __m256 = cast([0f32; EIGHT]);
        for c in 0..self.channels {
            let x = &self.x.data[c * self.x.stride..];
            let y = &mut self.y.data[c * self.y.stride..];
            let mut from = 0;
            for (block, mask) in self.masks.iter().enumerate() {
                prefetch(y, self.y.stride + block * TILE);
                let (halves, _) = y[block * TILE..][..TILE].as_chunks_mut::<EIGHT>();
                for (y, mask) in halves.iter_mut().zip(mask.to_le_bytes()) {
                    let places = lanes(self.simd, PLACES[usize::from(mask)]);
                    let old = cast(*y);
                    let other = if ADD || CLEAR { zero } else { old };
                    let x = avx2._mm256_permutevar8x32_ps(vector(x, from), places);
                    let new = avx._mm256_blendv_ps(other, x, cast(places));
                    *y = cast(if ADD { avx._mm256_add_ps(old, new) } else { new });
                    from += mask.count_ones() as usize;
                }
            }
        }
    }
}

pub struct Transpose<'a> {
    pub simd: V3,
    pub x: View<'a>,
    pub to: &'a mut [f32],
    pub pitch: usize,
    pub size: Size,
}

impl NullaryFnOnce for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    fn call(mut self) {
        let (channels, lanes) = self.size;
        for c in (0..channels).step_by(TILE) {
            for l in (0..lanes).step_by(EIGHT) {
                // Two halves of a line, the second if there is one.
                for c in (c..channels.min(c + TILE)).step_by(EIGHT) {
                    // A full tile gets its own instantiation, with constant sizes.
                    match (channels - c, lanes - l) {
                        (m, n) if m >= EIGHT && n >= EIGHT => self.tile((c, l), (EIGHT, EIGHT)),
                        (m, n) => self.tile((c, l), (m.min(EIGHT), n.min(EIGHT))),
                    }
                }
            }
        }
    }
}

impl Transpose<'_> {
    /// Some channels from `c` on of some lanes from `l` on; the other channels of a vector become 0.
    #[inline(always)]
    fn tile(&mut self, (c, l): (usize, usize), (channels, lanes): Size) {
        let mut tile: [__m256; EIGHT] = [cast([0f32; EIGHT]); EIGHT];
        for (i, row) in tile.iter_mut().enumerate().take(channels) {
            *row = vector(self.x.data, (c + i) * self.x.stride + l);
        }
        let tile = turn(self.simd, tile);
        for (j, &row) in tile.iter().enumerate().take(lanes) {
            store(self.to, (l + j) * self.pitch + c, row);
        }
    }
}

/// The transpose of eight rows: of pairs of lanes, then of fours, then of halves.
#[inline(always)]
fn turn(simd: V3, x: [__m256; EIGHT]) -> [__m256; EIGHT] {
    let avx = simd.avx;
    let (mut pairs, mut fours, mut y) = (x, x, x);
    let mut i = 0;
    while i < EIGHT {
        pairs[i] = avx._mm256_unpacklo_ps(x[i], x[i + 1]);
        pairs[i + 1] = avx._mm256_unpackhi_ps(x[i], x[i + 1]);
        i += 2;
    }
    let mut i = 0;
    while i < EIGHT {
        fours[i] = avx._mm256_shuffle_ps::<0x44>(pairs[i], pairs[i + 2]);
        fours[i + 1] = avx._mm256_shuffle_ps::<0xEE>(pairs[i], pairs[i + 2]);
        fours[i + 2] = avx._mm256_shuffle_ps::<0x44>(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = avx._mm256_shuffle_ps::<0xEE>(pairs[i + 1], pairs[i + 3]);
        i += 4;
    }
    let mut i = 0;
    while i < EIGHT / 2 {
        y[i] = avx._mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
        y[i + 4] = avx._mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
        i += 1;
    }
    y
}
