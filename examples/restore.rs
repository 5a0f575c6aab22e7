//! Restores a photograph of any size with a trained model.
//!
//! ```sh
//! cargo run --release --example restore -- in.jpg out.png
//! cargo run --release --example restore -- --model out/deblur/model.safetensors in.png out.png
//! cargo run --release --example restore                  # a demonstration on generated images
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::{Device, Tensor};
use clap::Parser;
use image::{DynamicImage, ImageFormat, ImageReader, RgbImage};
use lnca::data::{Corruption, dead_leaves};
use lnca::io::Picture;
use lnca::metric::ssim;
use lnca::random::Key;
use lnca::{Model, ModelConfig};
use lnca_examples::args::{DeviceName, positive};
use lnca_examples::progress::bar;
use lnca_examples::sheet::{Label, Sheet, to_bytes};
use lnca_examples::{Result, at};

/// The model used where none is named, below the folder of this crate.
const SHIPPED_MODEL: &str = "models/denoise.safetensors";

/// Restores a photograph of any size with a trained model.
///
/// Grey images stay grey and transparency is kept as it is. Large images are restored in overlapping
/// tiles, blended so that no seam shows: memory grows with the image alone, not with the automaton's
/// states. Without arguments generated images are corrupted and restored, into
/// out/restore/before_after.png.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// PNG or JPEG to restore
    #[arg(requires = "output")]
    input: Option<PathBuf>,

    /// PNG or JPEG to write, by the ending of its name
    output: Option<PathBuf>,

    /// Model file, as `denoise` and `deblur` write it [default: the small denoiser of this crate]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,

    /// Steps of the automaton [default: those that the model file names, 64]
    #[arg(long, value_name = "N", value_parser = positive)]
    steps: Option<usize>,

    /// Side of a tile in pixels [default: 64; for attention models 32, because their cells know where
    /// on the grid they are and were trained on 32]
    #[arg(long, value_name = "PIXELS", value_parser = positive)]
    tile: Option<usize>,

    /// Seed of the update masks, where the model has a fire rate below 1
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Where to compute
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceName,
}

fn main() -> ExitCode {
    lnca_examples::exit(run(&Args::parse()))
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
            _ => 64,
        }),
        key: Key::new(args.seed),
    };
    match (&args.input, &args.output) {
        (Some(input), Some(output)) => restore_file(&model, &tiling, input, output, &device),
        _ => demonstrate(&model, &tiling, &device),
    }
}

fn load(path: Option<&Path>, device: &Device) -> Result<Model> {
    let shipped = lnca_examples::shipped(SHIPPED_MODEL);
    if path.is_none() && !shipped.exists() {
        return Err(format!(
            "{SHIPPED_MODEL} is missing from the folder of this crate: name a model with --model, such as \
             the one that `cargo run --release --example denoise` makes, out/denoise/model.safetensors"
        )
        .into());
    }
    Ok(Model::load(path.unwrap_or(&shipped), device)?)
}

fn restore_file(model: &Model, tiling: &Tiling, input: &Path, output: &Path, device: &Device) -> Result<()> {
    // Checked before the work rather than after it.
    ImageFormat::from_path(output)
        .ok()
        .filter(|format| matches!(format, ImageFormat::Png | ImageFormat::Jpeg))
        .ok_or_else(|| format!("{}: expected a name that ends in .png or .jpg", output.display()))?;
    if let Some(dir) = output.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(at(dir))?;
    }
    let picture = Picture::read(input)?;
    let (height, width) = (picture.height, picture.width);
    let pixels = tiling.restore(model, &picture, device)?;
    // Picture has colours only: what else the file holds is put back.
    let original = ImageReader::open(input)
        .and_then(ImageReader::with_guessed_format)
        .map_err(at(input))?
        .decode()
        .map_err(at(input))?;
    let restored = RgbImage::from_raw(width as u32, height as u32, pixels).map(DynamicImage::ImageRgb8);
    let mut restored = restored.ok_or("the restored image has another size")?;
    let opaque = ImageFormat::from_path(output).is_ok_and(|format| format == ImageFormat::Jpeg);
    if original.color().has_alpha() && !opaque {
        let mut with_alpha = restored.into_rgba8();
        for (pixel, of) in with_alpha.pixels_mut().zip(original.to_rgba8().pixels()) {
            pixel.0[3] = of.0[3];
        }
        restored = with_alpha.into();
    }
    if !original.color().has_color() {
        restored = match restored.color().has_alpha() {
            true => restored.into_luma_alpha8().into(),
            false => restored.into_luma8().into(),
        };
    }
    restored.save(output).map_err(at(output))?;
    eprintln!("{}: {width}x{height}, restored", output.display());
    Ok(())
}

/// How an image is cut.
struct Tiling {
    side: usize,
    key: Key,
}

