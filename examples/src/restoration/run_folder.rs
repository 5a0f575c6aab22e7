//! The folder of a run: its files, and whether a run there is resumed or starts over.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use lnca::io::write_atomic;
use serde_json::Value;

use super::Settings;
use crate::{Result, at};

/// The folder of a run.
pub struct RunFolder {
    dir: PathBuf,
}

impl RunFolder {
    /// Opens the folder for a run with `settings`. With `resume`, a run that is there is resumed; otherwise
    /// its checkpoints and log are removed.
    ///
    /// # Errors
    /// The run there has other settings, or the folder cannot be written.
    pub fn open(dir: PathBuf, settings: &Settings, resume: bool) -> Result<Self> {
        fs::create_dir_all(&dir).map_err(at(&dir))?;
        let folder = Self { dir };
        // Files that were being written when a run was killed.
        folder.remove(|name| name.ends_with(".partial"))?;
        let path = folder.file("run.json");
        let found = match fs::read(&path) {
            Ok(bytes) => Some(serde_json::from_slice::<Value>(&bytes).map_err(at(&path))),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(at(&path)(error).into()),
        };
        let wanted = serde_json::to_value(settings)?;
        match found {
            Some(found) if resume => folder.compare(&found?, &wanted)?,
            found => {
                match (found.is_some(), resume) {
                    (true, _) => eprintln!("{}: starting over", folder.dir.display()),
                    (false, true) => eprintln!("{}: no run to resume, starting one", folder.dir.display()),
                    (false, false) => {}
                }
                folder.remove(|name| name == "log.jsonl" || name.ends_with(".checkpoint.safetensors"))?;
                folder.write("run.json", &wanted)?;
            }
        }
        Ok(folder)
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

    /// Removes the files whose names `which` selects.
    fn remove(&self, which: impl Fn(&str) -> bool) -> Result<()> {
        for entry in fs::read_dir(&self.dir).map_err(at(&self.dir))? {
            let path = entry.map_err(at(&self.dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if which(&name) {
                fs::remove_file(&path).map_err(at(&path))?;
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restoration::{Args, DENOISE};

    #[test]
    fn a_run_is_resumed_with_equal_settings_only() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let open = |seed: &str, resume: bool| -> Result<RunFolder> {
            let words = ["denoise", "--seed", seed].map(String::from);
            let settings = Settings::new(&Args::from_words(&DENOISE, &words)?);
            RunFolder::open(folder.path().into(), &settings, resume)
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
        Ok(())
    }
}
