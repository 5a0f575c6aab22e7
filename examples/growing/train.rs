//! `growing train`: trains an automaton to grow a picture.

use clap::ValueEnum;
use lnca::loss::ImageLoss;
use lnca::train::{AdamConfig, PatternTrainer, PatternTrainerConfig};
use lnca::{GrowingConfig, PatternCard, PatternConfig};
use lnca_examples::args::{MOST, count, rate, whole, word};
use lnca_examples::training::Training;
use lnca_examples::{Result, command_line, patterns};

use crate::picture::Picture;

/// Trains an automaton to grow a picture
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    picture: Picture,

    /// What the automaton learns: to grow the picture, to keep it as well, or to heal it too
    #[arg(long, value_enum, default_value = "regenerating")]
    regime: Regime,

    /// Updates of the weights; published: 8000
    #[arg(long, value_name = "N", default_value_t = 8000, value_parser = count)]
    updates: usize,

    /// Update after which the learning rate is a tenth [default: 2000, or half of fewer than 4000 updates]
    #[arg(long, value_name = "N", value_parser = whole::<0, MOST>)]
    drop_at: Option<usize>,

    /// Learning rate of the first update
    #[arg(long, value_name = "RATE", default_value_t = 2e-3, allow_negative_numbers = true, value_parser = rate)]
    learning_rate: f64,

    #[command(flatten)]
    training: Training,
}

/// The three regimes of the article.
#[derive(Clone, Copy, ValueEnum)]
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
}

pub fn train(args: &Args) -> Result<()> {
    let (name, target) = args.picture.target()?;
    let folder = args.training.folder("growing")?;
    let size = (target.dim(0)?, target.dim(1)?);
    let drop_at = args.drop_at.unwrap_or((args.updates / 2).min(2000));
    let config = PatternTrainerConfig {
        adam: AdamConfig {
            learning_rate: args.learning_rate,
            drops: vec![(drop_at, 0.1)],
            ..AdamConfig::default()
        },
        seed: args.training.seed,
        ..args.regime.config()
    };
    let regime = word(args.regime);
    let card = PatternCard {
        target: name,
        trained_by: format!("image loss, {regime} regime, {} updates", args.updates),
        made_by: command_line(),
        ..PatternCard::new(PatternConfig::Growing(GrowingConfig::default()), size)
    };
    let device = args.training.device.open()?;
    let pattern = patterns::create(&args.training, card, &device)?;
    let seed = pattern.seed(1, size)?;
    let loss = ImageLoss::new(target.to_device(&device)?)?;
    let mut trainer = PatternTrainer::new(pattern.rule().clone(), pattern.weights(), loss, &seed, config)?;
    args.training
        .run(folder, &mut trainer, args.updates, |trainer, snapshot| {
            patterns::write(&pattern, trainer, snapshot)
        })
}
