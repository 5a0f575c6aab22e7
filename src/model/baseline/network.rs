//! The trait of restoration networks.

use candle_core::Tensor;

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;

/// A network that restores images in one pass.
pub trait Network: Send + Sync {
    /// Restores images, `[B, H, W, 3]` to the same shape, about in `[0, 1]`, not clamped.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape.
    fn forward(&self, images: &Tensor) -> Result<Tensor>;
}

impl<N: Network + ?Sized> Network for std::sync::Arc<N> {
    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        (**self).forward(images)
    }
}
