//! A contact sheet for each data set: the same test images, restored by every model.

use candle_core::{Device, safetensors};
use lnca_examples::contact_sheet::{ContactSheet, Label};
use lnca_examples::restoration::SHOWN_FILE;
use lnca_examples::{Result, at};

use super::report::{last_scores, scores};
use super::{DataSet, Table};
use crate::paper;

/// Writes the sheet of a data set, if any of its runs has results.
pub fn write(table: &Table, data: &DataSet) -> Result<()> {
    let mut rows = Vec::new();
    let label = |name: &str, scores: Option<(f64, f64)>| Label::with_ssim(name, scores.map(|(ssim, _)| ssim));
    for model in paper::MODELS {
        // The first seed is enough.
        let mut runs = table
            .runs(data)
            .filter(|(cell, outcome)| cell.model == model && outcome.is_ok());
        let Some((cell, Ok(result))) = runs.next() else {
            continue;
        };
        let path = cell.dir.join(SHOWN_FILE);
        let shown = safetensors::load(&path, &Device::Cpu).map_err(at(&path))?;
        let image = |name: &str| {
            let image = shown.get(name).cloned();
            image.ok_or_else(|| format!("{}: no {name}", path.display()))
        };
        if rows.is_empty() {
            let filter = result["scores"][1]["name"].as_str().unwrap_or("filter");
            rows.push((label("clean", None), image("clean")?));
            rows.push((label("corrupted", scores(result, 0)), image("corrupted")?));
            rows.push((label(filter, scores(result, 1)), image("filtered")?));
        }
        let name = cell.settings.model;
        rows.push((label(name, last_scores(result)), image("restored")?));
    }
    if rows.is_empty() {
        return Ok(());
    }
    let title = format!("{}, {}: test images", table.task.name, data.name);
    ContactSheet { title, rows }.save(&table.out.join(format!("{}.png", data.name)))
}
