//! Training of the restoration networks that automata are compared with.

use serde::{Deserialize, Serialize};

use super::adam::{Adam, AdamConfig};
use super::trainer::{Reading, Trainer, descend};
use crate::data::Batch;
use crate::error::Result;
use crate::loss::{Term, mae, psnr_loss};
use crate::metric::similarity;
use crate::model::baseline::Network;
use crate::nn::Weights;
use crate::random::Key;

/// The loss of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkLoss {
    /// Minus the PSNR, finite at no error: NAFNet.
    Psnr,
    /// The mean of absolute differences: Restormer.
    Mae,
}

/// Settings of a [`NetworkTrainer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkTrainerConfig {
    /// The optimiser.
    pub adam: AdamConfig,
    /// The loss.
    pub loss: NetworkLoss,
}

impl NetworkTrainerConfig {
    /// As the latent NCA paper trains NAFNet: learning rate 1e-3.
    pub fn nafnet() -> Self {
        Self::new(1e-3, NetworkLoss::Psnr)
    }

    /// As the latent NCA paper trains Restormer: learning rate 3e-4.
    pub fn restormer() -> Self {
        Self::new(3e-4, NetworkLoss::Mae)
    }

    fn new(learning_rate: f64, loss: NetworkLoss) -> Self {
        Self {
            adam: AdamConfig {
                learning_rate,
                ..AdamConfig::default()
            },
            loss,
        }
    }
}

/// Trains a [`Network`] with one update per batch, on the same data, splits and curricula as the automata.
///
/// ```
/// use lnca::model::baseline::{NafNet, NafNetConfig};
/// use lnca::prelude::*;
/// use lnca::train::{NetworkTrainer, NetworkTrainerConfig};
///
/// # fn main() -> lnca::Result<()> {
/// let small = NafNetConfig { width: 8, encoder: vec![1], middle: 1, decoder: vec![1] };
/// let weights = Weights::new(7, DType::F32, &Device::Cpu);
/// let network = NafNet::new(&small, weights.builder())?;
/// let mut trainer = NetworkTrainer::new(network, &weights, NetworkTrainerConfig::nafnet())?;
/// let images = Dataset::dead_leaves(20, 16, 7)?.split(7)?;
/// let data = TrainingData {
///     train: images.train,
///     validation: images.validation,
///     corruption: Some(Corruption::NOISE),
///     curriculum: None,
/// };
/// Fit { epochs: 1, ..Fit::default() }.run(&mut trainer, &data, &mut |event| println!("{event:?}"))?;
/// # Ok(())
/// # }
/// ```
pub struct NetworkTrainer<N> {
    network: N,
    weights: Weights,
    adam: Adam,
    config: NetworkTrainerConfig,
}

impl<N: Network> NetworkTrainer<N> {
    /// A trainer of `weights`, those of `network`.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for settings of the optimiser out of range.
    pub fn new(network: N, weights: &Weights, config: NetworkTrainerConfig) -> Result<Self> {
        Ok(Self {
            adam: Adam::new(weights.vars(), config.adam.clone())?,
            network,
            weights: weights.clone(),
            config,
        })
    }
}

impl<N: Network> Trainer for NetworkTrainer<N> {
    fn phase(&self) -> &'static str {
        "network"
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!(self.config)
    }

    fn weights(&self) -> &Weights {
        &self.weights
    }

    fn optimiser(&self) -> &Adam {
        &self.adam
    }

    fn optimiser_mut(&mut self) -> &mut Adam {
        &mut self.adam
    }

    fn updates_per_batch(&self) -> usize {
        1
    }

    fn learn(&mut self, batch: &Batch, _: Key) -> Result<Vec<Reading>> {
        let restored = self.network.forward(&batch.corrupted)?;
        let term = match self.config.loss {
            NetworkLoss::Psnr => Term::new("psnr", 1.0, psnr_loss(&restored, &batch.clean)?),
            NetworkLoss::Mae => Term::new("mae", 1.0, mae(&restored, &batch.clean)?),
        };
        descend(&mut self.adam, &[term], true)
    }

    fn validate(&self, batch: &Batch, _: usize) -> Result<Vec<f64>> {
        let restored = self.network.forward(&batch.corrupted)?;
        Ok(similarity(&restored, &batch.clean)?.to_vec1()?)
    }
}
