//! Trains a neural cellular automaton that takes noise out of images, and tests it.
//!
//! ```sh
//! cargo run --release --example denoise                  # on generated images, about two minutes
//! cargo run --release --example denoise -- --data DIR    # on your own
//! cargo run --release --example denoise -- --help
//! ```

mod common;

use std::process::ExitCode;

use common::args::Task;
use lnca::data::Corruption;

fn main() -> ExitCode {
    common::exit(common::pipeline::run(&Task {
        name: "denoise",
        corruption: Corruption::NOISE,
        about: "Trains a neural cellular automaton that takes noise out of images, and tests it: a table of \
                SSIM and PSNR, a contact sheet, loss curves, results as JSON and the model are written.\n\n\
                The noise is Gaussian with standard deviation 0.2, on half of the pixels in the test and on \
                a share that grows from a quarter to three quarters in training. Real pairs of images \
                bring their own.",
    }))
}
