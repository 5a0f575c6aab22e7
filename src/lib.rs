//! Neural cellular automata on Candle.

#![warn(missing_docs)]

pub mod autoencoder;
pub mod cells;
pub mod error;
pub mod layers;
pub mod loss;
pub mod metric;
pub mod random;
pub mod restorer;
pub mod rollout;
pub mod stencil;
pub mod transition;
pub mod weights;

pub use autoencoder::{Autoencoder, AutoencoderConfig};
pub use cells::CellLayout;
pub use error::{Error, Result};
pub use restorer::{LatentNca, PlainNca, Restorer};
pub use rollout::{Memory, Rollout, Step};
pub use stencil::{Padding, neighbourhood};
pub use transition::{
    AliveMask, Growing, GrowingConfig, Nafca, NafcaConfig, TransitionFn, Vitca, VitcaConfig,
};
pub use weights::Weights;
