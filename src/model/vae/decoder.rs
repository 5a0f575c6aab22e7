//! Decoders: from latents to the logits of pixels.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::conv::Conv;
use crate::error::{Error, Result, check};
use crate::grid::{Damage, doubled};
use crate::nn::Linear;
use crate::ops::convolution::Window;
use crate::ops::{Function, activate};
use crate::rollout::Rollout;
use crate::transition::{TransitionFn, Vnca};

/// The logits of pixels, the first channel of cells: `[B, H, W, 1]`.
fn logits(cells: &Tensor) -> Result<Tensor> {
    Ok(cells.narrow(3, 0, 1)?)
}

/// Latents as cells: `[B, Z]` to `[B, 1, 1, Z]`.
fn single(rule: &Vnca, z: &Tensor) -> Result<Tensor> {
    let channels = rule.layout().channels();
    match *z.dims() {
        [b, latent] if latent == channels && b > 0 => {
            check::float("z", z)?;
            Ok(z.reshape((b, 1, 1, channels))?)
        }
        _ => Err(Error::shape("z", format!("[B, {channels}]"), z.dims())),
    }
}

/// A decoder with its weights.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Decoder {
    /// A single cell that divides.
    Doubling(Doubling),
    /// A grid in which every cell starts as the latent.
    Broadcast(Broadcast),
    /// Transposed convolutions.
    Baseline(Deconvolution),
}

impl Decoder {
    /// The logits of pixels (`[B, H, W, 1]`) for latents `z` (`[B, Z]`). `rollout` is run after each
    /// doubling, or once; the baseline ignores it.
    ///
    /// # Errors
    /// [`Error::Shape`] if the latents do not fit; as [`Rollout::run`].
    pub fn decode(&self, z: &Tensor, rollout: &Rollout) -> Result<Tensor> {
        match self {
            Self::Doubling(decoder) => decoder.decode(z, rollout),
            Self::Broadcast(decoder) => decoder.decode(z, rollout),
            Self::Baseline(decoder) => decoder.decode(z),
        }
    }
}

/// An automaton that starts as one cell, the latent. Repeatedly, every cell divides into four, then all cells
/// are updated for a few steps.
#[derive(Clone, Debug)]
pub struct Doubling {
    rule: Vnca,
    doublings: usize,
}

impl Doubling {
    /// A decoder into images with a side of `2^doublings` pixels.
    pub fn new(rule: Vnca, doublings: usize) -> Self {
        Self { rule, doublings }
    }

    /// The transition.
    pub fn rule(&self) -> &Vnca {
        &self.rule
    }

    /// The first cells, if there is memory for the last.
    fn first(&self, z: &Tensor) -> Result<Tensor> {
        let cells = single(&self.rule, z)?;
        check::count("doublings", self.doublings, (0, 17))?;
        let side = 1 << self.doublings;
        check::elements("doublings", &[cells.elem_count(), side, side])?;
        Ok(cells)
    }

    /// The logits of pixels (`[B, H, W, 1]`) for latents `z` (`[B, Z]`); `rollout` is run after each
    /// doubling.
    ///
    /// # Errors
    /// [`Error::Shape`] if the latents have not as many dimensions as cells have channels; as
    /// [`Rollout::run`].
    pub fn decode(&self, z: &Tensor, rollout: &Rollout) -> Result<Tensor> {
        let mut cells = self.first(z)?;
        for _ in 0..self.doublings {
            cells = rollout.run(&self.rule, &doubled(&cells)?)?;
        }
        logits(&cells)
    }

    /// How images grow: for each doubling, the cells right after it and after each step, `[B, 2, 2, Z]` and
    /// larger.
    ///
    /// # Errors
    /// As [`Doubling::decode`].
    pub fn growth(&self, z: &Tensor, rollout: &Rollout) -> Result<Vec<Vec<Tensor>>> {
        let mut cells = self.first(z)?;
        let stage = |_| {
            let mut states = vec![doubled(&cells)?];
            states.extend(rollout.trajectory(&self.rule, &states[0])?);
            if let Some(last) = states.last() {
                cells = last.clone();
            }
            Ok(states)
        };
        (0..self.doublings).map(stage).collect()
    }
}

/// An automaton in which every cell starts as the latent. Only the border of the grid tells cells where they
/// are.
#[derive(Clone, Debug)]
pub struct Broadcast {
    rule: Vnca,
    size: usize,
}

impl Broadcast {
    /// A decoder into images with a side of `size` pixels.
    pub fn new(rule: Vnca, size: usize) -> Self {
        Self { rule, size }
    }

    /// The transition.
    pub fn rule(&self) -> &Vnca {
        &self.rule
    }

    /// The first cells for latents `z` (`[B, Z]`): `[B, size, size, Z]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the latents have not as many dimensions as cells have channels.
    pub fn seed(&self, z: &Tensor) -> Result<Tensor> {
        let cell = single(&self.rule, z)?;
        let (b, .., channels) = cell.dims4()?;
        check::count("size", self.size, (1, 1 << 17))?;
        check::elements("size", &[b, self.size, self.size, channels])?;
        Ok(cell
            .broadcast_as((b, self.size, self.size, channels))?
            .contiguous()?)
    }

