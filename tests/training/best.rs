//! After a fit the model has the weights of its best epoch.

use candle_core::DType;
use candle_nn::Init;
use lnca::data::Batch;
use lnca::random::Key;
use lnca::train::{Adam, AdamConfig, Event, Reading, Trainer};
use lnca::{Fit, Result, Weights};

use crate::common::device::device;
use crate::common::values;
use crate::setup::{data, fit};

/// Its only weight counts the batches; the score of each epoch is given.
struct Scripted {
    weights: Weights,
    adam: Adam,
    scores: Vec<f64>,
}

impl Scripted {
    fn new(scores: &[f64]) -> Result<Self> {
        let weights = Weights::new(0, DType::F64, &device());
        weights.builder().get_with_hints(1, "batches", Init::Const(0.0))?;
        Ok(Self {
            adam: Adam::new(weights.vars(), AdamConfig::default()).unwrap(),
            weights,
            scores: scores.to_vec(),
        })
    }

    fn batches(&self) -> f64 {
        values(&self.weights.vars()[0].1)[0]
    }
}

impl Trainer for Scripted {
    fn phase(&self) -> &'static str {
        "scripted"
    }
    fn settings(&self) -> serde_json::Value {
        serde_json::Value::Null
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
    fn learn(&mut self, _: &Batch, _: Key) -> Result<Vec<Reading>> {
        let (_, var) = &self.weights.vars()[0];
        var.set(&(var.as_detached_tensor() + 1.0)?)?;
        Ok(Vec::new())
    }
    fn validate(&self, batch: &Batch, _: usize) -> Result<Vec<f64>> {
        let epoch = self.batches() as usize / 3 - 1;
        Ok(vec![self.scores[epoch]; batch.clean.dim(0)?])
    }
}

/// The epoch, from 0, whose weights remain after a fit with three batches an epoch.
fn best_epoch(scores: &[f64]) -> Result<f64> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let fit = Fit {
        epochs: scores.len(),
        ..fit(&path)
    };
    let data = data(13, 12)?;
    let mut trainer = Scripted::new(scores)?;
    let mut copy = None;
    fit.run(&mut trainer, &data, &mut |event| {
        if let (Event::Saved { path }, None) = (event, &copy) {
            copy = Some(std::fs::read(path).unwrap());
        }
    })?;
    let best = trainer.batches() / 3.0 - 1.0;
    // The same after a kill in the first epoch, and after one at the very end.
    for checkpoint in [copy, None] {
        if let Some(bytes) = checkpoint {
            std::fs::write(&path, bytes).unwrap();
        }
        let mut resumed = Scripted::new(scores)?;
        fit.run(&mut resumed, &data, &mut |_| {})?;
        assert_eq!(resumed.batches() / 3.0 - 1.0, best, "resumed with {scores:?}");
    }
    Ok(best)
}

#[test]
fn the_weights_of_the_best_epoch_are_left() -> Result<()> {
    assert_eq!(best_epoch(&[0.1, 0.3, 0.2])?, 1.0);
    assert_eq!(best_epoch(&[-0.3, -0.2, -0.1])?, 2.0);
    // The first of equal scores.
    assert_eq!(best_epoch(&[0.2, 0.1, 0.2])?, 0.0);
    Ok(())
}

/// A rollout longer than those in training can diverge while the training itself goes well.
#[test]
fn an_epoch_without_a_score_is_never_the_best() -> Result<()> {
    assert_eq!(best_epoch(&[f64::NAN, 0.1, 0.3, 0.2])?, 2.0);
    assert_eq!(best_epoch(&[0.1, f64::NAN, 0.05])?, 0.0);
    assert_eq!(best_epoch(&[f64::NEG_INFINITY, f64::INFINITY, -0.4])?, 2.0);
    // If no epoch has a score, the last weights stay.
    assert_eq!(best_epoch(&[f64::NAN, f64::NAN])?, 1.0);
    Ok(())
}
