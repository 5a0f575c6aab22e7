//! A gated depthwise convolution as a transition: the first half of NAFNet's block, over and over.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use super::TransitionFn;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, check};
use crate::grid::{CellLayout, Padding};
use crate::nn::{LayerNorm, Linear};
use crate::program::{Program, ProgramBuilder};

/// Sizes of a [`Gated`] transition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatedConfig {
    /// Channels: RGB in, RGB out, 24 hidden.
    pub layout: CellLayout,
    /// Width of the gate: 64. Twice as many channels are convolved.
    pub gate_dim: usize,
    /// Added to the variance in the layer norm: 1e-6.
    pub eps: f64,
    /// The border of the grid: zeros.
    pub padding: Padding,
}

impl Default for GatedConfig {
    fn default() -> Self {
        Self {
            layout: CellLayout {
                input: 3,
                output: 3,
                hidden: 24,
            },
            gate_dim: 64,
            eps: 1e-6,
            padding: Padding::Zero,
        }
    }
}

/// Layer norm, a linear layer, a 3x3 filter on each channel, a gate, a linear layer.
///
/// The gate multiplies the first half of the channels by the second. Every channel has a filter of its own,
/// so that a cell sees its neighbours in many ways, where [`Nafca`](super::Nafca) sees one weighted sum of
/// them: that is what an automaton on pixels needs, which has no convolutions around it. Source of the block:
/// "Simple Baselines for Image Restoration" (Chen et al. 2022); as a transition it is this library's.
///
/// Weights, for C channels a cell and E = `gate_dim`: `norm` (`.weight`, `.bias`), `conv1` (C to 2 E),
/// `depthwise.weight` (`[2 E, 1, 3, 3]`), `conv2` (E to output and hidden), which starts at zero, so that an
/// untrained automaton changes nothing.
#[derive(Clone, Debug)]
pub struct Gated {
    config: GatedConfig,
    norm: LayerNorm,
    conv1: Linear,
    depthwise: Tensor,
    conv2: Linear,
}

impl Gated {
    /// A transition with weights from `vb`.
    ///
    /// # Errors
    /// [`Error::Config`] if the layout has no channel that is updated, the gate none, or either too many.
    pub fn new(config: GatedConfig, vb: VarBuilder) -> Result<Self> {
        let (cell, gate) = (config.layout.channels(), config.gate_dim);
        config.layout.check_sizes()?;
        check::channels("gate_dim", gate)?;
        check::channels("gate_dim", gate.saturating_mul(2))?;
        // Uniform within 1 / sqrt(9), as nine weights make a sum.
        let uniform = Init::Uniform {
            lo: -1.0 / 3.0,
            up: 1.0 / 3.0,
        };
        let depthwise = vb.pp("depthwise");
        let update = config.layout.update_channels();
        Ok(Self {
            norm: LayerNorm::new(cell, config.eps, vb.pp("norm"))?,
            conv1: Linear::glorot(cell, 2 * gate, vb.pp("conv1"))?,
            depthwise: depthwise.get_with_hints((2 * gate, 1, 3, 3), "weight", uniform)?,
            conv2: Linear::with_init(gate, update, Init::Const(0.0), vb.pp("conv2"))?,
            config,
        })
    }
}

impl TransitionFn for Gated {
    fn layout(&self) -> CellLayout {
        self.config.layout
    }

    fn program(&self, cells: &Tensor) -> Result<Option<Program>> {
        check::as_other("cells", cells, "the weights", self.conv1.weight())?;
        let mut p = ProgramBuilder::new(self.config.layout);
        let normal = p.norm(p.cells(), &self.norm)?;
        let wide = p.layer(normal, &self.conv1)?;
        let seen = p.stencil(wide, &self.depthwise, self.config.padding)?;
        let gated = p.gate(seen)?;
        let update = p.layer(gated, &self.conv2)?;
        p.finish(update).map(Some)
    }
}
