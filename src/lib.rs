//! Neural cellular automata (NCA) on [Candle](candle_core).
//!
//! An NCA is a grid of cells; each cell is a vector; a small learned function, the transition, updates
//! every cell from its 3x3 neighbourhood, many times over. Everything else (latent spaces, growing
//! patterns, restored images) is a way to choose the first cells, the loss or the readout.
//!
//! | what | where |
//! | --- | --- |
//! | cells: which channels are input, output, hidden | [`grid`] |
//! | transitions: [`Vitca`], [`Nafca`], [`Growing`], [`Texture`], [`Vnca`], your own | [`transition`] |
//! | rollouts: steps, update masks, memory | [`rollout`] |
//! | the autoencoder around a latent NCA | [`autoencoder`] |
//! | systems that restore images: [`LatentNca`], [`PlainNca`] | [`restorer`] |
//! | losses, SSIM and PSNR | [`loss`], [`metric`], [`mod@evaluate`] |
//! | images, corruptions, splits | [`data`] |
//! | patterns that grow, textures | [`pattern`] |
//! | variational autoencoders: [`Vae`] | [`vae`] |
//! | training with a pool, checkpoints, resuming | [`train`] |
//! | the published models, to save and load | [`model`] |
//! | how they are trained, as published or as tuned here | [`recipe`] |
//!
//! # The whole idea in one example
//!
//! Train an NCA in the latent space of an autoencoder to remove noise, then use it. With the default
//! settings of [`Fit`] in place of these, this is the pipeline of "Latent Neural Cellular Automata for
//! Resource-Efficient Image Restoration".
//!
//! ```
//! use lnca::prelude::*;
//!
//! # fn main() -> lnca::Result<()> {
//! let images = Dataset::dead_leaves(40, 16, 7)?.split(7)?;
//! let data = TrainingData {
//!     train: images.train,
//!     validation: images.validation,
//!     corruption: Some(Corruption::NOISE),
//!     curriculum: None,
//! };
//! let recipe = lnca::Recipe::paper(ModelConfig::latent_nafca());
//! let model = Model::new(recipe.model.clone(), 7, &Device::Cpu)?;
//! let fit = Fit { epochs: 1, ..Fit::default() };
//! if let Some((autoencoder, weights)) = model.autoencoder() {
//!     let mut trainer = AutoencoderTrainer::new(autoencoder, weights, Default::default());
//!     fit.run(&mut trainer, &data, &mut |_| ())?;
//! }
//! let mut trainer = recipe.nca_trainer(&model)?;
//! fit.run(&mut trainer, &data, &mut |event| println!("{event:?}"))?;
//!
//! let noisy = Tensor::rand(0f32, 1f32, (1, 50, 70, 3), &Device::Cpu)?; // any height and width
//! let restored = model.restore(&noisy, Key::new(7))?;
//! assert_eq!(restored.dims(), noisy.dims());
//! # Ok(())
//! # }
//! ```
//!
//! # Conventions
//!
//! Images and cells are channels-last, `[B, H, W, C]`; image values are f32 in `[0, 1]`. Every random
//! draw is a function of one seed ([`random::Key`]): the same seed gives the same bits whatever the
//! number of threads, and a resumed run those of one that never stopped. Errors name what was wrong,
//! what was expected and what was found; nothing that a user, a file or a shape can cause panics.

#![warn(missing_docs)]

// Tests inside the crate share files with those outside it, which call it by its name.
#[cfg(test)]
extern crate self as lnca;

pub mod autoencoder;
pub mod baseline;
pub mod data;
mod engine;
pub mod error;
pub mod evaluate;
pub mod grid;
pub mod loss;
pub mod metric;
pub mod model;
pub mod nn;
pub mod ops;
pub mod pattern;
pub mod program;
pub mod random;
pub mod recipe;
pub mod render;
pub mod restorer;
pub mod rollout;
pub mod store;
pub mod train;
pub mod transition;
pub mod vae;

pub use autoencoder::{Autoencoder, AutoencoderConfig};
pub use engine::Precision;
pub use error::{Error, Result};
pub use evaluate::{Scores, evaluate};
pub use grid::{AliveMask, CellLayout, Damage, OutputStart, Padding, Step};
pub use model::{Model, ModelCard, ModelConfig};
pub use nn::Weights;
pub use ops::{Function, neighbourhood};
pub use pattern::{Pattern, PatternCard, PatternConfig};
pub use program::{Program, ProgramBuilder, Value};
pub use recipe::Recipe;
pub use restorer::{LatentNca, Learning, PlainNca, Restorer};
pub use rollout::{Memory, Rollout};
pub use train::{AutoencoderTrainer, Fit, PoolTrainer, TrainingData};
pub use transition::{
    Growing, GrowingConfig, Nafca, NafcaConfig, Texture, TextureConfig, TransitionFn, Vitca, VitcaConfig,
    Vnca, VncaConfig,
};
pub use vae::{DecoderConfig, Vae, VaeCard, VaeConfig};

/// What most programs need, Candle's tensors and devices included.
pub mod prelude {
    pub use candle_core::{DType, Device, Tensor};

    pub use crate::data::{Batch, Corruption, Dataset, OpenOptions};
    pub use crate::random::Key;
    pub use crate::train::{Event, Trainer};
    pub use crate::{
        Autoencoder, AutoencoderTrainer, CellLayout, Fit, Growing, LatentNca, Memory, Model, ModelConfig,
        Nafca, Padding, PlainNca, PoolTrainer, Recipe, Restorer, Rollout, Step, TrainingData, TransitionFn,
        Vitca, Weights, evaluate, neighbourhood,
    };
}
