//! Neural cellular automata on Candle.

#![warn(missing_docs)]

pub mod cells;
pub mod error;
pub mod layers;
pub mod random;
pub mod rollout;
pub mod stencil;
pub mod transition;
pub mod weights;

pub use cells::CellLayout;
pub use error::{Error, Result};
pub use rollout::{Memory, Rollout, Step};
pub use stencil::{Padding, neighbourhood};
pub use transition::{
    AliveMask, Growing, GrowingConfig, Nafca, NafcaConfig, TransitionFn, Vitca, VitcaConfig,
};
pub use weights::Weights;
