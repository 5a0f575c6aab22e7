//! Restores a photograph of any size with a trained model.
//!
//! ```sh
//! cargo run --release --example restore -- in.jpg out.png
//! cargo run --release --example restore -- --model out/deblur/model.safetensors in.png out.png
//! cargo run --release --example restore                  # a demonstration on generated images
//! ```

mod demonstration;
mod file;
mod tiling;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::Device;
use clap::Parser;
use lnca::random::Key;
use lnca::{Model, ModelConfig};
use lnca_examples::args::{OnDevice, count, parse, whole};
use lnca_examples::{Result, shipped};
use tiling::Tiling;

/// Greatest side of a tile in pixels: no picture that can be read is larger.
const MOST_TILE: usize = 65_536;

/// The model that is used unless another is named.
const SHIPPED_MODEL: &str = "models/photographs.safetensors";

/// Restores a photograph of any size with a trained model.
///
/// Grey images stay grey, and transparency is kept. Large images are restored in overlapping tiles, which
/// are blended so that no seam shows: memory grows with the image, but not with the states of the automaton.
/// Without arguments generated images are corrupted, restored, and shown in out/restore/before_after.png.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// PNG or JPEG to restore
    #[arg(requires = "output")]
    input: Option<PathBuf>,

    /// File to write; the ending of its name chooses PNG or JPEG
    output: Option<PathBuf>,

    /// Model file, as `denoise` and `deblur` write it [default: the shipped denoiser of photographs]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,

    /// Steps of the automaton [default: those in the model file]
    #[arg(long, value_name = "N", value_parser = count)]
    steps: Option<usize>,

    /// Side of a tile in pixels [default: 256; for latent models 64; for attention models 32, because their
    /// cells know their place on the grid and were trained on 32]
    #[arg(long, value_name = "PIXELS", value_parser = whole::<1, MOST_TILE>)]
    tile: Option<usize>,

    /// Seed of the update masks, for models with a fire rate below 1
    #[arg(long, default_value_t = 0)]
    seed: u64,

    #[command(flatten)]
    device: OnDevice,
}

fn main() -> ExitCode {
    lnca_examples::exit(run(&parse::<Args>()))
}

fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    let mut model = load(args.model.as_deref(), &device)?;
    if let Some(steps) = args.steps {
        model.card_mut().steps = steps;
    }
    let tiling = Tiling {
        side: args.tile.unwrap_or(match model.card().config {
            ModelConfig::LatentVitca { .. } | ModelConfig::Vitca { .. } => 32,
            ModelConfig::Gated { .. } => 256,
            _ => 64,
        }),
        key: Key::new(args.seed),
    };
    match (&args.input, &args.output) {
        (Some(input), Some(output)) => file::restore(&model, &tiling, input, output),
        _ => demonstration::show(&model, &tiling),
    }
}

fn load(path: Option<&Path>, device: &Device) -> Result<Model> {
    let shipped = shipped(SHIPPED_MODEL);
    if path.is_none() && !shipped.exists() {
        return Err(format!(
            "{SHIPPED_MODEL} is missing from the library's folder: name a model with --model, such as \
             out/denoise/model.safetensors, which `cargo run --release --example denoise` makes"
        )
        .into());
    }
    Ok(Model::load(path.unwrap_or(&shipped), device)?)
}
