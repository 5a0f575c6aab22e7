//! NAFNet (Chen, Chu, Zhang and Sun, "Simple Baselines for Image Restoration", ECCV 2022).

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use super::layers::{Conv, halves, pixel_shuffle, size};
use super::network::Network;
use crate::error::{Error, Result, check};
use crate::nn::LayerNorm;
use crate::ops::{matmul, scale_channels, scale_parts};

/// Sizes of a [`NafNet`]; the defaults are those of the latent NCA paper: 116 million weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NafNetConfig {
    /// Channels at full size, doubled at each level: 64.
    pub width: usize,
    /// Blocks of each level of the encoder: 2, 2, 4, 8.
    pub encoder: Vec<usize>,
    /// Blocks in the middle: 12.
    pub middle: usize,
    /// Blocks of each level of the decoder: 2, 2, 2, 2.
    pub decoder: Vec<usize>,
}

impl Default for NafNetConfig {
    fn default() -> Self {
        Self {
            width: 64,
            encoder: vec![2, 2, 4, 8],
            middle: 12,
            decoder: vec![2, 2, 2, 2],
        }
    }
}

/// The original NAFNet. Images of any size are padded with zeros, below and to the right, to a multiple of
/// `2^levels`, and the result is cropped. Its weights have the names and shapes of the original program.
#[derive(Clone, Debug)]
pub struct NafNet {
    intro: Conv,
    encoder: Vec<(Vec<Block>, Conv)>,
    middle: Vec<Block>,
    decoder: Vec<(Conv, Vec<Block>)>,
    ending: Conv,
}

impl NafNet {
    /// A network with weights from `vb`.
    ///
    /// # Errors
    /// [`Error::Config`] if encoder and decoder have different numbers of levels, or `width` is 0.
    pub fn new(config: &NafNetConfig, vb: VarBuilder) -> Result<Self> {
        let levels = config.encoder.len();
        if config.decoder.len() != levels {
            let expected = format!("{levels} levels, as the encoder");
            return Err(Error::config("decoder", expected, config.decoder.len()));
        }
        check::count("encoder", levels, (0, 16))?;
        check::count("width", config.width, (1, check::MOST_CHANNELS >> levels))?;
        let blocks = config
            .encoder
            .iter()
            .chain(&config.decoder)
            .chain([&config.middle]);
        for &blocks in blocks {
            check::count("blocks", blocks, (0, check::MOST_LAYERS))?;
        }
        let blocks = |count: usize, channels: usize, vb: VarBuilder| -> Result<Vec<Block>> {
            (0..count).map(|n| Block::new(channels, vb.pp(n))).collect()
        };
        let channels = |level: usize| config.width << level;
        let down = |level: usize| -> Result<(Vec<Block>, Conv)> {
            let c = channels(level);
            let here = blocks(config.encoder[level], c, vb.pp("encoders").pp(level))?;
            Ok((here, Conv::halving((c, 2 * c), vb.pp("downs").pp(level))?))
        };
        let up = |n: usize| -> Result<(Conv, Vec<Block>)> {
            let c = channels(levels - n);
            let up = Conv::point((c, 2 * c), false, vb.pp("ups").pp(n).pp(0))?;
            Ok((up, blocks(config.decoder[n], c / 2, vb.pp("decoders").pp(n))?))
        };
        Ok(Self {
            intro: Conv::near((3, config.width), true, vb.pp("intro"))?,
            encoder: (0..levels).map(down).collect::<Result<_>>()?,
            middle: blocks(config.middle, channels(levels), vb.pp("middle_blks"))?,
            decoder: (0..levels).map(up).collect::<Result<_>>()?,
            ending: Conv::near((config.width, 3), true, vb.pp("ending"))?,
        })
    }
}

impl Network for NafNet {
    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let (h, w) = size(images, &self.intro)?;
        let multiple = 1 << self.encoder.len();
        let rest = |side: usize| side.next_multiple_of(multiple) - side;
        let images = images
            .pad_with_zeros(1, 0, rest(h))?
            .pad_with_zeros(2, 0, rest(w))?;
        let mut x = self.intro.forward(&images)?;
        let mut skips = vec![];
        let through = |blocks: &[Block], x: Tensor| blocks.iter().try_fold(x, |x, block| block.forward(&x));
        for (blocks, down) in &self.encoder {
            x = through(blocks, x)?;
            skips.push(x.clone());
            x = down.forward(&x)?;
        }
        x = through(&self.middle, x)?;
        for ((up, blocks), skip) in self.decoder.iter().zip(skips.into_iter().rev()) {
            x = through(blocks, (pixel_shuffle(&up.forward(&x)?)? + skip)?)?;
        }
        let restored = (self.ending.forward(&x)? + images)?;
        Ok(restored.narrow(1, 0, h)?.narrow(2, 0, w)?)
    }
}

/// The nonlinear-activation-free block.
#[derive(Clone, Debug)]
struct Block {
    norm1: LayerNorm,
    conv1: Conv,
    conv2: Conv,
    sca: Conv,
    conv3: Conv,
    norm2: LayerNorm,
    conv4: Conv,
    conv5: Conv,
    /// Scales of the two residual branches.
    beta: Tensor,
    gamma: Tensor,
}

impl Block {
    fn new(c: usize, vb: VarBuilder) -> Result<Self> {
        let scale = |name: &str| -> Result<Tensor> {
            let scale = vb.get_with_hints((1, c, 1, 1), name, Init::Const(0.0))?;
            Ok(scale.flatten_all()?)
        };
        Ok(Self {
            norm1: LayerNorm::new(c, 1e-6, vb.pp("norm1"))?,
            conv1: Conv::point((c, 2 * c), true, vb.pp("conv1"))?,
            conv2: Conv::depthwise(2 * c, true, vb.pp("conv2"))?,
            sca: Conv::point((c, c), true, vb.pp("sca").pp(1))?,
            conv3: Conv::point((c, c), true, vb.pp("conv3"))?,
            norm2: LayerNorm::new(c, 1e-6, vb.pp("norm2"))?,
            conv4: Conv::point((c, 2 * c), true, vb.pp("conv4"))?,
            conv5: Conv::point((c, c), true, vb.pp("conv5"))?,
            beta: scale("beta")?,
            gamma: scale("gamma")?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gate = |x: Tensor| -> Result<Tensor> {
            let (a, b) = halves(&x)?;
            Ok((a * b)?)
        };
        let near = self
            .conv2
            .forward(&self.conv1.forward(&self.norm1.forward(x)?)?)?;
        let gated = gate(near)?;
        // Simplified channel attention: channels are scaled by a linear map of all channel means.
        let (b, h, w, c) = gated.dims4()?;
        let cells = gated.reshape((b, h * w, c))?;
        let mean = Tensor::full(1.0 / (h * w) as f64, (b, 1, h * w), x.device())?.to_dtype(x.dtype())?;
        let attention = self.sca.forward(&matmul(&mean, &cells)?.reshape((b, 1, 1, c))?)?;
        let branch = self
            .conv3
            .forward(&scale_parts(&gated, &attention.reshape((b, c))?)?)?;
        let y = (x + scale_channels(&branch, &self.beta)?)?;
        let branch = self
            .conv5
            .forward(&gate(self.conv4.forward(&self.norm2.forward(&y)?)?)?)?;
        Ok((&y + scale_channels(&branch, &self.gamma)?)?)
    }
}
