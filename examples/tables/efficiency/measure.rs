//! What the process of one measurement does: time and memory of a model, for one image size and batch.

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use lnca::data::{Batch, Batches, Corruption, Dataset};
use lnca::random::Key;
use lnca::train::Trainer;
use lnca::{AutoencoderTrainer, Memory, Model, Recipe};
use rand::RngCore;
use serde::{Deserialize, Serialize};

use super::meter::Meter;
use lnca_examples::Result;
use lnca_examples::args::{ModelName, OnDevice, amount, at_once, side};
use lnca_examples::output::print;

/// Steps of every timed update: the mean of the published 8 to 32.
pub const STEPS: usize = 20;

/// Images that the paper trains on and validates with in these tables.
const IMAGES: (usize, usize) = (800, 200);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum What {
    /// Updates
    Train,
    /// Restorations
    Infer,
}

/// One measurement
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[arg(long, value_enum)]
    model: ModelName,
    #[arg(long, value_parser = side)]
    size: usize,
    #[arg(long, value_parser = at_once)]
    batch: usize,
    #[arg(long, value_enum)]
    what: What,
    /// Plain Candle operations instead of the engine
    #[arg(long)]
    plain: bool,
    /// Seconds for the repetitions; there are at least two
    #[arg(long, value_parser = amount)]
    seconds: f64,
    #[command(flatten)]
    device: OnDevice,
}

/// The result of a measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Seconds of each repetition: a batch of training, with all of its updates, or a batch of inference.
    pub seconds: Vec<f64>,
    /// The same for a batch of training the autoencoder of a latent model.
    pub autoencoder_seconds: Vec<f64>,
    /// Peak memory in MiB: of the process, or on a GPU of the device.
    pub peak_mb: f64,
    /// Memory of a full pool in MiB. Only a few of its states existed in the measurement.
    pub pool_mb: f64,
}

impl Measured {
    /// The median over the repetitions, summed over both phases.
    pub fn batch_seconds(&self) -> f64 {
        median(&self.seconds) + median(&self.autoencoder_seconds)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n => (sorted[n / 2] + sorted[(n - 1) / 2]) / 2.0,
    }
}

/// Seconds of an epoch, from those of a batch of training and of inference. A last batch that is not full is
/// dropped in training, and counts in validation.
pub fn epoch_seconds(batch: usize, train: f64, infer: f64) -> f64 {
    (IMAGES.0 / batch) as f64 * train + IMAGES.1.div_ceil(batch) as f64 * infer
}

/// Measures, and prints a line of JSON.
pub fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    let meter = Meter::start(&device);
    let mut measured = match args.what {
        What::Train => train(args, &device)?,
        What::Infer => infer(args, &device)?,
    };
    measured.peak_mb = meter.peak_mb();
    print(serde_json::to_string(&measured)?)
}

/// Batches of images of uniform 8-bit noise, with the corruption on top.
fn batches(args: &Args) -> Result<Batches> {
    let mut rng = Key::new(0).fold_in_name("dummy").rng();
    let mut images = vec![0; 2 * args.batch * args.size * args.size * 3];
    rng.fill_bytes(&mut images);
    let data = Dataset::new(args.size, images, None, None)?;
    let corruption = Some((Corruption::NOISE, Corruption::NOISE.test_difficulty()));
    Ok(data.training_batches(0, args.batch, corruption, Key::new(1))?)
}

/// Runs `once` a first time, then repeats it for so many seconds, at least twice. Returns the times of the
/// repetitions.
fn repeat(seconds: f64, device: &Device, mut once: impl FnMut(u64) -> Result<()>) -> Result<Vec<f64>> {
    once(0)?;
    device.synchronize()?;
    let (started, limit) = (Instant::now(), Duration::from_secs_f64(seconds));
    let mut times = Vec::new();
    while times.len() < 2 || started.elapsed() < limit {
        let began = Instant::now();
        once(times.len() as u64 + 1)?;
        device.synchronize()?;
        times.push(began.elapsed().as_secs_f64());
    }
    Ok(times)
}

fn train(args: &Args, device: &Device) -> Result<Measured> {
    let mut recipe = Recipe::paper(args.model.config());
    recipe.nca.steps = STEPS..=STEPS;
    let model = Model::new(recipe.model.clone(), 0, device)?;
    let batches = batches(args)?;
    let batch = |n: u64| -> lnca::Result<Batch> { batches.get(n as usize % batches.len(), device) };
    let mut autoencoder_seconds = Vec::new();
    if let Some((autoencoder, weights)) = model.autoencoder() {
        let mut trainer = AutoencoderTrainer::new(autoencoder, weights, recipe.autoencoder.clone())?;
        autoencoder_seconds = repeat(args.seconds, device, |n| {
            trainer.learn(&batch(n)?, Key::new(n))?;
            Ok(())
        })?;
    }
    let seconds;
    let mut pool_mb = 0.0;
    if model.network().is_some() {
        let mut trainer = recipe.trainer(&model)?;
        seconds = repeat(args.seconds, device, |n| {
            trainer.learn(&batch(n)?, Key::new(n))?;
            Ok(())
        })?;
    } else {
        let mut trainer = recipe.nca_trainer(&model)?;
        if args.plain {
            trainer = trainer.with_memory(Memory::Everything);
        }
        seconds = repeat(args.seconds, device, |n| {
            trainer.learn(&batch(n)?, Key::new(n))?;
            Ok(())
        })?;
        if let Some(entry) = trainer.pool().entries().first() {
            let floats = [&entry.clean, &entry.corrupted, &entry.cells].map(Tensor::elem_count);
            pool_mb = (recipe.nca.pool * 4 * floats.iter().sum::<usize>()) as f64 / (1 << 20) as f64;
        }
    }
    Ok(Measured {
        seconds,
        autoencoder_seconds,
        peak_mb: 0.0,
        pool_mb,
    })
}

fn infer(args: &Args, device: &Device) -> Result<Measured> {
    let model = Model::new(args.model.config(), 0, device)?;
    let images = batches(args)?.get(0, device)?.corrupted;
    let seconds = repeat(args.seconds, device, |n| {
        let rollout = model.rollout(Key::new(n));
        let rollout = if args.plain { rollout.plain() } else { rollout };
        model.restore_by(&images, &rollout)?;
        Ok(())
    })?;
    Ok(Measured {
        seconds,
        autoencoder_seconds: vec![],
        peak_mb: 0.0,
        pool_mb: 0.0,
    })
}
