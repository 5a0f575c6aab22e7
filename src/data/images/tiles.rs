//! Tile-shrink-clean: cuts pairs of photographs into small training pairs.

use crate::error::{Error, Result};
use crate::io::{Picture, ResizeMode};
use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// How pairs of photographs are cut: square tiles from the top left corner without the remainder, each
/// resized to the training size by Lanczos resampling, without flat and repeated tiles.
///
/// "Latent Neural Cellular Automata for Resource-Efficient Image Restoration" names the three stages; side
/// and thresholds are this library's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tiles {
    /// Side of a tile in pixels of the photograph. A photograph smaller than a tile is one tile as a whole.
    pub side: usize,
    /// A clean tile is flat, and dropped, if the standard deviation within its channels (root mean
    /// square over R, G and B, values in `[0, 1]`, after shrinking) is below this.
    pub min_deviation: f64,
    /// A clean tile is redundant, and dropped, if its mean absolute difference to a kept tile of the same
    /// photograph is below this.
    pub min_difference: f64,
}

impl Default for Tiles {
    fn default() -> Self {
        Self {
            side: 128,
            min_deviation: 0.02,
            min_difference: 0.02,
        }
    }
}

/// Counts of the tiles of a photograph or of a data set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TileCounts {
    /// Tiles cut.
    pub cut: usize,
    /// Tiles dropped as flat.
    pub flat: usize,
    /// Tiles dropped as too similar to another.
    pub redundant: usize,
    /// Tiles kept.
    pub kept: usize,
}

impl AddAssign for TileCounts {
    fn add_assign(&mut self, other: Self) {
        self.cut += other.cut;
        self.flat += other.flat;
        self.redundant += other.redundant;
        self.kept += other.kept;
    }
}

/// The kept tiles of a pair: clean and damaged ones in the same order, each `[size, size, 3]`.
#[derive(Clone, Debug, Default)]
pub struct TilePairs {
    /// Clean tiles, one after another.
    pub clean: Vec<u8>,
    /// Their damaged partners.
    pub damaged: Vec<u8>,
    /// How many were cut, dropped and kept.
    pub counts: TileCounts,
}

impl Tiles {
    /// Patches of `size` pixels at the photograph's own resolution, flat ones too.
    pub fn patches(size: usize) -> Self {
        Self {
            side: size,
            min_deviation: 0.0,
            min_difference: 0.0,
        }
    }

    /// Cuts `clean` and `damaged` in the same way. Which tiles are kept depends on the clean ones only.
    ///
    /// # Errors
    /// [`Error::Shape`] if the two differ in size, [`Error::Config`] if a side is 0.
    pub fn cut(&self, clean: &Picture, damaged: &Picture, size: usize) -> Result<TilePairs> {
        if (clean.height, clean.width) != (damaged.height, damaged.width) {
            let expected = format!("[{}, {}, 3] as `clean`", clean.height, clean.width);
            return Err(Error::shape(
                "damaged",
                expected,
                &[damaged.height, damaged.width, 3],
            ));
        }
        if self.side == 0 {
            return Err(Error::config("side", "a tile of at least 1 pixel", 0));
        }
        let mut pairs = TilePairs::default();
        if self.side > clean.height || self.side > clean.width {
            let tile = clean.square(size, ResizeMode::Crop)?;
            self.sort(&mut pairs, tile, || damaged.square(size, ResizeMode::Crop))?;
            return Ok(pairs);
        }
        for top in (0..=clean.height - self.side).step_by(self.side) {
            for left in (0..=clean.width - self.side).step_by(self.side) {
                let tile = |of: &Picture| {
                    of.crop(top, left, self.side, self.side)?
                        .square(size, ResizeMode::Crop)
                };
                self.sort(&mut pairs, tile(clean)?, || tile(damaged))?;
            }
        }
        Ok(pairs)
    }

    fn sort(
        &self,
        pairs: &mut TilePairs,
        clean: Vec<u8>,
        damaged: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<()> {
        pairs.counts.cut += 1;
        let mut kept = pairs.clean.chunks_exact(clean.len());
        if deviation(&clean) < self.min_deviation {
            pairs.counts.flat += 1;
        } else if kept.any(|other| difference(&clean, other) < self.min_difference) {
            pairs.counts.redundant += 1;
        } else {
            pairs.counts.kept += 1;
            pairs.clean.extend(clean);
            pairs.damaged.extend(damaged()?);
        }
        Ok(())
    }
}

/// Root mean square over the channels of their standard deviations, with values in `[0, 1]`.
fn deviation(tile: &[u8]) -> f64 {
    let n = (tile.len() / 3) as f64;
    let variance = |channel| {
        let values = || {
            tile.iter()
                .skip(channel)
                .step_by(3)
                .map(|&v| f64::from(v) / 255.0)
        };
        let mean = values().sum::<f64>() / n;
        values().map(|v| (v - mean).powi(2)).sum::<f64>() / n
    };
    ((0..3).map(variance).sum::<f64>() / 3.0).sqrt()
}

/// Mean absolute difference, with values in `[0, 1]`.
fn difference(a: &[u8], b: &[u8]) -> f64 {
    let sum: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / (255 * a.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A photograph of 2 x 3 tiles of 8 pixels and a remainder: tile 1 flat, tile 4 a copy of tile 0.
    fn photograph() -> Picture {
        let (height, width) = (19, 27);
        let pixel = |i: usize| {
            let (y, x) = (i / width, i % width);
            let v = match (y / 8, x / 8) {
                (0, 1) => 90,
                (0, 0) | (1, 1) => (y % 8 * 30 + x % 8) as u8,
                (row, column) => ((x % 8 * 17 + y % 8) * (row + 2 * column)) as u8,
            };
            // Flat means no change within a channel; that the channels differ is only a colour.
            [v, v / 2, 200]
        };
        Picture {
            height,
            width,
            pixels: (0..height * width).flat_map(pixel).collect(),
        }
    }

    #[test]
    fn flat_and_repeated_tiles_are_dropped_and_counted() -> Result<()> {
        let clean = photograph();
        let damaged = Picture {
            pixels: clean.pixels.iter().map(|v| v / 2).collect(),
            ..clean
        };
        let clean = photograph();
        let tiles = Tiles {
            side: 8,
            ..Tiles::default()
        };
        let pairs = tiles.cut(&clean, &damaged, 8)?;
        let counts = TileCounts {
            cut: 6,
            flat: 1,
            redundant: 1,
            kept: 4,
        };
        assert_eq!(pairs.counts, counts);
        assert_eq!(pairs.clean.len(), 4 * 192);
        let halves = pairs.clean.iter().map(|v| v / 2);
        assert!(pairs.damaged.iter().copied().eq(halves));
        assert_eq!(pairs.clean[..192], clean.crop(0, 0, 8, 8)?.pixels);
        Ok(())
    }

    #[test]
    fn a_small_photograph_is_one_tile() -> Result<()> {
        let clean = photograph();
        let pairs = Tiles::default().cut(&clean, &clean, 8)?;
        assert_eq!((pairs.counts.cut, pairs.counts.kept), (1, 1));
        assert_eq!(pairs.clean, clean.square(8, ResizeMode::Crop)?);
        Ok(())
    }

    #[test]
    fn different_sizes_and_no_side_are_errors() -> Result<()> {
        let clean = photograph();
        assert!(Tiles::default().cut(&clean, &clean.crop(0, 0, 5, 5)?, 8).is_err());
        let none = Tiles {
            side: 0,
            ..Tiles::default()
        };
        assert!(none.cut(&clean, &clean, 8).is_err());
        Ok(())
    }
}
