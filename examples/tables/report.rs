//! What is written of tables 1 and 2: Markdown, JSON, and a sheet of images for each data set.

use std::path::Path;

use candle_core::Device;
use clap::ValueEnum;
use serde_json::{Value, json};

use super::paper;
use super::restoration::{Args, Cell, DataSet, Outcome, RecipeName, Run};
use lnca_examples::args::{ModelName, Task};
use lnca_examples::sheet::{Label, Sheet};
use lnca_examples::{Result, at, pipeline, write};

/// The scores of a row of a result, SSIM and PSNR.
fn scores(result: &Value, row: usize) -> Option<(f64, f64)> {
    let row = result["scores"].as_array()?.get(row)?;
    Some((row["ssim"].as_f64()?, row["psnr"].as_f64()?))
}

fn last_scores(result: &Value) -> Option<(f64, f64)> {
    scores(result, result["scores"].as_array()?.len().checked_sub(1)?)
}

/// A mean, and the standard deviation where there is more than one value.
fn spread(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    (mean, (values.len() > 1).then(|| (square / (n - 1.0)).sqrt()))
}

fn with_spread(values: &[f64], digits: usize) -> String {
    match spread(values) {
        (mean, None) => format!("{mean:.digits$}"),
        (mean, Some(deviation)) => format!("{mean:.digits$} ± {deviation:.digits$}"),
    }
}

/// Writes the table of what there is so far, as Markdown, JSON and sheets of images.
pub fn write_all(
    task: &Task,
    args: &Args,
    out: &Path,
    (data, models): (&[DataSet], &[ModelName]),
    (cells, outcomes): (&[Cell], &[Outcome]),
) -> Result<String> {
    let runs: Vec<Run> = cells.iter().zip(outcomes).collect();
    let of = |data: &DataSet, model: ModelName| -> Vec<Run> {
        let all = runs.iter().copied();
        all.filter(|(cell, _)| cell.data.name == data.name && cell.model == model)
            .collect()
    };
    let first_of = |data: &DataSet| -> Option<&Value> {
        let mut all = runs.iter();
        all.find_map(|(cell, outcome)| outcome.as_ref().ok().filter(|_| cell.data.name == data.name))
    };
    let number = if task.name == "denoise" { 1 } else { 2 };
    let mut text = format!("### Table {number}: SSIM, {}\n\n| model |", task.name);
    for data in data {
        text += &format!(" {} | PSNR, dB | the paper |", data.name);
    }
    text += &format!("\n| --- |{}\n", " --- | --- | --- |".repeat(data.len()));
    let mut json_rows = Vec::new();
    for (row, name) in ["corrupted", "best classical filter"].into_iter().enumerate() {
        text += &format!("| {name} |");
        for data in data {
            text += &match first_of(data).and_then(|result| scores(result, row)) {
                Some((ssim, psnr)) => format!(" {ssim:.3} | {psnr:.2} | |"),
                None => " | | |".into(),
            };
        }
        text += "\n";
    }
    let mut notes = Vec::new();
    for &model in models {
        let name = model.config().name();
        text += &format!("| {name} |");
        for data in data {
            let runs = of(data, model);
            let values: Vec<(f64, f64)> = runs
                .iter()
                .filter_map(|(_, outcome)| last_scores(outcome.as_ref().ok()?))
                .collect();
            let (ssim, psnr): (Vec<f64>, Vec<f64>) = values.iter().copied().unzip();
            text += &match ssim.is_empty() {
                true => " – | – |".to_string(),
                false => format!(" {} | {} |", with_spread(&ssim, 3), with_spread(&psnr, 2)),
            };
            let theirs = paper::ssim(task.name, &data.name, model);
            text += &theirs.map_or(" |".into(), |ssim| format!(" *{ssim:.3}* |"));
            for (cell, outcome) in &runs {
                if let Err(reason) = outcome {
                    notes.push(format!("{name} on {}, seed {}: {reason}", data.name, cell.seed));
                }
            }
            json_rows.push(json!({
                "model": name,
                "data": data.name,
                "ssim": ssim, "psnr": psnr,
                "ssim_mean": (!ssim.is_empty()).then(|| spread(&ssim).0),
                "ssim_deviation": (!ssim.is_empty()).then(|| spread(&ssim).1),
                "ssim_paper": theirs,
                "runs": runs.iter().map(|(cell, outcome)| json!({
                    "seed": cell.seed,
                    "folder": format!("{}/{name}-{}", data.name, cell.seed),
                    "command": cell.args.settings().command(task),
                    "images": outcome.as_ref().ok().map(|result| &result["images"]),
                    "seconds": outcome.as_ref().ok().map(|result| &result["seconds"]),
                    "reason": outcome.as_ref().err(),
                })).collect::<Vec<_>>(),
            }));
        }
        text += "\n";
    }
    text += "\n";
    for data in data {
        text += &format!("{}: {}\n", data.name, budget(args, data, &runs));
    }
    for note in notes {
        text += &format!("\n– {note}\n");
    }
    let all = json!({
        "table": number,
        "task": task.name,
        "library": env!("CARGO_PKG_VERSION"),
        "recipe": args.recipe().to_possible_value().map(|name| name.get_name().to_string()),
        "set": args.set,
        "minutes": args.minutes,
        "rows": json_rows,
    });
    write(
        &out.join("table.json"),
        serde_json::to_string_pretty(&all)?.as_bytes(),
    )?;
    write(&out.join("table.md"), text.as_bytes())?;
    for data in data {
        sheet(task, out, data, &runs)?;
    }
    Ok(text)
}

