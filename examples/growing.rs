//! Growing NCA: trains automata that grow a picture from one cell, keep it and heal it.
//!
//! ```sh
//! cargo run --release --example growing                                   # grows the built-in fish
//! cargo run --release --example growing -- train --target lizard.png --out out/lizard
//! cargo run --release --example growing -- run --model out/lizard/model.safetensors --damage lower-half
//! ```

mod common;

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::Device;
use clap::{Parser, Subcommand, ValueEnum};
use common::Result;
use common::args::positive;
use common::pattern_training::PatternTraining;
use lnca::data::{Emblem, read_target};
use lnca::loss::ImageLoss;
use lnca::train::{AdamConfig, PatternTrainer, PatternTrainerConfig};
use lnca::{GrowingConfig, Pattern, PatternCard, PatternConfig};

/// Trains and runs automata that grow a picture from one cell.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(Train),
}

/// Trains an automaton to grow a picture
#[derive(clap::Args)]
struct Train {
    /// PNG with transparency to grow
    #[arg(long, value_name = "FILE", conflicts_with = "emblem")]
    target: Option<PathBuf>,

    /// Built-in picture to grow
    #[arg(long, value_enum, default_value = "fish")]
    emblem: EmblemName,

    /// What the automaton learns besides: nothing, to keep its pattern, or to heal it as well
    #[arg(long, value_enum, default_value = "regenerating")]
    regime: Regime,

    /// The picture is scaled to fit a square of so many pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 40, value_parser = positive)]
    side: usize,

    /// Empty cells on every side of it
    #[arg(long, value_name = "CELLS", default_value_t = 16)]
    padding: usize,

    /// Updates of the weights; published: 8000
    #[arg(long, value_name = "N", default_value_t = 8000, value_parser = positive)]
    updates: usize,

    /// The update from which on the learning rate is a tenth [default: 2000, or half of fewer than 4000 updates]
    #[arg(long, value_name = "N")]
    drop_at: Option<usize>,

    /// Learning rate of the first update
    #[arg(long, value_name = "RATE", default_value_t = 2e-3)]
    learning_rate: f64,

    /// Seed of weights, pool, masks and damage
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Folder for the model, checkpoint, log and previews
    #[arg(long, value_name = "DIR", default_value = "out/growing")]
    out: PathBuf,

    /// Updates between two previews and checkpoints
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = positive)]
    every: usize,

    /// Go on from the checkpoint in --out
    #[arg(long)]
    resume: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum EmblemName {
    Fish,
    Flower,
}

impl From<EmblemName> for Emblem {
    fn from(name: EmblemName) -> Self {
        match name {
            EmblemName::Fish => Self::Fish,
            EmblemName::Flower => Self::Flower,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Regime {
    Growing,
    Persistent,
    Regenerating,
}

impl Regime {
    fn config(self) -> PatternTrainerConfig {
        match self {
            Self::Growing => PatternTrainerConfig::growing(),
            Self::Persistent => PatternTrainerConfig::persistent(),
            Self::Regenerating => PatternTrainerConfig::regenerating(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Growing => "growing",
            Self::Persistent => "persistent",
            Self::Regenerating => "regenerating",
        }
    }
}

fn main() -> ExitCode {
    common::exit(match Args::parse().command {
        Command::Train(args) => train(&args),
    })
}

fn train(args: &Train) -> Result<()> {
    let (name, target) = match &args.target {
        Some(path) => {
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            (name, read_target(path, args.side, args.padding)?)
        }
        None => {
            let emblem = Emblem::from(args.emblem);
            (emblem.name().to_string(), emblem.draw(args.side, args.padding)?)
        }
    };
    let drop_at = args.drop_at.unwrap_or((args.updates / 2).min(2000));
    let config = PatternTrainerConfig {
        adam: AdamConfig {
            learning_rate: args.learning_rate,
            drops: vec![(drop_at, 0.1)],
            ..AdamConfig::default()
        },
        seed: args.seed,
        ..args.regime.config()
    };
    let size = (target.dim(0)?, target.dim(1)?);
    let card = PatternCard {
        target: name,
        trained_by: format!(
            "image loss, {} regime, {} updates",
            args.regime.name(),
            args.updates
        ),
        made_by: common::command_line(),
        ..PatternCard::new(PatternConfig::Growing(GrowingConfig::default()), size)
    };
    let pattern = Pattern::new(card, args.seed, &Device::Cpu)?;
    let seed = pattern.seed(1, size)?;
    let loss = ImageLoss::new(target)?;
    let mut trainer = PatternTrainer::new(pattern.rule().clone(), pattern.weights(), loss, &seed, config)?;
    let training = PatternTraining {
        out: args.out.clone(),
        updates: args.updates,
        every: args.every,
        resume: args.resume,
    };
    training.run(&mut trainer, &pattern, |_, _| Ok(()))
}
