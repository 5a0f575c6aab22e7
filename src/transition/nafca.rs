//! NAFCA: an attention-free transition after NAFNet, the core of LatentNAFCA.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use super::TransitionFn;
use crate::layers::{LayerNorm, Linear};
use crate::program::{Program, ProgramBuilder, Value};
use crate::stencil::Padding;
use crate::weights::glorot_uniform;
use crate::{CellLayout, Error, Result};

/// How the perception block widens a cell before its gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Perception {
    /// A linear layer to E channels, then each of them scaled and shifted twice: the published
    /// program.
    #[default]
    Grouped,
    /// One linear layer to 2 E channels: the published article.
    Plain,
}

/// Sizes of a [`Nafca`] transition; the defaults are those of LatentNAFCA.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NafcaConfig {
    /// Channels: 16 in, 16 out, 32 hidden.
    pub layout: CellLayout,
    /// Width E of the perception block: 128; even.
    pub embed_dim: usize,
    /// The update block is this many times as wide as a cell: 4; times the channels it must be even.
    pub ffn_expand: usize,
    /// Dropout rate after either block, in training: 0.1.
    pub dropout: f64,
    /// Added to the variance in layer norms: 1e-6.
    pub eps: f64,
    /// How the perception block widens: grouped.
    pub perception: Perception,
    /// Whether the head starts at zero, so that an untrained automaton stands still: no.
    pub zero_head: bool,
    /// The border of the grid: zeros.
    pub padding: Padding,
}

impl Default for NafcaConfig {
    fn default() -> Self {
        Self {
            layout: CellLayout {
                input: 16,
                output: 16,
                hidden: 32,
            },
            embed_dim: 128,
            ffn_expand: 4,
            dropout: 0.1,
            eps: 1e-6,
            perception: Perception::Grouped,
            zero_head: false,
            padding: Padding::Zero,
        }
    }
}

/// Perception block with a gate and a one-channel spatial attention, update block with a gate, head.
///
/// Weights, for K channels a cell, E = `embed_dim` and F = `ffn_expand` K: `norm1`, `norm2`, `norm3`
/// (`.weight`, `.bias`), `conv1` (K to E), `conv2` (grouped, `.weight` `[2 E]`, absent in
/// [`Perception::Plain`]), `conv_attention` (`.weight` `[1, E, 3, 3]`), `conv3` (E to K), `conv4`
/// (K to F), `conv5` (F / 2 to K), `conv_out` (K to output and hidden), and the residual scales
/// `beta` and `gamma` (`[K]`), which start at zero.
#[derive(Clone, Debug)]
pub struct Nafca {
    config: NafcaConfig,
    norm1: LayerNorm,
    conv1: Linear,
    conv2: Option<Linear>,
    attention_weight: Tensor,
    attention_bias: Tensor,
    conv3: Linear,
    beta: Tensor,
    norm2: LayerNorm,
    conv4: Linear,
    conv5: Linear,
    gamma: Tensor,
    norm3: LayerNorm,
    conv_out: Linear,
}

impl Nafca {
    /// A transition with weights from `vb`.
    ///
    /// # Errors
    /// [`Error::Config`] if a width cannot be halved by its gate, or the dropout rate is not in `[0, 1)`.
    pub fn new(config: NafcaConfig, vb: VarBuilder) -> Result<Self> {
        let cell = config.layout.channels();
        let (e, f) = (config.embed_dim, config.ffn_expand * cell);
        if e == 0 || e % 2 == 1 {
            return Err(Error::config("embed_dim", "even and positive", e));
        }
        if f == 0 || f % 2 == 1 {
            return Err(Error::config("ffn_expand", "an even number of channels", f));
        }
        if !(0.0..1.0).contains(&config.dropout) {
            return Err(Error::config("dropout", "in [0, 1)", config.dropout));
        }
        let norm = |name: &str| LayerNorm::new(cell, config.eps, vb.pp(name));
        let (conv1, conv2) = match config.perception {
            Perception::Plain => (Linear::glorot(cell, 2 * e, vb.pp("conv1"))?, None),
            Perception::Grouped => {
                let vb2 = vb.pp("conv2");
                let weight = vb2.get_with_hints(2 * e, "weight", glorot_uniform(1, 2 * e))?;
                let bias = vb2.get_with_hints(2 * e, "bias", Init::Const(0.0))?;
                (
                    Linear::glorot(cell, e, vb.pp("conv1"))?,
                    Some(Linear::new(weight, Some(bias))),
                )
            }
        };
        let attention = vb.pp("conv_attention");
        let head = match config.zero_head {
            true => Init::Const(0.0),
            false => glorot_uniform(cell, config.layout.update_channels()),
        };
        Ok(Self {
            norm1: norm("norm1")?,
            conv1,
            conv2,
            attention_weight: attention.get_with_hints((1, e, 3, 3), "weight", glorot_uniform(9 * e, 9))?,
            attention_bias: attention.get_with_hints(1, "bias", Init::Const(0.0))?,
            conv3: Linear::glorot(e, cell, vb.pp("conv3"))?,
            beta: vb.get_with_hints(cell, "beta", Init::Const(0.0))?,
            norm2: norm("norm2")?,
            conv4: Linear::glorot(cell, f, vb.pp("conv4"))?,
            conv5: Linear::glorot(f / 2, cell, vb.pp("conv5"))?,
            gamma: vb.get_with_hints(cell, "gamma", Init::Const(0.0))?,
            norm3: norm("norm3")?,
            conv_out: Linear::with_init(cell, config.layout.update_channels(), head, vb.pp("conv_out"))?,
            config,
        })
    }

