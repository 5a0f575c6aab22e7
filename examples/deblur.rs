//! Trains a neural cellular automaton that removes motion blur from images, and tests it.
//!
//! ```sh
//! cargo run --release --example deblur                  # on generated images, about two minutes
//! cargo run --release --example deblur -- --data DIR    # on your own
//! cargo run --release --example deblur -- --help
//! ```

use std::process::ExitCode;

use lnca_examples::restoration::{self, DEBLUR};

fn main() -> ExitCode {
    lnca_examples::exit(restoration::run(&DEBLUR))
}
