//! The peers a cellular automaton is measured against: classical filters, and restoration networks.

mod classical;
mod layers;
mod nafnet;
mod restormer;

use candle_core::Tensor;

use crate::error::Result;

pub use classical::ClassicalFilter;
pub use nafnet::{NafNet, NafNetConfig};
pub use restormer::{Restormer, RestormerConfig};

/// A network that restores images in one pass.
pub trait Network: Send + Sync {
    /// Restores images, `[B, H, W, 3]` to the same shape, in `[0, 1]` but for overshoots.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::error::Error::Shape) for another shape.
    fn forward(&self, images: &Tensor) -> Result<Tensor>;
}

impl<N: Network + ?Sized> Network for std::sync::Arc<N> {
    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        (**self).forward(images)
    }
}
