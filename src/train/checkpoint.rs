//! Checkpoints: a training between two updates, in one file.

use std::path::Path;

use candle_core::Device;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Adam;
use crate::error::{Error, Result};
use crate::io::safetensors;
use crate::io::safetensors::{Tensors, add_prefixed, take_prefixed};
use crate::nn::Weights;

/// Which training a checkpoint belongs to: it is resumed under equal ones only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub phase: String,
    pub settings: serde_json::Value,
}

/// What is remembered between updates beside weights and optimiser, and how far the training is.
#[derive(Default)]
pub(super) struct Memory<P> {
    pub best: Tensors,
    pub memory: Tensors,
    pub progress: P,
}

/// What a checkpoint says of itself.
#[derive(Serialize, Deserialize)]
struct Description<P> {
    checkpoint: u32,
    #[serde(flatten)]
    identity: Identity,
    progress: P,
    updates: usize,
}

/// Writes a checkpoint, whole or not at all.
pub(super) fn save<P: Serialize>(
    path: &Path,
    identity: Identity,
    (weights, adam): (&Weights, &Adam),
    kept: Memory<P>,
) -> Result<()> {
    let mut tensors = Tensors::new();
    add_prefixed(&mut tensors, "weights.", weights.snapshot()?);
    add_prefixed(&mut tensors, "best.", kept.best);
    add_prefixed(&mut tensors, "adam.", adam.state()?);
    add_prefixed(&mut tensors, "memory.", kept.memory);
    let description = Description {
        checkpoint: 1,
        identity,
        progress: kept.progress,
        updates: adam.updates(),
    };
    safetensors::write(path, &tensors, &description)?;
    tracing::info!("saved {}", path.display());
    Ok(())
}

/// Goes on from a checkpoint.
pub(super) fn restore<P: DeserializeOwned>(
    path: &Path,
    identity: &Identity,
    (weights, adam): (&Weights, &mut Adam),
    device: &Device,
) -> Result<Memory<P>> {
    let (mut tensors, found): (_, Description<P>) = safetensors::read(path, device)?;
    if found.identity != *identity {
        let reason = format!(
            "is a checkpoint of another run: of phase {} with {}, not of phase {} with {}",
            found.identity.phase, found.identity.settings, identity.phase, identity.settings
        );
        return Err(Error::file(path, reason));
    }
    weights.load(&take_prefixed(&mut tensors, "weights."))?;
    adam.restore(take_prefixed(&mut tensors, "adam."), found.updates)?;
    Ok(Memory {
        memory: take_prefixed(&mut tensors, "memory."),
        best: take_prefixed(&mut tensors, "best."),
        progress: found.progress,
    })
}
