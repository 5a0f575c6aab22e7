//! Layers over cell vectors, and their weights.

mod layer_norm;
mod linear;
mod packed;
mod weights;

pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub(crate) use packed::pack;
pub use weights::{Weights, glorot_uniform, uniform};
