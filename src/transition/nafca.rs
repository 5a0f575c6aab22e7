//! NAFCA: an attention-free transition after NAFNet, the core of LatentNAFCA.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use super::TransitionFn;
use super::split_linear::SplitLinear;
use crate::error::{Error, Result, check};
use crate::grid::{CellLayout, Padding};
use crate::nn::{LayerNorm, Linear, glorot_uniform};
use crate::ops::matmul;
use crate::program::{Program, ProgramBuilder, Value};

/// How the perception block widens a cell before its gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Perception {
    /// A linear layer to E channels, then each channel scaled and shifted in two ways: the published program.
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
    /// Width of the update block, in multiples of a cell's channels: 4; the product must be even.
    pub ffn_expand: usize,
    /// Dropout rate after either block, in training: 0.1.
    pub dropout: f64,
    /// Added to the variance in layer norms: 1e-6.
    pub eps: f64,
    /// How the perception block widens: grouped.
    pub perception: Perception,
    /// Whether the head starts at zero, so that an untrained automaton changes nothing: no.
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
        config.layout.check_sizes()?;
        let (e, f) = (config.embed_dim, config.ffn_expand.saturating_mul(cell));
        check::channels("embed_dim", e)?;
        check::channels("ffn_expand", f)?;
        check::not_negative("eps", config.eps)?;
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

    /// The inputs of the perception block: the normalised cells, and the products that make up its gate.
    fn perceive(&self, p: &mut ProgramBuilder) -> Result<Perceived<'_>> {
        let cells = SplitLinear::new(p, self.config.layout)?;
        let scale = p.inverse_std(p.cells(), self.config.eps)?;
        let scaled = cells.scaled(p, scale)?;
        let wide = self.of_normal(p, &scaled, self.conv1.weight(), self.conv1.bias())?;
        Ok(Perceived {
            nafca: self,
            scaled,
            product: p.gate(wide)?,
        })
    }

    /// A linear layer of the cells normalised by `norm1`, as a linear layer of the cells divided by their
    /// deviation: subtracting the mean over channels is folded into the weights.
    fn of_normal(
        &self,
        p: &mut ProgramBuilder,
        scaled: &SplitLinear,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Value> {
        let shift = matmul(weight, &self.norm1.bias().unsqueeze(1)?)?.squeeze(1)?;
        let shift = match bias {
            Some(bias) => (shift + bias)?,
            None => shift,
        };
        let weight = weight.broadcast_mul(self.norm1.weight())?;
        let weight = weight.broadcast_sub(&weight.mean_keepdim(1)?)?;
        scaled.linear(p, &weight, Some(&shift), None)
    }
}

/// The gate of the perception block, up to linear maps of it.
///
/// Channel j of the grouped gate is (k y + b) (k' y' + b') of two channels y and y' of `conv1`, the same two
/// for j and j + 1 where j is even. So it is a sum of y y', y, y' and 1. A linear map of all E channels is
/// then a linear map of the E / 2 products y y', plus one of the cells, in which y and y' are linear.
struct Perceived<'a> {
    nafca: &'a Nafca,
    /// The cells divided by their deviation.
    scaled: SplitLinear,
    /// The first half of `conv1`'s outputs times the second.
    product: Value,
}

impl Perceived<'_> {
    /// `weight`, `[output, E]`, times the gate.
    fn map(&self, p: &mut ProgramBuilder, weight: &Tensor) -> Result<Value> {
        let Some(conv2) = &self.nafca.conv2 else {
            return p.linear(self.product, weight, None);
        };
        let (rows, e) = weight.dims2()?;
        // For either half: the scales or shifts of y for even and odd channels, `[E / 2, 2]`.
        let halves = |x: &Tensor| -> Result<[Tensor; 2]> {
            let x = x.reshape((2, e / 2, 2))?;
            Ok([x.get(0)?, x.get(1)?])
        };
        let [k1, k2] = halves(conv2.weight())?;
        let [b1, b2] = match conv2.bias() {
            Some(bias) => halves(bias)?,
            None => halves(&conv2.weight().zeros_like()?)?,
        };
        let weight = weight.reshape((rows, e / 2, 2))?;
        let both = |factors: Tensor| weight.broadcast_mul(&factors)?.sum(2);
        let of_product = both((&k1 * &k2)?)?;
        let of_wide = Tensor::cat(&[both((&k1 * &b2)?)?, both((&b1 * &k2)?)?], 1)?;
        let mut shift = both((&b1 * &b2)?)?.sum_keepdim(1)?;
        let conv1 = &self.nafca.conv1;
        if let Some(bias) = conv1.bias() {
            shift = (shift + matmul(&of_wide, &bias.unsqueeze(1)?)?)?;
        }
        let of_normal = matmul(&of_wide, conv1.weight())?;
        let linear = self
            .nafca
            .of_normal(p, &self.scaled, &of_normal, Some(&shift.squeeze(1)?))?;
        let quadratic = p.linear(self.product, &of_product, None)?;
        p.add(linear, quadratic)
    }
}

/// A layer with its outputs scaled by `scale`, `[output]`.
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
        let gated = self.perceive(&mut p)?;
        let taps = gated.map(&mut p, &self.attention_weight.flatten_from(2)?.squeeze(0)?.t()?)?;
        let attention = p.sum_taps(taps, padding)?;
        let attention = p.affine(attention, None, Some(&self.attention_bias))?;
        // The scale of a branch is folded into its last layer: scaling commutes with dropout. Attention, one
        // number for each cell, commutes with that layer and is applied after it.
        let conv3 = scaled(&self.conv3, &self.beta)?;
        let inner = gated.map(&mut p, conv3.weight())?;
        let seen = p.mul(inner, attention)?;
        let seen = p.affine(seen, None, conv3.bias())?;
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
