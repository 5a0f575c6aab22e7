//! Arguments that several examples take.

use candle_core::{Device, utils};
use clap::ValueEnum;
use lnca::ModelConfig;

use crate::Result;

/// A published system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModelName {
    /// An attention-free NCA in latent space
    LatentNafca,
    /// An attention NCA in latent space
    LatentVitca,
    /// An attention NCA on pixels
    Vitca,
    /// A convolutional network of 116 million weights
    #[value(name = "nafnet")]
    NafNet,
    /// A network of 26 million weights with attention over channels
    Restormer,
}

impl ModelName {
    /// Whether its automaton works in the latent space of an autoencoder.
    pub fn is_latent(self) -> bool {
        matches!(self, Self::LatentNafca | Self::LatentVitca)
    }

    /// Its published sizes.
    pub fn config(self) -> ModelConfig {
        match self {
            Self::LatentNafca => ModelConfig::latent_nafca(),
            Self::LatentVitca => ModelConfig::latent_vitca(),
            Self::Vitca => ModelConfig::vitca(),
            Self::NafNet => ModelConfig::nafnet(),
            Self::Restormer => ModelConfig::restormer(),
        }
    }
}

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum DeviceName {
    /// The CPU
    Cpu,
    /// The first CUDA GPU
    Cuda,
}

impl DeviceName {
    /// The device.
    ///
    /// # Errors
    /// The program was built without it, or the machine has none.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda if !utils::cuda_is_available() => {
                Err("`--device` is cuda, but this program was built without it: add `--features cuda`".into())
            }
            Self::Cuda => Ok(Device::new_cuda(0).map_err(|error| format!("`--device cuda`: {error}"))?),
        }
    }
}

/// The word by which a value is chosen on the command line.
pub fn word(value: impl ValueEnum) -> String {
    let word = value.to_possible_value();
    word.map_or(String::new(), |word| word.get_name().to_string())
}

/// Parses a whole number from 1.
pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("expected a whole number from 1".into()),
    }
}
