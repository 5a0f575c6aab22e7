//! A cell of a table: a model, a data set and a seed, and the run that trains and tests it.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use lnca_examples::args::ModelName;
use lnca_examples::restoration::{Args as RunArgs, Settings, Task};
use lnca_examples::{Result, at};
use serde_json::Value;

use super::speed::Speeds;
use super::{Args, BUILT_IN, DataSet, RecipeName};

/// Epochs of each phase in the paper.
const PAPER_EPOCHS: usize = 20;

/// A cell, with the arguments of its run.
pub struct Cell<'a> {
    pub data: &'a DataSet,
    pub model: ModelName,
    pub seed: u64,
    /// The folder of the run.
    pub dir: PathBuf,
    pub args: RunArgs,
    pub settings: Settings,
}

/// The results of a run, or why there are none.
pub type Outcome = Result<Value, String>;

impl<'a> Cell<'a> {
    /// The cell of `model`, trained on `data` with `seed`, in a folder below `out`.
    pub fn new(
        task: &Task,
        table: &Args,
        out: &Path,
        (data, model, seed): (&'a DataSet, ModelName, u64),
        speeds: &Speeds,
    ) -> Result<Self> {
        let name = model.config().name();
        let dir = out.join(&data.name).join(format!("{name}-{seed}"));
        let mut words: Vec<OsString> = vec![task.name.into(), "--resume".into()];
        // Paths need not be UTF-8.
        let mut paths: Vec<OsString> = vec!["--out".into(), (&dir).into()];
        let mut say = |name: &str, value: String| words.push(format!("--{name}={value}").into());
        say("model", name.into());
        say("seed", seed.to_string());
        say("batch", table.batch.to_string());
        say("size", table.size.to_string());
        say("device", table.device.name.to_string());

        let generated = data.dir.is_none();
        let default = if generated { BUILT_IN.epochs } else { PAPER_EPOCHS };
        let epochs = table.epochs.unwrap_or(default);
        let built_in = (generated && table.epochs.is_none()).then_some(BUILT_IN.ae_epochs);
        let ae_epochs = table.ae_epochs.or(built_in).unwrap_or(epochs);
        say("epochs", epochs.to_string());
        say("ae-epochs", ae_epochs.to_string());
        let end_to_end = table.end_to_end.filter(|_| model.is_latent());
        if let Some(epochs) = end_to_end {
            say("end-to-end", epochs.to_string());
        }

        let limit = table.images.or_else(|| generated.then_some(BUILT_IN.images));
        let epochs = (ae_epochs, epochs + end_to_end.unwrap_or(0));
        let fitting = table
            .minutes
            .and_then(|minutes| speeds.images(model, minutes, epochs, table.batch));
        if let Some(images) = [limit, fitting].into_iter().flatten().min() {
            say("images", images.to_string());
        }
        // Only latent models are trained from end to end.
        let fits = |set: &&String| model.is_latent() || !set.starts_with("end_to_end.");
        for set in table.set.iter().filter(fits) {
            say("set", set.clone());
        }
        for (name, dir) in [("data", &data.dir), ("test-data", &data.test_dir)] {
            if let Some(dir) = dir {
                paths.extend([format!("--{name}").into(), dir.into()]);
            }
        }
        if table.recipe() == RecipeName::Paper {
            words.push("--paper".into());
        }
        words.extend(paths);
        let args = RunArgs::from_words(task, &words)?;
        let settings = Settings::new(&args);
        // A wrong `--set` is an error now, and not hours later.
        settings.recipe(model.config())?;
        Ok(Self {
            data,
            model,
            seed,
            dir,
            args,
            settings,
        })
    }

    /// The results of a finished run with the same settings.
    pub fn finished(&self) -> Result<Option<Value>> {
        let path = self.dir.join("results.json");
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(at(&path))?,
        };
        let found: Value = serde_json::from_slice(&bytes).map_err(at(&path))?;
        let wanted = serde_json::to_value(&self.settings)?;
        Ok((found["settings"] == wanted).then_some(found))
    }
}
