//! Variational NCA: trains automata that grow images from latents, says how likely they find images, and shows what they
//! have learned.
//!
//! ```sh
//! cargo run --release --example variational                               # trains on built-in digits
//! cargo run --release --example variational -- train --data mnist --out out/mnist
//! cargo run --release --example variational -- evaluate --model out/mnist/model.safetensors --data mnist
//! cargo run --release --example variational -- pictures --model out/mnist/model.safetensors --data mnist
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::{DType, Device, Tensor};
use candle_nn::Module;
use candle_nn::ops::sigmoid;
use clap::{Parser, Subcommand, ValueEnum};
use lnca::data::BinaryImages;
use lnca::io::Picture;
use lnca::io::{Background, enlarged, pictures, sheet, write_png};
use lnca::model::vae::{Broadcast, Decoder, Doubling, Estimate};
use lnca::random::Key;
use lnca::train::{Adam, AdamConfig, Reading, VaeTrainer, VaeTrainerConfig};
use lnca::{Damage, DecoderConfig, Vae, VaeCard, VaeConfig, Weights};
use lnca_examples::args::positive;
use lnca_examples::progress::bar;
use lnca_examples::training::{Learner, Training};
use lnca_examples::{Result, at};
use rand::Rng;

/// Built-in digits to train on and to test with.
const DIGITS: (usize, usize) = (10_000, 1000);

/// Trains and runs automata that grow images from latents.
///
/// Without a command the doubling automaton is trained on built-in digits for about two minutes, tested, and shown, into
/// out/variational.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Train(Train),
    Evaluate(Evaluate),
    Pictures(Pictures),
    Probe(Probe),
}

/// Where images come from
#[derive(clap::Args)]
struct Data {
    /// Folder of MNIST: binarised (.amat or idx) or with grey levels (idx), plain or gzipped [default: built-in digits]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Seed of the built-in digits, and of the sample of grey levels
    #[arg(long, default_value_t = 0)]
    data_seed: u64,
}

/// Images of a size that doubles up to it, what they are, and how wide the border is that makes them so.
struct Images {
    train: BinaryImages,
    test: BinaryImages,
    name: &'static str,
    border: usize,
}

impl Data {
    fn load(&self) -> Result<Images> {
        let (train, test, name) = match &self.data {
            Some(dir) => {
                let parts = BinaryImages::open(dir, self.data_seed)?;
                (parts.train, parts.test, parts.name)
            }
            None => {
                let all = BinaryImages::digits(DIGITS.0 + DIGITS.1, self.data_seed)?;
                (all.take(DIGITS.0), all.skip(DIGITS.0), "built-in digits")
            }
        };
        let side = train.side();
        let border = (side.next_power_of_two() - side) / 2;
        Ok(Images {
            train: train.padded(border),
            test: test.padded(border),
            name,
            border,
        })
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DecoderName {
    Doubling,
    Broadcast,
    Baseline,
}

/// Trains a variational autoencoder
#[derive(Parser)]
struct Train {
    #[command(flatten)]
    data: Data,

    /// What turns latents into images: an automaton that doubles, one that does not, or transposed convolutions
    #[arg(long, value_enum, default_value = "doubling")]
    decoder: DecoderName,

    /// Dimensions of the latent, channels of a cell; published: 256, of the automaton that does not double 128
    #[arg(long, value_name = "Z", default_value_t = 32, value_parser = positive)]
    latent: usize,

    /// Channels of the encoder's first convolution, of which the others are multiples; published: 32
    #[arg(long, value_name = "CHANNELS", default_value_t = 8, value_parser = positive)]
    encoder: usize,

    /// Channels of the baseline's first grid, a multiple of 16; published: 512
    #[arg(long, value_name = "CHANNELS", default_value_t = 128, value_parser = positive)]
    width: usize,

    /// Steps after each doubling; published: 8
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = positive)]
    steps: usize,

    /// Residual blocks of the automaton that doubles; published: 4
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = positive)]
    blocks: usize,

    /// The probability that a cell of the automaton that does not double is updated in a step
    #[arg(long, value_name = "RATE", default_value_t = 1.0)]
    fire_rate: f64,

    /// Grids in the pool of the automaton that does not double; 0 is no pool
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pool: usize,

    /// Latents of images from the pool, which their grids did not begin with, do not count
    #[arg(long)]
    no_pool_kl: bool,

    /// Images in an update; published: 32, for the automaton that does not double 128
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = positive)]
    batch: usize,

    /// Updates of the weights; published: 100000
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = positive)]
    updates: usize,

    /// Learning rate of the first update, which falls to 0 along a cosine; published: 1e-4, constant [default: 3e-3,
    /// and 1e-3 for the automaton that does not double]
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,

    /// The learning rate stays what it is
    #[arg(long)]
    constant: bool,

    /// What the divergence of the latents counts
    #[arg(long, default_value_t = 1.0)]
    beta: f64,

    #[command(flatten)]
    training: Training,
}

