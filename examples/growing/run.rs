//! `growing run`: grows a picture, damages it, and films that.

use clap::Parser;
use lnca::PatternConfig;
use lnca::io::Background;
use lnca_examples::Result;
use lnca_examples::args::{degrees, side};
use lnca_examples::film::{Filming, Look};

use crate::Source;

/// Grows a picture, damages it, and writes an animation and stills
#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    #[command(flatten)]
    filming: Filming,

    /// Cells along a side of the grid [default: as in training]
    #[arg(long, value_name = "CELLS", value_parser = side)]
    size: Option<usize>,

    /// Rotates the perception, and with it the picture, by so many degrees
    #[arg(
        long,
        value_name = "DEGREES",
        default_value_t = 0.0,
        allow_hyphen_values = true,
        value_parser = degrees
    )]
    angle: f64,

    /// Grey squares behind the picture
    #[arg(long)]
    checker: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let mut pattern = args.source.load("models/lizard.safetensors")?;
    if args.angle != 0.0 {
        pattern = pattern.reconfigured(|config| {
            if let PatternConfig::Growing(config) = config {
                config.angle = args.angle.to_radians();
            }
        })?;
    }
    let size = args.size.map_or(pattern.card().size, |size| (size, size));
    let look = Look {
        background: match args.checker {
            true => Background::Checker(16),
            false => Background::White,
        },
        hexagonal: false,
    };
    let seed = pattern.seed(1, size)?;
    args.filming
        .write((&pattern, pattern.rule()), &seed, "lower-half", look, "growing")
}
