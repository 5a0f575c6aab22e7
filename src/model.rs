//! Models: the published systems as one thing that can be made, trained, saved and loaded.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::autoencoder::{Autoencoder, AutoencoderConfig};
use crate::cells::OutputStart;
use crate::random::Key;
use crate::restorer::{LatentNca, PlainNca, Restorer};
use crate::rollout::Rollout;
use crate::store::{self, Tensors, add_prefixed, take_prefixed};
use crate::train::PoolTrainerConfig;
use crate::transition::{Nafca, NafcaConfig, Vitca, VitcaConfig};
use crate::weights::Weights;
use crate::{CellLayout, Error, Result, TransitionFn};

/// Which system, and its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ModelConfig {
    /// An attention-free NCA in latent space.
    LatentNafca {
        /// Sizes of the autoencoder.
        autoencoder: AutoencoderConfig,
        /// Sizes of the transition.
        transition: NafcaConfig,
        /// What the output channels start as: 0.5.
        #[serde(default)]
        start: OutputStart,
    },
    /// An attention NCA in latent space.
    LatentVitca {
        /// Sizes of the autoencoder.
        autoencoder: AutoencoderConfig,
        /// Sizes of the transition.
        transition: VitcaConfig,
        /// What the output channels start as: 0.5.
        #[serde(default)]
        start: OutputStart,
    },
    /// An attention NCA on pixels.
    Vitca {
        /// Sizes of the transition.
        transition: VitcaConfig,
        /// What the output channels start as: 0.5.
        #[serde(default)]
        start: OutputStart,
    },
}

impl ModelConfig {
    /// The published LatentNAFCA.
    pub fn latent_nafca() -> Self {
        Self::LatentNafca {
            autoencoder: AutoencoderConfig::default(),
            transition: NafcaConfig::default(),
            start: OutputStart::Half,
        }
    }

    /// The published LatentViTCA.
    pub fn latent_vitca() -> Self {
        Self::LatentVitca {
            autoencoder: AutoencoderConfig::default(),
            transition: VitcaConfig::latent(),
            start: OutputStart::Half,
        }
    }

    /// The published ViTCA.
    pub fn vitca() -> Self {
        Self::Vitca {
            transition: VitcaConfig::default(),
            start: OutputStart::Half,
        }
    }

    /// Its name: `latent-nafca`, `latent-vitca` or `vitca`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::LatentNafca { .. } => "latent-nafca",
            Self::LatentVitca { .. } => "latent-vitca",
            Self::Vitca { .. } => "vitca",
        }
    }

    /// The published training settings of its NCA.
    pub fn training(&self) -> PoolTrainerConfig {
        match self {
            Self::Vitca { .. } => PoolTrainerConfig::vitca(),
            _ => PoolTrainerConfig::default(),
        }
    }
}

/// What a model file says of itself; with the weights all that is needed to use it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// Version of the file format: 1.
    pub model: u32,
    /// The system and its sizes.
    pub config: ModelConfig,
    /// The probability that a cell takes its update in a step.
    pub fire_rate: f64,
    /// Steps of a restoration.
    pub steps: usize,
    /// What it was trained to undo, such as `denoise`; free text.
    pub task: String,
    /// The command or code that made it; free text.
    pub made_by: String,
}

/// A restoration system with its weights.
#[derive(Clone)]
pub struct Model {
    card: ModelCard,
    autoencoder: Option<(Autoencoder, Weights)>,
    restorer: Arc<dyn Restorer>,
    tuned: Arc<dyn Restorer>,
    transition_weights: Weights,
}

/// A latent NCA as it is trained, and as it is fine-tuned with its decoder.
fn latent<T: TransitionFn + Clone + 'static>(
    autoencoder: &Autoencoder,
    transition: T,
    start: OutputStart,
) -> Result<(Arc<dyn Restorer>, Arc<dyn Restorer>)> {
    let nca = LatentNca::new(autoencoder, transition)?.with_start(start);
    Ok((
        Arc::new(nca.clone()),
        Arc::new(nca.with_trained_decoder(autoencoder)),
    ))
}

impl Model {
    /// An untrained model with weights drawn from `seed`.
    ///
    /// # Errors
    /// [`Error::Config`] if the sizes contradict each other.
    pub fn new(config: ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        let weights = || Weights::new(seed, DType::F32, device);
        Self::with_weights(config, weights(), weights())
    }

