//! Restoration models: the published systems, to create, train, save and load.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::data::Corruption;
use crate::error::{Error, Result, check};
use crate::grid::OutputStart;
use crate::io::card::{self, Card};
use crate::io::safetensors::{Tensors, take_prefixed};
use crate::model::autoencoder::{Autoencoder, AutoencoderConfig};
use crate::model::baseline::{NafNet, NafNetConfig, Network, Restormer, RestormerConfig};
use crate::model::{LatentNca, Learning, PlainNca, Restorer};
use crate::nn::Weights;
use crate::random::Key;
use crate::rollout::Rollout;
use crate::transition::{Gated, GatedConfig, Nafca, NafcaConfig, TransitionFn, Vitca, VitcaConfig};

/// Prefix of the autoencoder's weights in a file.
const AUTOENCODER: &str = "autoencoder.";

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
    /// A gated NCA on pixels.
    Gated {
        /// Sizes of the transition.
        transition: GatedConfig,
        /// What the output channels start as: the input.
        #[serde(default = "as_input")]
        start: OutputStart,
    },
    /// A convolutional network.
    #[serde(rename = "nafnet")]
    NafNet {
        /// Sizes of the network.
        network: NafNetConfig,
    },
    /// A network with attention over channels.
    Restormer {
        /// Sizes of the network.
        network: RestormerConfig,
    },
}

fn as_input() -> OutputStart {
    OutputStart::Input
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

    /// This library's restorer: a gated NCA on pixels.
    pub fn gated() -> Self {
        Self::Gated {
            transition: GatedConfig::default(),
            start: OutputStart::Input,
        }
    }

    /// NAFNet in the sizes of the paper.
    pub fn nafnet() -> Self {
        Self::NafNet {
            network: NafNetConfig::default(),
        }
    }

    /// The published Restormer.
    pub fn restormer() -> Self {
        Self::Restormer {
            network: RestormerConfig::default(),
        }
    }

    /// Its name: `latent-nafca`, `latent-vitca`, `vitca`, `gated`, `nafnet` or `restormer`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::LatentNafca { .. } => "latent-nafca",
            Self::LatentVitca { .. } => "latent-vitca",
            Self::Vitca { .. } => "vitca",
            Self::Gated { .. } => "gated",
            Self::NafNet { .. } => "nafnet",
            Self::Restormer { .. } => "restormer",
        }
    }

    /// Whether it is an NCA; otherwise it is a network.
    pub fn is_nca(&self) -> bool {
        match self {
            Self::LatentNafca { .. } | Self::LatentVitca { .. } | Self::Vitca { .. } | Self::Gated { .. } => {
                true
            }
            Self::NafNet { .. } | Self::Restormer { .. } => false,
        }
    }

    /// Whether it is an NCA in the latent space of an autoencoder.
    pub fn is_latent(&self) -> bool {
        matches!(self, Self::LatentNafca { .. } | Self::LatentVitca { .. })
    }

    /// Prefix of the weights of the transition or the network in a file.
    fn prefix(&self) -> &'static str {
        match self.is_nca() {
            true => "transition.",
            false => "network.",
        }
    }

    /// The published fire rate and steps of a restoration; a network has neither.
    fn fire_rate_and_steps(&self) -> (f64, usize) {
        match self {
            Self::LatentNafca { .. } | Self::LatentVitca { .. } => (1.0, 64),
            Self::Vitca { .. } => (0.5, 64),
            Self::Gated { .. } => (1.0, 16),
            Self::NafNet { .. } | Self::Restormer { .. } => (1.0, 0),
        }
    }
}

/// The card of a model file: with the weights, all that is needed to use the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// Version of the file format: 1.
    pub model: u32,
    /// The system and its sizes.
    pub config: ModelConfig,
    /// The probability that a cell takes its update in a step; 1 in a network.
    pub fire_rate: f64,
    /// Steps of a restoration; 0 in a network.
    pub steps: usize,
    /// The task it was trained for, such as `denoise`; free text.
    pub task: String,
    /// The command or code that made it; free text.
    pub made_by: String,
    /// The synthetic corruption it was trained on, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corruption: Option<Corruption>,
}

impl Card for ModelCard {
    const KIND: &'static str = "model";
}

