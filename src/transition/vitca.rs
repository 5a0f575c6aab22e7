//! ViTCA: a transition with local self-attention (Tesfaldet, Nowrouzezahrai and Pal 2022).

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use super::TransitionFn;
use super::split_linear::SplitLinear;
use crate::error::{Error, Result, check};
use crate::grid::{CellLayout, Padding};
use crate::nn::{LayerNorm, Linear, glorot_uniform};
use crate::ops::{Function, matmul};
use crate::program::{Program, ProgramBuilder, Value};

/// Order of the channels of the positional table; models differ only by a permutation of weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PositionalOrder {
    /// Channel i is a sine where i is even and a cosine where it is odd: the original ViTCA.
    #[default]
    Interleaved,
    /// The first sine, all cosines, the other sines: the program of the latent NCA's authors.
    Block,
}

/// Sizes of a [`Vitca`] transition; the defaults are those of ViTCA on RGB pixels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VitcaConfig {
    /// Channels: 3 in, 3 out, 32 hidden.
    pub layout: CellLayout,
    /// Width E of the embedding: 128.
    pub embed_dim: usize,
    /// Attention heads: 4; a divisor of `embed_dim`.
    pub heads: usize,
    /// Width of the perceptron: 64.
    pub mlp_dim: usize,
    /// Attention blocks: 1.
    pub depth: usize,
    /// Added to the variance in layer norms: 1e-3.
    pub eps: f64,
    /// Order of the positional table: interleaved.
    pub positional_order: PositionalOrder,
    /// The border of the grid: cells whose key and value are 0, which count in the softmax.
    pub padding: Padding,
}

impl Default for VitcaConfig {
    fn default() -> Self {
        Self {
            layout: CellLayout {
                input: 3,
                output: 3,
                hidden: 32,
            },
            embed_dim: 128,
            heads: 4,
            mlp_dim: 64,
            depth: 1,
            eps: 1e-3,
            positional_order: PositionalOrder::Interleaved,
            padding: Padding::Zero,
        }
    }
}

impl VitcaConfig {
    /// The sizes of LatentViTCA: 16 channels in, 16 out, 32 hidden.
    pub fn latent() -> Self {
        Self {
            layout: CellLayout {
                input: 16,
                output: 16,
                hidden: 32,
            },
            ..Self::default()
        }
    }
}

/// Embedding and position, attention over the 3x3 neighbourhood, perceptron, head.
///
/// Weights, for K channels a cell and E = `embed_dim`: `embed` (K to E); for each block n, under `blocks.n`,
/// `attn_norm`, `qkv` (E to 3 E, no bias; q, k, v, each head-major), `proj` (E to E; absent for one head),
/// `mlp_norm`, `mlp1` (E to `mlp_dim`), `mlp2`; `head_norm`; `head` (E to output and hidden), which starts at
/// zero, so that an untrained automaton changes nothing.
///
/// The positional table is one-dimensional over the flattened grid: the rule depends on the size of
/// the grid and is not translation-invariant.
#[derive(Clone, Debug)]
pub struct Vitca {
    config: VitcaConfig,
    embed: Linear,
    blocks: Vec<Block>,
    head_norm: LayerNorm,
    head: Linear,
    /// The table of the last grid, less the mean of each position; clones share it.
    positions: Arc<Mutex<Option<Tensor>>>,
}

#[derive(Clone, Debug)]
struct Block {
    attn_norm: LayerNorm,
    qkv: Linear,
    proj: Option<Linear>,
    mlp_norm: LayerNorm,
    mlp1: Linear,
    mlp2: Linear,
}

