//! The transition of Growing NCA (Mordvintsev, Randazzo, Niklasson and Levin, Distill 2020).

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use super::TransitionFn;
use super::filters::{Lattice, perception};
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, check};
use crate::grid::{AliveMask, CellLayout, Padding};
use crate::nn::Linear;
use crate::ops::{Function, stencil};
use crate::program::{Program, ProgramBuilder};

/// Sizes of a [`Growing`] transition; the defaults are the published ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrowingConfig {
    /// Channels: none in, RGBA out, 12 hidden.
    pub layout: CellLayout,
    /// Width of the hidden layer: 128.
    pub hidden_dim: usize,
    /// Rotation of the perception in radians: 0.
    pub angle: f64,
    /// The border of the grid: zeros.
    pub padding: Padding,
    /// The rule by which cells die: alpha, channel 3, above 0.1.
    pub alive: Option<AliveMask>,
}

impl Default for GrowingConfig {
    fn default() -> Self {
        Self {
            layout: CellLayout {
                input: 0,
                output: 4,
                hidden: 12,
            },
            hidden_dim: 128,
            angle: 0.0,
            padding: Padding::Zero,
            alive: Some(AliveMask {
                channel: 3,
                threshold: 0.1,
                padding: Padding::Zero,
            }),
        }
    }
}

/// Perception by identity and rotated Sobel filters, then a two-layer perceptron.
///
/// Weights: `hidden.weight` (`[hidden_dim, 3 C]`), `hidden.bias`, `output.weight`
/// (`[update channels, hidden_dim]`), `output.bias`. The output layer starts at zero, so an untrained
/// automaton changes nothing.
#[derive(Clone, Debug)]
pub struct Growing {
    config: GrowingConfig,
    hidden: Linear,
    output: Linear,
}

impl Growing {
    /// A transition with weights from `vb`.
    ///
    /// # Errors
    /// [`Error::Config`] if the alive channel lies outside the layout.
    pub fn new(config: GrowingConfig, vb: VarBuilder) -> Result<Self> {
        let channels = config.layout.channels();
        config.layout.check_sizes()?;
        check::channels("hidden_dim", config.hidden_dim)?;
        check::finite("angle", config.angle)?;
        config.alive.iter().try_for_each(|rule| rule.check(channels))?;
        let update = config.layout.update_channels();
        Ok(Self {
            hidden: Linear::glorot(3 * channels, config.hidden_dim, vb.pp("hidden"))?,
            output: Linear::with_init(config.hidden_dim, update, Init::Const(0.0), vb.pp("output"))?,
            config,
        })
    }

    /// The same rule with its perception turned by `angle` radians: the pattern grows rotated.
    pub fn rotated(&self, angle: f64) -> Self {
        let mut rotated = self.clone();
        rotated.config.angle = angle;
        rotated
    }

    /// The perception of each cell: `[B, H, W, C]` to `[B, H, W, 3 C]`.
    ///
    /// Feature `3 c + k` is filter k of channel c, filters in the order identity, x-gradient and
    /// y-gradient, the gradients being Sobel filters divided by 8 and rotated by the angle.
    pub fn perceive(&self, cells: &Tensor) -> Result<Tensor> {
        self.config.layout.check(cells)?;
        check::float("cells", cells)?;
        let filters = self.filters(cells)?.reshape((1, 3, 9))?;
        let channels = self.config.layout.channels();
        let each = filters.broadcast_as((channels, 3, 9))?.contiguous()?;
        stencil(cells, &each, self.config.padding)
    }

    /// The filters of the perception, `[3, 3, 3]`.
    fn filters(&self, like: &Tensor) -> Result<Tensor> {
        perception(Lattice::Square, self.config.angle, 1.0 / 8.0, false, like)
    }
}

impl TransitionFn for Growing {
    fn layout(&self) -> CellLayout {
        self.config.layout
    }

    fn program(&self, cells: &Tensor) -> Result<Option<Program>> {
        check::as_other("cells", cells, "the weights", self.hidden.weight())?;
        let mut p = ProgramBuilder::new(self.config.layout);
        let seen = p.stencil(p.cells(), &self.filters(cells)?, self.config.padding)?;
        let hidden = p.layer(seen, &self.hidden)?;
        let hidden = p.map(hidden, Function::Relu)?;
        let update = p.layer(hidden, &self.output)?;
        p.finish(update)?.with_alive_mask(self.config.alive).map(Some)
    }

    fn alive_mask(&self) -> Option<AliveMask> {
        self.config.alive
    }
}