    /// The first gate over `normal`, K to E channels.
    fn perceive(&self, p: &mut ProgramBuilder, normal: Value) -> Result<Value> {
        let wide = p.layer(normal, &self.conv1)?;
        let Some(conv2) = &self.conv2 else {
            return p.gate(wide);
        };
        // Output o of the grouped layer is that of channel o / 2. The even outputs, gated, and the odd ones after them
        // need no more than the E channels there are; `evens_first` brings the weights that read them into this order.
        let mut parts = vec![];
        for parity in 0..2 {
            let every_other = |x: &Tensor| -> Result<Tensor> {
                Ok(x.reshape(((), 2))?.narrow(1, parity, 1)?.flatten_all()?)
            };
            let scale = every_other(conv2.weight())?;
            let shift = conv2.bias().map(every_other).transpose()?;
            let wide = p.affine(wide, Some(&scale), shift.as_ref())?;
            parts.push(p.gate(wide)?);
        }
        p.concat(&parts)
    }

    /// Weights `[_, E, ..]` in the order of the channels that [`Self::perceive`] makes.
    fn evens_first(&self, weight: &Tensor) -> Result<Tensor> {
        if self.conv2.is_none() {
            return Ok(weight.clone());
        }
        let (rows, e) = (weight.dim(0)?, weight.dim(1)?);
        let pairs = weight.reshape((rows, e / 2, 2, ()))?.transpose(1, 2)?;
        Ok(pairs.contiguous()?.reshape(weight.shape())?)
    }
}

/// A layer whose outputs are scaled, `[output]`.
fn scaled(layer: &Linear, scale: &Tensor) -> Result<Linear> {
    let weight = layer.weight().broadcast_mul(&scale.unsqueeze(1)?)?;
    let bias = layer.bias().map(|bias| bias * scale).transpose()?;
    Ok(Linear::new(weight, bias))
}

impl TransitionFn for Nafca {
    fn layout(&self) -> CellLayout {
        self.config.layout
    }

    fn program(&self, _: &Tensor) -> Result<Option<Program>> {
        let NafcaConfig { dropout, padding, .. } = self.config;
        let mut p = ProgramBuilder::new(self.config.layout);
        let cells = p.cells();
        let normal = p.norm(cells, &self.norm1)?;
        let gated = self.perceive(&mut p, normal)?;
        let (kernel, bias) = (self.evens_first(&self.attention_weight)?, &self.attention_bias);
        let attention = p.convolution(gated, &kernel, Some(bias), padding)?;
        let attended = p.mul(gated, attention)?;
        // The scale of a branch is part of its last layer: dropout does not mind.
        let conv3 = Linear::new(self.evens_first(self.conv3.weight())?, self.conv3.bias().cloned());
        let seen = p.layer(attended, &scaled(&conv3, &self.beta)?)?;
        let seen = p.dropout(seen, dropout)?;
        let cells = p.add(cells, seen)?;
        let normal = p.norm(cells, &self.norm2)?;
        let wide = p.layer(normal, &self.conv4)?;
        let gated = p.gate(wide)?;
        let inner = p.layer(gated, &scaled(&self.conv5, &self.gamma)?)?;
        let inner = p.dropout(inner, dropout)?;
        let cells = p.add(cells, inner)?;
        let normal = p.norm(cells, &self.norm3)?;
        let update = p.layer(normal, &self.conv_out)?;
        p.finish(update).map(Some)
    }
}
