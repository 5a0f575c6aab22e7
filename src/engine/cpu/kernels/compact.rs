//! Moves lanes: transpose, compress, expand.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use pulp::Arch;

#[cfg(target_arch = "x86_64")]
use super::{Size, View, ViewMut, arch};

/// Lanes and channels of a tile: those of the widest vectors.
const TILE: usize = 16;

/// `to`, `[lanes, pitch]`, as the transpose of `size.0` channels of `size.1` lanes; whole vectors are read
/// and written.
pub(in crate::engine::cpu) fn transpose(x: View<'_>, to: &mut [f32], pitch: usize, size: Size) {
    #[cfg(target_arch = "x86_64")]
    match arch() {
        Arch::V4(simd) => {
            return simd.vectorize(avx512::Transpose {
                simd,
                x,
                to,
                pitch,
                size,
            });
        }
        Arch::V3(simd) => {
            return simd.vectorize(avx2::Transpose {
                simd,
                x,
                to,
                pitch,
                size,
            });
        }
        Arch::Scalar | _ => {}
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

/// Compresses the picked lanes of `x` into `y`; whole vectors of `y` are written.
pub(in crate::engine::cpu) fn compress(x: View<'_>, picked: &Picked, mut y: ViewMut<'_>, channels: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        let masks = &picked.masks[..];
        match arch() {
            Arch::V4(simd) => {
                return simd.vectorize(avx512::Compress {
                    simd,
                    x,
                    masks,
                    y,
                    channels,
                });
            }
            Arch::V3(simd) => {
                return simd.vectorize(avx2::Compress {
                    simd,
                    x,
                    masks,
                    y,
                    channels,
                });
            }
            Arch::Scalar | _ => {}
        }
    }
    for c in 0..channels {
        let x = &x.data[c * x.stride..];
        let y = y.row(c, picked.index.len());
        y.iter_mut()
            .zip(&picked.index)
            .for_each(|(y, &i)| *y = x[i as usize]);
    }
}

/// Adds the compressed lanes `x` to the picked lanes of `y`; whole vectors of `x` are read.
pub(in crate::engine::cpu) fn expand(x: View<'_>, picked: &Picked, y: ViewMut<'_>, channels: usize) {
    at_places::<true, false>(x, picked, y, channels);
}

/// Sets the picked lanes of `y` to the compressed lanes `x`, and the others to 0; whole vectors of `x` are
/// read and of `y` written.
pub(in crate::engine::cpu) fn expand_or_zero(x: View<'_>, picked: &Picked, y: ViewMut<'_>, channels: usize) {
    at_places::<false, true>(x, picked, y, channels);
}

/// Sets the picked lanes of `y` to the compressed lanes `x`; whole vectors of `x` are read, and of `y`
/// written.
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
    {
        let masks = &picked.masks[..];
        match arch() {
            Arch::V4(simd) => {
                return simd.vectorize(avx512::Expand::<ADD, CLEAR> {
                    simd,
                    x,
                    masks,
                    y,
                    channels,
                });
            }
            // Where lanes stay as they are, the compiler makes masked stores of it, which are slow on AMD's
            // processors: slower than the loop below.
            Arch::V3(simd) if ADD || CLEAR => {
                return simd.vectorize(avx2::Expand::<ADD, CLEAR> {
                    simd,
                    x,
                    masks,
                    y,
                    channels,
                });
            }
            Arch::Scalar | _ => {}
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNELS: usize = 11;

    /// Numbers that all differ, with room for whole vectors.
    fn numbers(stride: usize) -> Vec<f32> {
        (0..(CHANNELS + 1) * stride + 2 * TILE)
            .map(|i| i as f32)
            .collect()
    }

    #[test]
    fn picked_lanes_are_moved_as_by_their_index() {
        for lanes in [1, 7, 8, 9, 16, 31, 100] {
            for step in [1, 2, 3, 40] {
                let picks: Vec<bool> = (0..lanes).map(|l| (l * l + 1) % step == 0).collect();
                let (picked, stride) = (Picked::new(&picks), lanes + TILE);
                let (data, mut together) = (numbers(stride), numbers(stride));
                let view = View { data: &data, stride };
                let to = ViewMut {
                    data: &mut together,
                    stride,
                };
                compress(view, &picked, to, CHANNELS);
                let (mut added, mut zeroed, mut set) = (data.clone(), data.clone(), data.clone());
                let all = [&mut added, &mut zeroed, &mut set];
                for (data, expands) in all.into_iter().zip([expand, expand_or_zero, put]) {
                    expands(view, &picked, ViewMut { data, stride }, CHANNELS);
                }
                for at in (0..CHANNELS).map(|c| c * stride) {
                    for l in 0..lanes {
                        let place = picked.index.iter().position(|&i| i as usize == l);
                        let (old, new) = (data[at + l], place.map(|place| data[at + place]));
                        assert_eq!(added[at + l], old + new.unwrap_or(0.0));
                        assert_eq!(zeroed[at + l], new.unwrap_or(0.0));
                        assert_eq!(set[at + l], new.unwrap_or(old));
                        assert!(place.is_none_or(|place| together[at + place] == old));
                    }
                }
            }
        }
    }

    #[test]
    fn transposes_at_odd_sizes() {
        for lanes in [1, 8, 13, 16, 37] {
            let (stride, pitch) = (lanes + TILE, TILE);
            let data = numbers(stride);
            let mut to = vec![0.0; (lanes + 1) * pitch];
            transpose(View { data: &data, stride }, &mut to, pitch, (CHANNELS, lanes));
            for (c, l) in (0..CHANNELS).flat_map(|c| (0..lanes).map(move |l| (c, l))) {
                assert_eq!(to[l * pitch + c], data[c * stride + l], "{c} {l}");
            }
        }
    }
}
