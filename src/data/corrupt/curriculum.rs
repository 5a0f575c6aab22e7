//! The difficulty of a synthetic corruption over the epochs of a training phase.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, check};

/// Difficulty growing linearly with the epoch between two bounds:
/// `clip(epoch / epochs * range, min, max)`.
///
/// Its unit is that of the corruption: the probability that a pixel gets noise, or the length of the motion
/// blur in pixels (truncated later). Source: the program published with "Latent Neural Cellular Automata for
/// Resource-Efficient Image Restoration".
///
/// ```
/// use lnca::data::Curriculum;
/// assert_eq!(Curriculum::NOISE.difficulty(0, 10), 0.25);
/// assert_eq!(Curriculum::NOISE.difficulty(6, 10), 0.6);
/// assert_eq!(Curriculum::BLUR.difficulty(9, 10), 10.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curriculum {
    /// The difficulty at the end of the last epoch before clipping.
    pub range: f64,
    /// Lower bound, the difficulty of the first epochs.
    pub min: f64,
    /// Upper bound, the difficulty of the last epochs.
    pub max: f64,
}

impl Curriculum {
    /// The paper's noise: a probability from 0.25 to 0.75.
    pub const NOISE: Self = Self {
        range: 1.0,
        min: 0.25,
        max: 0.75,
    };
    /// The paper's motion blur: kernels of 4 to 10 pixels.
    pub const BLUR: Self = Self {
        range: 15.0,
        min: 4.0,
        max: 10.0,
    };

    /// The same difficulty in all epochs.
    pub const fn constant(difficulty: f64) -> Self {
        Self {
            range: difficulty,
            min: difficulty,
            max: difficulty,
        }
    }

    /// An error unless all are finite, and the bounds in order.
    pub(crate) fn check(&self) -> Result<()> {
        check::finite("range", self.range)?;
        check::finite("min", self.min)?;
        check::finite("max", self.max)?;
        match self.min <= self.max {
            true => Ok(()),
            false => Err(Error::config(
                "min",
                format!("at most `max`, {}", self.max),
                self.min,
            )),
        }
    }

    /// Difficulty of `epoch` (from 0) in a phase of `epochs` epochs.
    pub fn difficulty(&self, epoch: usize, epochs: usize) -> f64 {
        // `max` and `min` rather than `clamp`, which panics on bounds in the wrong order.
        (epoch as f64 / epochs.max(1) as f64 * self.range)
            .max(self.min)
            .min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_epochs_follow_the_paper() {
        let noise: Vec<f64> = (0..10).map(|e| Curriculum::NOISE.difficulty(e, 10)).collect();
        assert_eq!(noise, [0.25, 0.25, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.75]);
        let blur: Vec<usize> = (0..10)
            .map(|e| Curriculum::BLUR.difficulty(e, 10) as usize)
            .collect();
        assert_eq!(blur, [4, 4, 4, 4, 6, 7, 9, 10, 10, 10]);
    }

    #[test]
    fn no_epochs_is_still_a_number() {
        assert_eq!(Curriculum::NOISE.difficulty(0, 0), 0.25);
    }
}
