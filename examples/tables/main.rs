//! The five tables of the latent NCA paper, each by one command.
//!
//! ```sh
//! cargo run --release --example tables -- denoise       # table 1, on generated images
//! cargo run --release --example tables -- deblur --data cifar10=DIR --data celeba=DIR
//! cargo run --release --example tables -- efficiency    # tables 3, 4 and 5
//! cargo run --release --example tables -- --help
//! ```

mod charts;
mod efficiency;
mod measure;
mod meter;
mod paper;
mod report;
mod restoration;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Makes the tables of the latent NCA paper: trains, tests, measures, and writes Markdown, JSON and pictures with
/// the paper's own numbers beside ours.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    table: Table,
}

#[derive(Subcommand)]
enum Table {
    /// Table 1: SSIM of denoising
    Denoise(restoration::Args),
    /// Table 2: SSIM of deblurring
    Deblur(restoration::Args),
    /// Tables 3, 4 and 5: memory and time of training, time of inference
    Efficiency(efficiency::Args),
    /// One cell of the tables of efficiency, in a process of its own
    #[command(hide = true)]
    Measure(measure::Args),
}

fn main() -> ExitCode {
    lnca_examples::exit(match Args::parse().table {
        Table::Denoise(args) => restoration::run(&lnca_examples::args::DENOISE, &args),
        Table::Deblur(args) => restoration::run(&lnca_examples::args::DEBLUR, &args),
        Table::Efficiency(args) => efficiency::run(&args),
        Table::Measure(args) => measure::run(&args),
    })
}
