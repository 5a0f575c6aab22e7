//! Recipes: how a model is trained from beginning to end, as published or quicker.

use serde::{Deserialize, Serialize};

use crate::cells::OutputStart;
use crate::data::{Corruption, Curriculum};
use crate::model::{Model, ModelConfig};
use crate::train::{AutoencoderTrainerConfig, PoolTrainer, PoolTrainerConfig};
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
    /// Whether the NCA is trained at the difficulty of the test throughout, in place of one that grows.
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
    /// begins with what was given rather than with grey; dropout is off; the corruption has the
    /// difficulty of the test from the beginning. In latent models the decoder learns along and LAT weighs
    /// 1 in place of 100. LatentViTCA, which 1e-2 throws off at first, learns at 3e-3, and its OVER weighs
    /// 0.01; LatentNAFCA learns at 5e-3 with the full OVER, which keeps its rollouts within bounds.
    pub fn quick(model: ModelConfig) -> Self {
        let mut recipe = Self::paper(model);
        recipe.test_difficulty = true;
        match &mut recipe.model {
            ModelConfig::LatentNafca {
                transition, start, ..
            } => {
                *start = OutputStart::Input;
                transition.zero_head = true;
                transition.dropout = 0.0;
                recipe.nca.adam.learning_rate = 5e-3;
                recipe.nca.loss.lat = 1.0;
                recipe.train_decoder = true;
            }
            ModelConfig::LatentVitca { start, .. } => {
                *start = OutputStart::Input;
                recipe.nca.adam.learning_rate = 3e-3;
                recipe.nca.loss.lat = 1.0;
                recipe.nca.loss.over_out = 0.01;
                recipe.nca.loss.over_hid = 0.01;
                recipe.train_decoder = true;
            }
            ModelConfig::Vitca { start, .. } => *start = OutputStart::Input,
        }
        recipe
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
        let test = corruption.test_difficulty();
        match self.test_difficulty {
            true => Curriculum {
                min: test,
                max: test,
                ..paper
            },
            false => paper,
        }
    }
}
