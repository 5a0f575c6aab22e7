//! A golden case on disk: a sidecar that says what it is, and its tensors by name.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde_json::Value;

use crate::device::device;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

pub struct Case {
    /// The folder that holds it.
    pub folder: PathBuf,
    pub sidecar: Value,
    pub tensors: HashMap<String, Tensor>,
}

impl Case {
    pub fn read(folder: &Path, name: &str) -> Result<Self> {
        let file = |extension: &str| folder.join(format!("{name}.{extension}"));
        let tensors = candle_core::safetensors::load(file("safetensors"), &device())
            .map_err(|error| format!("{}: {error}", file("safetensors").display()))?;
        let sidecar = fs::read_to_string(file("json"))
            .map_err(|error| format!("{}: {error}", file("json").display()))?;
        Ok(Self {
            folder: folder.to_path_buf(),
            sidecar: serde_json::from_str(&sidecar)?,
            tensors,
        })
    }

    /// The value at a path of keys such as `config.weights.rec`.
    pub fn setting(&self, path: &str) -> Result<&Value> {
        path.split('.')
            .try_fold(&self.sidecar, |value, key| value.get(key))
            .filter(|value| !value.is_null())
            .ok_or_else(|| format!("the sidecar has no `{path}`").into())
    }

    pub fn number(&self, path: &str) -> Result<f64> {
        let value = self.setting(path)?;
        value
            .as_f64()
            .ok_or_else(|| format!("`{path}` is {value}, not a number").into())
    }

    pub fn count(&self, path: &str) -> Result<usize> {
        let value = self.setting(path)?;
        let count = value.as_u64().map(|count| count as usize);
        count.ok_or_else(|| format!("`{path}` is {value}, not a count").into())
    }

    pub fn text(&self, path: &str) -> Result<&str> {
        let value = self.setting(path)?;
        value
            .as_str()
            .ok_or_else(|| format!("`{path}` is {value}, not a text").into())
    }

    pub fn list(&self, path: &str) -> Result<&[Value]> {
        let value = self.setting(path)?;
        value
            .as_array()
            .map(Vec::as_slice)
            .ok_or_else(|| format!("`{path}` is {value}, not a list").into())
    }

    /// The sub-cases: the parts of tensor names before the first `/`, each once.
    pub fn subcases(&self) -> Vec<String> {
        let prefixes = self.tensors.keys().filter_map(|name| name.split_once('/'));
        let unique: BTreeMap<_, _> = prefixes.map(|(prefix, _)| (prefix.to_string(), ())).collect();
        unique.into_keys().collect()
    }
}

/// Names of the cases in `folder`, in order. A case with half of its files missing is listed too, so
/// that reading it fails.
pub fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let path = entry?.path();
        let is_case = path
            .extension()
            .is_some_and(|e| e == "json" || e == "safetensors");
        // An index of a folder is no case.
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .filter(|stem| *stem != "INDEX");
        if let (true, Some(stem)) = (is_case, stem) {
            names.insert(stem.to_string(), ());
        }
    }
    Ok(names.into_keys().collect())
}
