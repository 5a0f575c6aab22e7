//! Safetensors files: tensors by name, with a JSON description in the header.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::atomic::write_atomic;
use super::whole::read_whole;
use crate::error::{Error, Result};

/// The header entry that holds the description.
const ENTRY: &str = "lnca";

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Writes `tensors` and `description` to `path`, atomically.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written, [`Error::File`] if the description cannot be written as JSON.
pub fn write(path: &Path, tensors: &Tensors, description: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(description).map_err(|error| Error::file(path, error))?;
    let header = HashMap::from([(ENTRY.to_string(), text)]);
    let bytes = safetensors::serialize(tensors, Some(header)).map_err(|error| Error::file(path, error))?;
    write_atomic(path, &bytes)
}

/// Reads tensors and description of a file written by [`write()`].
///
/// # Errors
/// [`Error::Io`] if it cannot be read; [`Error::File`] if it is not a safetensors file, has no
/// description, or one of another kind.
pub fn read<D: DeserializeOwned>(path: &Path, device: &Device) -> Result<(Tensors, D)> {
    let bytes = read_whole(path)?;
    let broken = |error| Error::file(path, format!("not a safetensors file: {error}"));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
    let Some(text) = header.metadata().as_ref().and_then(|entries| entries.get(ENTRY)) else {
        return Err(Error::file(
            path,
            "has no `lnca` entry in its header, so it is not of this library",
        ));
    };
    let description = serde_json::from_str(text)
        .map_err(|error| Error::file(path, format!("is of another kind than expected: {error}")))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(broken)?;
    let load = |(name, view): (String, safetensors::tensor::TensorView)| Ok((name, view.load(device)?));
    let tensors = tensors.tensors().into_iter().map(load).collect::<Result<_>>()?;
    Ok((tensors, description))
}

/// Removes the tensors whose names start with `prefix` from `tensors` and returns them without the prefix.
pub fn take_prefixed(tensors: &mut Tensors, prefix: &str) -> Tensors {
    let names: Vec<String> = tensors
        .keys()
        .filter(|name| name.starts_with(prefix))
        .cloned()
        .collect();
    let take = |name: String| {
        tensors
            .remove(&name)
            .map(|tensor| (name[prefix.len()..].to_string(), tensor))
    };
    names.into_iter().filter_map(take).collect()
}

/// Adds `part` to `tensors`, each name under `prefix`.
pub fn add_prefixed(tensors: &mut Tensors, prefix: &str, part: Tensors) {
    tensors.extend(
        part.into_iter()
            .map(|(name, tensor)| (format!("{prefix}{name}"), tensor)),
    );
}
