//! Restorers: systems that restore images with an NCA, on pixels or in latent space.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, check};
use crate::grid::{CellLayout, OutputStart};
use crate::model::autoencoder::Autoencoder;
use crate::rollout::{Memory, Rollout};
use crate::transition::TransitionFn;

/// A system that restores images with an NCA: [`LatentNca`] or [`PlainNca`].
///
/// Images are `[B, H, W, 3]`, cells `[B, h, w, C]`.
pub trait Restorer: Send + Sync {
    /// The channel layout of its cells.
    fn layout(&self) -> CellLayout;

    /// The number of which height and width of images must be a multiple.
    fn multiple(&self) -> usize;

    /// The cells from which restoration of `images` starts.
    fn seed(&self, images: &Tensor) -> Result<Tensor>;

    /// The cells after a rollout.
    fn evolve(&self, cells: &Tensor, rollout: &Rollout) -> Result<Tensor>;

    /// The images that `cells` show. `images` are the corrupted images they were seeded from; the
    /// skip-connection is computed from them.
    fn readout(&self, cells: &Tensor, images: &Tensor) -> Result<Tensor>;

    /// The target of the output channels for `clean` images.
    fn target(&self, clean: &Tensor) -> Result<Tensor>;

    /// Restores images, `[B, H, W, 3]` in `[0, 1]`, to the same shape, not clamped.
    ///
    /// Images may have any height and width: they are padded at the bottom and right by repeating their edge,
    /// and the result is cropped. No gradient is kept.
    ///
    /// # Errors
    /// [`Error::Shape`] if `images` are not a batch of RGB images, [`Error::DType`] unless they hold
    /// floating-point numbers; [`Error::Config`] with the position of the first NaN or infinity in `images`
    /// or in the restored images.
    fn restore(&self, images: &Tensor, rollout: &Rollout) -> Result<Tensor> {
        let (h, w) = match *images.dims() {
            [b, h, w, 3] if b > 0 && h > 0 && w > 0 => (h, w),
            _ => {
                return Err(Error::shape(
                    "images",
                    "[B, H, W, 3] with no empty axis",
                    images.dims(),
                ));
            }
        };
        check::float("images", images)?;
        check::finite_values("images", images)?;
        let images = images.detach();
        let (below, right) = (
            h.next_multiple_of(self.multiple()) - h,
            w.next_multiple_of(self.multiple()) - w,
        );
        let padded = images.pad_with_same(1, 0, below)?.pad_with_same(2, 0, right)?;
        let rollout = rollout.clone().memory(Memory::Nothing);
        let cells = self.evolve(&self.seed(&padded)?, &rollout)?;
        let restored = self.readout(&cells, &padded)?.detach();
        let restored = restored.narrow(1, 0, h)?.narrow(2, 0, w)?.contiguous()?;
        check::finite_values("restored", &restored).map(|()| restored)
    }
}

/// Which parts of a latent NCA are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Learning {
    /// The transition alone, as published.
    #[default]
    Transition,
    /// The transition and the decoder.
    Decoder,
    /// The transition and the whole autoencoder, end to end. Running statistics of batch norms stay fixed.
    Everything,
}

/// An NCA in the latent space of an autoencoder, frozen unless [`LatentNca::learning`] says otherwise.
///
/// Cells start from the latent of the corrupted image; their output channels are the restored latent, which
/// the decoder turns into an image, together with the skip-connection of the corrupted image.
#[derive(Clone, Debug)]
pub struct LatentNca<T> {
    autoencoder: Autoencoder,
    frozen: Autoencoder,
    learning: Learning,
    transition: T,
    start: OutputStart,
}

impl<T: TransitionFn + Clone + 'static> LatentNca<T> {
    /// A latent NCA whose autoencoder gets no gradient; both share their storage.
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
            frozen: autoencoder.frozen()?,
            autoencoder: autoencoder.clone(),
            learning: Learning::Transition,
            transition,
            start: OutputStart::Half,
        })
    }

    /// The same system with output channels that start as `start`.
    pub fn with_start(mut self, start: OutputStart) -> Self {
        self.start = start;
        self
    }

    /// The same system with gradients for the given parts.
    pub fn learning(mut self, learning: Learning) -> Self {
        self.learning = learning;
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
        let latent = match self.learning {
            Learning::Everything => self.autoencoder.encode(images, false)?.latent,
            // Detached: running statistics are variables, so the backward pass would reach them.
            _ => self.frozen.encode(images, false)?.latent.detach(),
        };
        self.layout().seed(&latent, self.start)
    }

    fn evolve(&self, cells: &Tensor, rollout: &Rollout) -> Result<Tensor> {
        rollout.run(&self.transition, cells)
    }

    fn readout(&self, cells: &Tensor, images: &Tensor) -> Result<Tensor> {
        let skip = match self.learning {
            Learning::Everything => self.autoencoder.skip(images, false)?,
            _ => self.frozen.skip(images, false)?.detach(),
        };
        let decoder = match self.learning {
            Learning::Transition => &self.frozen,
            _ => &self.autoencoder,
        };
        decoder.decode(&self.layout().output(cells)?, &skip, false)
    }

    fn target(&self, clean: &Tensor) -> Result<Tensor> {
        Ok(self.frozen.encode(clean, false)?.latent.detach())
    }
}

/// An NCA on pixels: one cell per pixel, with the restored image in the output channels.
#[derive(Clone, Debug)]
pub struct PlainNca<T> {
    transition: T,
    start: OutputStart,
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
            start: OutputStart::Half,
        })
    }

    /// The same system with output channels that start as `start`.
    pub fn with_start(mut self, start: OutputStart) -> Self {
        self.start = start;
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
        self.layout().seed(images, self.start)
    }

    fn evolve(&self, cells: &Tensor, rollout: &Rollout) -> Result<Tensor> {
        rollout.run(&self.transition, cells)
    }

    fn readout(&self, cells: &Tensor, _: &Tensor) -> Result<Tensor> {
        self.layout().output(cells)
    }

    fn target(&self, clean: &Tensor) -> Result<Tensor> {
        Ok(clean.clone())
    }
}