    /// The logits of pixels, the first channel of cells: `[B, H, W, 1]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the cells do not fit the transition.
    pub fn logits(&self, cells: &Tensor) -> Result<Tensor> {
        self.rule.layout().check(cells)?;
        logits(cells)
    }

    /// The logits of pixels (`[B, size, size, 1]`) for latents `z` (`[B, Z]`) after `rollout`.
    ///
    /// # Errors
    /// As [`Broadcast::seed`] and [`Rollout::run`].
    pub fn decode(&self, z: &Tensor, rollout: &Rollout) -> Result<Tensor> {
        logits(&rollout.run(&self.rule, &self.seed(z)?)?)
    }
}

/// The logit of pixels in the frame of a [`Deconvolution`]: finite, with a probability of 0 in any precision,
/// so that a black pixel there adds exactly 0 to the likelihood and its gradient.
const OUTSIDE: f64 = -1e4;

/// Width of the frame of a [`Deconvolution`], pixels that are always black.
const FRAME: usize = 2;

/// The decoder of an ordinary autoencoder: a linear layer and five transposed 5x5 convolutions with ELUs
/// between them.
///
/// Weights: `input.weight` (`[features, Z]`, features in the order channel, row, column), `input.bias`,
/// `convolutions.N.weight` (`[in, out, 5, 5]`), `convolutions.N.bias`.
#[derive(Clone, Debug)]
pub struct Deconvolution {
    width: usize,
    /// Side of the feature map after the linear layer.
    side: usize,
    input: Linear,
    convolutions: Vec<Conv>,
}

impl Deconvolution {
    /// A decoder of `latent` dimensions into images with a side of `size` pixels, a multiple of 16; the
    /// outermost two pixels on every side are always black. Channels fall from `width`, a multiple of 16, to
    /// a sixteenth of it: 256, 32 and 512 in the article.
    ///
    /// # Errors
    /// [`Error::Config`] if size or width is not a multiple of 16 up to 65536, or `latent` is 0.
    pub fn new(size: usize, latent: usize, width: usize, vb: VarBuilder) -> Result<Self> {
        for (name, value) in [("size", size), ("width", width)] {
            if value == 0 || value > 1 << 16 || !value.is_multiple_of(16) {
                return Err(Error::config(name, "a multiple of 16 up to 65536", value));
            }
        }
        let side = size / 16;
        let conv = |n: usize| {
            let vb = vb.pp("convolutions").pp(n);
            match n {
                4 => Conv::transposed((width / 16, 1), vb),
                n => Conv::transposed((width >> n, width >> (n + 1)), vb),
            }
        };
        Ok(Self {
            width,
            side,
            input: Linear::uniform(latent, side * side * width, true, vb.pp("input"))?,
            convolutions: (0..5).map(conv).collect::<Result<_>>()?,
        })
    }

    /// The logits of the pixels inside the frame for latents `z` (`[B, Z]`): `[B, size - 4, size - 4, 1]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the latents do not fit.
    pub fn inner(&self, z: &Tensor) -> Result<Tensor> {
        let latent = self.input.weight().dim(1)?;
        if !matches!(*z.dims(), [b, z] if b > 0 && z == latent) {
            return Err(Error::shape("z", format!("[B, {latent}]"), z.dims()));
        }
        check::as_other("z", z, "the weights", self.input.weight())?;
        let mut side = self.side;
        let features = self.input.forward(z)?.reshape(((), self.width, side, side))?;
        let mut x = features.permute((0, 2, 3, 1))?.contiguous()?;
        for (n, conv) in self.convolutions.iter().enumerate() {
            // PyTorch's (stride 2, padding 2, output padding 1), and at the end (stride 1, padding 4).
            let window = match n {
                4 => Window::padded(side - 2 * FRAME, 5, 1, 4),
                _ => Window::padded(2 * side, 5, 2, 2),
            };
            side = window.len;
            x = conv.forward(&x, window)?;
            if n < 4 {
                x = activate(&x, Function::Elu)?;
            }
        }
        Ok(x)
    }

    /// The logits of all pixels, `[B, size, size, 1]`; in the frame the probability is 0.
    ///
    /// # Errors
    /// As [`Deconvolution::inner`].
    pub fn decode(&self, z: &Tensor) -> Result<Tensor> {
        let mut logits = self.inner(z)?;
        for axis in [1, 2] {
            logits = logits.pad_with_zeros(axis, FRAME, FRAME)?;
        }
        let side = logits.dim(1)?;
        let drawn = (FRAME, side - FRAME);
        let drawn = Damage::Rectangle {
            rows: drawn,
            columns: drawn,
        };
        let frame = drawn.mask((side, side), logits.dtype(), logits.device())?;
        Ok(logits.broadcast_add(&(frame * OUTSIDE)?)?)
    }
}
