//! Patterns: trained automata that grow a picture or a texture, to save, load and run.

mod page;
mod released;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, check};
use crate::grid::{AliveMask, CellLayout, sizes};
use crate::io::card::{self, Card};
use crate::nn::Weights;
use crate::program::Program;
use crate::random::Key;
use crate::rollout::{Memory, Rollout};
use crate::transition::{Growing, GrowingConfig, Texture, TextureConfig, TransitionFn};

/// Which automaton, and its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PatternConfig {
    /// Growing NCA: from a single cell to premultiplied RGBA.
    Growing(GrowingConfig),
    /// Texture NCA: from zeros to RGB, on a torus.
    Texture(TextureConfig),
}

/// The card of a pattern file: with the weights, all that is needed to grow the pattern.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PatternCard {
    /// Version of the file format: 1.
    pub pattern: u32,
    /// The automaton and its sizes.
    pub config: PatternConfig,
    /// Height and width of the grid that it was trained on.
    pub size: (usize, usize),
    /// The probability that a cell takes its update in a step.
    pub fire_rate: f64,
    /// Steps from the seed to the pattern.
    pub steps: usize,
    /// The target it was trained on; free text.
    pub target: String,
    /// Loss and regime of its training; free text.
    pub trained_by: String,
    /// The command or code that made it; free text.
    pub made_by: String,
}

impl Card for PatternCard {
    const KIND: &'static str = "pattern";
}

/// A trained automaton.
///
/// ```
/// use lnca::prelude::*;
/// use lnca::model::pattern::{Pattern, PatternCard, PatternConfig};
///
/// # fn main() -> lnca::Result<()> {
/// let card = PatternCard::new(PatternConfig::Growing(Default::default()), (24, 24));
/// let pattern = Pattern::new(card, 7, &Device::Cpu)?; // untrained: the seed stays as it is
/// let cells = pattern.rollout(10, Key::new(7)).run(pattern.rule(), &pattern.seed(1, (24, 24))?)?;
/// assert_eq!(pattern.rgba(&cells)?.dims(), [1, 24, 24, 4]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Pattern {
    card: PatternCard,
    rule: Rule,
    weights: Weights,
}

/// The transition of a [`Pattern`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Rule {
    /// The transition of Growing NCA.
    Growing(Growing),
    /// The transition of texture NCA.
    Texture(Texture),
}

impl Rule {
    fn new(config: &PatternConfig, weights: &Weights) -> Result<Self> {
        Ok(match config {
            PatternConfig::Growing(config) => Self::Growing(Growing::new(config.clone(), weights.builder())?),
            PatternConfig::Texture(config) => Self::Texture(Texture::new(config.clone(), weights.builder())?),
        })
    }

    fn transition(&self) -> &dyn TransitionFn {
        match self {
            Self::Growing(rule) => rule,
            Self::Texture(rule) => rule,
        }
    }
}

impl TransitionFn for Rule {
    fn layout(&self) -> CellLayout {
        self.transition().layout()
    }

    fn program(&self, cells: &Tensor) -> Result<Option<Program>> {
        self.transition().program(cells)
    }

    fn alive_mask(&self) -> Option<AliveMask> {
        self.transition().alive_mask()
    }
}

impl PatternCard {
    /// A card for an automaton on a grid of height and width `size`, with the published fire rate (0.5) and
    /// steps (96) and empty texts.
    pub fn new(config: PatternConfig, size: (usize, usize)) -> Self {
        Self {
            pattern: 1,
            config,
            size,
            fire_rate: 0.5,
            steps: 96,
            target: String::new(),
            trained_by: String::new(),
            made_by: String::new(),
        }
    }
}

impl Pattern {
    /// An untrained pattern with weights drawn from `seed`.
    ///
    /// # Errors
    /// [`Error::Config`] if the sizes contradict each other.
    pub fn new(card: PatternCard, seed: u64, device: &Device) -> Result<Self> {
        Self::with_weights(card, Weights::new(seed, DType::F32, device))
    }

