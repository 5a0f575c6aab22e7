//! Restormer (Zamir, Arora, Khan, Hayat, Khan and Yang, CVPR 2022).

use candle_core::{D, Tensor};
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use super::layers::{Conv, halves, pixel_shuffle, pixel_unshuffle, size};
use super::network::Network;
use crate::error::{Error, Result, check};
use crate::nn::LayerNorm;
use crate::ops::{Function, activate, matmul};

/// Sizes of a [`Restormer`]; the defaults are the published ones: 26 million weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestormerConfig {
    /// Channels at full size, doubled at each level: 48.
    pub width: usize,
    /// Blocks of the four levels: 4, 6, 6, 8.
    pub blocks: [usize; 4],
    /// Blocks after the last level: 4.
    pub refinement: usize,
    /// Attention heads of the four levels: 1, 2, 4, 8.
    pub heads: [usize; 4],
    /// Width of the gated feed-forward layer as a multiple of the channels of its level: 2.66.
    pub expansion: f64,
    /// Whether layer norms subtract the mean and add a bias, as published for deblurring, or only scale, as
    /// published for denoising: true.
    pub norm_bias: bool,
}

impl Default for RestormerConfig {
    fn default() -> Self {
        Self {
            width: 48,
            blocks: [4, 6, 6, 8],
            refinement: 4,
            heads: [1, 2, 4, 8],
            expansion: 2.66,
            norm_bias: true,
        }
    }
}

/// The original Restormer. Images of any size are reflected, below and to the right, up to a multiple of 8
/// pixels, and the result is cropped. Its weights have the names and shapes of the original program.
#[derive(Clone, Debug)]
pub struct Restormer {
    embed: Conv,
    /// Blocks of the first three levels, each with its downsampling.
    encoder: Vec<(Vec<Block>, Conv)>,
    latent: Vec<Block>,
    /// Upsampling, channel reduction and blocks of each level, from the third to the first.
    decoder: Vec<(Conv, Option<Conv>, Vec<Block>)>,
    refinement: Vec<Block>,
    output: Conv,
}

impl Restormer {
    /// A network with weights from `vb`.
    ///
    /// # Errors
    /// [`Error::Config`] if heads do not divide the channels of their level, or a size is 0.
    pub fn new(config: &RestormerConfig, vb: VarBuilder) -> Result<Self> {
        check::count("width", config.width, (1, check::MOST_CHANNELS >> 4))?;
        for blocks in config.blocks.into_iter().chain([config.refinement]) {
            check::count("blocks", blocks, (0, check::MOST_LAYERS))?;
        }
        let most = (check::MOST_CHANNELS / (config.width << 4)) as f64;
        if !(config.expansion > 0.0 && config.expansion <= most) {
            let expected = format!("above 0, at most {most}");
            return Err(Error::config("expansion", expected, config.expansion));
        }
        let channels = |level: usize| config.width << level;
        for (level, heads) in config.heads.into_iter().enumerate() {
            if heads == 0 || channels(level) == 0 || !channels(level).is_multiple_of(heads) {
                let expected = format!("divisors of {}, at least 1", channels(level));
                return Err(Error::config("heads", expected, heads));
            }
        }
        if !channels(1).is_multiple_of(4) {
            return Err(Error::config("width", "an even number", config.width));
        }
        let stack = |count: usize, channels: usize, heads: usize, name: &str| -> Result<Vec<Block>> {
            let vb = vb.pp(name);
            (0..count)
                .map(|n| Block::new(channels, heads, config, vb.pp(n)))
                .collect()
        };
        let down = |level: usize| -> Result<(Vec<Block>, Conv)> {
            let c = channels(level);
            let name = format!("encoder_level{}", level + 1);
            let blocks = stack(config.blocks[level], c, config.heads[level], &name)?;
            let name = format!("down{}_{}", level + 1, level + 2);
            Ok((
                blocks,
                Conv::near((c, c / 2), false, vb.pp(name).pp("body").pp(0))?,
            ))
        };
        let up = |level: usize| -> Result<(Conv, Option<Conv>, Vec<Block>)> {
            let (below, c) = (channels(level + 1), channels(level));
            let name = format!("up{}_{}", level + 2, level + 1);
            let up = Conv::near((below, 2 * below), false, vb.pp(name).pp("body").pp(0))?;
            // The first level keeps the channels of both its inputs.
            let (reduce, width) = match level {
                0 => (None, 2 * c),
                _ => {
                    let vb = vb.pp(format!("reduce_chan_level{}", level + 1));
                    (Some(Conv::point((2 * c, c), false, vb)?), c)
                }
            };
            let name = format!("decoder_level{}", level + 1);
            let blocks = stack(config.blocks[level], width, config.heads[level], &name)?;
            Ok((up, reduce, blocks))
        };
        let wide = channels(1);
        Ok(Self {
            embed: Conv::near((3, config.width), false, vb.pp("patch_embed").pp("proj"))?,
            encoder: (0..3).map(down).collect::<Result<_>>()?,
            latent: stack(config.blocks[3], channels(3), config.heads[3], "latent")?,
            decoder: (0..3).rev().map(up).collect::<Result<_>>()?,
            refinement: stack(config.refinement, wide, config.heads[0], "refinement")?,
            output: Conv::near((wide, 3), false, vb.pp("output"))?,
        })
    }
}

