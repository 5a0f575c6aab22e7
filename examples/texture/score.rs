//! `texture score`: how close a texture comes to its target.

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use lnca::data::shuffled;
use lnca::io::Picture;
use lnca::io::{Background, enlarged, pictures, sheet, write_png};
use lnca::metric::FilterBank;
use lnca::random::Key;
use lnca_examples::Result;
use lnca_examples::args::{MOST, side, whole};
use lnca_examples::output::print;

use crate::sample::Sample;
use crate::{Source, grid};

/// Measures how close a texture comes to its target, with filters that are not used in training, as a line of
/// JSON
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    #[command(flatten)]
    sample: Sample,

    /// Steps before the texture is measured
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = whole::<0, MOST>)]
    steps: usize,

    /// Cells along a side of the grid [default: twice that of the training]
    #[arg(long, value_name = "CELLS", value_parser = side)]
    size: Option<usize>,

    /// Seed of the update masks
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// PNG to write: the target, the texture on the grid of the training and on the grid it is measured on
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
}

pub fn score(args: &Args) -> Result<()> {
    let pattern = args.source.load()?;
    let (name, target) = args.sample.target()?;
    let made = |size: (usize, usize)| -> Result<Tensor> {
        let rollout = pattern.rollout(args.steps, Key::new(args.seed));
        let cells = rollout.run(pattern.rule(), &pattern.seed(1, size)?)?;
        Ok(pattern
            .rgba(&cells)?
            .squeeze(0)?
            .narrow(2, 0, 3)?
            .clamp(0.0, 1.0)?)
    };
    let size = grid(&pattern, args.size);
    let (small, large) = (made(pattern.card().size)?, made(size)?);

    // Noise of the same colours is far from the target, a part of the target close to it.
    let bank = FilterBank::new()?;
    let distance = |image: &Tensor| bank.distance(image, &target);
    let noise = distance(&shuffled_pixels(&target, args.seed)?)?;
    let crop = distance(&middle(&target)?)?;
    let distance = distance(&large)?;
    let card = pattern.card();
    let score = serde_json::json!({
        "target": name, "model": card.target, "trained_by": card.trained_by, "steps": args.steps, "size": size,
        "distance": distance, "noise": noise, "crop": crop,
        "gap_closed": (noise / distance).ln() / (noise / crop).ln(),
    });
    print(score)?;
    if let Some(path) = &args.sheet {
        let mut row: Vec<Picture> = vec![];
        for image in [&target, &small, &large] {
            let pictures = pictures(&image.unsqueeze(0)?, Background::White)?;
            row.extend(pictures.iter().map(|picture| enlarged(picture, 2)));
        }
        write_png(&sheet(&[row], 8), path)?;
    }
    Ok(())
}

/// White noise with the colours of an image: its pixels in random order.
fn shuffled_pixels(image: &Tensor, seed: u64) -> Result<Tensor> {
    let (h, w, c) = image.dims3()?;
    let order = shuffled(h * w, Key::new(seed).fold_in_name("noise"));
    let order = Tensor::from_iter(order.into_iter().map(|pixel| pixel as u32), &Device::Cpu)?;
    Ok(image
        .reshape((h * w, c))?
        .index_select(&order, 0)?
        .reshape((h, w, c))?)
}

/// The middle three quarters of an image along each side.
fn middle(image: &Tensor) -> Result<Tensor> {
    let (h, w, _) = image.dims3()?;
    let (rows, columns) = (h * 3 / 4, w * 3 / 4);
    Ok(image
        .narrow(0, (h - rows) / 2, rows)?
        .narrow(1, (w - columns) / 2, columns)?)
}