impl Vitca {
    /// A transition with weights from `vb`.
    ///
    /// # Errors
    /// [`Error::Config`] if `heads` does not divide `embed_dim`.
    pub fn new(config: VitcaConfig, vb: VarBuilder) -> Result<Self> {
        let (cell, e) = (config.layout.channels(), config.embed_dim);
        config.layout.check_sizes()?;
        check::channels("embed_dim", e)?;
        check::channels("mlp_dim", config.mlp_dim)?;
        check::count("depth", config.depth, (0, check::MOST_LAYERS))?;
        check::not_negative("eps", config.eps)?;
        if config.heads == 0 || e == 0 || !e.is_multiple_of(config.heads) {
            let expected = format!("a divisor of embed_dim = {e}");
            return Err(Error::config("heads", expected, config.heads));
        }
        let block = |n: usize| -> Result<Block> {
            let vb = vb.pp("blocks").pp(n);
            let kernel = vb
                .pp("qkv")
                .get_with_hints((3 * e, e), "weight", glorot_uniform(e, 3 * e))?;
            Ok(Block {
                attn_norm: LayerNorm::new(e, config.eps, vb.pp("attn_norm"))?,
                qkv: Linear::new(kernel, None),
                proj: match config.heads {
                    1 => None,
                    _ => Some(Linear::glorot(e, e, vb.pp("proj"))?),
                },
                mlp_norm: LayerNorm::new(e, config.eps, vb.pp("mlp_norm"))?,
                mlp1: Linear::glorot(e, config.mlp_dim, vb.pp("mlp1"))?,
                mlp2: Linear::glorot(config.mlp_dim, e, vb.pp("mlp2"))?,
            })
        };
        let update = config.layout.update_channels();
        Ok(Self {
            embed: Linear::glorot(cell, e, vb.pp("embed"))?,
            blocks: (0..config.depth).map(block).collect::<Result<_>>()?,
            head_norm: LayerNorm::new(e, config.eps, vb.pp("head_norm"))?,
            head: Linear::with_init(e, update, Init::Const(0.0), vb.pp("head"))?,
            positions: Arc::default(),
            config,
        })
    }

    /// The positional table of a grid, `[h, w, E]`, less the mean of each position.
    fn positions(&self, (h, w): (usize, usize), like: &Tensor) -> Result<Tensor> {
        let VitcaConfig {
            embed_dim,
            positional_order,
            ..
        } = self.config;
        let mut cached = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |table: &&Tensor| {
            table.dims() == [h, w, embed_dim]
                && table.dtype() == like.dtype()
                && table.device().same_device(like.device())
        };
        if let Some(table) = cached.as_ref().filter(fits) {
            return Ok(table.clone());
        }
        let table = positional_table(h * w, embed_dim, positional_order, like.device())?;
        let table = table.broadcast_sub(&table.mean_keepdim(1)?)?;
        let table = table.to_dtype(like.dtype())?.reshape((h, w, embed_dim))?;
        Ok(cached.insert(table).clone())
    }
}

/// `layer` with the mean over output channels subtracted from its outputs.
fn centred(layer: &Linear) -> Result<Linear> {
    let weight = layer.weight();
    let weight = weight.broadcast_sub(&weight.mean_keepdim(0)?)?;
    let bias = layer
        .bias()
        .map(|bias| bias.broadcast_sub(&bias.mean_keepdim(0)?));
    Ok(Linear::new(weight, bias.transpose()?))
}

/// The embedding of cells before its first layer norm. Its channels have mean 0, so the norm divides by their
/// root mean square. A linear map of the normalised embedding is then a linear map of the cells, which have
/// fewer channels, plus one of the position, which is the same in every step.
struct Embedding {
    /// Before the norm.
    value: Value,
    /// The cells divided by the root mean square of `value`.
    cells: SplitLinear,
    /// The part of `value` that is linear in the cells, `[E, K]`, and the rest, `[h w, E]`.
    weight: Tensor,
    rest: Tensor,
    grid: (usize, usize),
}

impl Embedding {
    fn new(p: &mut ProgramBuilder, config: &VitcaConfig, embed: &Linear, positions: &Tensor) -> Result<Self> {
        let (h, w, e) = positions.dims3()?;
        let cells = SplitLinear::new(p, config.layout)?;
        let table = p.constant(positions)?;
        let value = cells.linear(p, embed.weight(), embed.bias(), Some(table))?;
        let inverse = p.inverse_rms(value, config.eps)?;
        let rest = positions.reshape((h * w, e))?;
        Ok(Self {
            value,
            cells: cells.scaled(p, inverse)?,
            weight: embed.weight().clone(),
            rest: match embed.bias() {
                Some(bias) => rest.broadcast_add(bias)?,
                None => rest,
            },
            grid: (h, w),
        })
    }

