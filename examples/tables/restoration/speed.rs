//! How fast models train here: it tells how long a table takes, and how many images fit a number of minutes.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;

use lnca::data::{Corruption, Dataset};
use lnca::io::write_atomic;
use lnca::random::Key;
use lnca::train::Trainer;
use lnca::{AutoencoderTrainer, Model, Recipe};
use lnca_examples::args::ModelName;
use lnca_examples::{Result, at, note};
use serde::{Deserialize, Serialize};

use super::Args;
use super::cell::Cell;

/// Seconds of a batch of training, for each model by its name.
pub struct Speeds(BTreeMap<String, Speed>);

/// Seconds of a batch: of the autoencoder, and of the model itself.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Speed(f64, f64);

impl Speed {
    /// Seconds of so many epochs of the autoencoder and of the model, with one batch an epoch.
    fn seconds(self, ae_epochs: usize, epochs: usize) -> f64 {
        self.0 * ae_epochs as f64 + self.1 * epochs as f64
    }
}

impl Speeds {
    /// The speeds of `models`, measured unless they are in the file at `path`.
    pub fn load(path: &Path, models: &[ModelName], args: &Args) -> Result<Self> {
        let mut speeds: BTreeMap<String, Speed> = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(at(path))?,
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(at(path)(error).into()),
        };
        for model in models {
            let name = model.config().name();
            if !speeds.contains_key(name) {
                note!("timing {name}");
                speeds.insert(name.into(), measure(*model, args)?);
                write_atomic(path, serde_json::to_string_pretty(&speeds)?.as_bytes())?;
            }
        }
        Ok(Self(speeds))
    }

    /// Number of images with which `model` trains about so many minutes, with so many epochs of each phase.
    pub fn images(
        &self,
        model: ModelName,
        minutes: f64,
        epochs: (usize, usize),
        batch: usize,
    ) -> Option<usize> {
        let speed = self.0.get(model.config().name())?;
        let batches = (minutes * 60.0 / speed.seconds(epochs.0, epochs.1)).max(1.0) as usize;
        // 64 % of them are trained on.
        Some(batches.saturating_mul(batch).div_ceil(16).saturating_mul(25))
    }

    /// About how many seconds a cell trains; off by a factor if the number of its images is unknown.
    pub fn seconds(&self, cell: &Cell) -> f64 {
        let settings = &cell.settings;
        let speed = self.0.get(settings.model).copied().unwrap_or_default();
        let batches = settings.images.unwrap_or(50_000) as f64 * 0.64 / settings.batch as f64;
        let epochs = settings.epochs + settings.end_to_end.unwrap_or(0);
        batches * speed.seconds(settings.ae_epochs, epochs)
    }
}

/// Times the second of two batches.
fn measure(model: ModelName, args: &Args) -> Result<Speed> {
    let device = args.device.open()?;
    let mut recipe = Recipe::paper(model.config());
    let mean = recipe.nca.steps.start().midpoint(*recipe.nca.steps.end());
    recipe.nca.steps = mean..=mean;
    let model = Model::new(recipe.model.clone(), 0, &device)?;
    let data = Dataset::dead_leaves(args.batch, args.size, 0)?;
    let corruption = Some((Corruption::NOISE, 0.5));
    let batch = data
        .training_batches(0, args.batch, corruption, Key::new(0))?
        .get(0, &device)?;
    let time = |trainer: &mut dyn Trainer| -> Result<f64> {
        trainer.learn(&batch, Key::new(0))?;
        device.synchronize()?;
        let began = Instant::now();
        trainer.learn(&batch, Key::new(1))?;
        device.synchronize()?;
        Ok(began.elapsed().as_secs_f64())
    };
    let mut autoencoder = 0.0;
    if let Some((layers, weights)) = model.autoencoder() {
        let config = recipe.autoencoder.clone();
        autoencoder = time(&mut AutoencoderTrainer::new(layers, weights, config)?)?;
    }
    Ok(Speed(autoencoder, time(&mut *recipe.trainer(&model)?)?))
}
