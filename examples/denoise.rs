//! Trains a neural cellular automaton that removes noise from images, and tests it.
//!
//! ```sh
//! cargo run --release --example denoise                  # on generated images, about two minutes
//! cargo run --release --example denoise -- --data DIR    # on your own
//! cargo run --release --example denoise -- --help
//! ```

use std::process::ExitCode;

use lnca_examples::restoration::{self, DENOISE};

fn main() -> ExitCode {
    lnca_examples::exit(restoration::run(&DENOISE))
}
