//! Trains a neural cellular automaton that takes motion blur out of images, and tests it.
//!
//! ```sh
//! cargo run --release --example deblur                  # on generated images, about two minutes
//! cargo run --release --example deblur -- --data DIR    # on your own
//! cargo run --release --example deblur -- --help
//! ```

mod common;

use std::process::ExitCode;

fn main() -> ExitCode {
    common::exit(common::pipeline::run(&common::args::DEBLUR))
}
