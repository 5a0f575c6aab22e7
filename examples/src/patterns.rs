//! Patterns that are trained and run: where they come from, and their previews.

use std::path::Path;

use candle_core::{Device, Tensor};
use lnca::io::Picture;
use lnca::io::{Background, enlarged, pictures, sheet, write_png};
use lnca::model::pattern::Rule;
use lnca::random::Key;
use lnca::train::PatternTrainer;
use lnca::{Pattern, PatternCard};

use crate::Result;
use crate::training::{Snapshot, Training};

/// A new pattern with random weights, or with those of the model given by `--start`.
///
/// # Errors
/// That model cannot be read or is of another kind.
pub fn create(training: &Training, card: PatternCard, device: &Device) -> Result<Pattern> {
    let pattern = Pattern::new(card, training.seed, device)?;
    if let Some(path) = &training.start {
        let start = Pattern::load(path, device)?;
        pattern.weights().load(&start.weights().snapshot()?)?;
    }
    Ok(pattern)
}

/// Writes a pattern and a preview of two rows: states of the pool, and the seed after 32, 64, ..., 256 steps.
pub fn write(pattern: &Pattern, trainer: &PatternTrainer<Rule>, snapshot: Snapshot) -> Result<()> {
    pattern.save(snapshot.model)?;
    let shown = |cells: &Tensor| -> Result<Vec<Picture>> {
        let pictures = pictures(&pattern.rgba(cells)?, Background::White)?;
        Ok(pictures.iter().map(|picture| enlarged(picture, 2)).collect())
    };
    let mut cells = pattern.seed(1, pattern.card().size)?;
    let mut grown = vec![];
    for n in 0..8 {
        cells = pattern.rollout(32, Key::new(n)).run(pattern.rule(), &cells)?;
        grown.extend(shown(&cells)?);
    }
    let rows = [shown(&trainer.pool(8)?)?, grown];
    Ok(write_png(&sheet(&rows, 4), snapshot.preview)?)
}

/// The name of a target: that of its file, without the ending.
pub fn name_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}
