//! The texture to make.

use std::path::PathBuf;

use candle_core::Tensor;
use clap::ValueEnum;
use lnca::data::{Swatch, read_swatch};
use lnca_examples::Result;
use lnca_examples::args::side;
use lnca_examples::patterns::name_of;

/// The texture to make
#[derive(clap::Args)]
pub struct Sample {
    /// Picture of the texture, PNG or JPEG
    #[arg(long, value_name = "FILE", conflicts_with = "swatch")]
    target: Option<PathBuf>,

    /// Built-in texture
    #[arg(long, value_enum, default_value = "bubbles")]
    swatch: SwatchName,

    /// Largest side in pixels; a larger picture is shrunk
    #[arg(long, value_name = "PIXELS", default_value_t = 128, value_parser = side)]
    largest: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum SwatchName {
    Bubbles,
    Weave,
}

impl Sample {
    /// Its name, and the target of training, `[H, W, 3]`.
    pub fn target(&self) -> Result<(String, Tensor)> {
        let swatch = match (&self.target, self.swatch) {
            (Some(path), _) => return Ok((name_of(path), read_swatch(path, self.largest)?)),
            (None, SwatchName::Bubbles) => Swatch::Bubbles,
            (None, SwatchName::Weave) => Swatch::Weave,
        };
        Ok((swatch.name().into(), swatch.draw(self.largest)?))
    }
}
