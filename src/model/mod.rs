//! Models: systems with their weights, to create, train, save and load.

pub mod autoencoder;
pub mod baseline;
pub mod pattern;
mod restoration;
mod restorer;
pub mod vae;

pub use restoration::{Model, ModelCard, ModelConfig};
pub use restorer::{LatentNca, Learning, PlainNca, Restorer};
