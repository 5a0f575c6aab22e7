//! The folder of a run: its files, and whether a run there is resumed or starts over.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use lnca::io::write_atomic;
use serde_json::Value;

use super::Settings;
use crate::lock::FolderLock;
use crate::{Result, at, note};

/// The folder of a run, held against other processes.
pub struct RunFolder {
    dir: PathBuf,
    _lock: FolderLock,
}

impl RunFolder {
    /// Takes the folder, before anything that takes long, and changes nothing in it.
    ///
    /// # Errors
    /// Another process writes there, or it cannot be written.
    pub fn take(dir: PathBuf) -> Result<Self> {
        let lock = FolderLock::take(&dir)?;
        Ok(Self { dir, _lock: lock })
    }

    /// Prepares the folder for a run with `settings`. With `resume`, a run that is there is resumed;
    /// otherwise its checkpoints and log are removed.
    ///
    /// # Errors
    /// The run there has other settings or lacks its checkpoints, or the folder cannot be written.
    pub fn prepare(&self, settings: &Settings, resume: bool) -> Result<()> {
        let path = self.file("run.json");
        let found = match fs::read(&path) {
            Ok(bytes) => Some(serde_json::from_slice::<Value>(&bytes).map_err(at(&path))),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(at(&path)(error).into()),
        };
        let wanted = serde_json::to_value(settings)?;
        match found {
            Some(found) if resume => {
                self.compare(&found?, &wanted)?;
                self.find_checkpoints()?;
            }
            None if resume && self.names()?.iter().any(|name| is_checkpoint(name)) => {
                let advice = "leave out --resume to start over";
                return Err(format!(
                    "{} is missing, which says what run its checkpoints are of; {advice}",
                    path.display()
                )
                .into());
            }
            found => {
                match (found.is_some(), resume) {
                    (true, _) => note!("{}: starting over", self.dir.display()),
                    (false, true) => note!("{}: no run to resume, starting one", self.dir.display()),
                    (false, false) => {}
                }
                for name in self.names()? {
                    if name == "log.jsonl" || is_checkpoint(&name) {
                        let path = self.file(&name);
                        fs::remove_file(&path).map_err(at(&path))?;
                    }
                }
                self.write("run.json", &wanted)?;
            }
        }
        Ok(())
    }

    /// Says which checkpoint a run starts from, if any.
    ///
    /// # Errors
    /// There is none, but a model: to train it anew would lose it.
    fn find_checkpoints(&self) -> Result<()> {
        let names = self.names()?;
        if names.iter().any(|name| is_checkpoint(name)) {
            return Ok(());
        }
        let dir = self.dir.display();
        if names.iter().any(|name| name == "model.safetensors") {
            let advice = "leave out --resume to start over";
            return Err(format!(
                "{dir}: a model is there, but no file *.checkpoint.safetensors to resume from; {advice}"
            )
            .into());
        }
        note!("{dir}: no checkpoint to resume from yet, starting");
        Ok(())
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a file of JSON, whole or not at all.
    pub fn write(&self, name: &str, value: &Value) -> Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        Ok(write_atomic(self.file(name), text.as_bytes())?)
    }

    /// The names of the files in it.
    fn names(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.dir).map_err(at(&self.dir))?;
        let names = entries.map(|entry| Ok(entry.map_err(at(&self.dir))?.file_name()));
        let names: Result<Vec<OsString>> = names.collect();
        // None of ours has another name.
        Ok(names?
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .collect())
    }

    /// Fails if the settings differ.
    fn compare(&self, found: &Value, wanted: &Value) -> Result<()> {
        let value = |of: &Value| match of {
            Value::Null => "not given".to_string(),
            value => value.to_string(),
        };
        let names = wanted
            .as_object()
            .into_iter()
            .flat_map(|settings| settings.keys());
        let differ = names.filter(|name| found[*name] != wanted[*name]);
        let differ: Vec<String> = differ
            .map(|name| {
                format!(
                    "`--{name}` is {} and was {}",
                    value(&wanted[name]),
                    value(&found[name])
                )
            })
            .collect();
        if differ.is_empty() {
            return Ok(());
        }
        let (dir, differ) = (self.dir.display(), differ.join(", "));
        let advice = "resume with the same arguments, or leave out --resume to start over";
        Err(format!("{dir} holds a run with other settings: {differ}; {advice}").into())
    }
}

fn is_checkpoint(name: &str) -> bool {
    name.ends_with(".checkpoint.safetensors")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restoration::{Args, DENOISE};

    #[test]
    fn a_run_is_resumed_with_equal_settings_only() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let open = |seed: &str, resume: bool| -> Result<RunFolder> {
            let words = ["denoise", "--seed", seed];
            let settings = Settings::new(&Args::from_words(&DENOISE, words)?);
            let folder = RunFolder::take(folder.path().into())?;
            folder.prepare(&settings, resume)?;
            Ok(folder)
        };
        let checkpoint = open("1", true)?.file("nca.checkpoint.safetensors");
        fs::write(&checkpoint, "")?;
        open("1", true)?;
        assert!(checkpoint.exists());
        let error = open("2", true).err().map(|error| error.to_string());
        let error = error.unwrap_or_default();
        assert!(error.contains("`--seed` is 2 and was 1"), "{error}");
        open("2", false)?;
        assert!(!checkpoint.exists());
        open("2", true)?;
        fs::write(&checkpoint, "")?;
        fs::remove_file(folder.path().join("run.json"))?;
        let error = open("2", true).err().map(|error| error.to_string());
        let error = error.unwrap_or_default();
        assert!(
            error.contains("run.json is missing") && checkpoint.exists(),
            "{error}"
        );
        open("2", false)?;
        fs::write(folder.path().join("model.safetensors"), "")?;
        let error = open("2", true).err().map(|error| error.to_string());
        let error = error.unwrap_or_default();
        assert!(error.contains("checkpoint.safetensors"), "{error}");
        Ok(())
    }
}
