//! The picture to grow.

use std::path::PathBuf;

use candle_core::Tensor;
use clap::ValueEnum;
use lnca::data::{Emblem, read_target};
use lnca_examples::Result;
use lnca_examples::args::{MOST_SIDE, side, whole};
use lnca_examples::patterns::name_of;

/// The picture to grow
#[derive(clap::Args)]
pub struct Picture {
    /// PNG with transparency to grow
    #[arg(long, value_name = "FILE", conflicts_with = "emblem")]
    target: Option<PathBuf>,

    /// Built-in picture to grow
    #[arg(long, value_enum, default_value = "fish")]
    emblem: EmblemName,

    /// Side in pixels of the square that the picture is scaled to fit
    #[arg(long, value_name = "PIXELS", default_value_t = 40, value_parser = side)]
    side: usize,

    /// Empty cells on every side of it
    #[arg(long, value_name = "CELLS", default_value_t = 16, value_parser = whole::<0, MOST_SIDE>)]
    padding: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum EmblemName {
    Fish,
    Flower,
}

impl Picture {
    /// Its name, and the target of training, `[H, W, 4]`.
    pub fn target(&self) -> Result<(String, Tensor)> {
        let (side, padding) = (self.side, self.padding);
        if side + 2 * padding > MOST_SIDE {
            let most = "the grid has `--side` and twice `--padding` cells along a side";
            return Err(
                format!("`--side` is {side} and `--padding` {padding}: {most}, at most {MOST_SIDE}").into(),
            );
        }
        let emblem = match (&self.target, self.emblem) {
            (Some(path), _) => return Ok((name_of(path), read_target(path, self.side, self.padding)?)),
            (None, EmblemName::Fish) => Emblem::Fish,
            (None, EmblemName::Flower) => Emblem::Flower,
        };
        Ok((emblem.name().into(), emblem.draw(self.side, self.padding)?))
    }
}
