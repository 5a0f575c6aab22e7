//! Small systems to train, and the data for them.

use std::path::Path;

use lnca::data::{Corruption, Dataset};
use lnca::train::{AutoencoderTrainerConfig, PoolOrder, PoolTrainerConfig, Trainer};

use crate::common::device::device;
use lnca::{
    AutoencoderConfig, AutoencoderTrainer, CellLayout, Fit, Model, ModelConfig, NafcaConfig, OutputStart,
    PoolTrainer, Recipe, Result, TrainingData, VitcaConfig,
};

/// `train` training and four validation images of dead leaves under noise.
pub fn data(train: usize, size: usize) -> Result<TrainingData> {
    Ok(TrainingData {
        train: Dataset::dead_leaves(train, size, 1)?,
        validation: Dataset::dead_leaves(4, size, 2)?,
        corruption: Some(Corruption::NOISE),
        curriculum: None,
    })
}

pub fn small_latent() -> ModelConfig {
    ModelConfig::LatentNafca {
        autoencoder: AutoencoderConfig {
            latent_channels: 4,
            ..AutoencoderConfig::default()
        },
        transition: NafcaConfig {
            layout: CellLayout {
                input: 4,
                output: 4,
                hidden: 4,
            },
            embed_dim: 8,
            ..NafcaConfig::default()
        },
        start: OutputStart::Half,
    }
}

pub fn small_vitca() -> ModelConfig {
    ModelConfig::Vitca {
        transition: VitcaConfig {
            layout: CellLayout {
                input: 3,
                output: 3,
                hidden: 2,
            },
            embed_dim: 8,
            heads: 2,
            mlp_dim: 8,
            ..VitcaConfig::default()
        },
        start: OutputStart::Half,
    }
}

/// The three kinds of training there are.
#[derive(Clone, Copy, Debug)]
pub enum Phase {
    Autoencoder,
    /// The latent NCA, fresh update first.
    Latent,
    /// ViTCA on pixels, pool update first, with a running mean of its weights.
    Plain,
    /// The latent NCA with its whole autoencoder, as the tuned recipe has it.
    EndToEnd,
}

pub const PHASES: [Phase; 4] = [Phase::Autoencoder, Phase::Latent, Phase::Plain, Phase::EndToEnd];

impl Phase {
    /// An untrained model, always the same, and a trainer of it.
    pub fn trainer(self) -> Result<(Model, Box<dyn Trainer>)> {
        let config = match self {
            Phase::Plain => small_vitca(),
            _ => small_latent(),
        };
        let model = Model::new(config, 7, &device())?;
        if let Phase::EndToEnd = self {
            let mut recipe = Recipe::tuned(small_latent());
            recipe.model = small_latent();
            if let Some(config) = &mut recipe.end_to_end {
                *config = PoolTrainerConfig {
                    loss: config.loss.clone(),
                    average: Some(0.9),
                    ..self.pool_config()
                };
            }
            let trainer = recipe.end_to_end_trainer(&model)?;
            return Ok((model, Box::new(trainer)));
        }
        if let (Phase::Autoencoder, Some((autoencoder, weights))) = (self, model.autoencoder()) {
            let trainer =
                AutoencoderTrainer::new(autoencoder, weights, AutoencoderTrainerConfig::default()).unwrap();
            return Ok((model, Box::new(trainer)));
        }
        let trainer = PoolTrainer::new(model.restorer()?, model.weights(), self.pool_config())?;
        Ok((model, Box::new(trainer)))
    }

    fn pool_config(self) -> PoolTrainerConfig {
        PoolTrainerConfig {
            // A pool that overflows, so that dropped states matter too.
            pool: 7,
            steps: 1..=3,
            validation_steps: 3,
            fire_rate: 0.5,
            order: match self {
                Phase::Plain => PoolOrder::PoolFirst,
                _ => PoolOrder::FreshFirst,
            },
            average: matches!(self, Phase::Plain).then_some(0.9),
            ..PoolTrainerConfig::default()
        }
    }
}

/// Two epochs of three batches, a checkpoint after each.
pub fn fit(checkpoint: &Path) -> Fit {
    Fit {
        epochs: 2,
        batch_size: 4,
        seed: 3,
        checkpoint: Some(checkpoint.to_path_buf()),
        checkpoint_every: 1,
        ..Fit::default()
    }
}
