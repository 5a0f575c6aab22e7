//! Growing NCA: trains automata that grow a picture from one cell, keep it and heal it.
//!
//! ```sh
//! cargo run --release --example growing                                   # grows the shipped lizard
//! cargo run --release --example growing -- train --target lizard.png --out out/lizard
//! cargo run --release --example growing -- run --model out/lizard/model.safetensors --damage lower-half
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::{Device, Tensor};
use clap::{Parser, Subcommand, ValueEnum};
use lnca::data::{Emblem, read_target};
use lnca::io::Background;
use lnca::loss::{ImageLoss, PatternLoss};
use lnca::random::Key;
use lnca::train::{AdamConfig, PatternTrainer, PatternTrainerConfig};
use lnca::{GrowingConfig, Pattern, PatternCard, PatternConfig};
use lnca_examples::Result;
use lnca_examples::args::positive;
use lnca_examples::film::{Filming, Look, damage};
use lnca_examples::pattern_learner::PatternLearner;
use lnca_examples::training::Training;

/// Models used where none is named, below the folder of this crate: to run, and to score against the built-in fish.
const LIZARD: &str = "models/lizard.safetensors";
const FISH: &str = "models/fish.safetensors";

/// Trains and runs automata that grow a picture from one cell.
///
/// Without a command the shipped lizard grows, loses its lower half and heals, into out/growing.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Train(Train),
    Run(Run),
    Score(Score),
}

/// Where a trained automaton comes from
#[derive(clap::Args)]
struct Source {
    /// Model file, as `train` writes it [default: the lizard of this crate; for score, its fish]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,

    /// JSON file of a model of the article's web page
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    pretrained: Option<PathBuf>,
}

impl Source {
    fn load(&self, default: &str) -> Result<Pattern> {
        Ok(match (&self.pretrained, &self.model) {
            (Some(path), _) => Pattern::released_growing(path)?,
            (None, Some(path)) => Pattern::load(path, &Device::Cpu)?,
            (None, None) => {
                let path = lnca_examples::shipped(default);
                Pattern::load(path, &Device::Cpu)?
            }
        })
    }
}

/// Grows a picture, damages it, and writes an animation and stills
#[derive(Parser)]
struct Run {
    #[command(flatten)]
    source: Source,

    #[command(flatten)]
    filming: Filming,

    /// Cells along a side of the grid [default: that of the training]
    #[arg(long, value_name = "CELLS", value_parser = positive)]
    size: Option<usize>,

    /// Turns the perception, and with it the picture, by so many degrees
    #[arg(
        long,
        value_name = "DEGREES",
        default_value_t = 0.0,
        allow_hyphen_values = true
    )]
    angle: f64,

    /// Grey squares behind the picture
    #[arg(long)]
    checker: bool,
}

/// Measures how well a picture is grown, kept and healed: log10 of the loss, as a line of JSON
#[derive(clap::Args)]
struct Score {
    #[command(flatten)]
    source: Source,

    #[command(flatten)]
    picture: Picture,

    /// Runs that are averaged
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive)]
    runs: usize,

    /// Seed of the update masks
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// What is to be grown
#[derive(clap::Args)]
struct Picture {
    /// PNG with transparency to grow
    #[arg(long, value_name = "FILE", conflicts_with = "emblem")]
    target: Option<PathBuf>,

    /// Built-in picture to grow
    #[arg(long, value_enum, default_value = "fish")]
    emblem: EmblemName,

    /// The picture is scaled to fit a square of so many pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 40, value_parser = positive)]
    side: usize,

    /// Empty cells on every side of it
    #[arg(long, value_name = "CELLS", default_value_t = 16)]
    padding: usize,
}

impl Picture {
    /// Its name and the target, `[H, W, 4]`.
    fn target(&self) -> Result<(String, Tensor)> {
        Ok(match &self.target {
            Some(path) => {
                let name = path
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                (name, read_target(path, self.side, self.padding)?)
            }
            None => {
                let emblem = Emblem::from(self.emblem);
                (emblem.name().to_string(), emblem.draw(self.side, self.padding)?)
            }
        })
    }
}

/// Trains an automaton to grow a picture
#[derive(clap::Args)]
struct Train {
    #[command(flatten)]
    picture: Picture,

    /// What the automaton learns besides: nothing, to keep its pattern, or to heal it as well
    #[arg(long, value_enum, default_value = "regenerating")]
    regime: Regime,

