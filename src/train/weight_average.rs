//! An exponential moving average of weights.

use crate::error::Result;
use crate::io::safetensors::Tensors;
use crate::nn::Weights;

/// The moving average of weights over updates, which is less noisy than the weights themselves.
#[derive(Clone, Debug)]
pub(super) struct WeightAverage {
    decay: f64,
    values: Tensors,
}

impl WeightAverage {
    /// An average with this decay per update, lower in the first updates, so that the initial weights are
    /// soon forgotten.
    pub fn new(decay: f64) -> Self {
        Self {
            decay,
            values: Tensors::new(),
        }
    }

    /// Adds the weights after update `update`, counted from 1.
    pub fn follow(&mut self, weights: &Weights, update: usize) -> Result<()> {
        if self.values.is_empty() {
            self.values = weights.snapshot()?;
            return Ok(());
        }
        let decay = self.decay.min((1.0 + update as f64) / (10.0 + update as f64));
        for (name, var) in weights.vars() {
            let Some(mean) = self.values.get_mut(&name) else {
                continue;
            };
            // In this form, weights that do not change keep their exact bits.
            let gap = (var.as_detached_tensor() - &*mean)?;
            *mean = (&*mean + (gap * (1.0 - decay))?)?.detach();
        }
        Ok(())
    }

    /// The average, under the names of the weights; empty before the first update.
    pub fn values(&self) -> &Tensors {
        &self.values
    }

    /// Restores an average.
    pub fn restore(&mut self, values: Tensors) {
        self.values = values;
    }
}
