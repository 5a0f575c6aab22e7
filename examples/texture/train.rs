//! `texture train`: trains an automaton to make a texture.

use std::path::PathBuf;

use candle_core::Tensor;
use clap::ValueEnum;
use lnca::loss::{OverflowNorm, PatchTransport, TextureLoss, Vgg16, VggComparison, VggStyle};
use lnca::train::{AdamConfig, PatternTrainer, PatternTrainerConfig};
use lnca::{PatternCard, PatternConfig, TextureConfig};
use lnca_examples::args::{count, rate, side, whole};
use lnca_examples::training::Training;
use lnca_examples::{Result, command_line, patterns};

use crate::sample::Sample;

/// States with a value beyond this leave the pool. In a young automaton some states grow without limit, and
/// would dominate the gradients of many updates.
const BOUND: f64 = 4.0;

/// Trains an automaton to make a texture
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    sample: Sample,

    /// Cells along a side of the grid it is trained on; published: 128
    #[arg(long, value_name = "CELLS", default_value_t = 64, value_parser = side)]
    grid: usize,

    /// How colours are compared; gram and transport need --vgg
    #[arg(long, value_enum, default_value = "patches")]
    style: StyleName,

    /// Weights of VGG-16 in torchvision's names, a safetensors file; docs/patterns.md says how to make it
    #[arg(long, value_name = "FILE")]
    vgg: Option<PathBuf>,

    /// Updates of the weights; published: 5000
    #[arg(long, value_name = "N", default_value_t = 3000, value_parser = count)]
    updates: usize,

    /// Fewest and most steps of an update, as in 32-63; published since 2021: 32-95
    #[arg(long, value_name = "FROM-TO", default_value = "32-63", value_parser = range)]
    steps: (usize, usize),

    /// Learning rate of the first update; it falls to 0.3 of it after 40 % and 0.09 after 70 % of the updates
    #[arg(long, value_name = "RATE", default_value_t = 1e-3, allow_negative_numbers = true, value_parser = rate)]
    learning_rate: f64,

    #[command(flatten)]
    training: Training,
}

#[derive(Clone, Copy, ValueEnum)]
enum StyleName {
    /// Multi-scale patch transport, without a network
    Patches,
    /// Gram matrices of VGG-16
    Gram,
    /// Sliced transport of VGG-16, as published since 2022
    Transport,
}

/// Most steps of an update, whose states may all be in memory.
const MOST_STEPS: usize = 100_000;

/// Parses two numbers with a hyphen between them.
fn range(text: &str) -> Result<(usize, usize), String> {
    let number = |text| whole::<1, MOST_STEPS>(text).ok();
    let parts = text.split_once('-').map(|(from, to)| (number(from), number(to)));
    match parts {
        Some((Some(from), Some(to))) if from <= to => Ok((from, to)),
        _ => Err(format!(
            "expected two numbers from 1 to {MOST_STEPS} in order, as in 32-63"
        )),
    }
}

pub fn train(args: &Args) -> Result<()> {
    let device = args.training.device.open()?;
    let (name, target) = args.sample.target()?;
    let target = target.to_device(&device)?;
    let folder = args.training.folder("texture")?;
    let loss = loss(args, &target)?;
    let fraction = |percent: usize| args.updates * percent / 100;
    let published = PatternTrainerConfig::texture();
    let config = PatternTrainerConfig {
        adam: AdamConfig {
            learning_rate: args.learning_rate,
            drops: vec![(fraction(40), 0.3), (fraction(70), 0.3)],
            ..published.adam
        },
        steps: args.steps.0..=args.steps.1,
        bound: Some(BOUND),
        seed: args.training.seed,
        ..published
    };
    let size = (args.grid, args.grid);
    let card = PatternCard {
        target: name,
        trained_by: format!("{}, {} updates", loss.style().name(), args.updates),
        made_by: command_line(),
        ..PatternCard::new(PatternConfig::Texture(TextureConfig::default()), size)
    };
    let pattern = patterns::create(&args.training, card, &device)?;
    let seed = pattern.seed(1, size)?;
    let mut trainer = PatternTrainer::new(pattern.rule().clone(), pattern.weights(), loss, &seed, config)?;
    args.training
        .run(folder, &mut trainer, args.updates, |trainer, snapshot| {
            patterns::write(&pattern, trainer, snapshot)
        })
}

fn loss(args: &Args, target: &Tensor) -> Result<TextureLoss> {
    let vgg = |comparison| -> Result<TextureLoss> {
        let path = args
            .vgg
            .as_ref()
            .ok_or("--style gram and transport need --vgg FILE")?;
        let style = VggStyle::new(Vgg16::load(path, target.device())?, comparison, target)?;
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
