//! The folder of a run: its files, and the rule by which a run there is resumed or starts anew.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::args::Settings;
use super::{Result, at, write};

/// Files in the folder of a run.
pub struct RunFolder {
    dir: PathBuf,
}

impl RunFolder {
    /// Opens the folder for a run with `settings`, which goes on if `resume` and there is one.
    ///
    /// # Errors
    /// The run there has other settings, or the folder cannot be written.
    pub fn open(dir: PathBuf, settings: &Settings, resume: bool) -> Result<Self> {
        fs::create_dir_all(&dir).map_err(at(&dir))?;
        let folder = Self { dir };
        // Files that a kill kept from being finished.
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
                    (true, _) => eprintln!("{}: starting anew", folder.dir.display()),
                    (false, true) => eprintln!("{}: no run to resume, starting one", folder.dir.display()),
                    (false, false) => {}
                }
                folder.remove(|name| name == "log.jsonl" || name.ends_with(".checkpoint.safetensors"))?;
                write(&path, serde_json::to_string_pretty(&wanted)?.as_bytes())?;
            }
        }
        Ok(folder)
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes files by their names.
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
        let advice = "resume with the same arguments, or leave --resume away to start anew";
        Err(format!("{dir} holds a run with other settings: {differ}; {advice}").into())
    }
}
