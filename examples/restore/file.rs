//! Restoring a file.

use std::path::Path;

use image::{DynamicImage, ImageFormat, ImageReader, RgbImage};
use lnca::Model;
use lnca::io::Picture;
use lnca_examples::{Result, at};

use crate::tiling::Tiling;

/// Restores `input` and writes it to `output`.
pub fn restore(model: &Model, tiling: &Tiling, input: &Path, output: &Path) -> Result<()> {
    // Checked before the work.
    let format = ImageFormat::from_path(output)
        .ok()
        .filter(|format| matches!(format, ImageFormat::Png | ImageFormat::Jpeg))
        .ok_or_else(|| format!("{}: expected a name that ends in .png or .jpg", output.display()))?;
    if let Some(dir) = output.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(at(dir))?;
    }
    let picture = Picture::read(input)?;
    let restored = tiling.restore(model, &picture)?;
    let (height, width) = (picture.height, picture.width);
    let restored = RgbImage::from_raw(width as u32, height as u32, restored.pixels)
        .ok_or("the restored image has another size")?;
    let original = ImageReader::open(input)
        .and_then(ImageReader::with_guessed_format)
        .map_err(at(input))?
        .decode()
        .map_err(at(input))?;
    like(&original, restored, format)
        .save(output)
        .map_err(at(output))?;
    eprintln!("{}: {width}x{height}, restored", output.display());
    Ok(())
}

/// The restored colours with the transparency of the original, if the format has it; grey if the original is.
fn like(original: &DynamicImage, restored: RgbImage, format: ImageFormat) -> DynamicImage {
    let mut image = DynamicImage::ImageRgb8(restored);
    if original.color().has_alpha() && format == ImageFormat::Png {
        let mut with_alpha = image.into_rgba8();
        for (pixel, of) in with_alpha.pixels_mut().zip(original.to_rgba8().pixels()) {
            pixel.0[3] = of.0[3];
        }
        image = with_alpha.into();
    }
    match (original.color().has_color(), image.color().has_alpha()) {
        (true, _) => image,
        (false, true) => image.into_luma_alpha8().into(),
        (false, false) => image.into_luma8().into(),
    }
}
