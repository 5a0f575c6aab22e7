//! Texture NCA: trains automata that make a texture from empty cells, on a grid of any size.
//!
//! ```sh
//! cargo run --release --example texture                                   # makes the built-in bubbles
//! cargo run --release --example texture -- train --target photo.jpg --out out/photo
//! cargo run --release --example texture -- run --model out/photo/model.safetensors --size 256
//! ```

mod run;
mod sample;
mod score;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lnca::Pattern;
use lnca_examples::args::{OnDevice, parse};
use lnca_examples::{Result, shipped};

/// Trains and runs automata that make a texture.
///
/// Without a command the shipped bubbles appear, lose a disc and heal; pictures of it go to out/texture.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Args),
    Run(run::Args),
    Score(score::Args),
}

fn main() -> ExitCode {
    lnca_examples::exit(match parse::<Args>().command {
        Some(Command::Train(args)) => train::train(&args),
        Some(Command::Run(args)) => run::run(&args),
        Some(Command::Score(args)) => score::score(&args),
        None => run::run(&run::Args::parse_from(["run"])),
    })
}

/// A trained automaton
#[derive(clap::Args)]
struct Source {
    /// Model file, as `train` writes it [default: the shipped bubbles]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,

    /// `models.json` of the article; --name chooses a model in it
    #[arg(long, value_name = "FILE", conflicts_with = "model", requires = "name")]
    pretrained: Option<PathBuf>,

    /// Name of a model in --pretrained
    #[arg(long, value_name = "NAME", requires = "pretrained")]
    name: Option<String>,

    #[command(flatten)]
    device: OnDevice,
}

impl Source {
    fn load(&self) -> Result<Pattern> {
        let device = self.device.open()?;
        Ok(match (&self.pretrained, &self.name, &self.model) {
            (Some(path), Some(name), _) => Pattern::released_texture(path, name)?.to_device(&device)?,
            (_, _, Some(path)) => Pattern::load(path, &device)?,
            _ => Pattern::load(shipped("models/bubbles.safetensors"), &device)?,
        })
    }
}

/// The grid to run on: `size` cells along a side, or twice the grid of the training.
fn grid(pattern: &Pattern, size: Option<usize>) -> (usize, usize) {
    let (height, width) = pattern.card().size;
    size.map_or((2 * height, 2 * width), |size| (size, size))
}