/// A restoration system with its weights.
#[derive(Clone)]
pub struct Model {
    card: ModelCard,
    system: System,
    weights: Weights,
}

#[derive(Clone)]
enum System {
    Nca {
        autoencoder: Option<Box<(Autoencoder, Weights)>>,
        restorer: MakeRestorer,
    },
    /// The same network twice: for training, and without gradients.
    Network {
        learning: Arc<dyn Network>,
        frozen: Arc<dyn Network>,
    },
}

/// Builds the system with gradients for the given parts.
type MakeRestorer = Arc<dyn Fn(Learning) -> Arc<dyn Restorer> + Send + Sync>;

fn latent<T: TransitionFn + Clone + 'static>(
    autoencoder: &Autoencoder,
    transition: T,
    start: OutputStart,
) -> Result<MakeRestorer> {
    let nca = LatentNca::new(autoencoder, transition)?.with_start(start);
    Ok(Arc::new(move |learning| Arc::new(nca.clone().learning(learning))))
}

fn on_pixels<T: TransitionFn + Clone + 'static>(transition: T, start: OutputStart) -> Result<System> {
    let nca: Arc<dyn Restorer> = Arc::new(PlainNca::new(transition)?.with_start(start));
    Ok(System::Nca {
        autoencoder: None,
        restorer: Arc::new(move |_| nca.clone()),
    })
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

    fn with_weights(config: ModelConfig, weights: Weights, autoencoder_weights: Weights) -> Result<Self> {
        let vb = weights.builder();
        let encoder = |config: &AutoencoderConfig| -> Result<(Autoencoder, Weights)> {
            let weights = autoencoder_weights;
            Ok((Autoencoder::new(config.clone(), weights.builder())?, weights))
        };
        let system = match &config {
            ModelConfig::LatentNafca {
                autoencoder,
                transition,
                start,
            } => {
                let autoencoder = encoder(autoencoder)?;
                let restorer = latent(&autoencoder.0, Nafca::new(transition.clone(), vb)?, *start)?;
                System::Nca {
                    autoencoder: Some(Box::new(autoencoder)),
                    restorer,
                }
            }
            ModelConfig::LatentVitca {
                autoencoder,
                transition,
                start,
            } => {
                let autoencoder = encoder(autoencoder)?;
                let restorer = latent(&autoencoder.0, Vitca::new(transition.clone(), vb)?, *start)?;
                System::Nca {
                    autoencoder: Some(Box::new(autoencoder)),
                    restorer,
                }
            }
            ModelConfig::Vitca { transition, start } => {
                on_pixels(Vitca::new(transition.clone(), vb)?, *start)?
            }
            ModelConfig::Gated { transition, start } => {
                on_pixels(Gated::new(transition.clone(), vb)?, *start)?
            }
            ModelConfig::NafNet { network } => System::Network {
                learning: Arc::new(NafNet::new(network, vb)?),
                frozen: Arc::new(NafNet::new(network, weights.frozen_builder())?),
            },
            ModelConfig::Restormer { network } => System::Network {
                learning: Arc::new(Restormer::new(network, vb)?),
                frozen: Arc::new(Restormer::new(network, weights.frozen_builder())?),
            },
        };
        let (fire_rate, steps) = config.fire_rate_and_steps();
        let card = ModelCard {
            model: 1,
            fire_rate,
            steps,
            config,
            task: String::new(),
            made_by: String::new(),
            corruption: None,
        };
        Ok(Self {
            card,
            system,
            weights,
        })
    }

    /// Its card.
    pub fn card(&self) -> &ModelCard {
        &self.card
    }

    /// Its card, to edit before saving. The sizes must not change.
    pub fn card_mut(&mut self) -> &mut ModelCard {
        &mut self.card
    }

    /// The autoencoder and its weights, if the model is latent.
    pub fn autoencoder(&self) -> Option<(&Autoencoder, &Weights)> {
        match &self.system {
            System::Nca {
                autoencoder: Some(both),
                ..
            } => Some((&both.0, &both.1)),
            _ => None,
        }
    }

    /// The restorer of an NCA, with gradients for the transition only.
    ///
    /// # Errors
    /// [`Error::Config`] if the model is a network.
    pub fn restorer(&self) -> Result<Arc<dyn Restorer>> {
        Ok(self.learning(Learning::Transition)?.0)
    }

    /// The restorer of an NCA with gradients for the given parts, and the weights of these parts. In an NCA
    /// on pixels only the transition learns.
    ///
    /// # Errors
    /// [`Error::Config`] if the model is a network.
    pub fn learning(&self, learning: Learning) -> Result<(Arc<dyn Restorer>, Weights)> {
        let System::Nca { restorer, .. } = &self.system else {
            return Err(Error::config("model", "an NCA", self.card.config.name()));
        };
        let weights = match learning {
            Learning::Transition => self.weights.clone(),
            _ if self.autoencoder().is_none() => self.weights.clone(),
            // Weights of the encoder that the loss does not depend on stay as they are.
            _ => self.all_weights(),
        };
        Ok((restorer(learning), weights))
    }

    /// The network, if the model is one.
    pub fn network(&self) -> Option<Arc<dyn Network>> {
        match &self.system {
            System::Nca { .. } => None,
            System::Network { learning, .. } => Some(learning.clone()),
        }
    }

    /// The weights of the transition, or of the network.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The number of which height and width of training images must be a multiple.
    pub fn multiple(&self) -> usize {
        self.restorer().map_or(1, |restorer| restorer.multiple())
    }

    /// The rollout of a restoration: steps and fire rate from the card, update masks drawn from `key`.
    pub fn rollout(&self, key: Key) -> Rollout {
        Rollout::new(self.card.steps)
            .fire_rate(self.card.fire_rate)
            .key(key)
    }

    /// Restores `images` (`[B, H, W, 3]`, any height and width); see [`Restorer::restore`].
    ///
    /// # Errors
    /// As [`Restorer::restore`]; [`Error::DType`] or [`Error::Device`] unless the images are in f32 on the
    /// device of the model, [`Error::Weight`] if one of its weights holds NaN or an infinity.
    pub fn restore(&self, images: &Tensor, key: Key) -> Result<Tensor> {
        self.restore_by(images, &self.rollout(key))
    }

    /// As [`Model::restore`], by the given rollout. A network ignores it.
    ///
    /// # Errors
    /// As [`Model::restore`].
    pub fn restore_by(&self, images: &Tensor, rollout: &Rollout) -> Result<Tensor> {
        check::of_type("images", images, DType::F32)?;
        check::on_device("images", images, "the weights", self.weights.device())?;
        let restored = match &self.system {
            System::Nca { restorer, .. } => restorer(Learning::Transition).restore(images, rollout),
            System::Network { frozen, .. } => {
                check::finite_values("images", images)?;
                let restored = frozen.forward(&images.detach())?.detach();
                check::finite_values("restored", &restored).map(|()| restored)
            }
        };
        // Only of a result that is wrong it is asked whether the weights are.
        restored.or_else(|error| self.all_weights().check_finite().and(Err(error)))
    }

    /// Writes card and weights to a safetensors file, atomically.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written, [`Error::Weight`] if a weight holds NaN or an infinity.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.all_weights().check_finite()?;
        card::save(path.as_ref(), &self.all_weights(), &self.card)
    }

    /// Its weights, the autoencoder's included, named as in a file.
    fn all_weights(&self) -> Weights {
        let own = (self.card.config.prefix(), &self.weights);
        match self.autoencoder() {
            None => Weights::union(&[own]),
            Some((_, autoencoder)) => Weights::union(&[own, (AUTOENCODER, autoencoder)]),
        }
    }

    /// Loads a file written by [`Model::save`].
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] if it cannot be read, is of another kind, or a weight is missing or
    /// has not the shape its card gives; [`Error::Weight`] if one is left over.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        card::load(path.as_ref(), device, |card: ModelCard, mut values| {
            let given = |values: Tensors| Weights::given(values, DType::F32, device);
            let weights = given(take_prefixed(&mut values, card.config.prefix()));
            let autoencoder = given(take_prefixed(&mut values, AUTOENCODER));
            let model = Self::with_weights(card.config.clone(), weights, autoencoder)?;
            let model = Self { card, ..model };
            let weights = model.all_weights();
            Ok((model, weights))
        })
    }
}
