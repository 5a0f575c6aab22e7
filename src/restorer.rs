//! Restorers: systems that restore images with an NCA, on pixels or in latent space.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::autoencoder::Autoencoder;
use crate::loss::{self, OverflowNorm, Term};
use crate::rollout::{Memory, Rollout};
use crate::{CellLayout, Error, Result, TransitionFn};

/// A system that restores images with an NCA: [`LatentNca`] or [`PlainNca`], to be swapped in one line.
///
/// Images are `[B, H, W, 3]`, cells `[B, h, w, C]`.
pub trait Restorer: Send + Sync {
    /// The channels of its cells.
    fn layout(&self) -> CellLayout;

    /// The number that height and width of images must be a multiple of.
    fn multiple(&self) -> usize;

    /// The cells from which restoration of `images` starts.
    fn seed(&self, images: &Tensor) -> Result<Tensor>;

    /// The cells after a rollout.
    fn evolve(&self, cells: &Tensor, rollout: &Rollout) -> Result<Tensor>;

    /// The image that `cells` show. `images` are the corrupted ones that the cells came from, for the
    /// skip-connection, which is always computed afresh.
    fn readout(&self, cells: &Tensor, images: &Tensor) -> Result<Tensor>;

    /// The terms of the training loss of `cells` evolved from `corrupted` images.
    fn loss(&self, cells: &Tensor, corrupted: &Tensor, clean: &Tensor) -> Result<Vec<Term>>;

    /// Restored images: `[B, H, W, 3]` in `[0, 1]` to the same shape, not clamped.
    ///
    /// Any height and width will do: images are padded at the bottom and right by repeating their
    /// edge, and the result is cropped. No gradient is kept.
    ///
    /// # Errors
    /// [`Error::Shape`] if `images` are not a batch of RGB images.
    fn restore(&self, images: &Tensor, rollout: &Rollout) -> Result<Tensor> {
        let (h, w) = match *images.dims() {
            [b, h, w, 3] if b * h * w > 0 => (h, w),
            _ => {
                return Err(Error::shape(
                    "images",
                    "[B, H, W, 3] with no empty axis",
                    images.dims(),
                ));
            }
        };
        let images = images.detach();
        let (below, right) = (
            h.next_multiple_of(self.multiple()) - h,
            w.next_multiple_of(self.multiple()) - w,
        );
        let padded = images.pad_with_same(1, 0, below)?.pad_with_same(2, 0, right)?;
        let rollout = rollout.clone().memory(Memory::Nothing);
        let cells = self.evolve(&self.seed(&padded)?, &rollout)?;
        let restored = self.readout(&cells, &padded)?.detach();
        Ok(restored.narrow(1, 0, h)?.narrow(2, 0, w)?.contiguous()?)
    }
}

/// Weights of the loss of [`LatentNca`]; the defaults are the published ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatentLossConfig {
    /// REC, the MSE of the restored image: 100.
    pub rec: f64,
    /// LAT, the MSE of the output channels and the clean latent: 100.
    pub lat: f64,
    /// OVER of the output channels: 1.
    pub over_out: f64,
    /// OVER of the hidden channels: 1.
    pub over_hid: f64,
    /// Total variation of the restored image: 0, off.
    pub tv: f64,
    /// What divides OVER: all elements.
    pub overflow_norm: OverflowNorm,
}

impl Default for LatentLossConfig {
    fn default() -> Self {
        Self {
            rec: 100.0,
            lat: 100.0,
            over_out: 1.0,
            over_hid: 1.0,
            tv: 0.0,
            overflow_norm: OverflowNorm::Elements,
        }
    }
}

/// An NCA in the latent space of a frozen autoencoder.
///
/// Cells start from the latent of the corrupted image; their output channels are the restored latent,
/// which the decoder turns into an image with the skip-connection of the corrupted one.
#[derive(Clone, Debug)]
pub struct LatentNca<T> {
    autoencoder: Autoencoder,
    transition: T,
    loss: LatentLossConfig,
}

impl<T: TransitionFn + Clone + 'static> LatentNca<T> {
    /// A latent NCA whose autoencoder gets no gradient; it shares the storage of the one given.
    ///
    /// # Errors
    /// [`Error::Config`] if the transition's input or output channels are not the latent channels.
    pub fn new(autoencoder: &Autoencoder, transition: T) -> Result<Self> {
        let (layout, latent) = (transition.layout(), autoencoder.config().latent_channels);
        for (name, found) in [("layout.input", layout.input), ("layout.output", layout.output)] {
            if found != latent {
                return Err(Error::config(
                    name,
                    format!("{latent}, the latent channels"),
                    found,
                ));
            }
        }
        Ok(Self {
            autoencoder: autoencoder.frozen()?,
            transition,
            loss: LatentLossConfig::default(),
        })
    }

    /// The same system with other loss weights.
    pub fn with_loss(mut self, loss: LatentLossConfig) -> Self {
        self.loss = loss;
        self
    }

    /// Its autoencoder.
    pub fn autoencoder(&self) -> &Autoencoder {
        &self.autoencoder
    }

    /// Its transition.
    pub fn transition(&self) -> &T {
        &self.transition
    }
}

