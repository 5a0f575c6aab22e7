//! Trains a neural cellular automaton that takes motion blur out of images, and tests it.
//!
//! ```sh
//! cargo run --release --example deblur                  # on generated images, about two minutes
//! cargo run --release --example deblur -- --data DIR    # on your own
//! cargo run --release --example deblur -- --help
//! ```

mod common;

use std::process::ExitCode;

use common::args::Task;
use lnca::data::Corruption;

fn main() -> ExitCode {
    common::exit(common::pipeline::run(&Task {
        name: "deblur",
        corruption: Corruption::BLUR,
        about: "Trains a neural cellular automaton that takes motion blur out of images, and tests it: a \
                table of SSIM and PSNR, a contact sheet, loss curves, results as JSON and the model are \
                written.\n\n\
                The blur is linear, at a random angle, 7 pixels long in the test and growing from 4 to 10 in \
                training. Real pairs of images bring their own.",
    }))
}
