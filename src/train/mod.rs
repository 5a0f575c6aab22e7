//! Training: trainers that make updates, and the fit that runs, validates, saves and resumes them.

mod adam;
mod autoencoder;
mod average;
mod checkpoint;
mod fit;
mod inplace;
mod learner;
mod network;
mod pattern;
mod pool;
mod pool_trainer;
mod vae;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::loss::{Term, total};

pub use adam::{Adam, AdamConfig};
pub use autoencoder::{AutoencoderTrainer, AutoencoderTrainerConfig, Triplet};
pub use fit::{Event, Fit, TrainingData};
pub use learner::Learner;
pub use network::{NetworkLoss, NetworkTrainer, NetworkTrainerConfig};
pub use pattern::{PatternTrainer, PatternTrainerConfig, Reseed};
pub use pool::{Pool, PoolEntry};
pub use pool_trainer::{PoolOrder, PoolTrainer, PoolTrainerConfig};
pub use vae::{Evolving, VaeTrainer, VaeTrainerConfig};

use crate::data::Batch;
use crate::nn::Weights;
use crate::random::Key;
use crate::store::Tensors;

/// Something that learns from batches of images; [`Fit`] runs it.
///
/// Everything that changes in training must be in its weights, its optimiser or its `memory`, and
/// every draw must come from the key given, so that a resumed run is the run that never stopped.
pub trait Trainer {
    /// The name of this phase of training, such as `autoencoder`.
    fn phase(&self) -> &'static str;

    /// All settings, as JSON: a checkpoint is resumed only under the same ones.
    fn settings(&self) -> serde_json::Value;

    /// What is trained, running statistics included.
    fn weights(&self) -> &Weights;

    /// The weights to validate and keep in place of those that the last update left, if there are such.
    fn average(&self) -> Option<&Tensors> {
        None
    }

    /// The optimiser.
    fn optimiser(&self) -> &Adam;

    /// The optimiser, to be changed.
    fn optimiser_mut(&mut self) -> &mut Adam;

    /// Optimiser updates that one batch makes.
    fn updates_per_batch(&self) -> usize;

    /// Learns from one batch.
    ///
    /// # Errors
    /// [`Error::Diverged`] before a weight is touched if a loss is not finite.
    fn learn(&mut self, batch: &Batch, key: Key) -> Result<Vec<Reading>>;

    /// The SSIM of each image of a validation batch; `first_image` is the number of its first one.
    fn validate(&self, batch: &Batch, first_image: usize) -> Result<Vec<f64>>;

    /// What is remembered between batches beyond weights and optimiser: nothing unless said otherwise.
    fn memory(&self) -> Result<Tensors> {
        Ok(Tensors::new())
    }

    /// Goes on from such a memory.
    ///
    /// # Errors
    /// [`Error::Weight`] if it is that of another trainer.
    fn restore_memory(&mut self, memory: Tensors) -> Result<()> {
        match memory.into_keys().next() {
            None => Ok(()),
            Some(key) => Err(Error::Weight {
                key: format!("memory.{key}"),
                expected: "nothing: this training remembers nothing between batches".into(),
                found: "a tensor".into(),
            }),
        }
    }
}

/// The value of one term of a loss in one update.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Reading {
    /// Name of the term.
    pub name: &'static str,
    /// Its factor in the total.
    pub weight: f64,
    /// Its unweighted value.
    pub value: f64,
}

impl Reading {
    /// The weighted sum of readings.
    pub fn total(readings: &[Reading]) -> f64 {
        readings
            .iter()
            .map(|reading| reading.weight * reading.value)
            .sum()
    }
}

/// One update by a loss: reads its terms, checks them, goes down their gradient.
fn descend(adam: &mut Adam, terms: &[Term]) -> Result<Vec<Reading>> {
    let read = |term: &Term| -> Result<Reading> {
        let value = scalar(&term.value)?;
        if !value.is_finite() {
            let at = format!("update {}", adam.updates());
            let what = format!("the loss term `{}`", term.name);
            return Err(Error::Diverged { what, value, at });
        }
        Ok(Reading {
            name: term.name,
            weight: term.weight,
            value,
        })
    };
    let readings = terms.iter().map(read).collect::<Result<_>>()?;
    adam.step(&total(terms)?.backward()?)?;
    Ok(readings)
}

fn scalar(value: &Tensor) -> Result<f64> {
    Ok(value.to_dtype(candle_core::DType::F64)?.to_scalar()?)
}