/// A trained model
#[derive(clap::Args)]
struct Source {
    /// Model file, as `train` writes it
    #[arg(
        long,
        value_name = "FILE",
        default_value = "out/variational/model.safetensors"
    )]
    model: PathBuf,

    #[command(flatten)]
    data: Data,

    /// Seed of latents and damage
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Measures how likely a model finds test images, in nats, as a line of JSON
#[derive(Parser)]
struct Evaluate {
    #[command(flatten)]
    source: Source,

    /// Test images, drawn once for all [default: all]
    #[arg(long, value_name = "N", value_parser = positive)]
    images: Option<usize>,

    /// Latents for each image; published: 128
    #[arg(long, value_name = "S", default_value_t = 128, value_parser = positive)]
    samples: usize,

    /// Images at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = positive)]
    batch: usize,
}

/// Draws reconstructions, samples, growth, what lies between latents, and recovery from damage
#[derive(Parser)]
struct Pictures {
    #[command(flatten)]
    source: Source,

    /// Samples over which recovery from damage is averaged
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
    recoveries: usize,

    /// Folder for the pictures [default: that of the model]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Asks single cells of an automaton that does not double which digit they are part of, by a linear classifier
#[derive(Parser)]
struct Probe {
    #[command(flatten)]
    source: Source,

    /// Test images, four fifths of which the classifier is fitted to
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = positive)]
    images: usize,

    /// Updates of the classifier
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = positive)]
    updates: usize,
}

fn main() -> ExitCode {
    lnca_examples::exit(match Args::parse().command {
        Some(Command::Train(args)) => train(&args),
        Some(Command::Evaluate(args)) => evaluate(&args),
        Some(Command::Pictures(args)) => draw(&args),
        Some(Command::Probe(args)) => probe(&args),
        None => main_job(),
    })
}

/// All of it on built-in digits.
fn main_job() -> Result<()> {
    train(&Train::parse_from(["train"]))?;
    let images = ["evaluate", "--images", "100", "--samples", "32"];
    evaluate(&Evaluate::parse_from(images))?;
    draw(&Pictures::parse_from(["pictures"]))
}

fn train(args: &Train) -> Result<()> {
    let images = args.data.load()?;
    let config = VaeConfig {
        size: images.train.side(),
        border: images.border,
        latent: args.latent,
        encoder: args.encoder,
        decoder: match args.decoder {
            DecoderName::Doubling => DecoderConfig::Doubling {
                steps: args.steps,
                blocks: args.blocks,
            },
            DecoderName::Broadcast => DecoderConfig::Broadcast {
                steps: 36,
                fire_rate: args.fire_rate,
                output_bias: true,
            },
            DecoderName::Baseline => DecoderConfig::Baseline { width: args.width },
        },
    };
    let card = VaeCard {
        data: images.name.into(),
        trained_by: format!("{} updates of {} images", args.updates, args.batch),
        made_by: lnca_examples::command_line(),
        ..VaeCard::new(config)
    };
    let vae = Vae::new(card, args.training.seed, &Device::Cpu)?;
    if let Some(path) = &args.training.start {
        vae.weights()
            .load(&Vae::load(path, &Device::Cpu)?.weights().snapshot()?)?;
    }
    let default = VaeTrainerConfig::default();
    let config = VaeTrainerConfig {
        adam: AdamConfig {
            learning_rate: args.learning_rate.unwrap_or(match args.decoder {
                DecoderName::Broadcast => 1e-3,
                _ => 3e-3,
            }),
            cosine_updates: (!args.constant).then_some(args.updates),
            ..default.adam
        },
        batch: args.batch,
        beta: args.beta,
        pool: args.pool,
        pool_kl: !args.no_pool_kl,
        seed: args.training.seed,
        ..default
    };
    let mut learner = VaeLearner {
        trainer: VaeTrainer::new(&vae, images.train, config)?,
        test: images.test.sample(8, Key::new(0).fold_in_name("test")),
    };
    args.training.run(&mut learner, args.updates, "variational")
}

struct VaeLearner {
    trainer: VaeTrainer,
    test: BinaryImages,
}

impl Learner for VaeLearner {
    fn updates(&self) -> usize {
        self.trainer.updates()
    }

