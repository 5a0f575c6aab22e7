//! Restoring a file.

use std::path::Path;

use lnca::Model;
use lnca::io::Photograph;
use lnca_examples::{Result, folder, note};

use crate::tiling::Tiling;

/// Restores `input` and writes it to `output`: the restored colours, with transparency, colour profile and
/// Exif data of the original as far as the format has them, in its bits a value, and grey if the original is.
pub fn restore(model: &Model, tiling: &Tiling, input: &Path, output: &Path) -> Result<()> {
    // Checked before the work.
    Photograph::check_name(output)?;
    if output.is_dir() {
        return Err(format!("{}: is a folder, expected the name of a file", output.display()).into());
    }
    if let Some(dir) = output.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        folder(dir)?;
    }
    let mut photograph = Photograph::read(input)?;
    photograph.colours = tiling.restore(model, &photograph)?;
    photograph.write(output)?;
    let (height, width) = (photograph.height, photograph.width);
    note!("{}: {width}x{height}, restored", output.display());
    Ok(())
}
