//! The five tables of the latent NCA paper, each by one command.
//!
//! ```sh
//! cargo run --release --example tables -- denoise       # table 1, on generated images
//! cargo run --release --example tables -- deblur --data cifar10=DIR --data celeba=DIR
//! cargo run --release --example tables -- efficiency    # tables 3, 4 and 5
//! cargo run --release --example tables -- --help
//! ```

mod efficiency;
mod paper;
mod restoration;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lnca_examples::args::parse;
use lnca_examples::restoration::{DEBLUR, DENOISE};

/// Makes the tables of the latent NCA paper: trains, tests, measures, and writes Markdown, JSON and pictures
/// with the paper's numbers beside ours.
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
    /// One measurement of tables 3, 4 and 5; `efficiency` starts these
    #[command(hide = true)]
    Measure(efficiency::measure::Args),
}

fn main() -> ExitCode {
    lnca_examples::exit(match parse::<Args>().table {
        Table::Denoise(args) => restoration::run(&DENOISE, &args),
        Table::Deblur(args) => restoration::run(&DEBLUR, &args),
        Table::Efficiency(args) => efficiency::run(&args),
        Table::Measure(args) => efficiency::measure::run(&args),
    })
}
