//! The training loop: epochs of batches, validation, checkpoints, and resuming.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::checkpoint::{self, Identity};
use super::trainer::{Reading, Trainer};
use crate::data::{Batch, Batches, Corruption, Curriculum, Dataset};
use crate::error::{Error, Result, check};
use crate::io::safetensors::Tensors;
use crate::metric::SSIM_WINDOW;
use crate::random::Key;

/// Images to train on and to validate with, and how they are corrupted.
#[derive(Clone, Debug)]
pub struct TrainingData {
    /// Images to train on.
    pub train: Dataset,
    /// Images to select the best weights by.
    pub validation: Dataset,
    /// The synthetic corruption; real pairs ignore it.
    pub corruption: Option<Corruption>,
    /// Its difficulty over the epochs; `None` is the paper's for this corruption.
    pub curriculum: Option<Curriculum>,
}

impl TrainingData {
    fn corruption_in(&self, epoch: usize, epochs: usize) -> Option<(Corruption, f64)> {
        self.corruption.map(|corruption| {
            let curriculum = self.curriculum.unwrap_or_else(|| corruption.curriculum());
            (corruption, curriculum.difficulty(epoch, epochs))
        })
    }

    fn validation_batches(&self, batch_size: usize) -> Result<Batches> {
        let corruption = self
            .corruption
            .map(|corruption| (corruption, corruption.test_difficulty()));
        // The same corrupted images in every epoch and run, so that scores are comparable.
        self.validation
            .evaluation_batches(batch_size, corruption, Key::new(0).fold_in_name("validation"))
    }
}

/// What [`Fit::run`] reports.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Training starts, or resumes from a checkpoint.
    Started {
        /// Name of the phase.
        phase: &'static str,
        /// Batches done before this run.
        done: usize,
        /// Batches in total.
        batches: usize,
    },
    /// A batch was done.
    Batch {
        /// Name of the phase.
        phase: &'static str,
        /// Epoch, from 0.
        epoch: usize,
        /// Batch of this epoch, from 0.
        batch: usize,
        /// Learning rate of the next update.
        learning_rate: f64,
        /// The loss terms of the batch. With [`Fit::read_every`] above 1, those of most batches are empty,
        /// and the others are means since the last that were not.
        readings: &'a [Reading],
    },
    /// An epoch was validated. During this call the trainer's weights are the validated ones: their running
    /// mean, if there is one.
    Validated {
        /// Name of the phase.
        phase: &'static str,
        /// Epoch, from 0.
        epoch: usize,
        /// Mean SSIM over the validation images.
        ssim: f64,
        /// Whether it is the best so far.
        best: bool,
        /// Time since the epoch began or was resumed.
        time: Duration,
    },
    /// A checkpoint was written.
    Saved {
        /// The file.
        path: &'a Path,
    },
}

/// The training loop of a [`Trainer`] and its settings.
///
/// Batches are made on the device of the trainer's weights. In the end the weights are those of the epoch
/// with the best validation SSIM, or the last ones if no epoch has a finite SSIM.
#[derive(Clone, Debug)]
pub struct Fit {
    /// Passes over the training images: 20.
    pub epochs: usize,
    /// Images in a batch: 8.
    pub batch_size: usize,
    /// Seed of order, corruption, steps, update masks and pool: 0.
    pub seed: u64,
    /// Checkpoint path (safetensors); with `None` a killed run cannot resume: none.
    pub checkpoint: Option<PathBuf>,
    /// Batches between checkpoints, in addition to one after every epoch: 500.
    pub checkpoint_every: usize,
    /// Batches between two readings of losses, which make a GPU wait: 1. Losses are always read before a
    /// checkpoint is written.
    pub read_every: usize,
    /// Whether to resume from the checkpoint if it exists: true.
    pub resume: bool,
    /// Once this is true, the training stops after the batch at hand: it writes its checkpoint and returns
    /// [`Error::Interrupted`]. For handlers of signals and buttons: none.
    pub stop: Option<Arc<AtomicBool>>,
}

impl Default for Fit {
    fn default() -> Self {
        Self {
            epochs: 20,
            batch_size: 8,
            seed: 0,
            checkpoint: None,
            checkpoint_every: 500,
            read_every: 1,
            resume: true,
            stop: None,
        }
    }
}

/// Position in the training, and the best validation SSIM so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Progress {
    epoch: usize,
    batch: usize,
    best: Option<f64>,
}