    fn with_weights(
        config: ModelConfig,
        transition_weights: Weights,
        autoencoder_weights: Weights,
    ) -> Result<Self> {
        let vb = transition_weights.builder();
        let encoder = |config: &AutoencoderConfig| -> Result<(Autoencoder, Weights)> {
            let weights = autoencoder_weights;
            Ok((Autoencoder::new(config.clone(), weights.builder())?, weights))
        };
        let (autoencoder, (restorer, tuned)) = match &config {
            ModelConfig::LatentNafca {
                autoencoder,
                transition,
                start,
            } => {
                let autoencoder = encoder(autoencoder)?;
                let ncas = latent(&autoencoder.0, Nafca::new(transition.clone(), vb)?, *start)?;
                (Some(autoencoder), ncas)
            }
            ModelConfig::LatentVitca {
                autoencoder,
                transition,
                start,
            } => {
                let autoencoder = encoder(autoencoder)?;
                let ncas = latent(&autoencoder.0, Vitca::new(transition.clone(), vb)?, *start)?;
                (Some(autoencoder), ncas)
            }
            ModelConfig::Vitca { transition, start } => {
                let nca = PlainNca::new(Vitca::new(transition.clone(), vb)?)?.with_start(*start);
                let nca: Arc<dyn Restorer> = Arc::new(nca);
                (None, (nca.clone(), nca))
            }
        };
        let training = config.training();
        let card = ModelCard {
            model: 1,
            config,
            fire_rate: training.fire_rate,
            steps: training.validation_steps,
            task: String::new(),
            made_by: String::new(),
        };
        Ok(Self {
            card,
            autoencoder,
            restorer,
            tuned,
            transition_weights,
        })
    }

    /// What it says of itself.
    pub fn card(&self) -> &ModelCard {
        &self.card
    }

    /// The same, to be changed before saving; the sizes must stay.
    pub fn card_mut(&mut self) -> &mut ModelCard {
        &mut self.card
    }

    /// The autoencoder and its weights, for a latent model.
    pub fn autoencoder(&self) -> Option<(&Autoencoder, &Weights)> {
        self.autoencoder
            .as_ref()
            .map(|(autoencoder, weights)| (autoencoder, weights))
    }

    /// The system, for training.
    pub fn restorer(&self) -> Arc<dyn Restorer> {
        self.restorer.clone()
    }

    /// The system with a decoder that learns along with the transition, and the weights of both, for
    /// fine-tuning after the NCA was trained; for a plain model the same as for training.
    pub fn tuning(&self) -> (Arc<dyn Restorer>, Weights) {
        let mut parts = vec![("transition.", &self.transition_weights)];
        parts.extend(
            self.autoencoder
                .iter()
                .map(|(_, weights)| ("autoencoder.", weights)),
        );
        (self.tuned.clone(), Weights::union(&parts))
    }

    /// The channels of its cells.
    pub fn layout(&self) -> CellLayout {
        self.restorer.layout()
    }

    /// The weights of the transition.
    pub fn transition_weights(&self) -> &Weights {
        &self.transition_weights
    }

    /// The rollout of a restoration: the steps and fire rate of the card, masks drawn from `key`.
    pub fn rollout(&self, key: Key) -> Rollout {
        Rollout::new(self.card.steps)
            .fire_rate(self.card.fire_rate)
            .key(key)
    }

    /// Restored `images` (`[B, H, W, 3]`, any height and width), see [`Restorer::restore`].
    ///
    /// # Errors
    /// As [`Restorer::restore`].
    pub fn restore(&self, images: &Tensor, key: Key) -> Result<Tensor> {
        self.restorer.restore(images, &self.rollout(key))
    }

    /// Writes card and weights to a safetensors file, atomically.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut tensors = Tensors::new();
        add_prefixed(&mut tensors, "transition.", self.transition_weights.snapshot()?);
        if let Some((_, weights)) = &self.autoencoder {
            add_prefixed(&mut tensors, "autoencoder.", weights.snapshot()?);
        }
        store::write(path.as_ref(), &tensors, &self.card)
    }

    /// A model from a file that [`Model::save`] made.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] if it cannot be read, is of another kind or lacks a weight of the
    /// size its card gives; [`Error::Weight`] if one is left over.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let (mut tensors, card): (_, ModelCard) = store::read(path.as_ref(), device)?;
        if card.model != 1 {
            let reason = format!("is of version {}, this library reads version 1", card.model);
            return Err(Error::file(path, reason));
        }
        let transition = take_prefixed(&mut tensors, "transition.");
        let autoencoder = take_prefixed(&mut tensors, "autoencoder.");
        // Sizes are held against the tensors one by one: a damaged card may ask for more than there is
        // memory for.
        let given = |values: &Tensors| Weights::given(values.clone(), DType::F32, device);
        let model = Self::with_weights(card.config.clone(), given(&transition), given(&autoencoder));
        let model = Self {
            card,
            ..model.map_err(|error| match error {
                Error::Candle(error) => Error::file(&path, error),
                other => other,
            })?
        };
        model.transition_weights.load(&transition)?;
        match &model.autoencoder {
            Some((_, weights)) => weights.load(&autoencoder)?,
            None => add_prefixed(&mut tensors, "autoencoder.", autoencoder),
        }
        match tensors.first_key_value() {
            None => Ok(model),
            Some((key, tensor)) => Err(Error::Weight {
                key: key.clone(),
                expected: "no such weight".into(),
                found: format!("shape {:?}", tensor.dims()),
            }),
        }
    }
}
