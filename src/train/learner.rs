//! What is trained update by update.

use std::path::Path;

use super::Reading;
use crate::error::Result;

/// A training made of updates, such as that of a [`PatternTrainer`](super::PatternTrainer) or a
/// [`VaeTrainer`](super::VaeTrainer). The loop is the user's; it may save and resume between any two updates.
///
/// Everything that an update draws is a function of a seed and of the number of the update, so a training
/// that was saved and resumed gives the same bits as one that never stopped.
///
/// ```
/// use lnca::prelude::*;
///
/// /// Trains to update `last` and writes a checkpoint every 100 updates.
/// fn train(learner: &mut dyn Learner, last: usize, checkpoint: &std::path::Path) -> lnca::Result<()> {
///     if checkpoint.exists() {
///         learner.resume(checkpoint)?;
///     }
///     while learner.updates() < last {
///         let readings = learner.update()?;
///         println!("{} {readings:?}", learner.updates());
///         if learner.updates().is_multiple_of(100) {
///             learner.save(checkpoint)?;
///         }
///     }
///     Ok(())
/// }
/// ```
pub trait Learner {
    /// The number of updates made.
    fn updates(&self) -> usize;

    /// The learning rate of the next update.
    fn learning_rate(&self) -> f64;

    /// One update, and the terms of its loss; none of them if they are [deferred](Learner::defer).
    ///
    /// # Errors
    /// [`Error::Diverged`](crate::Error::Diverged) before a weight is touched if the loss or a gradient is
    /// not finite.
    fn update(&mut self) -> Result<Vec<Reading>>;

    /// Leaves losses unread until [`Learner::settle`], so that no update waits for a GPU: as
    /// [`Adam::defer`](super::Adam::defer). By default this does nothing.
    fn defer(&mut self, _is_deferred: bool) {}

    /// The mean of each loss term over the updates since the last call, if they are deferred; else nothing.
    ///
    /// # Errors
    /// As [`Adam::settle`](super::Adam::settle).
    fn settle(&mut self) -> Result<Vec<Reading>> {
        Ok(vec![])
    }

    /// Writes everything that the next update depends on to a safetensors file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if it cannot be written,
    /// [`Error::Diverged`](crate::Error::Diverged) if a loss or gradient that was left unread is not finite.
    fn save(&self, checkpoint: &Path) -> Result<()>;

    /// Goes on from a file that [`Learner::save`] wrote.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if it is of a training with other settings,
    /// [`Error::Weight`](crate::Error::Weight) if its weights or states do not fit,
    /// [`Error::Io`](crate::Error::Io) if it cannot be read.
    fn resume(&mut self, checkpoint: &Path) -> Result<()>;
}
