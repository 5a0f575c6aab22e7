//! Variational NCA: trains automata that grow images from latents, measures the likelihood they give to
//! images, and draws what they have learned.
//!
//! ```sh
//! cargo run --release --example variational                               # trains on built-in digits
//! cargo run --release --example variational -- train --data mnist --out out/mnist
//! cargo run --release --example variational -- evaluate --model out/mnist/model.safetensors --data mnist
//! cargo run --release --example variational -- pictures --model out/mnist/model.safetensors --data mnist
//! ```

mod data;
mod drawings;
mod evaluate;
mod pictures;
mod probe;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use data::Data;
use lnca::Vae;
use lnca::data::BinaryImages;
use lnca::random::Key;
use lnca_examples::args::{OnDevice, parse};
use lnca_examples::{Result, note};

/// Trains and runs automata that grow images from latents.
///
/// Without a command the doubling automaton is trained on built-in digits for about two minutes and tested;
/// model and pictures go to out/variational.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Args),
    Evaluate(evaluate::Args),
    Pictures(pictures::Args),
    Probe(probe::Args),
}

fn main() -> ExitCode {
    lnca_examples::exit(match parse::<Args>().command {
        Some(Command::Train(args)) => train::train(&args),
        Some(Command::Evaluate(args)) => evaluate::evaluate(&args),
        Some(Command::Pictures(args)) => pictures::draw(&args),
        Some(Command::Probe(args)) => probe::probe(&args),
        None => all(),
    })
}

/// Training, test and pictures, on built-in digits.
fn all() -> Result<()> {
    train::train(&train::Args::parse_from(["train"]))?;
    let few = ["evaluate", "--images", "100", "--samples", "32"];
    evaluate::evaluate(&evaluate::Args::parse_from(few))?;
    pictures::draw(&pictures::Args::parse_from(["pictures"]))
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

    #[command(flatten)]
    device: OnDevice,
}

impl Source {
    /// The model, all test images in random order, and what the images are.
    fn load(&self) -> Result<(Vae, BinaryImages, &'static str)> {
        let vae = Vae::load(&self.model, &self.device.open()?)?;
        let images = self.data.load()?;
        let card = vae.card();
        if images.name != card.data {
            let (trained, here) = (&card.data, images.name);
            note!("note: the model was trained on {trained}, these are {here}");
        }
        // Files of MNIST may be sorted by digit.
        let test = images.test.sample(usize::MAX, Key::new(0).fold_in_name("test"));
        Ok((vae, test, images.name))
    }
}

/// A number with two decimals.
fn rounded(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}