    /// Updates of the weights; published: 8000
    #[arg(long, value_name = "N", default_value_t = 8000, value_parser = positive)]
    updates: usize,

    /// The update from which on the learning rate is a tenth [default: 2000, or half of fewer than 4000 updates]
    #[arg(long, value_name = "N")]
    drop_at: Option<usize>,

    /// Learning rate of the first update
    #[arg(long, value_name = "RATE", default_value_t = 2e-3)]
    learning_rate: f64,

    #[command(flatten)]
    training: Training,
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
    lnca_examples::exit(match Args::parse().command {
        Some(Command::Train(args)) => train(&args),
        Some(Command::Run(args)) => run(&args),
        Some(Command::Score(args)) => score(&args),
        None => run(&Run::parse_from(["run"])),
    })
}

fn train(args: &Train) -> Result<()> {
    let (name, target) = args.picture.target()?;
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
    let size = (target.dim(0)?, target.dim(1)?);
    let card = PatternCard {
        target: name,
        trained_by: format!(
            "image loss, {} regime, {} updates",
            args.regime.name(),
            args.updates
        ),
        made_by: lnca_examples::command_line(),
        ..PatternCard::new(PatternConfig::Growing(GrowingConfig::default()), size)
    };
    let pattern = PatternLearner::pattern(&args.training, card)?;
    let seed = pattern.seed(1, size)?;
    let loss = ImageLoss::new(target)?;
    let trainer = PatternTrainer::new(pattern.rule().clone(), pattern.weights(), loss, &seed, config)?;
    let mut learner = PatternLearner { trainer, pattern };
    args.training.run(&mut learner, args.updates, "growing")
}

fn run(args: &Run) -> Result<()> {
    let mut pattern = args.source.load(LIZARD)?;
    if args.angle != 0.0 {
        pattern = pattern.reconfigured(|config| {
            if let PatternConfig::Growing(config) = config {
                config.angle = args.angle.to_radians();
            }
        })?;
    }
    let size = args.size.map_or(pattern.card().size, |size| (size, size));
    let look = Look {
        background: if args.checker {
            Background::Checker(16)
        } else {
            Background::White
        },
        hexagonal: false,
    };
    let seed = pattern.seed(1, size)?;
    args.filming
        .write((&pattern, pattern.rule()), &seed, "lower-half", look, "growing")
}

/// Steps at which the loss is read, and the cuts after the 200th.
const STEPS: [usize; 6] = [32, 64, 80, 96, 150, 300];
const CUTS: [&str; 4] = ["lower-half", "upper-half", "right-half", "centre"];

fn score(args: &Score) -> Result<()> {
    let pattern = args.source.load(FISH)?;
    let (name, target) = args.picture.target()?;
    let size = (target.dim(0)?, target.dim(1)?);
    let loss = ImageLoss::new(target)?;
    let log_loss = |cells: &Tensor| -> Result<f64> {
        let each = loss.each(cells)?;
        let mean = (each.iter().sum::<f64>() / each.len() as f64).log10();
        Ok((mean * 1000.0).round() / 1000.0)
    };
    let key = Key::new(args.seed);
    let advance = |cells: &Tensor, from: usize, to: usize| -> Result<Tensor> {
        Ok(pattern
            .rollout(to - from, key.fold_in(from as u64))
            .run(pattern.rule(), cells)?)
    };
    let mut cells = pattern.seed(args.runs, size)?;
    let (mut at, mut grown) = (0, BTreeMap::new());
    let mut whole = None;
    for step in [32, 64, 80, 96, 150, 200, 300] {
        cells = advance(&cells, at, step)?;
        at = step;
        if STEPS.contains(&step) {
            grown.insert(step, log_loss(&cells)?);
        }
        if step == 200 {
            whole = Some(cells.clone());
        }
    }
    let whole = whole.ok_or("no state after 200 steps")?;
    let mut healed = BTreeMap::new();
    for name in CUTS {
        let cut = damage(name)?.apply(&whole)?;
        let after = advance(&cut, 200, 300)?;
        let long_after = advance(&after, 300, 400)?;
        healed.insert(name, [log_loss(&cut)?, log_loss(&after)?, log_loss(&long_after)?]);
    }
    let model = &pattern.card().target;
    let score = serde_json::json!({
        "target": name, "model": model, "runs": args.runs,
        "log10_loss_at_step": grown, "log10_loss_0_100_200_steps_after_cut": healed,
    });
    println!("{score}");
    Ok(())
}
