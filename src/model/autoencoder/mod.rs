//! The autoencoder that takes an image to a small latent grid and back.

mod conv;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, check};
use Activation::{Sigmoid, Swish};
use Direction::{Down, Up};
pub use conv::{Activation, AdjustedConv, Direction};

/// How far the autoencoder shrinks an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// To 1/4 of each side: the variant behind every published number.
    #[default]
    Down2,
    /// To 1/8 of each side.
    Down3,
}

/// Sizes of an [`Autoencoder`]; the defaults are the published ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderConfig {
    /// How far it shrinks: Down2, to a quarter of each side.
    pub depth: Depth,
    /// Channels D of the latent: 16; a multiple of 2, for Down3 of 4.
    pub latent_channels: usize,
    /// Whether convolutions have a bias: false, since the batch norm after them cancels it.
    ///
    /// The published program has these biases, so its weights need them. Training does not change them.
    pub conv_bias: bool,
}

impl Default for AutoencoderConfig {
    fn default() -> Self {
        Self {
            depth: Depth::Down2,
            latent_channels: 16,
            conv_bias: false,
        }
    }
}

/// The output of the encoder.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The latent: `[B, H / 4, W / 4, D]`, for Down3 `[B, H / 8, W / 8, D]`.
    pub latent: Tensor,
    /// The skip-connection, the first encoder layer's output: `[B, H / 2, W / 2, D / 2]`, for Down3 D / 4.
    pub skip: Tensor,
}

/// Encoder with a side channel from the image, decoder with a skip-connection.
///
/// Every layer is a 3x3 convolution (or its transpose) with TensorFlow's "same" padding, batch norm (eps
/// 1e-3, momentum 0.99) and swish; the last layer has a sigmoid. Layers by name: `enc1`, `side1`, `enc2`,
/// `dec2`, `mix`, `dec1`; Down3 has also `side2`, `enc3`, `dec3`. Source: "Latent Neural Cellular Automata
/// for Resource-Efficient Image Restoration" and its program.
#[derive(Clone, Debug)]
pub struct Autoencoder {
    config: AutoencoderConfig,
    enc1: AdjustedConv,
    side1: AdjustedConv,
    enc2: AdjustedConv,
    deep: Option<Deep>,
    dec2: AdjustedConv,
    mix: AdjustedConv,
    dec1: AdjustedConv,
}

/// The layers that Down3 adds.
#[derive(Clone, Debug)]
struct Deep {
    side2: AdjustedConv,
    enc3: AdjustedConv,
    dec3: AdjustedConv,
}

impl Autoencoder {
    /// An autoencoder of RGB images with weights from `vb`.
    ///
    /// # Errors
    /// [`Error::Config`] if the latent channels cannot be split over the layers.
    pub fn new(config: AutoencoderConfig, vb: VarBuilder) -> Result<Self> {
        let d = config.latent_channels;
        let (parts, outer) = match config.depth {
            Depth::Down2 => (2, d / 2),
            Depth::Down3 => (4, d / 4),
        };
        if d == 0 || !d.is_multiple_of(parts) {
            let expected = format!("a positive multiple of {parts}");
            return Err(Error::config("latent_channels", expected, d));
        }
        check::channels("latent_channels", d)?;
        let layer = |name: &str, channels, resize, activation| {
            AdjustedConv::new(channels, resize, activation, config.conv_bias, vb.pp(name))
        };
        let (inner, deep) = match config.depth {
            Depth::Down2 => (d, None),
            Depth::Down3 => {
                let deep = Deep {
                    side2: layer("side2", (outer, d / 2), (Down, 2), Swish)?,
                    enc3: layer("enc3", (d / 2, d), (Down, 2), Swish)?,
                    dec3: layer("dec3", (d, d / 2), (Up, 2), Swish)?,
                };
                (d / 2, Some(deep))
            }
        };
        Ok(Self {
            enc1: layer("enc1", (3, outer), (Down, 2), Swish)?,
            side1: layer("side1", (3, outer), (Down, 2), Swish)?,
            enc2: layer("enc2", (outer, inner), (Down, 2), Swish)?,
            deep,
            dec2: layer("dec2", (inner, outer), (Up, 2), Swish)?,
            mix: layer("mix", (outer, outer), (Down, 1), Swish)?,
            dec1: layer("dec1", (outer, 3), (Up, 2), Sigmoid)?,
            config,
        })
    }