impl Network for Restormer {
    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let (h, w) = size(images, &self.embed)?;
        let images = reflected(&reflected(images, 1)?, 2)?;
        let mut x = self.embed.forward(&images)?;
        let mut skips = vec![];
        let through = |blocks: &[Block], x: Tensor| blocks.iter().try_fold(x, |x, block| block.forward(&x));
        for (blocks, down) in &self.encoder {
            x = through(blocks, x)?;
            skips.push(x.clone());
            x = pixel_unshuffle(&down.forward(&x)?)?;
        }
        x = through(&self.latent, x)?;
        for ((up, reduce, blocks), skip) in self.decoder.iter().zip(skips.into_iter().rev()) {
            x = Tensor::cat(&[pixel_shuffle(&up.forward(&x)?)?, skip], D::Minus1)?;
            if let Some(reduce) = reduce {
                x = reduce.forward(&x)?;
            }
            x = through(blocks, x)?;
        }
        let restored = (self.output.forward(&through(&self.refinement, x)?)? + images)?;
        Ok(restored.narrow(1, 0, h)?.narrow(2, 0, w)?)
    }
}

/// `x` with an axis reflected at its end up to a multiple of 8.
fn reflected(x: &Tensor, axis: usize) -> Result<Tensor> {
    let len = x.dim(axis)?;
    let full = len.next_multiple_of(8);
    if full == len {
        return Ok(x.clone());
    }
    // Reflected repeatedly, for images smaller than the padding.
    let turn = (2 * (len - 1)).max(1);
    let place = |at: usize| {
        let at = at % turn;
        at.min(turn - at).min(len - 1) as u32
    };
    let index = Tensor::from_iter((0..full).map(place), x.device())?;
    Ok(x.index_select(&index, axis)?)
}

/// Attention between channels, then a gated feed-forward layer.
#[derive(Clone, Debug)]
struct Block {
    norm1: Norm,
    qkv: Conv,
    qkv_near: Conv,
    temperature: Tensor,
    heads: usize,
    project: Conv,
    norm2: Norm,
    widen: Conv,
    wide_near: Conv,
    narrow: Conv,
}

impl Block {
    fn new(c: usize, heads: usize, config: &RestormerConfig, vb: VarBuilder) -> Result<Self> {
        let hidden = (c as f64 * config.expansion) as usize;
        if hidden == 0 {
            return Err(Error::config("expansion", "positive", config.expansion));
        }
        let (attention, ffn) = (vb.pp("attn"), vb.pp("ffn"));
        Ok(Self {
            norm1: Norm::new(c, config.norm_bias, vb.pp("norm1").pp("body"))?,
            qkv: Conv::point((c, 3 * c), false, attention.pp("qkv"))?,
            qkv_near: Conv::depthwise(3 * c, false, attention.pp("qkv_dwconv"))?,
            temperature: attention.get_with_hints((heads, 1, 1), "temperature", Init::Const(1.0))?,
            heads,
            project: Conv::point((c, c), false, attention.pp("project_out"))?,
            norm2: Norm::new(c, config.norm_bias, vb.pp("norm2").pp("body"))?,
            widen: Conv::point((c, 2 * hidden), false, ffn.pp("project_in"))?,
            wide_near: Conv::depthwise(2 * hidden, false, ffn.pp("dwconv"))?,
            narrow: Conv::point((hidden, c), false, ffn.pp("project_out"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = (x + self.attention(&self.norm1.forward(x)?)?)?;
        let wide = self
            .wide_near
            .forward(&self.widen.forward(&self.norm2.forward(&x)?)?)?;
        let (a, b) = halves(&wide)?;
        Ok((&x + self.narrow.forward(&(activate(&a, Function::Gelu)? * b)?)?)?)
    }

    /// Channels of a head attend to each other: a query and a key are a channel's values at all pixels.
    fn attention(&self, x: &Tensor) -> Result<Tensor> {
        let (b, h, w, c) = x.dims4()?;
        let qkv = self.qkv_near.forward(&self.qkv.forward(x)?)?;
        let part = |n: usize| -> Result<Tensor> {
            let part = qkv
                .narrow(3, n * c, c)?
                .reshape((b, h * w, self.heads, c / self.heads))?;
            Ok(part.permute((0, 2, 3, 1))?.contiguous()?)
        };
        let length = |x: &Tensor| -> Result<Tensor> { Ok(x.sqr()?.sum_keepdim(3)?.sqrt()?.maximum(1e-12)?) };
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        // Dividing the products by the lengths equals normalising queries and keys, and touches fewer values.
        let lengths = length(&q)?.broadcast_mul(&length(&k)?.transpose(2, 3)?)?;
        let logits =
            (matmul(&q, &k.transpose(2, 3)?.contiguous()?)? / lengths)?.broadcast_mul(&self.temperature)?;
        let mixed = matmul(&candle_nn::ops::softmax(&logits, D::Minus1)?, &v)?;
        let mixed = mixed.permute((0, 3, 1, 2))?.contiguous()?.reshape((b, h, w, c))?;
        self.project.forward(&mixed)
    }
}

/// A layer norm over channels, with mean and bias or without.
#[derive(Clone, Debug)]
enum Norm {
    WithBias(LayerNorm),
    BiasFree(Tensor),
}

const EPS: f64 = 1e-5;

impl Norm {
    fn new(channels: usize, bias: bool, vb: VarBuilder) -> Result<Self> {
        Ok(match bias {
            true => Self::WithBias(LayerNorm::new(channels, EPS, vb)?),
            false => Self::BiasFree(vb.get_with_hints(channels, "weight", Init::Const(1.0))?),
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::WithBias(norm) => norm.forward(x),
            Self::BiasFree(weight) => {
                let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
                let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + EPS)?.sqrt()?;
                Ok(x.broadcast_div(&deviation)?.broadcast_mul(weight)?)
            }
        }
    }
}
