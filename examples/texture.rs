//! Texture NCA: trains automata that make a texture out of nothing, on a grid of any size.
//!
//! ```sh
//! cargo run --release --example texture                                   # makes the built-in bubbles
//! cargo run --release --example texture -- train --target photo.jpg --out out/photo
//! cargo run --release --example texture -- run --model out/photo/model.safetensors --size 256
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::{Device, Tensor};
use clap::{Parser, Subcommand, ValueEnum};
use lnca::data::{self, Swatch, read_swatch};
use lnca::io::{Background, Picture, enlarged, pictures, sheet, write_png};
use lnca::loss::{OverflowNorm, PatchTransport, TextureLoss, Vgg16, VggComparison, VggStyle};
use lnca::metric::FilterBank;
use lnca::model::pattern::Rule;
use lnca::random::Key;
use lnca::train::{AdamConfig, PatternTrainer, PatternTrainerConfig};
use lnca::transition::{Lattice, bipolar_directions, polar_directions};
use lnca::{Pattern, PatternCard, PatternConfig, TextureConfig};
use lnca_examples::Result;
use lnca_examples::args::positive;
use lnca_examples::film::{Filming, Look};
use lnca_examples::pattern_learner::PatternLearner;
use lnca_examples::training::Training;

/// The model used where none is named, below the folder of this crate.
const SHIPPED_MODEL: &str = "models/bubbles.safetensors";

/// In a young automaton some states grow without limit. They would decide the gradients of many updates, so
/// they leave the pool when a value is beyond this.
const BOUND: f64 = 4.0;

/// Trains and runs automata that make a texture.
///
/// Without a command the shipped bubbles appear, lose a disc and heal, into out/texture.
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
    /// Model file, as `train` writes it [default: the bubbles of this crate]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,

    /// `models.json` of the article, of which --name is run
    #[arg(long, value_name = "FILE", conflicts_with = "model", requires = "name")]
    pretrained: Option<PathBuf>,

    /// Name of a model in it
    #[arg(long, value_name = "NAME", requires = "pretrained")]
    name: Option<String>,
}

impl Source {
    fn load(&self) -> Result<Pattern> {
        Ok(match (&self.pretrained, &self.name, &self.model) {
            (Some(path), Some(name), _) => Pattern::released_texture(path, name)?,
            (_, _, Some(path)) => Pattern::load(path, &Device::Cpu)?,
            _ => {
                let path = lnca_examples::shipped(SHIPPED_MODEL);
                Pattern::load(path, &Device::Cpu)?
            }
        })
    }
}

/// Makes a texture, damages it, and writes an animation and stills
#[derive(Parser)]
struct Run {
    #[command(flatten)]
    source: Source,

    #[command(flatten)]
    filming: Filming,

    /// Cells along a side of the grid [default: twice that of the training]
    #[arg(long, value_name = "CELLS", value_parser = positive)]
    size: Option<usize>,

    /// Turns the perception, and with it the texture, by so many degrees
    #[arg(
        long,
        value_name = "DEGREES",
        default_value_t = 0.0,
        allow_hyphen_values = true
    )]
    angle: f64,

    /// Turns the perception of each cell along a field
    #[arg(long, value_enum)]
    field: Option<Field>,

    /// Cells on hexagons, the weights as they are
    #[arg(long, conflicts_with = "field")]
    hexagonal: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Field {
    /// Away from the middle
    Polar,
    /// From one pole to another
    Bipolar,
}

/// Measures how near a texture comes to its target, by filters that training does not see, as a line of JSON
#[derive(clap::Args)]
struct Score {
    #[command(flatten)]
    source: Source,

    #[command(flatten)]
    sample: Sample,

    /// Steps before it is measured
    #[arg(long, value_name = "N", default_value_t = 200)]
    steps: usize,

    /// Cells along a side of the grid [default: twice that of the training]
    #[arg(long, value_name = "CELLS", value_parser = positive)]
    size: Option<usize>,

    /// Seed of the update masks
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// A contact sheet: the target, the texture at the size of the training and at twice that
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
}

/// What is to be made
#[derive(clap::Args)]
struct Sample {
    /// Picture of the texture, PNG or JPEG
    #[arg(long, value_name = "FILE", conflicts_with = "swatch")]
    target: Option<PathBuf>,

    /// Built-in texture
    #[arg(long, value_enum, default_value = "bubbles")]
    swatch: SwatchName,

    /// The picture is shrunk to at most so many pixels a side
    #[arg(long, value_name = "PIXELS", default_value_t = 128, value_parser = positive)]
    largest: usize,
}

impl Sample {
    /// Its name and the target, `[H, W, 3]`.
    fn target(&self) -> Result<(String, Tensor)> {
        Ok(match &self.target {
            Some(path) => {
                let name = path
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                (name, read_swatch(path, self.largest)?)
            }
            None => {
                let swatch = Swatch::from(self.swatch);
                (swatch.name().to_string(), swatch.draw(self.largest)?)
            }
        })
    }
}

/// Trains an automaton to make a texture
#[derive(clap::Args)]
struct Train {
    #[command(flatten)]
    sample: Sample,

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