    fn learning_rate(&self) -> f64 {
        self.trainer.learning_rate()
    }

    fn update(&mut self) -> lnca::Result<Vec<Reading>> {
        self.trainer.update()
    }

    fn save(&self, checkpoint: &Path) -> lnca::Result<()> {
        self.trainer.save(checkpoint)
    }

    fn resume(&mut self, checkpoint: &Path) -> lnca::Result<()> {
        self.trainer.resume(checkpoint)
    }

    fn save_model(&self, path: &Path) -> lnca::Result<()> {
        self.trainer.vae().save(path)
    }

    /// Two rows of reconstructions and two of samples.
    fn preview(&self, path: &Path) -> Result<()> {
        let vae = self.trainer.vae();
        let mut rows = reconstructions(vae, &self.test, 8, Key::new(0))?;
        rows.extend(samples(vae, 16, Key::new(0))?);
        Ok(write_png(&sheet(&rows, 4), path)?)
    }
}

impl Source {
    fn load(&self) -> Result<(Vae, BinaryImages, &'static str)> {
        let vae = Vae::load(&self.model, &Device::Cpu)?;
        let images = self.data.load()?;
        let card = vae.card();
        if images.name != card.data {
            eprintln!(
                "note: the model was trained on {}, these are {}",
                card.data, images.name
            );
        }
        // Files of MNIST may be sorted by digit.
        let test = images.test.sample(usize::MAX, Key::new(0).fold_in_name("test"));
        Ok((vae, test, images.name))
    }
}

fn evaluate(args: &Evaluate) -> Result<()> {
    let (vae, test, name) = args.source.load()?;
    let count = args.images.unwrap_or(test.len()).min(test.len());
    let bar = bar("images", count);
    let mut estimates: Vec<Estimate> = vec![];
    for first in (0..count).step_by(args.batch) {
        let chosen: Vec<usize> = (first..count.min(first + args.batch)).collect();
        let images = test.batch(&chosen, &Device::Cpu)?;
        estimates.extend(vae.estimate(&images, args.samples, Key::new(args.source.seed), first)?);
        bar.inc(chosen.len() as u64);
    }
    bar.finish_and_clear();
    let mean = Estimate::mean(&estimates);
    let variance = estimates
        .iter()
        .map(|e| (e.iwelbo - mean.iwelbo).powi(2))
        .sum::<f64>();
    let error = variance.sqrt() / count as f64;
    let side = test.side() - 2 * vae.card().config.border;
    let result = serde_json::json!({
        "data": name, "decoder": vae.card().config.decoder.name(),
        "images": count, "samples": args.samples,
        "iwelbo": rounded(mean.iwelbo), "standard_error": rounded(error),
        format!("iwelbo_{side}x{side}"): rounded(mean.inner),
        "elbo": rounded(mean.elbo), "kl": rounded(mean.kl),
    });
    println!("{result}");
    Ok(())
}

/// A number with two digits after its point.
fn rounded(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}

fn draw(args: &Pictures) -> Result<()> {
    let (vae, test, _) = args.source.load()?;
    let folder = match (&args.out, args.source.model.parent()) {
        (Some(out), _) => out.clone(),
        (None, Some(parent)) => parent.to_path_buf(),
        (None, None) => PathBuf::new(),
    };
    fs::create_dir_all(&folder).map_err(at(&folder))?;
    let key = Key::new(args.source.seed);
    let write = |name: &str, rows: &[Vec<Picture>]| -> Result<()> {
        let path = folder.join(name);
        write_png(&sheet(rows, 4), &path)?;
        eprintln!("{}", path.display());
        Ok(())
    };
    write("reconstructions.png", &reconstructions(&vae, &test, 16, key)?)?;
    write("samples.png", &samples(&vae, 32, key)?)?;
    write("interpolation.png", &interpolation(&vae, key)?)?;
    match vae.decoder() {
        Decoder::Doubling(decoder) => write("growth.png", &growth(&vae, decoder, key)?)?,
        Decoder::Broadcast(decoder) => {
            let (rows, left) = recovery(&vae, decoder, args.recoveries, key)?;
            write("recovery.png", &rows)?;
            println!(
                "{}",
                serde_json::json!({"samples": args.recoveries, "damage_left": rounded(left)})
            );
        }
        _ => {}
    }
    Ok(())
}

/// Pictures of values in `[0, 1]`, `[B, H, W, 1]`, enlarged.
fn shown(values: &Tensor) -> Result<Vec<Picture>> {
    let rgb = values.repeat((1, 1, 1, 3))?;
    let pictures = pictures(&rgb, Background::White)?;
    Ok(pictures.iter().map(|picture| enlarged(picture, 2)).collect())
}

