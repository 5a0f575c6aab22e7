//! Counter-based random numbers: every draw is a pure function of a key and a position.
//!
//! There is no hidden state: a run that is resumed, split over threads or recomputed in a backward pass sees
//! the same draws. The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers:
//! as easy as 1, 2, 3", 2011).

use rand::RngCore;
use serde::{Deserialize, Serialize};

/// Philox4x32 with ten rounds: four random words for a 128-bit `counter` under a 64-bit `key`.
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut a, mut b, mut c, mut d] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p = u64::from(a) * 0xD251_1F53;
        let q = u64::from(c) * 0xCD9E_8D57;
        (a, b, c, d) = (
            (q >> 32) as u32 ^ b ^ k0,
            q as u32,
            (p >> 32) as u32 ^ d ^ k1,
            p as u32,
        );
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [a, b, c, d]
}

/// Maps a random word to a float uniform on `[0, 1)`, a multiple of 2^-24.
pub fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
}

/// The source of all random draws of a run: made from one seed, and split by folding numbers in.
///
/// ```
/// use lnca::random::Key;
/// let key = Key::new(7);
/// assert_eq!(key.fold_in(3), Key::new(7).fold_in(3));
/// assert_ne!(key.fold_in(3), key.fold_in(4));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key(u64);

impl Key {
    /// The key of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// An independent key for part `n` of a run: an epoch, an image, an update.
    pub fn fold_in(self, n: u64) -> Self {
        // The last counter word separates these draws from those of `words` and `rng`.
        let [a, b, ..] = philox4x32([n as u32, (n >> 32) as u32, 0, u32::MAX], self.halves());
        Self(u64::from(a) | u64::from(b) << 32)
    }

    /// An independent key for a named part, such as `"masks"`.
    pub fn fold_in_name(self, name: &str) -> Self {
        name.bytes().fold(self.fold_in(name.len() as u64), |key, byte| {
            key.fold_in(byte.into())
        })
    }

    /// The four random words at `counter`; its last component must be below `u32::MAX - 1`.
    pub fn words(self, counter: [u32; 4]) -> [u32; 4] {
        philox4x32(counter, self.halves())
    }

    /// The words of `N` counters, as arrays of one component or word each.
    #[inline(always)]
    pub(crate) fn words_of<const N: usize>(self, counters: [[u32; N]; 4]) -> [[u32; N]; 4] {
        let mut at = counters;
        let [mut k0, mut k1] = self.halves();
        for _ in 0..10 {
            let [a, b, c, d] = at;
            for i in 0..N {
                let p = u64::from(a[i]) * 0xD251_1F53;
                let q = u64::from(c[i]) * 0xCD9E_8D57;
                at[0][i] = (q >> 32) as u32 ^ b[i] ^ k0;
                at[1][i] = q as u32;
                at[2][i] = (p >> 32) as u32 ^ d[i] ^ k1;
                at[3][i] = p as u32;
            }
            k0 = k0.wrapping_add(0x9E37_79B9);
            k1 = k1.wrapping_add(0xBB67_AE85);
        }
        at
    }

    /// A sequential generator over this key, for shuffles and distributions of the `rand` family.
    pub fn rng(self) -> Philox {
        Philox {
            key: self.halves(),
            position: 0,
        }
    }

    /// The lower and the upper half, as the generator takes them.
    pub(crate) fn halves(self) -> [u32; 2] {
        [self.0 as u32, (self.0 >> 32) as u32]
    }
}

/// Philox4x32-10 read in order, as a generator of the `rand` family.
#[derive(Clone, Debug)]
pub struct Philox {
    key: [u32; 2],
    position: u64,
}

impl RngCore for Philox {
    fn next_u32(&mut self) -> u32 {
        let block = self.position / 4;
        let words = philox4x32([block as u32, (block >> 32) as u32, 0, u32::MAX - 1], self.key);
        let word = words[(self.position % 4) as usize];
        self.position += 1;
        word
    }

    fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | u64::from(self.next_u32()) << 32
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(4) {
            chunk.copy_from_slice(&self.next_u32().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    // Known answers published with the Random123 library.
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]
        );
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]
        );
        assert_eq!(
            philox4x32(
                [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344],
                [0xA409_3822, 0x299F_31D0]
            ),
            [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1]
        );
    }

    #[test]
    fn words_side_by_side_are_those_one_by_one() {
        let key = Key::new(99);
        let counters = [[u32::MAX, 0, 5], [2, 3, 2], [7; 3], [4, 4, 9]];
        let many = key.words_of(counters);
        for i in 0..3 {
            let one = key.words(counters.map(|component| component[i]));
            assert_eq!(many.map(|words| words[i]), one);
        }
    }

    #[test]
    fn uniform_draws_fill_the_unit_interval() {
        assert_eq!(unit(0), 0.0);
        assert!(unit(u32::MAX) < 1.0);
        let mut rng = Key::new(1).rng();
        let mean = (0..10_000).map(|_| rng.random::<f64>()).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.01, "mean {mean}");
    }
}