    /// Fewest and most steps of an update, as in 32-63; published since 2021: 32-95
    #[arg(long, value_name = "FROM-TO", default_value = "32-63", value_parser = range)]
    steps: (usize, usize),

    /// Learning rate of the first update; it falls to 0.3 of it after 40 % and 0.09 after 70 % of the updates
    #[arg(long, value_name = "RATE", default_value_t = 1e-3)]
    learning_rate: f64,

    #[command(flatten)]
    training: Training,
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

/// Two numbers with a hyphen between.
fn range(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('-').map(|(from, to)| (from.parse(), to.parse()));
    match parts {
        Some((Ok(from), Ok(to))) if from <= to => Ok((from, to)),
        _ => Err("expected two numbers in order, as in 32-63".into()),
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
    let (name, target) = args.sample.target()?;
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
        made_by: lnca_examples::command_line(),
        ..PatternCard::new(PatternConfig::Texture(TextureConfig::default()), size)
    };
    let pattern = PatternLearner::pattern(&args.training, card)?;
    let seed = pattern.seed(1, size)?;
    let trainer = PatternTrainer::new(pattern.rule().clone(), pattern.weights(), loss, &seed, config)?;
    let mut learner = PatternLearner { trainer, pattern };
    args.training.run(&mut learner, args.updates, "texture")
}

fn run(args: &Run) -> Result<()> {
    let pattern = args.source.load()?.reconfigured(|config| {
        if let PatternConfig::Texture(config) = config {
            config.angle = args.angle.to_radians();
            if args.hexagonal {
                config.lattice = Lattice::Hexagonal;
            }
        }
    })?;
    let Rule::Texture(rule) = pattern.rule() else {
        return Err("the model is no texture".into());
    };
    let size = args
        .size
        .map_or_else(|| twice(pattern.card().size), |size| (size, size));
    let seed = pattern.seed(1, size)?;
    let rule = match args.field {
        Some(Field::Polar) => rule.directed(&polar_directions(size.0, size.1, &seed)?)?,
        Some(Field::Bipolar) => rule.directed(&bipolar_directions(size.0, size.1, &seed)?)?,
        None => rule.clone(),
    };
    let look = Look {
        background: Background::White,
        hexagonal: args.hexagonal,
    };
    args.filming
        .write((&pattern, &rule), &seed, "circle", look, "texture")
}

fn twice((height, width): (usize, usize)) -> (usize, usize) {
    (2 * height, 2 * width)
}

fn score(args: &Score) -> Result<()> {
    let pattern = args.source.load()?;
    let (name, target) = args.sample.target()?;
    let made = |size: (usize, usize)| -> Result<Tensor> {
        let rollout = pattern.rollout(args.steps, Key::new(args.seed));
        let cells = rollout.run(pattern.rule(), &pattern.seed(1, size)?)?;
        Ok(pattern
            .rgba(&cells)?
            .squeeze(0)?
            .narrow(2, 0, 3)?
            .clamp(0.0, 1.0)?)
    };
    let size = args
        .size
        .map_or_else(|| twice(pattern.card().size), |size| (size, size));
    let (h, w, _) = target.dims3()?;
    let (small, large) = (made(pattern.card().size)?, made(size)?);
    let noise = shuffled_pixels(&target, args.seed)?;
    let (rows, columns) = (h * 3 / 4, w * 3 / 4);
    let crop = target
        .narrow(0, (h - rows) / 2, rows)?
        .narrow(1, (w - columns) / 2, columns)?;
    let bank = FilterBank::new()?;
    let distance = |image: &Tensor| bank.distance(image, &target);
    let (noise_distance, crop_distance, distance) = (distance(&noise)?, distance(&crop)?, distance(&large)?);
    let closed = (noise_distance / distance).ln() / (noise_distance / crop_distance).ln();
    let card = pattern.card();
    let score = serde_json::json!({
        "target": name, "model": card.target, "trained_by": card.trained_by, "steps": args.steps, "size": size,
        "distance": distance, "noise": noise_distance, "crop": crop_distance, "gap_closed": closed,
    });
    println!("{score}");
    if let Some(path) = &args.sheet {
        let shown = |image: &Tensor| pictures(&image.unsqueeze(0)?, Background::White);
        let row = [&target, &small, &large]
            .into_iter()
            .map(shown)
            .collect::<lnca::Result<Vec<_>>>()?;
        let row: Vec<Picture> = row.concat().iter().map(|picture| enlarged(picture, 2)).collect();
        write_png(&sheet(&[row], 8), path)?;
    }
    Ok(())
}

/// White noise with the colours of an image: its pixels, drawn at random.
fn shuffled_pixels(image: &Tensor, seed: u64) -> Result<Tensor> {
    let (h, w, c) = image.dims3()?;
    let order = data::shuffled(h * w, Key::new(seed).fold_in_name("noise"));
    let order = Tensor::from_iter(order.into_iter().map(|pixel| pixel as u32), &Device::Cpu)?;
    Ok(image
        .reshape((h * w, c))?
        .index_select(&order, 0)?
        .reshape((h, w, c))?)
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
