//! Neural cellular automata (NCA) on [Candle](candle_core).
//!
//! An NCA is a grid of cells; each cell is a vector; a small learned function, the transition, updates every
//! cell from its 3x3 neighbourhood, many times over. Everything else (latent spaces, growing patterns,
//! restored images) is a choice of first cells, loss or readout.
//!
//! | what | where |
//! | --- | --- |
//! | the grid and the channels of its cells: input, output, hidden | [`grid`] |
//! | transitions: [`Vitca`], [`Nafca`], [`Growing`], [`Texture`], [`Vnca`], your own | [`transition`] |
//! | rollouts: steps, update masks, memory | [`rollout`] |
//! | transitions written as programs, which the fused engine runs | [`program`] |
//! | models: restoration ([`Model`]), patterns ([`Pattern`]), variational ([`Vae`]) | [`model`] |
//! | training: pools, checkpoints, resuming, published and tuned recipes | [`train`] |
//! | losses; SSIM, PSNR and their means over a test set | [`loss`], [`metric`] |
//! | images, corruptions, splits | [`data`] |
//! | pictures, animations, pages for a browser, safetensors files | [`io`] |
//! | layers and Candle operations for transitions of your own | [`nn`], [`ops`] |
//! | seeds and random numbers; errors | [`random`], [`error`] |
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
//! let recipe = Recipe::paper(ModelConfig::latent_nafca());
//! let model = Model::new(recipe.model.clone(), 7, &Device::Cpu)?;
//! let fit = Fit { epochs: 1, ..Fit::default() };
//! if let Some((autoencoder, weights)) = model.autoencoder() {
//!     let mut trainer = AutoencoderTrainer::new(autoencoder, weights, Default::default())?;
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
//! Images and cells are channels-last, `[B, H, W, C]`; image values are f32 in `[0, 1]`. Every random draw is
//! a function of one seed ([`random::Key`]): the same seed gives the same bits on any number of threads, and
//! a resumed run ends with the bits of one that never stopped. Errors name what was wrong, what was expected
//! and what was found; no argument, file or shape makes the library panic.

#![warn(missing_docs)]

// Tests inside the crate share files with tests outside it, which call the crate by its name.
#[cfg(test)]
extern crate self as lnca;

pub mod data;
mod engine;
pub mod error;
pub mod grid;
pub mod io;
pub mod loss;
pub mod metric;
pub mod model;
pub mod nn;
pub mod ops;
pub mod program;
pub mod random;
pub mod rollout;
pub mod train;
pub mod transition;

#[cfg(feature = "wgpu")]
pub use engine::Gpu;
#[doc(hidden)]
pub use engine::cuda;
pub use engine::{DeviceName, Precision, Shader};
pub use error::{Error, Result};
pub use grid::{AliveMask, CellLayout, Damage, OutputStart, Padding, Step};
pub use metric::{Scores, evaluate};
pub use model::autoencoder::{Autoencoder, AutoencoderConfig};
pub use model::pattern::{Pattern, PatternCard, PatternConfig};
pub use model::vae::{DecoderConfig, Vae, VaeCard, VaeConfig};
pub use model::{LatentNca, Learning, Model, ModelCard, ModelConfig, PlainNca, Restorer};
pub use nn::Weights;
pub use ops::{Function, neighbourhood};
pub use program::{Program, ProgramBuilder, Value};
#[cfg(feature = "wgpu")]
pub use rollout::GpuCells;
pub use rollout::{Memory, Rollout};
pub use train::{AutoencoderTrainer, Fit, PoolTrainer, Recipe, TrainingData};
pub use transition::{
    Gated, GatedConfig, Growing, GrowingConfig, Nafca, NafcaConfig, Texture, TextureConfig, TransitionFn,
    Vitca, VitcaConfig, Vnca, VncaConfig,
};

/// The types that most programs need, Candle's tensors and devices included.
pub mod prelude {
    pub use candle_core::{DType, Device, Tensor};

    pub use crate::data::{Batch, Corruption, Dataset, OpenOptions};
    pub use crate::grid::{AliveMask, CellLayout, Padding, Step};
    pub use crate::metric::evaluate;
    pub use crate::model::autoencoder::Autoencoder;
    pub use crate::model::{LatentNca, Model, ModelConfig, PlainNca, Restorer};
    pub use crate::nn::Weights;
    pub use crate::ops::{Function, neighbourhood};
    pub use crate::program::{Program, ProgramBuilder};
    pub use crate::random::Key;
    pub use crate::rollout::{Memory, Rollout};
    pub use crate::train::{
        AutoencoderTrainer, Event, Fit, Learner, PoolTrainer, Recipe, Trainer, TrainingData,
    };
    pub use crate::transition::{Gated, Growing, Nafca, TransitionFn, Vitca};
}

/// The Rust blocks of the README and of the pages in `docs`, as tests.
#[cfg(doctest)]
mod doctests {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("../docs/patterns.md")]
    struct Patterns;

    #[doc = include_str!("../docs/browser.md")]
    struct Browser;

    #[doc = include_str!("../docs/transitions.md")]
    struct Transitions;
}
