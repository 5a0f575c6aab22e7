//! Layers over cell vectors, and their weights.

mod layer_norm;
mod linear;
mod weights;

pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use weights::{Weights, glorot_uniform, uniform};
