//! Checkpoints: the state of a training between two updates, in one file.

use std::path::Path;

use candle_core::Device;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::adam::Adam;
use crate::error::{Error, Result};
use crate::io::card::{self, Card};
use crate::io::safetensors::{self, Tensors, add_prefixed, take_prefixed};
use crate::nn::Weights;

/// Which training a checkpoint belongs to: only an equal one can resume it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub phase: String,
    pub settings: serde_json::Value,
}

/// The state of a training beside weights and optimiser.
#[derive(Default)]
pub(super) struct State<P> {
    /// The best weights so far, by validation.
    pub best: Tensors,
    /// The state of the trainer, such as its pool.
    pub trainer: Tensors,
    pub progress: P,
}

/// The card of a checkpoint.
#[derive(Serialize, Deserialize)]
struct CheckpointCard<P> {
    /// Version of the file format: 1.
    checkpoint: u32,
    #[serde(flatten)]
    identity: Identity,
    progress: P,
    updates: usize,
}

impl<P: Serialize + DeserializeOwned> Card for CheckpointCard<P> {
    const KIND: &'static str = "checkpoint";
}

/// Writes a checkpoint, atomically.
pub(super) fn save<P: Serialize + DeserializeOwned>(
    path: &Path,
    identity: Identity,
    (weights, adam): (&Weights, &Adam),
    state: State<P>,
) -> Result<()> {
    // What is not finite must not replace what was.
    adam.check_unread()?;
    weights.check_finite()?;
    let mut tensors = Tensors::new();
    add_prefixed(&mut tensors, "weights.", weights.snapshot()?);
    add_prefixed(&mut tensors, "best.", state.best);
    add_prefixed(&mut tensors, "adam.", adam.state()?);
    add_prefixed(&mut tensors, "memory.", state.trainer);
    let card = CheckpointCard {
        checkpoint: 1,
        identity,
        progress: state.progress,
        updates: adam.updates(),
    };
    safetensors::write(path, &tensors, &card)?;
    tracing::info!("saved {}", path.display());
    Ok(())
}

/// Restores weights and optimiser from a checkpoint and returns the rest of the state.
///
/// # Errors
/// [`Error::Io`] or [`Error::File`], which name the file, if it cannot be read, is damaged, or belongs to
/// another run.
pub(super) fn restore<P: Serialize + DeserializeOwned>(
    path: &Path,
    identity: &Identity,
    (weights, adam): (&Weights, &mut Adam),
    device: &Device,
) -> Result<State<P>> {
    let (mut tensors, found): (_, CheckpointCard<P>) = card::read(path, device)?;
    if found.identity != *identity {
        let reason = format!(
            "is a checkpoint of another run: of phase {} with {}, not of phase {} with {}",
            found.identity.phase, found.identity.settings, identity.phase, identity.settings
        );
        return Err(Error::file(path, reason));
    }
    let named = |error| Error::file(path, error);
    weights
        .load(&take_prefixed(&mut tensors, "weights."))
        .map_err(named)?;
    adam.restore(take_prefixed(&mut tensors, "adam."), found.updates)
        .map_err(named)?;
    Ok(State {
        trainer: take_prefixed(&mut tensors, "memory."),
        best: take_prefixed(&mut tensors, "best."),
        progress: found.progress,
    })
}