    /// `weight`, `[output, E]`, times the embedding normalised by `norm`.
    fn map(&self, p: &mut ProgramBuilder, norm: &LayerNorm, weight: &Tensor) -> Result<Value> {
        let scaled = weight.broadcast_mul(norm.weight())?;
        let shift = matmul(weight, &norm.bias().unsqueeze(1)?)?.squeeze(1)?;
        let rest = matmul(&self.rest, &scaled.t()?)?;
        let rest = p.constant(&rest.reshape((self.grid.0, self.grid.1, ()))?)?;
        self.cells
            .linear(p, &matmul(&scaled, &self.weight)?, Some(&shift), Some(rest))
    }
}

impl Block {
    /// The residual stream after the block; `map` is a linear map of the stream before the block, normalised
    /// by the block's norm.
    fn extend(
        &self,
        p: &mut ProgramBuilder,
        x: Value,
        config: &VitcaConfig,
        map: impl Fn(&mut ProgramBuilder, &Tensor) -> Result<Value>,
    ) -> Result<Value> {
        // Queries separately: they are needed only where a cell fires, keys and values everywhere.
        let (e, qkv) = (config.embed_dim, self.qkv.weight());
        let q = map(p, &qkv.narrow(0, 0, e)?)?;
        let kv = map(p, &qkv.narrow(0, e, 2 * e)?)?;
        let (k, v) = (p.slice(kv, 0, e)?, p.slice(kv, e, e)?);
        let mut attended = p.attention(q, k, v, config.heads, config.padding)?;
        if let Some(proj) = &self.proj {
            attended = p.layer(attended, proj)?;
        }
        let x = p.add(x, attended)?;
        let normal = p.norm(x, &self.mlp_norm)?;
        let inner = p.layer(normal, &self.mlp1)?;
        let inner = p.map(inner, Function::Gelu)?;
        let inner = p.layer(inner, &self.mlp2)?;
        p.add(x, inner)
    }
}

impl TransitionFn for Vitca {
    fn layout(&self) -> CellLayout {
        self.config.layout
    }

    fn program(&self, cells: &Tensor) -> Result<Option<Program>> {
        let (_, h, w) = self.config.layout.check(cells)?;
        let mut p = ProgramBuilder::new(self.config.layout);
        // Every reader of the residual stream normalises it, so the mean over its channels can be dropped.
        let (embed, positions) = (centred(&self.embed)?, self.positions((h, w), cells)?);
        let embedding = Embedding::new(&mut p, &self.config, &embed, &positions)?;
        let mut x = embedding.value;
        for (n, block) in self.blocks.iter().enumerate() {
            let normal = match n {
                0 => None,
                _ => Some(p.norm(x, &block.attn_norm)?),
            };
            x = block.extend(&mut p, x, &self.config, |p, weight| match normal {
                Some(normal) => p.linear(normal, weight, None),
                None => embedding.map(p, &block.attn_norm, weight),
            })?;
        }
        let normal = p.norm(x, &self.head_norm)?;
        let update = p.layer(normal, &self.head)?;
        p.finish(update).map(Some)
    }
}

/// The positional table of ViTCA: `[positions, channels]`, f64.
///
/// With w_i = 10000^(-i / channels), channel i of position p is sin(p w_i) for even i and cos(p w_i)
/// for odd i, in the given order.
pub fn positional_table(
    positions: usize,
    channels: usize,
    order: PositionalOrder,
    device: &Device,
) -> Result<Tensor> {
    check::elements("positions", &[positions, channels])?;
    let order: Vec<usize> = match order {
        PositionalOrder::Interleaved => (0..channels).collect(),
        PositionalOrder::Block => {
            let (evens, odds) = ((0..channels).step_by(2), (1..channels).step_by(2));
            evens.clone().take(1).chain(odds).chain(evens.skip(1)).collect()
        }
    };
    let value = |position: usize, i: usize| {
        let phase = position as f64 * 10000f64.powf(-(i as f64) / channels as f64);
        if i.is_multiple_of(2) {
            phase.sin()
        } else {
            phase.cos()
        }
    };
    let table: Vec<f64> = (0..positions)
        .flat_map(|position| order.iter().map(move |&i| value(position, i)))
        .collect();
    Ok(Tensor::from_vec(table, (positions, channels), device)?.to_dtype(DType::F64)?)
}