fn decoded(vae: &Vae, z: &Tensor, key: Key) -> Result<Vec<Picture>> {
    shown(&sigmoid(&vae.decode(z, key)?)?)
}

/// Rows of eight test images, each above a row of what the means of their latents become.
fn reconstructions(vae: &Vae, test: &BinaryImages, count: usize, key: Key) -> Result<Vec<Vec<Picture>>> {
    let chosen: Vec<usize> = (0..count.min(test.len())).collect();
    let mut rows = vec![];
    for chosen in chosen.chunks(8) {
        let images = test.batch(chosen, &Device::Cpu)?;
        rows.push(shown(&images)?);
        rows.push(decoded(vae, &vae.encode(&images)?.mean, key)?);
    }
    Ok(rows)
}

/// Rows of eight images of latents drawn from the prior.
fn samples(vae: &Vae, count: usize, key: Key) -> Result<Vec<Vec<Picture>>> {
    let pictures = decoded(vae, &vae.prior(count, key)?, key)?;
    Ok(pictures.chunks(8).map(<[_]>::to_vec).collect())
}

/// Four rows, each from one latent an eighth of the way to another in every step.
fn interpolation(vae: &Vae, key: Key) -> Result<Vec<Vec<Picture>>> {
    let ends = vae.prior(8, key.fold_in_name("interpolation"))?;
    let row = |n: usize| -> Result<Vec<Picture>> {
        let (from, to) = (ends.narrow(0, 2 * n, 1)?, ends.narrow(0, 2 * n + 1, 1)?);
        let between = |i: usize| -> Result<Tensor> { Ok((&from + ((&to - &from)? * (i as f64 / 8.0))?)?) };
        let z = (0..8).map(between).collect::<Result<Vec<_>>>()?;
        decoded(vae, &Tensor::cat(&z, 0)?, key)
    };
    (0..4).map(row).collect()
}

/// A row for each doubling: the cells after it and after each step, in the middle of black.
fn growth(vae: &Vae, decoder: &Doubling, key: Key) -> Result<Vec<Vec<Picture>>> {
    let z = vae.prior(1, key.fold_in_name("growth"))?;
    let size = vae.card().config.size;
    let canvas = |cells: &Tensor| -> Result<Picture> {
        let mut values = sigmoid(&cells.narrow(3, 0, 1)?)?;
        let edge = (size - cells.dim(1)?) / 2;
        for axis in [1, 2] {
            values = values.pad_with_zeros(axis, edge, edge)?;
        }
        Ok(shown(&values)?.remove(0))
    };
    let steps = vae.card().config.decoder.steps();
    let stages = decoder.growth(&z, &vae.rollout(steps, key))?;
    stages
        .iter()
        .map(|states| states.iter().map(canvas).collect())
        .collect()
}

/// Steps until the damage, and as many after it.
const RECOVERY: usize = 36;

/// Three rows of samples, intact, with a square of half their side erased, and after as many steps again; and how much of
/// what the damage did to the probabilities is left then, as a share of the squared difference.
fn recovery(vae: &Vae, decoder: &Broadcast, count: usize, key: Key) -> Result<(Vec<Vec<Picture>>, f64)> {
    let key = key.fold_in_name("recovery");
    let seeds = decoder.seed(&vae.prior(count.max(11), key)?)?;
    let size = vae.card().config.size;
    let run = |cells: &Tensor, stage: u64| {
        // One step before the damage is part of the second stage.
        let steps = [RECOVERY, 1, RECOVERY - 1][stage as usize];
        vae.rollout(steps, key.fold_in(stage)).run(decoder.rule(), cells)
    };
    let intact = run(&seeds, 0)?;
    let later = run(&intact, 1)?;
    let mut grids = vec![];
    for n in 0..later.dim(0)? {
        let damage = Damage::random_square(size / 2, (size, size), key.fold_in(n as u64))?;
        grids.push(damage.apply(&later.get(n)?)?);
    }
    let damaged = Tensor::stack(&grids, 0)?;
    let recovered = run(&damaged, 2)?;
    let probabilities = |cells: &Tensor| -> Result<Tensor> { Ok(sigmoid(&decoder.logits(cells)?)?) };
    let stages = [
        probabilities(&intact)?,
        probabilities(&damaged)?,
        probabilities(&recovered)?,
    ];
    let apart = |other: &Tensor| -> Result<f64> {
        let gap = (&stages[0] - other)?.sqr()?.mean_all()?;
        Ok(f64::from(gap.to_scalar::<f32>()?))
    };
    let left = apart(&stages[2])? / apart(&stages[1])?;
    let rows = stages.iter().map(|stage| shown(&stage.narrow(0, 0, 11)?));
    Ok((rows.collect::<Result<_>>()?, left))
}