/// What the models of a data set had to learn from, in words.
fn budget(args: &Args, data: &DataSet, runs: &[Run]) -> String {
    let mut budgets: Vec<(String, Vec<&str>)> = Vec::new();
    for model in paper::MODELS {
        for (cell, outcome) in runs {
            let Ok(result) = outcome else { continue };
            if cell.model != model || cell.data.name != data.name {
                continue;
            }
            let (settings, images) = (cell.args.settings(), &result["images"]);
            let epochs = match result["parameters"]["autoencoder"].is_null() {
                true => settings.epochs.to_string(),
                false => {
                    let epochs = [settings.ae_epochs, settings.epochs].into_iter();
                    let epochs = epochs.chain(settings.end_to_end).map(|epochs| epochs.to_string());
                    epochs.collect::<Vec<_>>().join(" + ")
                }
            };
            let text = format!(
                "{} images to train, {} to validate, {} to test, {epochs} epochs",
                images["train"], images["validation"], images["test"],
            );
            let name = settings.model;
            match budgets.iter_mut().find(|(known, _)| *known == text) {
                Some((_, names)) if !names.contains(&name) => names.push(name),
                Some(_) => {}
                None => budgets.push((text, vec![name])),
            }
        }
    }
    let budgets: Vec<String> = budgets
        .into_iter()
        .map(|(text, names)| format!("{} ({text})", names.join(", ")))
        .collect();
    let recipe = match args.recipe() {
        RecipeName::Paper => "paper",
        RecipeName::Tuned => "tuned",
    };
    let seeds: Vec<String> = args.seeds.iter().map(u64::to_string).collect();
    let mut text = format!(
        "{}; batches of {}, recipe `{recipe}`, seeds {}",
        budgets.join("; "),
        args.batch,
        seeds.join(", ")
    );
    if let Some(minutes) = args.minutes {
        text += &format!(", as many images as fit {minutes} minutes");
    }
    for set in &args.set {
        text += &format!(", {set}");
    }
    text
}

/// The same test images through every model that is there.
fn sheet(task: &Task, out: &Path, data: &DataSet, cells: &[Run]) -> Result<()> {
    let mut rows = Vec::new();
    let label = |name: &str, scores: Option<(f64, f64)>| Label {
        name: name.into(),
        note: scores.map_or(String::new(), |(ssim, _)| format!("SSIM {ssim:.3}")),
    };
    // In the order of the table; the first seed will do.
    for model in paper::MODELS {
        let mut runs = cells
            .iter()
            .filter(|(cell, outcome)| cell.model == model && cell.data.name == data.name && outcome.is_ok());
        let Some((cell, Ok(result))) = runs.next() else {
            continue;
        };
        let path = cell.dir.join(pipeline::SHOWN_FILE);
        let shown = candle_core::safetensors::load(&path, &Device::Cpu).map_err(at(&path))?;
        let image = |name: &str| {
            shown
                .get(name)
                .cloned()
                .ok_or_else(|| format!("{}: no {name}", path.display()))
        };
        if rows.is_empty() {
            rows.push((label("clean", None), image("clean")?));
            rows.push((label("corrupted", scores(result, 0)), image("corrupted")?));
            let filter = result["scores"][1]["name"]
                .as_str()
                .unwrap_or("filter")
                .to_string();
            rows.push((label(&filter, scores(result, 1)), image("filtered")?));
        }
        rows.push((
            label(model.config().name(), last_scores(result)),
            image("restored")?,
        ));
    }
    if rows.is_empty() {
        return Ok(());
    }
    let title = format!("{}, {}: test images", task.name, data.name);
    Sheet { title, rows }.save(&out.join(format!("{}.png", data.name)))
}
