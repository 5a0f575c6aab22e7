//! Sizes of variational autoencoders.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, check};
use crate::grid::draws::{MOST_STEPS, check_rate};

/// Sizes of a [`Vae`](super::Vae); the defaults are those of the article's doubling automaton.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaeConfig {
    /// Side of the images in pixels, border included: 32.
    pub size: usize,
    /// Width of the black border in pixels, excluded from the inner likelihood: 2.
    pub border: usize,
    /// Dimensions of the latent, channels of the cells: 256.
    pub latent: usize,
    /// Channels of the encoder's first convolution, doubled by each of the next four: 32.
    pub encoder: usize,
    /// The decoder: how latents become images.
    pub decoder: DecoderConfig,
}

/// The decoder: how latents become images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DecoderConfig {
    /// A single cell that divides until the grid has the size of the image, a power of 2.
    Doubling {
        /// Steps after each doubling.
        steps: usize,
        /// Residual blocks of the transition, 1 or more.
        blocks: usize,
    },
    /// A grid in which every cell starts as the latent.
    Broadcast {
        /// Steps outside of training.
        steps: usize,
        /// The probability that a cell takes its update in a step.
        fire_rate: f64,
        /// Whether the last layer of the transition has a bias.
        output_bias: bool,
    },
    /// Transposed convolutions: no automaton.
    Baseline {
        /// Channels of the first feature map, a multiple of 16.
        width: usize,
    },
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            size: 32,
            border: 2,
            latent: 256,
            encoder: 32,
            decoder: DecoderConfig::doubling(),
        }
    }
}

impl VaeConfig {
    /// Sizes that a CPU trains in minutes: 32 latent dimensions, 8 channels in the encoder, 4 steps after
    /// each doubling.
    pub fn small() -> Self {
        Self {
            latent: 32,
            encoder: 8,
            decoder: DecoderConfig::Doubling { steps: 4, blocks: 4 },
            ..Self::default()
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let sizes = [
            ("size", self.size),
            ("latent", self.latent),
            ("encoder", self.encoder),
        ];
        for (name, size) in sizes {
            check::count(name, size, (1, 1 << 16))?;
        }
        check::count("steps", self.decoder.steps(), (0, MOST_STEPS))?;
        if self.border >= self.size.div_ceil(2) {
            let expected = format!("below half of the size, {}", self.size);
            return Err(Error::config("border", expected, self.border));
        }
        match self.decoder {
            DecoderConfig::Doubling { .. } if !self.size.is_power_of_two() => {
                let expected = "a power of 2, for cells that double";
                Err(Error::config("size", expected, self.size))
            }
            DecoderConfig::Doubling { blocks: 0, .. } => Err(Error::config("blocks", "at least 1", 0)),
            DecoderConfig::Broadcast { fire_rate, .. } => check_rate("fire_rate", fire_rate),
            _ => Ok(()),
        }
    }
}

impl DecoderConfig {
    /// The doubling automaton of the article: 8 steps, 4 blocks.
    pub fn doubling() -> Self {
        Self::Doubling { steps: 8, blocks: 4 }
    }

    /// The automaton of the article that does not double: 36 steps in which every cell fires.
    pub fn broadcast() -> Self {
        Self::Broadcast {
            steps: 36,
            fire_rate: 1.0,
            output_bias: true,
        }
    }

    /// The article's convolutional baseline: 512 channels.
    pub fn baseline() -> Self {
        Self::Baseline { width: 512 }
    }

    /// Steps outside of training: after each doubling, or in total; 0 without an automaton.
    pub fn steps(&self) -> usize {
        match *self {
            Self::Doubling { steps, .. } | Self::Broadcast { steps, .. } => steps,
            Self::Baseline { .. } => 0,
        }
    }

    /// Its name: `doubling`, `broadcast` or `baseline`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Doubling { .. } => "doubling",
            Self::Broadcast { .. } => "broadcast",
            Self::Baseline { .. } => "baseline",
        }
    }
}
