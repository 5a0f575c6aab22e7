//! Training: trainers, which make updates, and [`Fit`], which runs, validates, saves and resumes them.

mod adam;
mod adam_kernels;
mod autoencoder_trainer;
mod checkpoint;
mod fit;
mod learner;
mod network_trainer;
mod pattern_trainer;
mod pool;
mod pool_trainer;
mod recipe;
mod trainer;
mod unread;
mod vae_trainer;
mod weight_average;

pub use adam::{Adam, AdamConfig};
pub use autoencoder_trainer::{AutoencoderTrainer, AutoencoderTrainerConfig, Triplet};
pub use fit::{Event, Fit, TrainingData};
pub use learner::Learner;
pub use network_trainer::{NetworkLoss, NetworkTrainer, NetworkTrainerConfig};
pub use pattern_trainer::{PatternTrainer, PatternTrainerConfig, Reseed};
pub use pool::{Pool, PoolEntry};
pub use pool_trainer::{PoolOrder, PoolTrainer, PoolTrainerConfig};
pub use recipe::Recipe;
pub use trainer::{Reading, Trainer};
pub use vae_trainer::{Evolving, VaeTrainer, VaeTrainerConfig};