impl Fit {
    /// Trains. `tell` is called at every batch, validation and checkpoint.
    ///
    /// # Errors
    /// [`Error::Diverged`] if a loss or gradient is not finite: the weights then are those before that
    /// update, unless losses are read later, and the last checkpoint is kept.
    /// [`Error::File`] if the checkpoint belongs to another run.
    /// [`Error::Config`] if there is no epoch or no full batch to train on, validation images are missing or
    /// smaller than the SSIM window, or corruption or curriculum are out of range.
    /// [`Error::Interrupted`] if it was asked to stop.
    pub fn run(
        &self,
        trainer: &mut dyn Trainer,
        data: &TrainingData,
        tell: &mut dyn FnMut(&Event),
    ) -> Result<()> {
        self.check(data)?;
        let phase = trainer.phase();
        let key = Key::new(self.seed).fold_in_name(phase);
        let validation = data.validation_batches(self.batch_size)?;
        let batches = data.train.training_batches(0, self.batch_size, None, key)?.len();
        if trainer.optimiser().config().cosine_updates.is_none() {
            let updates = self.epochs.saturating_mul(batches * trainer.updates_per_batch());
            trainer.optimiser_mut().anneal_over(updates);
        }
        trainer.optimiser_mut().defer(self.read_every > 1);
        let mut run = Run {
            fit: self,
            data,
            progress: Progress::default(),
            best: Tensors::new(),
            trainer,
            tell,
        };
        run.resume()?;
        (run.tell)(&Event::Started {
            phase,
            done: run.progress.epoch * batches + run.progress.batch,
            batches: self.epochs.saturating_mul(batches),
        });
        while run.progress.epoch < self.epochs {
            let started = Instant::now();
            run.train_epoch(key)?;
            run.validate(&validation, started)?;
            run.progress.epoch += 1;
            run.progress.batch = 0;
            run.save()?;
        }
        if !run.best.is_empty() {
            run.trainer.weights().load(&run.best)?;
        }
        Ok(())
    }

    fn check(&self, data: &TrainingData) -> Result<()> {
        check::count("epochs", self.epochs, (1, u32::MAX as usize))?;
        check::count("batch_size", self.batch_size, (1, u32::MAX as usize))?;
        if let Some(curriculum) = data.curriculum {
            curriculum.check()?;
        }
        if let Some(corruption) = data.corruption {
            let curriculum = data.curriculum.unwrap_or_else(|| corruption.curriculum());
            corruption.check(curriculum.min)?;
            corruption.check(curriculum.max)?;
        }
        if data.validation.is_empty() {
            return Err(Error::config("validation", "at least one image", 0));
        }
        if data.validation.size() < SSIM_WINDOW {
            let expected = format!("{SSIM_WINDOW} pixels a side or more, the window of SSIM");
            return Err(Error::config("validation", expected, data.validation.size()));
        }
        Ok(())
    }
}

/// A running fit.
struct Run<'a> {
    fit: &'a Fit,
    data: &'a TrainingData,
    trainer: &'a mut dyn Trainer,
    tell: &'a mut dyn FnMut(&Event),
    progress: Progress,
    /// The weights with the best validation SSIM so far; empty before the first.
    best: Tensors,
}

