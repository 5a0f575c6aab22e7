//! The running mean of weights.

use crate::error::Result;
use crate::io::safetensors::Tensors;
use crate::nn::Weights;

/// The running mean of weights over updates, without the noise that the last few of them left.
#[derive(Clone, Debug)]
pub(super) struct WeightAverage {
    decay: f64,
    values: Tensors,
}

impl WeightAverage {
    /// A mean in which each update leaves `decay` of what was there; fewer at the beginning, when what was there
    /// are the first weights.
    pub fn new(decay: f64) -> Self {
        Self {
            decay,
            values: Tensors::new(),
        }
    }

    /// Takes in the weights after update `update`, counted from 1.
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
            // In this form what does not move stays the same to the last bit.
            let gap = (var.as_detached_tensor() - &*mean)?;
            *mean = (&*mean + (gap * (1.0 - decay))?)?.detach();
        }
        Ok(())
    }

    /// The mean, named as the weights are; empty before the first update.
    pub fn values(&self) -> &Tensors {
        &self.values
    }

    /// Goes on from such a mean.
    pub fn restore(&mut self, values: Tensors) {
        self.values = values;
    }
}