impl Tiling {
    /// Restored 8-bit pixels, `[height, width, 3]`.
    ///
    /// Neighbouring tiles share a quarter of their side, over which the weight of each falls linearly to
    /// nothing at its edge, where a cell has the fewest neighbours to go by.
    fn restore(&self, model: &Model, picture: &Picture, device: &Device) -> Result<Vec<u8>> {
        /// Tiles restored at once.
        const BATCH: usize = 8;
        let overlap = self.side / 4;
        let rows = Cut::new(picture.height, self.side, overlap);
        let columns = Cut::new(picture.width, self.side, overlap);
        let tiles: Vec<(usize, usize)> = rows
            .starts
            .iter()
            .flat_map(|&top| columns.starts.iter().map(move |&left| (top, left)))
            .collect();
        let area = picture.height * picture.width;
        let (mut sums, mut weights) = (vec![0f32; area * 3], vec![0f32; area]);
        let bar = bar("tiles", tiles.len());
        for (batch, tiles) in tiles.chunks(BATCH).enumerate() {
            let mut input = Vec::with_capacity(tiles.len() * rows.len * columns.len * 3);
            for &(top, left) in tiles {
                let tile = picture.crop(top, left, rows.len, columns.len)?;
                input.extend(tile.pixels.iter().map(|&value| f32::from(value) / 255.0));
            }
            let input = Tensor::from_vec(input, (tiles.len(), rows.len, columns.len, 3), device)?;
            let rollout = model.rollout(self.key).first_image(batch * BATCH);
            let output = model.restore_by(&input, &rollout)?.clamp(0.0, 1.0)?;
            let output = output.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
            for (&(top, left), tile) in tiles.iter().zip(output.chunks_exact(rows.len * columns.len * 3)) {
                for (place, value) in tile.chunks_exact(3).enumerate() {
                    let (y, x) = (place / columns.len, place % columns.len);
                    let weight = rows.weight(y) * columns.weight(x);
                    let at = (top + y) * picture.width + left + x;
                    weights[at] += weight;
                    sums[at * 3..][..3]
                        .iter_mut()
                        .zip(value)
                        .for_each(|(sum, value)| *sum += weight * value);
                }
            }
            bar.inc(tiles.len() as u64);
        }
        bar.finish_and_clear();
        let mean = |(at, sum): (usize, &f32)| (sum / weights[at / 3] * 255.0).round() as u8;
        Ok(sums.iter().enumerate().map(mean).collect())
    }
}

/// One axis cut into equal stretches that overlap.
struct Cut {
    starts: Vec<usize>,
    len: usize,
    overlap: usize,
}

impl Cut {
    fn new(size: usize, side: usize, overlap: usize) -> Self {
        let len = side.min(size);
        let last = size - len;
        let mut starts: Vec<usize> = (0..last).step_by(side - overlap).collect();
        starts.push(last);
        Self { starts, len, overlap }
    }

    /// The weight of a pixel in its tile, above 0 and at most 1.
    fn weight(&self, at: usize) -> f32 {
        let edge = at.min(self.len - 1 - at) + 1;
        edge.min(self.overlap + 1) as f32 / (self.overlap + 1) as f32
    }
}

/// Corrupts generated images as the model's task says, restores them and shows both.
fn demonstrate(model: &Model, tiling: &Tiling, device: &Device) -> Result<()> {
    const IMAGES: u64 = 6;
    const SIDE: usize = 64;
    let corruption = match model.card().task.as_str() {
        "deblur" => Corruption::BLUR,
        _ => Corruption::NOISE,
    };
    let batch = |images: Vec<Vec<u8>>| -> Result<Tensor> {
        let values: Vec<f32> = images
            .concat()
            .iter()
            .map(|&value| f32::from(value) / 255.0)
            .collect();
        Ok(Tensor::from_vec(
            values,
            (images.len(), SIDE, SIDE, 3),
            &Device::Cpu,
        )?)
    };
    let key = Key::new(7);
    let clean = batch(
        (0..IMAGES)
            .map(|i| dead_leaves(SIDE, SIDE, key.fold_in(i)))
            .collect(),
    )?;
    let keys: Vec<Key> = (0..IMAGES).map(|i| key.fold_in(IMAGES + i)).collect();
    let corrupted = corruption.apply(&clean, corruption.test_difficulty(), &keys)?;
    let restore = |image: &[u8]| {
        let picture = Picture {
            height: SIDE,
            width: SIDE,
            pixels: image.to_vec(),
        };
        tiling.restore(model, &picture, device)
    };
    let restored: Result<Vec<_>> = to_bytes(&corrupted)?
        .chunks_exact(SIDE * SIDE * 3)
        .map(restore)
        .collect();
    let restored = batch(restored?)?;

    let mut rows = vec![(
        Label {
            name: "clean".into(),
            note: String::new(),
        },
        clean.clone(),
    )];
    for (name, images) in [("corrupted", corrupted), ("restored", restored)] {
        let score = ssim(&images, &clean)?.mean_all()?.to_scalar::<f64>()?;
        println!("{name:>10}  SSIM {score:.4}");
        rows.push((
            Label {
                name: name.into(),
                note: format!("SSIM {score:.3}"),
            },
            images,
        ));
    }
    let title = format!(
        "{} with {}, {} steps",
        model.card().task,
        model.card().config.name(),
        model.card().steps
    );
    let path = Path::new("out/restore/before_after.png");
    std::fs::create_dir_all("out/restore").map_err(at(path))?;
    Sheet { title, rows }.save(path)?;
    println!("{}", path.display());
    Ok(())
}
