//! One cell of the tables of efficiency: a model, an image size and a batch, measured in a process of its own.

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
use lnca_examples::args::{DeviceName, ModelName};

/// Steps of every timed update: the mean of the published 8 to 32.
pub const STEPS: usize = 20;

/// What the paper trains on and validates with here.
const IMAGES: (usize, usize) = (800, 200);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// Updates
    Train,
    /// Restorations
    Infer,
}

/// One cell.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[arg(long, value_enum)]
    pub model: ModelName,
    #[arg(long)]
    pub size: usize,
    #[arg(long)]
    pub batch: usize,
    #[arg(long, value_enum)]
    pub what: What,
    /// Plain Candle operations in place of the engine
    #[arg(long)]
    pub plain: bool,
    /// Time for the repetitions; there are at least two of them
    #[arg(long)]
    pub seconds: f64,
    #[arg(long, value_enum)]
    pub device: DeviceName,
}

/// What a cell measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Seconds of each repetition: of a batch of training, that is all its updates, or of a batch of inference.
    pub seconds: Vec<f64>,
    /// Of a latent model, the same for a batch of the training of its autoencoder.
    pub autoencoder_seconds: Vec<f64>,
    /// Most memory in use, MB: of the whole process, on a GPU of the device.
    pub peak_mb: f64,
    /// Memory that a full pool takes, MB; it held a few states in the measurement.
    pub pool_mb: f64,
}

impl Measured {
    /// The median of all repetitions, of both phases added.
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

/// Seconds of an epoch from those of a batch of training and of inference. Batches that are not whole are left out of
/// the training and count in the validation.
pub fn epoch_seconds(batch: usize, train: f64, infer: f64) -> f64 {
    (IMAGES.0 / batch) as f64 * train + IMAGES.1.div_ceil(batch) as f64 * infer
}

/// Measures, and prints one line of JSON.
pub fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    let meter = Meter::start(&device)?;
    let mut measured = match args.what {
        What::Train => train(args, &device)?,
        What::Infer => infer(args, &device)?,
    };
    measured.peak_mb = meter.peak_mb();
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// Images of uniform 8-bit noise, corrupted once more.
fn batches(args: &Args) -> Result<Batches> {
    let mut rng = Key::new(0).fold_in_name("dummy").rng();
    let mut images = vec![0; 2 * args.batch * args.size * args.size * 3];
    rng.fill_bytes(&mut images);
    let data = Dataset::new(args.size, images, None, None)?;
    let corruption = Some((Corruption::NOISE, Corruption::NOISE.test_difficulty()));
    Ok(data.training_batches(0, args.batch, corruption, Key::new(1))?)
}

/// Runs `once` a first time, then for as long as is given, twice at least.
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
        let mut trainer = AutoencoderTrainer::new(autoencoder, weights, recipe.autoencoder.clone());
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
