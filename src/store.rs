//! Safetensors files: tensors by name with a JSON description in the header, written atomically.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// The header entry that holds the description.
const ENTRY: &str = "lnca";

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Writes `tensors` and `description` to `path`, or leaves the file that is there as it is.
///
/// # Errors
/// [`Error::Io`] if the folder or the file cannot be written.
pub fn write(path: &Path, tensors: &Tensors, description: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(description).map_err(|error| Error::file(path, error))?;
    let header = HashMap::from([(ENTRY.to_string(), text)]);
    let bytes = safetensors::serialize(tensors, Some(header)).map_err(|error| Error::file(path, error))?;
    write_bytes(path, &bytes)
}

/// Writes a file of any kind, and the folders above it; if that fails, a file that is there stays as it is.
///
/// # Errors
/// [`Error::Io`] if the folder or the file cannot be written.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    // A rename within a folder is atomic: a reader, or a run killed here, sees the old file or the new.
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = Path::new(&partial);
    let written = File::create(partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(partial, path));
    written.map_err(|error| {
        // The error at hand says more than a failure to tidy up would.
        let _ = fs::remove_file(partial);
        Error::io(path)(error)
    })
}

/// Tensors and description of a file that [`write()`] made.
///
/// # Errors
/// [`Error::Io`] if it cannot be read; [`Error::File`] if it is not a safetensors file, has no
/// description, or one of another kind.
pub fn read<D: DeserializeOwned>(path: &Path, device: &Device) -> Result<(Tensors, D)> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
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

/// Moves the tensors whose names start with `prefix` out of `tensors`, without it.
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