    /// Its sizes.
    pub fn config(&self) -> &AutoencoderConfig {
        &self.config
    }

    /// The number of which height and width must be a multiple: 4, for Down3 8.
    pub fn multiple(&self) -> usize {
        match self.config.depth {
            Depth::Down2 => 4,
            Depth::Down3 => 8,
        }
    }

    /// The latent and the skip-connection of `images` (`[B, H, W, 3]` in `[0, 1]`).
    ///
    /// With `training`, batch norms use the statistics of this batch and update their running ones.
    ///
    /// # Errors
    /// [`Error::Shape`] if `images` are not RGB or a side is not a multiple of [`Autoencoder::multiple`].
    pub fn encode(&self, images: &Tensor, training: bool) -> Result<Encoded> {
        let skip = self.skip(images, training)?;
        let side = self.side1.forward(images, training)?;
        let latent = match &self.deep {
            None => self.enc2.forward(&(&skip + side)?, training)?,
            Some(deep) => {
                let latent = self.enc2.forward(&skip, training)?;
                let side = deep.side2.forward(&side, training)?;
                deep.enc3.forward(&(latent + side)?, training)?
            }
        };
        Ok(Encoded { latent, skip })
    }

    /// The skip-connection alone, as [`Autoencoder::encode`] has it.
    pub fn skip(&self, images: &Tensor, training: bool) -> Result<Tensor> {
        let multiple = self.multiple();
        match *images.dims() {
            [_, h, w, 3]
                if images.elem_count() > 0 && h.is_multiple_of(multiple) && w.is_multiple_of(multiple) =>
            {
                check::as_other("images", images, "the weights", self.enc1.kernel())?;
                self.enc1.forward(images, training)
            }
            _ => {
                let expected = format!("[B, H, W, 3] with H and W multiples of {multiple}");
                Err(Error::shape("images", expected, images.dims()))
            }
        }
    }

    /// Images from latents and skip-connections of the same size: `[B, H, W, 3]` in `(0, 1)`.
    ///
    /// The latent may come straight from the encoder or from the output channels of cells.
    ///
    /// # Errors
    /// [`Error::Shape`] if `latent` and `skip` do not fit each other or this autoencoder.
    pub fn decode(&self, latent: &Tensor, skip: &Tensor, training: bool) -> Result<Tensor> {
        let (d, scale) = (self.config.latent_channels, self.multiple() / 2);
        let &[b, h, w, c] = latent.dims() else {
            return Err(Error::shape("latent", format!("[B, h, w, {d}]"), latent.dims()));
        };
        if c != d || latent.elem_count() == 0 {
            return Err(Error::shape("latent", format!("[B, h, w, {d}]"), latent.dims()));
        }
        for (name, x) in [("latent", latent), ("skip", skip)] {
            check::as_other(name, x, "the weights", self.dec2.kernel())?;
        }
        let expected = [b, h * scale, w * scale, 2 * d / self.multiple()];
        if skip.dims() != expected {
            return Err(Error::shape("skip", format!("{expected:?}"), skip.dims()));
        }
        let latent = match &self.deep {
            None => latent.clone(),
            Some(deep) => deep.dec3.forward(latent, training)?,
        };
        let mixed = (self.dec2.forward(&latent, training)? + skip)?;
        let mixed = self.mix.forward(&mixed, training)?;
        self.dec1.forward(&mixed, training)
    }

    /// The same autoencoder with weights that get no gradient; both share their storage.
    pub fn frozen(&self) -> Result<Self> {
        let deep = |deep: &Deep| -> Result<Deep> {
            Ok(Deep {
                side2: deep.side2.frozen()?,
                enc3: deep.enc3.frozen()?,
                dec3: deep.dec3.frozen()?,
            })
        };
        Ok(Self {
            config: self.config.clone(),
            enc1: self.enc1.frozen()?,
            side1: self.side1.frozen()?,
            enc2: self.enc2.frozen()?,
            deep: self.deep.as_ref().map(deep).transpose()?,
            dec2: self.dec2.frozen()?,
            mix: self.mix.frozen()?,
            dec1: self.dec1.frozen()?,
        })
    }
}