    fn with_weights(card: PatternCard, weights: Weights) -> Result<Self> {
        let rule = Rule::new(&card.config, &weights)?;
        Ok(Self { card, rule, weights })
    }

    /// Loads a file written by [`Pattern::save`].
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::File`] if it is not a pattern or a weight is missing or
    /// has not the shape its card gives, [`Error::Weight`] if one is left over.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        card::load(path.as_ref(), device, |card, values| {
            let weights = Weights::given(values, DType::F32, device);
            Ok((Self::with_weights(card, weights.clone())?, weights))
        })
    }

    /// Writes weights and card to a safetensors file, atomically.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written, [`Error::Weight`] if a weight holds NaN or an infinity.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.weights.check_finite()?;
        card::save(path.as_ref(), &self.weights, &self.card)
    }

    /// The same pattern on another device.
    ///
    /// # Errors
    /// [`Error::Candle`] if there is no memory for it.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let moved = Self::new(self.card.clone(), 0, device)?;
        moved.weights.load(&self.weights.snapshot()?)?;
        Ok(moved)
    }

    /// Its card.
    pub fn card(&self) -> &PatternCard {
        &self.card
    }

    /// Its card, to edit. To change the configuration, use [`Pattern::reconfigured`].
    pub fn card_mut(&mut self) -> &mut PatternCard {
        &mut self.card
    }

    /// Its transition.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Its weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The same weights under a changed configuration: rotated perception, a hexagonal grid, no death of
    /// cells.
    ///
    /// # Errors
    /// [`Error::Candle`] if a weight would have another shape.
    pub fn reconfigured(&self, change: impl FnOnce(&mut PatternConfig)) -> Result<Self> {
        let mut card = self.card.clone();
        change(&mut card.config);
        let rule = Rule::new(&card.config, &self.weights)?;
        Ok(Self {
            card,
            rule,
            weights: self.weights.clone(),
        })
    }

    /// The seed, `[batch, H, W, C]`: a single cell in the middle, or zeros for a texture.
    ///
    /// # Errors
    /// [`Error::Shape`] if a size is 0, or all are more than 2^34 elements or than there is memory for.
    pub fn seed(&self, batch: usize, (height, width): (usize, usize)) -> Result<Tensor> {
        let (layout, device) = (self.rule.layout(), self.weights.device());
        match &self.rule {
            Rule::Growing(_) => layout.single_cell((batch, height, width), DType::F32, device),
            Rule::Texture(_) => {
                sizes((batch, height, width), layout.channels())?;
                let shape = (batch, height, width, layout.channels());
                Ok(Tensor::zeros(shape, DType::F32, device)?)
            }
        }
    }

    /// A rollout of `steps` steps at its fire rate, without a gradient.
    pub fn rollout(&self, steps: usize, key: Key) -> Rollout {
        let rollout = Rollout::new(steps).fire_rate(self.card.fire_rate).key(key);
        rollout.memory(Memory::Nothing)
    }

    /// The image that cells show: premultiplied RGBA, `[B, H, W, 4]`, about in `[0, 1]`, not clamped.
    ///
    /// # Errors
    /// [`Error::Shape`] if the cells do not fit.
    pub fn rgba(&self, cells: &Tensor) -> Result<Tensor> {
        self.rule.layout().check(cells)?;
        match &self.rule {
            Rule::Growing(rule) => {
                check::count("layout", rule.layout().channels(), (4, check::MOST_CHANNELS))?;
                Ok(cells.narrow(3, 0, 4)?)
            }
            Rule::Texture(rule) => {
                let rgb = rule.rgb(cells)?;
                let alpha = rgb.narrow(3, 0, 1)?.ones_like()?;
                Ok(Tensor::cat(&[rgb, alpha], 3)?)
            }
        }
    }
}
