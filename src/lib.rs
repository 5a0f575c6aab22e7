//! Neural cellular automata on Candle.

#![warn(missing_docs)]

pub mod autoencoder;
pub mod baseline;
pub mod cells;
pub mod data;
pub mod error;
pub mod evaluate;
pub mod layers;
pub mod loss;
pub mod metric;
pub mod model;
pub mod random;
pub mod restorer;
pub mod rollout;
pub mod stencil;
pub mod store;
pub mod train;
pub mod transition;
pub mod weights;

pub use autoencoder::{Autoencoder, AutoencoderConfig};
pub use cells::CellLayout;
pub use error::{Error, Result};
pub use evaluate::{Scores, evaluate};
pub use model::{Model, ModelCard, ModelConfig};
pub use restorer::{LatentNca, PlainNca, Restorer};
pub use rollout::{Memory, Rollout, Step};
pub use stencil::{Padding, neighbourhood};
pub use train::{AutoencoderTrainer, Fit, PoolTrainer, TrainingData};
pub use transition::{
    AliveMask, Growing, GrowingConfig, Nafca, NafcaConfig, TransitionFn, Vitca, VitcaConfig,
};
pub use weights::Weights;