impl<T: TransitionFn + Clone + 'static> Restorer for LatentNca<T> {
    fn layout(&self) -> CellLayout {
        self.transition.layout()
    }

    fn multiple(&self) -> usize {
        self.autoencoder.multiple()
    }

    fn seed(&self, images: &Tensor) -> Result<Tensor> {
        self.layout()
            .seed(&self.autoencoder.encode(images, false)?.latent)
    }

    fn evolve(&self, cells: &Tensor, rollout: &Rollout) -> Result<Tensor> {
        rollout.run(&self.transition, cells)
    }

    fn readout(&self, cells: &Tensor, images: &Tensor) -> Result<Tensor> {
        let skip = self.autoencoder.skip(images, false)?;
        self.autoencoder
            .decode(&self.layout().output(cells)?, &skip, false)
    }

    fn loss(&self, cells: &Tensor, corrupted: &Tensor, clean: &Tensor) -> Result<Vec<Term>> {
        let restored = self.readout(cells, corrupted)?;
        let latent = self.autoencoder.encode(clean, false)?.latent;
        let output = self.layout().output(cells)?;
        let (over_out, over_hid) = loss::cell_overflow(&self.layout(), cells, self.loss.overflow_norm)?;
        let mut terms = vec![
            Term::new("rec", self.loss.rec, loss::mse(&restored, clean)?),
            Term::new("lat", self.loss.lat, loss::mse(&output, &latent)?),
            Term::new("over_out", self.loss.over_out, over_out),
            Term::new("over_hid", self.loss.over_hid, over_hid),
        ];
        if self.loss.tv != 0.0 {
            terms.push(Term::new(
                "tv",
                self.loss.tv,
                loss::total_variation(&restored, clean)?,
            ));
        }
        Ok(terms)
    }
}

/// Weights of the loss of [`PlainNca`]; the defaults are those published for ViTCA.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlainLossConfig {
    /// The mean absolute error of the output channels: 100.
    pub rec: f64,
    /// OVER of the output and of the hidden channels: 100.
    pub overflow: f64,
    /// What divides OVER: all elements.
    pub overflow_norm: OverflowNorm,
}

impl Default for PlainLossConfig {
    fn default() -> Self {
        Self {
            rec: 100.0,
            overflow: 100.0,
            overflow_norm: OverflowNorm::Elements,
        }
    }
}

/// An NCA on pixels: one cell a pixel, whose output channels are the restored image.
#[derive(Clone, Debug)]
pub struct PlainNca<T> {
    transition: T,
    loss: PlainLossConfig,
}

impl<T: TransitionFn + Clone + 'static> PlainNca<T> {
    /// A plain NCA.
    ///
    /// # Errors
    /// [`Error::Config`] if the transition's input or output channels are not 3.
    pub fn new(transition: T) -> Result<Self> {
        let layout = transition.layout();
        for (name, found) in [("layout.input", layout.input), ("layout.output", layout.output)] {
            if found != 3 {
                return Err(Error::config(name, "3, the channels of an RGB image", found));
            }
        }
        Ok(Self {
            transition,
            loss: PlainLossConfig::default(),
        })
    }

    /// The same system with other loss weights.
    pub fn with_loss(mut self, loss: PlainLossConfig) -> Self {
        self.loss = loss;
        self
    }

    /// Its transition.
    pub fn transition(&self) -> &T {
        &self.transition
    }
}

impl<T: TransitionFn + Clone + 'static> Restorer for PlainNca<T> {
    fn layout(&self) -> CellLayout {
        self.transition.layout()
    }

    fn multiple(&self) -> usize {
        1
    }

    fn seed(&self, images: &Tensor) -> Result<Tensor> {
        self.layout().seed(images)
    }

    fn evolve(&self, cells: &Tensor, rollout: &Rollout) -> Result<Tensor> {
        rollout.run(&self.transition, cells)
    }

    fn readout(&self, cells: &Tensor, _: &Tensor) -> Result<Tensor> {
        self.layout().output(cells)
    }

    fn loss(&self, cells: &Tensor, corrupted: &Tensor, clean: &Tensor) -> Result<Vec<Term>> {
        let restored = self.readout(cells, corrupted)?;
        let (over_out, over_hid) = loss::cell_overflow(&self.layout(), cells, self.loss.overflow_norm)?;
        Ok(vec![
            Term::new("rec", self.loss.rec, loss::mae(&restored, clean)?),
            Term::new("over_out", self.loss.overflow, over_out),
            Term::new("over_hid", self.loss.overflow, over_hid),
        ])
    }
}
