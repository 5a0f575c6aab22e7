//! Recipes: how a model is trained from beginning to end, as published or quicker.

use serde::{Deserialize, Serialize};

use crate::cells::OutputStart;
use crate::data::{Corruption, Curriculum};
use crate::loss::RestorationLoss;
use crate::model::{Model, ModelConfig};
use crate::train::{AdamConfig, AutoencoderTrainerConfig, PoolTrainer, PoolTrainerConfig};
use crate::transition::NafcaConfig;
use crate::{Error, Result};

/// Everything about the training of a model but its length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The system and its sizes.
    pub model: ModelConfig,
    /// Training of the autoencoder of a latent model.
    pub autoencoder: AutoencoderTrainerConfig,
    /// Training of the NCA.
    pub nca: PoolTrainerConfig,
    /// Whether the decoder learns along with the NCA.
    pub train_decoder: bool,
    /// Whether the corruption of the NCA's training stops growing at the difficulty of the test.
    pub test_difficulty: bool,
}

impl Recipe {
    /// The published recipe for a model.
    pub fn paper(model: ModelConfig) -> Self {
        Self {
            nca: model.training(),
            model,
            autoencoder: AutoencoderTrainerConfig::default(),
            train_decoder: false,
            test_difficulty: false,
        }
    }

    /// A recipe for short trainings, of the same sizes.
    ///
    /// The output channels start as the input and the head of the transition at zero, so that training
    /// begins with what was given rather than with grey; dropout is off; in latent models the decoder
    /// learns along, and LAT and OVER weigh a hundredth; the corruption grows to the difficulty of the test
    /// and not beyond; the learning rate is at most 3e-3, since under these weights 1e-2 can throw the
    /// rollout off.
    pub fn quick(mut model: ModelConfig) -> Self {
        match &mut model {
            ModelConfig::LatentNafca {
                transition, start, ..
            } => {
                *start = OutputStart::Input;
                *transition = NafcaConfig {
                    zero_head: true,
                    dropout: 0.0,
                    ..transition.clone()
                };
            }
            ModelConfig::LatentVitca { start, .. } | ModelConfig::Vitca { start, .. } => {
                *start = OutputStart::Input;
            }
        }
        let latent = !matches!(model, ModelConfig::Vitca { .. });
        // REC against everything else; the rest keeps its proportions, in which LAT outweighs OVER.
        let scale = if latent { 0.01 } else { 1.0 };
        let paper = Self::paper(model);
        Self {
            nca: PoolTrainerConfig {
                adam: AdamConfig {
                    learning_rate: paper.nca.adam.learning_rate.min(3e-3),
                    ..paper.nca.adam
                },
                loss: RestorationLoss {
                    lat: paper.nca.loss.lat * scale,
                    over_out: paper.nca.loss.over_out * scale,
                    over_hid: paper.nca.loss.over_hid * scale,
                    ..paper.nca.loss
                },
                ..paper.nca
            },
            train_decoder: latent,
            test_difficulty: true,
            ..paper
        }
    }

    /// The trainer of the NCA of `model`.
    ///
    /// # Errors
    /// [`Error::Config`] if the model is not of this recipe.
    pub fn nca_trainer(&self, model: &Model) -> Result<PoolTrainer> {
        if model.card().config != self.model {
            let found = format!("{:?}", model.card().config);
            return Err(Error::config("model", format!("{:?}", self.model), found));
        }
        let (restorer, weights) = match self.train_decoder {
            true => model.tuning(),
            false => (model.restorer(), model.transition_weights().clone()),
        };
        PoolTrainer::new(restorer, &weights, self.nca.clone())
    }

    /// The course of the difficulty in the training of the NCA.
    pub fn curriculum(&self, corruption: Corruption) -> Curriculum {
        let paper = corruption.curriculum();
        match self.test_difficulty {
            true => Curriculum {
                max: corruption.test_difficulty(),
                ..paper
            },
            false => paper,
        }
    }
}
