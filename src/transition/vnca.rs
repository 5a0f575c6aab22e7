//! The transitions of the variational NCA (Palm, González Duque, Sudhakaran and Risi, "Variational Neural
//! Cellular Automata", ICLR 2022).

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use super::TransitionFn;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, check};
use crate::grid::{CellLayout, Padding};
use crate::nn::{Linear, uniform};
use crate::ops::Function;
use crate::program::{Program, ProgramBuilder};

/// Sizes and variants of a [`Vnca`]; the defaults are those of the doubling automaton.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VncaConfig {
    /// Channels: none in, one out, which is the logit of a pixel, 255 hidden.
    pub layout: CellLayout,
    /// Residual blocks after the convolution: 4. With none, there is an ELU instead: the automaton that does
    /// not double.
    pub blocks: usize,
    /// Whether the last layer has a bias: yes.
    pub output_bias: bool,
    /// The border of the grid: zeros.
    pub padding: Padding,
}

impl Default for VncaConfig {
    fn default() -> Self {
        Self::doubling(256)
    }
}

impl VncaConfig {
    /// The rule of the automaton that doubles, on cells with this many channels: four residual blocks.
    pub fn doubling(channels: usize) -> Self {
        Self {
            layout: CellLayout {
                input: 0,
                output: 1,
                hidden: channels.saturating_sub(1),
            },
            blocks: 4,
            output_bias: true,
            padding: Padding::Zero,
        }
    }

    /// The rule of the automaton that does not double, on cells with this many channels: no block.
    pub fn broadcast(channels: usize) -> Self {
        Self {
            blocks: 0,
            ..Self::doubling(channels)
        }
    }
}

/// A learned 3x3 convolution, then residual blocks of single cells (`h + outer ELU(inner h)`) or an ELU, then
/// a linear layer that starts at zero, so that an untrained automaton changes nothing.
///
/// Weights: `perception.weight` (`[C, C, 3, 3]`), `perception.bias`, `blocks.N.inner.weight` (`[C, C]`),
/// `blocks.N.inner.bias`, `blocks.N.outer.weight`, `blocks.N.outer.bias`, `output.weight` (`[update channels,
/// C]`) and, if there is one, `output.bias`.
///
/// ```
/// use lnca::prelude::*;
/// use lnca::{Vnca, VncaConfig};
///
/// # fn main() -> lnca::Result<()> {
/// let weights = Weights::new(7, DType::F32, &Device::Cpu);
/// let rule = Vnca::new(VncaConfig::doubling(16), weights.builder())?;
/// let cells = Tensor::ones((1, 4, 4, 16), DType::F32, &Device::Cpu)?;
/// assert_eq!(Rollout::new(8).run(&rule, &cells)?.dims(), [1, 4, 4, 16]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Vnca {
    config: VncaConfig,
    /// `[C, C, 3, 3]` and `[C]`.
    perception: (Tensor, Tensor),
    blocks: Vec<Block>,
    output: Linear,
}

#[derive(Clone, Debug)]
struct Block {
    inner: Linear,
    outer: Linear,
}

impl Vnca {
    /// A transition with weights from `vb`.
    ///
    /// # Errors
    /// [`Error::Config`] if the layout has nothing to update.
    pub fn new(config: VncaConfig, vb: VarBuilder) -> Result<Self> {
        let (channels, update) = (config.layout.channels(), config.layout.update_channels());
        config.layout.check_sizes()?;
        check::count("blocks", config.blocks, (0, check::MOST_LAYERS))?;
        let (layer, init) = (vb.pp("perception"), uniform(9 * channels));
        let perception = (
            layer.get_with_hints((channels, channels, 3, 3), "weight", init)?,
            layer.get_with_hints(channels, "bias", init)?,
        );
        let block = |n: usize| -> Result<Block> {
            let vb = vb.pp("blocks").pp(n);
            Ok(Block {
                inner: Linear::uniform(channels, channels, true, vb.pp("inner"))?,
                outer: Linear::uniform(channels, channels, true, vb.pp("outer"))?,
            })
        };
        let blocks = (0..config.blocks).map(block).collect::<Result<_>>()?;
        let (layer, zero) = (vb.pp("output"), Init::Const(0.0));
        let bias = config
            .output_bias
            .then(|| layer.get_with_hints(update, "bias", zero))
            .transpose()?;
        let output = Linear::new(layer.get_with_hints((update, channels), "weight", zero)?, bias);
        Ok(Self {
            config,
            perception,
            blocks,
            output,
        })
    }

    /// Its sizes and variants.
    pub fn config(&self) -> &VncaConfig {
        &self.config
    }
}

impl TransitionFn for Vnca {
    fn layout(&self) -> CellLayout {
        self.config.layout
    }

    fn program(&self, _: &Tensor) -> Result<Option<Program>> {
        let mut p = ProgramBuilder::new(self.config.layout);
        let (kernel, bias) = &self.perception;
        let mut hidden = p.convolution(p.cells(), kernel, Some(bias), self.config.padding)?;
        if self.blocks.is_empty() {
            hidden = p.map(hidden, Function::Elu)?;
        }
        for block in &self.blocks {
            let inner = p.layer(hidden, &block.inner)?;
            let inner = p.map(inner, Function::Elu)?;
            let outer = p.layer(inner, &block.outer)?;
            hidden = p.add(hidden, outer)?;
        }
        let update = p.layer(hidden, &self.output)?;
        p.finish(update).map(Some)
    }
}
