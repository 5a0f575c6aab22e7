//! Texture NCA: trains automata that make a texture out of nothing, on a grid of any size.
//!
//! ```sh
//! cargo run --release --example texture                                   # makes the built-in bubbles
//! cargo run --release --example texture -- train --target photo.jpg --out out/photo
//! cargo run --release --example texture -- run --model out/photo/model.safetensors --size 256
//! ```

mod common;

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::{Device, Tensor};
use clap::{Parser, Subcommand, ValueEnum};
use common::Result;
use common::args::positive;
use common::pattern_training::PatternTraining;
use lnca::data::{Swatch, read_swatch};
use lnca::loss::{OverflowNorm, PatchTransport, TextureLoss, Vgg16, VggComparison, VggStyle};
use lnca::train::{AdamConfig, PatternTrainer, PatternTrainerConfig};
use lnca::{Pattern, PatternCard, PatternConfig, TextureConfig};

/// Trains and runs automata that make a texture.
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

/// Trains an automaton to make a texture
#[derive(clap::Args)]
struct Train {
    /// Picture of the texture, PNG or JPEG
    #[arg(long, value_name = "FILE", conflicts_with = "swatch")]
    target: Option<PathBuf>,

    /// Built-in texture
    #[arg(long, value_enum, default_value = "bubbles")]
    swatch: SwatchName,

    /// The picture is shrunk to at most so many pixels a side
    #[arg(long, value_name = "PIXELS", default_value_t = 128, value_parser = positive)]
    largest: usize,

    /// Cells along a side of the grid that it is trained on; published: 128
    #[arg(long, value_name = "CELLS", default_value_t = 64, value_parser = positive)]
    grid: usize,

    /// What the colours are compared by; all but patches need --vgg
    #[arg(long, value_enum, default_value = "patches")]
    style: StyleName,

    /// Weights of VGG-16 in torchvision's names, a safetensors file; docs/patterns.md says how to make it
    #[arg(long, value_name = "FILE")]
    vgg: Option<PathBuf>,

    /// Updates of the weights; published: 5000
    #[arg(long, value_name = "N", default_value_t = 3000, value_parser = positive)]
    updates: usize,

    /// Learning rate of the first update; it falls to 0.3 of it after 40 % and 0.09 after 70 % of the updates
    #[arg(long, value_name = "RATE", default_value_t = 1e-3)]
    learning_rate: f64,

    /// Seed of weights, pool, masks and directions
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Folder for the model, checkpoint, log and previews
    #[arg(long, value_name = "DIR", default_value = "out/texture")]
    out: PathBuf,

    /// Updates between two previews and checkpoints
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = positive)]
    every: usize,

    /// Go on from the checkpoint in --out
    #[arg(long)]
    resume: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum SwatchName {
    Bubbles,
    Weave,
}

impl From<SwatchName> for Swatch {
    fn from(name: SwatchName) -> Self {
        match name {
            SwatchName::Bubbles => Self::Bubbles,
            SwatchName::Weave => Self::Weave,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum StyleName {
    /// Multi-scale patch transport: no network
    Patches,
    /// Gram matrices of VGG-16
    Gram,
    /// Sliced transport of VGG-16, as published since 2022
    Transport,
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
            (name, read_swatch(path, args.largest)?)
        }
        None => {
            let swatch = Swatch::from(args.swatch);
            (swatch.name().to_string(), swatch.draw(args.largest)?)
        }
    };
    let loss = loss(args, &target)?;
    let fraction = |percent: usize| args.updates * percent / 100;
    let published = PatternTrainerConfig::texture();
    let config = PatternTrainerConfig {
        adam: AdamConfig {
            learning_rate: args.learning_rate,
            drops: vec![(fraction(40), 0.3), (fraction(70), 0.3)],
            ..published.adam
        },
        seed: args.seed,
        ..published
    };
    let size = (args.grid, args.grid);
    let card = PatternCard {
        target: name,
        trained_by: format!("{}, {} updates", loss.style().name(), args.updates),
        made_by: common::command_line(),
        ..PatternCard::new(PatternConfig::Texture(TextureConfig::default()), size)
    };
    let pattern = Pattern::new(card, args.seed, &Device::Cpu)?;
    let seed = pattern.seed(1, size)?;
    let mut trainer = PatternTrainer::new(pattern.rule().clone(), pattern.weights(), loss, &seed, config)?;
    let training = PatternTraining {
        out: args.out.clone(),
        updates: args.updates,
        every: args.every,
        resume: args.resume,
    };
    training.run(&mut trainer, &pattern, |_, _| Ok(()))
}

fn loss(args: &Train, target: &Tensor) -> Result<TextureLoss> {
    let vgg = |comparison| -> Result<TextureLoss> {
        let path = args
            .vgg
            .as_ref()
            .ok_or("--style gram and transport need --vgg FILE")?;
        let style = VggStyle::new(Vgg16::load(path, &Device::Cpu)?, comparison, target)?;
        Ok(TextureLoss::new(style, 1.0, 1.0, OverflowNorm::One))
    };
    match args.style {
        StyleName::Patches => {
            let style = PatchTransport::new(target, 4, 48)?;
            Ok(TextureLoss::new(style, 1.0, 1.0, OverflowNorm::Elements))
        }
        StyleName::Gram => vgg(VggComparison::Gram),
        StyleName::Transport => vgg(VggComparison::Transport),
    }
}