/// Cells that the classifier sees in an update, and its learning rate.
const PROBED: (usize, f64) = (4096, 1e-2);

fn probe(args: &Probe) -> Result<()> {
    let (vae, test, name) = args.source.load()?;
    let Decoder::Broadcast(decoder) = vae.decoder() else {
        let decoder = vae.card().config.decoder.name();
        return Err(format!(
            "the cells of a {decoder} decoder are not asked; train with `--decoder broadcast`"
        )
        .into());
    };
    let count = args.images.min(test.len());
    let labels: Option<Vec<u8>> = (0..count).map(|n| test.label(n)).collect();
    let labels =
        labels.ok_or_else(|| format!("{name} has no labels: use digits or MNIST with grey levels"))?;
    let key = Key::new(args.source.seed).fold_in_name("probe");
    let mut grids = vec![];
    for first in (0..count).step_by(50) {
        let chosen: Vec<usize> = (first..count.min(first + 50)).collect();
        let posterior = vae.encode(&test.batch(&chosen, &Device::Cpu)?)?;
        let noise = vae.prior(chosen.len(), key.fold_in(first as u64))?.unsqueeze(1)?;
        let seed = decoder.seed(&posterior.sample(&noise)?.squeeze(1)?)?;
        let steps = vae.card().config.decoder.steps();
        let rollout = vae.rollout(steps, key.fold_in(first as u64));
        grids.push(rollout.run(decoder.rule(), &seed)?.detach());
    }
    let grids = Tensor::cat(&grids, 0)?;
    let (_, h, w, channels) = grids.dims4()?;
    let cells = grids.reshape((count, h * w, channels))?;
    // Cells of one image never are on both sides.
    let fitted = (count * 4 / 5).max(1);
    let flat = cells.narrow(0, 0, fitted)?.flatten(0, 1)?;
    let weights = Weights::new(args.source.seed, DType::F32, &Device::Cpu);
    let classifier = candle_nn::linear(channels, 10, weights.builder())?;
    let config = AdamConfig {
        learning_rate: PROBED.1,
        cosine_updates: Some(args.updates),
        normalise: false,
        ..AdamConfig::default()
    };
    let mut adam = Adam::new(weights.vars(), config);
    let bar = bar("probe", args.updates);
    for update in 0..args.updates {
        let mut rng = key.fold_in_name("cells").fold_in(update as u64).rng();
        let drawn: Vec<u32> = (0..PROBED.0)
            .map(|_| rng.random_range(0..(fitted * h * w) as u32))
            .collect();
        let wanted: Vec<u32> = drawn
            .iter()
            .map(|&cell| u32::from(labels[cell as usize / (h * w)]))
            .collect();
        let seen = flat.index_select(&Tensor::new(drawn, &Device::Cpu)?, 0)?;
        let wanted = Tensor::new(wanted, &Device::Cpu)?;
        let loss = candle_nn::loss::cross_entropy(&classifier.forward(&seen)?, &wanted)?;
        adam.step(&loss.backward()?)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let accuracy = |from: usize, to: usize| -> Result<(f64, f64)> {
        let (mut right_cells, mut right_images) = (0, 0);
        for (n, &label) in labels.iter().enumerate().take(to).skip(from) {
            let votes = classifier.forward(&cells.get(n)?)?.argmax(1)?.to_vec1::<u32>()?;
            let mut counts = [0; 10];
            votes.iter().for_each(|&vote| counts[vote as usize] += 1);
            right_cells += counts[usize::from(label)];
            let elected = (0..10).max_by_key(|&digit| counts[digit]);
            right_images += usize::from(elected == Some(usize::from(label)));
        }
        let images = (to - from).max(1) as f64;
        Ok((
            right_cells as f64 / images / (h * w) as f64,
            right_images as f64 / images,
        ))
    };
    let ((cells_fitted, _), (cells_held, images_held)) = (accuracy(0, fitted)?, accuracy(fitted, count)?);
    let result = serde_json::json!({
        "data": name, "images_fitted": fitted, "images_held_out": count - fitted,
        "cells_right_of_fitted_images": rounded(cells_fitted),
        "cells_right_of_held_out_images": rounded(cells_held),
        "held_out_images_right_by_majority": rounded(images_held),
    });
    println!("{result}");
    Ok(())
}
