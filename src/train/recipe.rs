//! Recipes: how a model is trained from beginning to end, as published or as tuned here.

use serde::{Deserialize, Serialize};

use super::autoencoder_trainer::AutoencoderTrainerConfig;
use super::network_trainer::{NetworkTrainer, NetworkTrainerConfig};
use super::pool_trainer::{PoolTrainer, PoolTrainerConfig};
use super::trainer::Trainer;
use crate::data::{Corruption, Curriculum};
use crate::error::{Error, Result};
use crate::grid::OutputStart;
use crate::model::Learning;
use crate::model::{Model, ModelConfig};

/// Everything about the training of a model but its length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The system and its sizes.
    pub model: ModelConfig,
    /// Training of the autoencoder of a latent model.
    pub autoencoder: AutoencoderTrainerConfig,
    /// Training of the NCA.
    pub nca: PoolTrainerConfig,
    /// Training of a network.
    pub network: NetworkTrainerConfig,
    /// What of a latent model learns with the NCA.
    pub learning: Learning,
    /// Training of encoder, NCA and decoder together, after that; nothing where there is no such phase.
    pub end_to_end: Option<PoolTrainerConfig>,
    /// Whether the NCA is trained at the difficulty of the test throughout, in place of one that grows.
    pub test_difficulty: bool,
}

impl Recipe {
    /// The published recipe for a model.
    pub fn paper(model: ModelConfig) -> Self {
        Self {
            nca: training(&model),
            network: match model {
                ModelConfig::Restormer { .. } => NetworkTrainerConfig::restormer(),
                _ => NetworkTrainerConfig::nafnet(),
            },
            model,
            autoencoder: AutoencoderTrainerConfig::default(),
            learning: Learning::Transition,
            end_to_end: None,
            test_difficulty: false,
        }
    }

    /// The library's own recipe for a model of the same sizes: a better model in a fraction of the published time.
    ///
    /// The output channels start as the input and the head of the transition at zero, so that training begins with
    /// what was given rather than with grey; dropout is off; the corruption has the difficulty of the test from the
    /// beginning. In latent models the decoder learns along, LAT weighs 1 in place of 100 and SSIM 10 beside the 100 of
    /// REC, updates have 4 to 16 steps (states come back from the pool to be evolved further), and a running mean
    /// of the weights over about 1,000 updates is what is validated and kept. LatentNAFCA learns at 1e-2; LatentViTCA at
    /// 1.5e-3, and its OVER weighs 0.01.
    ///
    /// In a phase of its own latent models then learn from end to end, encoder included, LatentNAFCA at 5e-3: LAT and OVER
    /// of the output, which hold latents to what the autoencoder made of images, are off. Without the phases
    /// before it, this one does worse than they do.
    pub fn tuned(model: ModelConfig) -> Self {
        let mut recipe = Self::paper(model);
        recipe.test_difficulty = true;
        match &mut recipe.model {
            ModelConfig::LatentNafca {
                transition, start, ..
            } => {
                *start = OutputStart::Input;
                transition.zero_head = true;
                transition.dropout = 0.0;
                recipe.tune_latent();
                recipe.tune_end_to_end();
            }
            ModelConfig::LatentVitca { start, .. } => {
                *start = OutputStart::Input;
                recipe.tune_latent();
                recipe.nca.adam.learning_rate = 1.5e-3;
                recipe.nca.loss.over_out = 0.01;
                recipe.nca.loss.over_hid = 0.01;
                recipe.tune_end_to_end();
            }
            ModelConfig::Vitca { start, .. } => *start = OutputStart::Input,
            ModelConfig::NafNet { .. } | ModelConfig::Restormer { .. } => {}
        }
        recipe
    }

    fn tune_latent(&mut self) {
        self.learning = Learning::Decoder;
        self.nca.steps = 4..=16;
        self.nca.average = Some(0.999);
        self.nca.loss.lat = 1.0;
        self.nca.loss.ssim = 10.0;
    }

    /// The phase that goes on with what the one before has learnt.
    fn tune_end_to_end(&mut self) {
        let mut config = self.nca.clone();
        config.loss.lat = 0.0;
        config.loss.over_out = 0.0;
        config.adam.learning_rate = config.adam.learning_rate.min(5e-3);
        self.end_to_end = Some(config);
    }

    /// The trainer of the NCA of `model`.
    ///
    /// # Errors
    /// [`Error::Config`] if the model is not of this recipe, or no NCA.
    pub fn nca_trainer(&self, model: &Model) -> Result<PoolTrainer> {
        self.check(model)?;
        let (restorer, weights) = model.learning(self.learning)?;
        PoolTrainer::new(restorer, &weights, self.nca.clone())
    }

    /// The trainer of the whole of `model` after its NCA was trained.
    ///
    /// # Errors
    /// [`Error::Config`] if the recipe has no such phase, or the model is not of this recipe.
    pub fn end_to_end_trainer(&self, model: &Model) -> Result<PoolTrainer> {
        self.check(model)?;
        let Some(config) = &self.end_to_end else {
            return Err(Error::config("end_to_end", "a recipe with this phase", "none"));
        };
        let (restorer, weights) = model.learning(Learning::Everything)?;
        Ok(PoolTrainer::new(restorer, &weights, config.clone())?.with_phase("end-to-end"))
    }

    /// The trainer of `model`, NCA or network; of a latent model for after its autoencoder was trained.
    ///
    /// # Errors
    /// [`Error::Config`] if the model is not of this recipe.
    pub fn trainer(&self, model: &Model) -> Result<Box<dyn Trainer>> {
        match model.network() {
            None => Ok(Box::new(self.nca_trainer(model)?)),
            Some(network) => {
                self.check(model)?;
                let config = self.network.clone();
                Ok(Box::new(NetworkTrainer::new(network, model.weights(), config)))
            }
        }
    }

    fn check(&self, model: &Model) -> Result<()> {
        if model.card().config != self.model {
            let found = format!("{:?}", model.card().config);
            return Err(Error::config("model", format!("{:?}", self.model), found));
        }
        Ok(())
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

/// The published training settings of an NCA; of a network, which has none, the defaults.
fn training(model: &ModelConfig) -> PoolTrainerConfig {
    match model {
        ModelConfig::Vitca { .. } => PoolTrainerConfig::vitca(),
        _ => PoolTrainerConfig::default(),
    }
}
