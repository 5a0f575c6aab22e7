//! Growing NCA: trains automata that grow a picture from one cell, keep it and heal it.
//!
//! ```sh
//! cargo run --release --example growing                                   # grows the shipped lizard
//! cargo run --release --example growing -- train --target lizard.png --out out/lizard
//! cargo run --release --example growing -- run --model out/lizard/model.safetensors --damage lower-half
//! ```

mod picture;
mod run;
mod score;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lnca::Pattern;
use lnca_examples::args::{OnDevice, parse};
use lnca_examples::{Result, shipped};

/// Trains and runs automata that grow a picture from one cell.
///
/// Without a command the shipped lizard grows, loses its lower half and heals; pictures of it go to
/// out/growing.
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
    /// Model file, as `train` writes it [default: the shipped lizard; for score, the shipped fish]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,

    /// JSON file of a model from the article's web page
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    pretrained: Option<PathBuf>,

    #[command(flatten)]
    device: OnDevice,
}

impl Source {
    fn load(&self, default: &str) -> Result<Pattern> {
        let device = self.device.open()?;
        Ok(match (&self.pretrained, &self.model) {
            (Some(path), _) => Pattern::released_growing(path)?.to_device(&device)?,
            (None, Some(path)) => Pattern::load(path, &device)?,
            (None, None) => Pattern::load(shipped(default), &device)?,
        })
    }
}
