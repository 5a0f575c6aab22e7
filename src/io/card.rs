//! Cards: descriptions in safetensors files, by which kind and version of a file are checked.

use std::path::Path;

use candle_core::Device;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::safetensors::{self, Tensors};
use crate::error::{Error, Result};
use crate::nn::Weights;

/// The description in the header of a file. With the tensors, it is all that is needed to rebuild what was
/// saved.
pub(crate) trait Card: Serialize + DeserializeOwned {
    /// The kind of file, and the field of the card that holds the version of its format.
    const KIND: &'static str;
    /// The version of the format that this library reads and writes.
    const VERSION: u32 = 1;
}

/// Reads the tensors and the card of a file.
///
/// # Errors
/// [`Error::Io`] if it cannot be read; [`Error::File`] if it is not a safetensors file, or of another kind or
/// version.
pub(crate) fn read<C: Card>(path: &Path, device: &Device) -> Result<(Tensors, C)> {
    let (tensors, card): (_, serde_json::Value) = safetensors::read(path, device)?;
    let (kind, version) = (C::KIND, C::VERSION);
    // The version is checked first, since another one may have other fields.
    match card.get(kind) {
        None => {
            let reason = format!("is of another kind than expected: its card has no field `{kind}`");
            return Err(Error::file(path, reason));
        }
        Some(found) if *found != version => {
            let reason = format!("is of version {found} of the format, this library reads version {version}");
            return Err(Error::file(path, reason));
        }
        Some(_) => {}
    }
    let card = serde_json::from_value(card)
        .map_err(|error| Error::file(path, format!("its card is not that of a {kind} file: {error}")))?;
    Ok((tensors, card))
}

/// Writes weights and card, atomically.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written.
pub(crate) fn save<C: Card>(path: &Path, weights: &Weights, card: &C) -> Result<()> {
    safetensors::write(path, &weights.snapshot()?, card)
}

/// Loads a file written by [`save`]. `build` makes the model from the card and the values in the file, by
/// [`Weights::given`], and returns it with its weights, named as in the file.
///
/// # Errors
/// As [`read`]; [`Error::File`] if a weight is missing or has not the shape that the card gives it, or the
/// card has a setting out of range; [`Error::Weight`] if one is left over, or holds NaN or an infinity.
pub(crate) fn load<C: Card, M>(
    path: &Path,
    device: &Device,
    build: impl FnOnce(C, Tensors) -> Result<(M, Weights)>,
) -> Result<M> {
    let (values, card) = read(path, device)?;
    let (model, weights) = build(card, values.clone()).map_err(|error| match error {
        // What the card asks for is not in the file, or is nothing that can be.
        error @ (Error::Candle(_) | Error::Config { .. } | Error::Shape { .. }) => Error::file(path, error),
        other => other,
    })?;
    weights.load(&values)?;
    Ok(model)
}