impl Run<'_> {
    /// Trains on the remaining batches of this epoch.
    fn train_epoch(&mut self, key: Key) -> Result<()> {
        let (fit, phase, epoch) = (self.fit, self.trainer.phase(), self.progress.epoch);
        let corruption = self.data.corruption_in(epoch, fit.epochs);
        let batches = self
            .data
            .train
            .training_batches(epoch, fit.batch_size, corruption, key)?;
        while self.progress.batch < batches.len() {
            let number = self.progress.batch;
            let batch = batches.get(number, self.trainer.weights().device())?;
            let key = key
                .fold_in_name("batch")
                .fold_in(epoch as u64)
                .fold_in(number as u64);
            let readings = self.learn(&batch, key, number + 1 == batches.len());
            let readings = readings.map_err(|error| locate(error, phase, self.progress))?;
            let loss = Reading::total(&readings);
            tracing::debug!(phase, epoch, batch = number, loss);
            (self.tell)(&Event::Batch {
                phase,
                epoch,
                batch: number,
                learning_rate: self.trainer.optimiser().learning_rate(),
                readings: &readings,
            });
            self.progress.batch += 1;
            let done = self.progress.batch;
            let stop = self.is_stopped();
            if stop || (done < batches.len() && done.is_multiple_of(fit.checkpoint_every.max(1))) {
                self.save()?;
            }
            if stop {
                let at = format!("epoch {epoch}, batch {done} of {phase} training");
                return Err(Error::Interrupted { at });
            }
        }
        Ok(())
    }

    /// The updates of a batch, and the losses that are read after it.
    fn learn(&mut self, batch: &Batch, key: Key, is_last: bool) -> Result<Vec<Reading>> {
        let readings = self.trainer.learn(batch, key)?;
        let done = self.progress.batch + 1;
        let every = self.fit.read_every;
        if every < 2 || !(is_last || done.is_multiple_of(every)) {
            return Ok(readings);
        }
        let means = self.trainer.optimiser_mut().settle()?;
        Ok(if means.is_empty() { readings } else { means })
    }

    fn is_stopped(&self) -> bool {
        let stop = self.fit.stop.as_ref();
        stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// Validates the weights, or their running mean if there is one, and keeps them if they are the best so
    /// far.
    fn validate(&mut self, batches: &Batches, started: Instant) -> Result<()> {
        let (phase, epoch) = (self.trainer.phase(), self.progress.epoch);
        let weights = self.trainer.weights().clone();
        let trained = match self.trainer.average().cloned() {
            None => None,
            Some(average) => {
                let trained = weights.snapshot()?;
                weights.load(&average)?;
                Some(trained)
            }
        };
        let mut scores = Vec::new();
        for batch in batches.iter(weights.device()) {
            scores.extend(self.trainer.validate(&batch?, scores.len())?);
        }
        let ssim = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
        // A rollout longer than those in training may diverge; then the score is not finite and cannot be the
        // best.
        let improved = ssim.is_finite() && self.progress.best.is_none_or(|best| ssim > best);
        if improved {
            self.best = weights.snapshot()?;
            self.progress.best = Some(ssim);
        }
        tracing::info!(phase, epoch, ssim, improved, "validated");
        (self.tell)(&Event::Validated {
            phase,
            epoch,
            ssim,
            best: improved,
            time: started.elapsed(),
        });
        if let Some(trained) = trained {
            weights.load(&trained)?;
        }
        Ok(())
    }

    /// Everything that determines the effect of the next batches on the weights.
    fn identity(&self) -> Identity {
        let (trainer, data) = (&self.trainer, self.data);
        let Fit {
            epochs,
            batch_size,
            seed,
            ..
        } = self.fit;
        let settings = serde_json::json!({
            "trainer": trainer.settings(),
            "epochs": epochs, "batch_size": batch_size, "seed": seed,
            "corruption": data.corruption, "curriculum": data.curriculum,
            "train_images": data.train.len(), "validation_images": data.validation.len(),
            "image_size": data.train.size(),
        });
        Identity {
            phase: trainer.phase().to_string(),
            settings,
        }
    }

    fn save(&mut self) -> Result<()> {
        let Some(path) = &self.fit.checkpoint else {
            return Ok(());
        };
        let state = checkpoint::State {
            best: self.best.clone(),
            trainer: self.trainer.state()?,
            progress: self.progress,
        };
        let learned = (self.trainer.weights(), self.trainer.optimiser());
        checkpoint::save(path, self.identity(), learned, state)?;
        (self.tell)(&Event::Saved { path });
        Ok(())
    }

    /// Resumes from the checkpoint, if it exists and resuming is on.
    fn resume(&mut self) -> Result<()> {
        let Some(path) = &self.fit.checkpoint else {
            return Ok(());
        };
        // Where it cannot be told whether there is one, it must not be replaced.
        if !self.fit.resume || !path.try_exists().map_err(Error::io(path))? {
            return Ok(());
        }
        let (identity, weights) = (self.identity(), self.trainer.weights().clone());
        let learned = (&weights, self.trainer.optimiser_mut());
        let state: checkpoint::State<Progress> =
            checkpoint::restore(path, &identity, learned, weights.device())?;
        let restored = self.trainer.restore_state(state.trainer);
        restored.map_err(|error| Error::file(path, error))?;
        (self.progress, self.best) = (state.progress, state.best);
        let (phase, Progress { epoch, batch, .. }) = (self.trainer.phase(), self.progress);
        tracing::info!(phase, epoch, batch, "resumed {}", path.display());
        Ok(())
    }
}

/// Adds epoch and batch to a divergence error, which only knows the update.
fn locate(error: Error, phase: &'static str, progress: Progress) -> Error {
    match error {
        Error::Diverged { what, value, at } => Error::Diverged {
            what,
            value,
            at: format!(
                "{at}, epoch {}, batch {} of {phase} training",
                progress.epoch, progress.batch
            ),
        },
        other => other,
    }
}
