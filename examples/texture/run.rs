//! `texture run`: makes a texture, damages it, and films that.

use clap::{Parser, ValueEnum};
use lnca::PatternConfig;
use lnca::io::Background;
use lnca::model::pattern::Rule;
use lnca::transition::{Lattice, bipolar_directions, polar_directions};
use lnca_examples::Result;
use lnca_examples::args::{degrees, side};
use lnca_examples::film::{Filming, Look};

use crate::{Source, grid};

/// Makes a texture, damages it, and writes an animation and stills
#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    #[command(flatten)]
    filming: Filming,

    /// Cells along a side of the grid [default: twice that of the training]
    #[arg(long, value_name = "CELLS", value_parser = side)]
    size: Option<usize>,

    /// Rotates the perception, and with it the texture, by so many degrees
    #[arg(
        long,
        value_name = "DEGREES",
        default_value_t = 0.0,
        allow_hyphen_values = true,
        value_parser = degrees
    )]
    angle: f64,

    /// Rotates the perception of each cell along a field
    #[arg(long, value_enum)]
    field: Option<Field>,

    /// Hexagonal cells, with the same weights
    #[arg(long, conflicts_with = "field")]
    hexagonal: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Field {
    /// Away from the middle
    Polar,
    /// From one pole to another
    Bipolar,
}

pub fn run(args: &Args) -> Result<()> {
    let pattern = args.source.load()?.reconfigured(|config| {
        if let PatternConfig::Texture(config) = config {
            config.angle = args.angle.to_radians();
            if args.hexagonal {
                config.lattice = Lattice::Hexagonal;
            }
        }
    })?;
    let Rule::Texture(rule) = pattern.rule() else {
        return Err("the model is not of a texture".into());
    };
    let size = grid(&pattern, args.size);
    let seed = pattern.seed(1, size)?;
    let rule = match args.field {
        Some(Field::Polar) => rule.directed(&polar_directions(size.0, size.1, &seed)?)?,
        Some(Field::Bipolar) => rule.directed(&bipolar_directions(size.0, size.1, &seed)?)?,
        None => rule.clone(),
    };
    let look = Look {
        background: Background::White,
        hexagonal: args.hexagonal,
    };
    args.filming
        .write((&pattern, &rule), &seed, "circle", look, "texture")
}
