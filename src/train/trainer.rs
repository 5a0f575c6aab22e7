//! The trait of trainers that [`Fit`](super::Fit) runs, and an update by the terms of a loss.

use super::adam::Adam;
use super::unread::Losses;
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::io::safetensors::Tensors;
use crate::loss::{Term, total};
use crate::nn::Weights;
use crate::random::Key;

/// A training by batches of images; [`Fit`](super::Fit) runs it.
///
/// Everything that changes in training must be in its weights, its optimiser or its state, and every random
/// draw must come from the key given: then a resumed run gives the same bits as one that never stopped.
pub trait Trainer {
    /// The name of this phase of training, such as `autoencoder`.
    fn phase(&self) -> &'static str;

    /// All settings as JSON. A checkpoint can be resumed only with equal settings.
    fn settings(&self) -> serde_json::Value;

    /// The weights being trained, running statistics included.
    fn weights(&self) -> &Weights;

    /// The moving average of the weights, if there is one: it is validated and kept instead of the weights.
    fn average(&self) -> Option<&Tensors> {
        None
    }

    /// The optimiser.
    fn optimiser(&self) -> &Adam;

    /// The optimiser, mutable.
    fn optimiser_mut(&mut self) -> &mut Adam;

    /// Optimiser updates per batch.
    fn updates_per_batch(&self) -> usize;

    /// Makes the updates of one batch. All draws come from `key`. There are no readings if they are
    /// [deferred](Adam::defer).
    ///
    /// # Errors
    /// [`Error::Diverged`] before a weight is touched if a loss is not finite.
    fn learn(&mut self, batch: &Batch, key: Key) -> Result<Vec<Reading>>;

    /// The SSIM of each image of a validation batch. `first_image` is the number of its first image in the
    /// data set.
    fn validate(&self, batch: &Batch, first_image: usize) -> Result<Vec<f64>>;

    /// What changes from batch to batch beside weights and optimiser, such as a pool; by default nothing.
    fn state(&self) -> Result<Tensors> {
        Ok(Tensors::new())
    }

    /// Restores a state that [`Trainer::state`] gave.
    ///
    /// # Errors
    /// [`Error::Weight`] if it is that of another trainer.
    fn restore_state(&mut self, state: Tensors) -> Result<()> {
        match state.into_keys().next() {
            None => Ok(()),
            Some(key) => Err(Error::Weight {
                key: format!("memory.{key}"),
                expected: "nothing: this trainer has no state of its own".into(),
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

/// One update along the gradient of a loss. Its terms are read and checked before, unless that is
/// [deferred](Adam::defer); then there are no readings, and [`Adam::settle`] tells them if they are `told`.
pub(super) fn descend(adam: &mut Adam, terms: &[Term], told: bool) -> Result<Vec<Reading>> {
    let readings = adam.note(Losses::new(adam.updates(), terms)?, told)?;
    adam.step(&total(terms)?.backward()?)?;
    Ok(readings)
}
