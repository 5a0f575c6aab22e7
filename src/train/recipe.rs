//! Recipes: all settings of the training of a model, as published or as tuned for this library.

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

/// All training settings of a model, except the number of epochs and the batch size.
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
    /// Which parts of a latent model learn in the training of the NCA.
    pub learning: Learning,
    /// The following phase, in which encoder, NCA and decoder learn together; `None` if there is none.
    pub end_to_end: Option<PoolTrainerConfig>,
    /// Whether the NCA is trained at the test difficulty throughout, instead of by a curriculum.
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

    /// This library's recipe for a model of the same sizes: a better model in a fraction of the published
    /// time.
    ///
    /// The output channels start as the input and, in LatentNAFCA, the last layer of the transition at zero,
    /// so that an untrained model returns its input; there dropout is off, too. The corruption has the test
    /// difficulty from the start. In latent models the decoder is trained as well, LAT has weight 1 instead
    /// of 100, one minus SSIM is added with weight 10, updates have 4 to 16 steps (the pool brings states
    /// back for more), and a moving average of the weights with decay 0.999 is validated and kept. The
    /// learning rate is 1e-2 for LatentNAFCA; LatentViTCA has 1.5e-3, and its OVER weight 0.01.
    ///
    /// In a last phase latent models learn end to end, encoder included, at a learning rate of at most 5e-3.
    /// LAT and OVER of the output, which tie latents to the original autoencoder, are off. This phase alone
    /// does worse than the phases before it.
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
            ModelConfig::Gated { .. } => {
                recipe.nca.steps = 8..=16;
                recipe.nca.validation_steps = 16;
                recipe.nca.average = Some(0.998);
                recipe.nca.pool = 256;
                recipe.nca.loss.lat = 0.0;
                recipe.nca.loss.ssim = 10.0;
            }
            ModelConfig::NafNet { .. } | ModelConfig::Restormer { .. } => {}
        }
        recipe
    }

    /// The same for a latent model without its automaton: in the phase of the NCA encoder and decoder learn
    /// to restore images by themselves, in updates of no step. What a model scores above one that was trained
    /// in this way, on the same data for as long, is what its automaton contributes.
    ///
    /// # Errors
    /// [`Error::Config`] unless the model is a latent one: nothing would be left of another.
    pub fn without_automaton(mut self) -> Result<Self> {
        if !self.model.is_latent() {
            return Err(Error::config("model", "a latent NCA", self.model.name()));
        }
        self.learning = Learning::Everything;
        self.nca.steps = 0..=0;
        self.nca.validation_steps = 0;
        // Its states would be latents of an older encoder.
        self.nca.pool = 0;
        self.nca.loss.lat = 0.0;
        self.nca.loss.over_out = 0.0;
        self.nca.loss.over_hid = 0.0;
        self.end_to_end = None;
        Ok(self)
    }

    fn tune_latent(&mut self) {
        self.learning = Learning::Decoder;
        self.nca.steps = 4..=16;
        self.nca.average = Some(0.999);
        self.nca.loss.lat = 1.0;
        self.nca.loss.ssim = 10.0;
    }

    /// Adds the end-to-end phase, which continues from the phase before.
    fn tune_end_to_end(&mut self) {
        let mut config = self.nca.clone();
        config.loss.lat = 0.0;
        config.loss.over_out = 0.0;
        config.adam.learning_rate = config.adam.learning_rate.min(5e-3);
        self.end_to_end = Some(config);
    }

    /// A trainer of the NCA of `model`.
    ///
    /// # Errors
    /// [`Error::Config`] if the model has other sizes than the recipe's, or is not an NCA.
    pub fn nca_trainer(&self, model: &Model) -> Result<PoolTrainer> {
        self.fits(model)?;
        let (restorer, weights) = model.learning(self.learning)?;
        PoolTrainer::new(restorer, &weights, self.nca.clone())
    }

    /// A trainer of the end-to-end phase, to run after that of the NCA.
    ///
    /// # Errors
    /// [`Error::Config`] if the recipe has no such phase, or the model has other sizes than the recipe's.
    pub fn end_to_end_trainer(&self, model: &Model) -> Result<PoolTrainer> {
        self.fits(model)?;
        let Some(config) = &self.end_to_end else {
            return Err(Error::config("end_to_end", "a recipe with this phase", "none"));
        };
        let (restorer, weights) = model.learning(Learning::Everything)?;
        Ok(PoolTrainer::new(restorer, &weights, config.clone())?.with_phase("end-to-end"))
    }

    /// A trainer of `model`, NCA or network. Train the autoencoder of a latent model before.
    ///
    /// # Errors
    /// [`Error::Config`] if the model has other sizes than the recipe's.
    pub fn trainer(&self, model: &Model) -> Result<Box<dyn Trainer>> {
        match model.network() {
            None => Ok(Box::new(self.nca_trainer(model)?)),
            Some(network) => {
                self.fits(model)?;
                let config = self.network.clone();
                Ok(Box::new(NetworkTrainer::new(network, model.weights(), config)?))
            }
        }
    }

    /// That the settings of all phases are in range: before the first, so that none is trained in vain.
    ///
    /// # Errors
    /// [`Error::Config`] for the first that is not.
    pub fn check(&self) -> Result<()> {
        self.autoencoder.check()?;
        self.network.adam.check()?;
        self.nca.check()?;
        self.end_to_end.as_ref().map_or(Ok(()), PoolTrainerConfig::check)
    }

    fn fits(&self, model: &Model) -> Result<()> {
        if model.card().config != self.model {
            let found = format!("{:?}", model.card().config);
            return Err(Error::config("model", format!("{:?}", self.model), found));
        }
        Ok(())
    }

    /// The difficulty of `corruption` over the training of the NCA.
    pub fn curriculum(&self, corruption: Corruption) -> Curriculum {
        let paper = corruption.curriculum();
        let test = corruption.test_difficulty();
        match self.test_difficulty {
            true => Curriculum::constant(test),
            false => paper,
        }
    }
}

/// The published training settings of an NCA; the defaults for a network, which does not use them.
fn training(model: &ModelConfig) -> PoolTrainerConfig {
    match model {
        ModelConfig::Vitca { .. } => PoolTrainerConfig::vitca(),
        _ => PoolTrainerConfig::default(),
    }
}
