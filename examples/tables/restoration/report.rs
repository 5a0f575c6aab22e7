//! Tables 1 and 2 as Markdown and JSON.

use lnca::io::write_atomic;
use lnca_examples::Result;
use lnca_examples::args::{ModelName, word};
use serde_json::{Value, json};

use super::cell::{Cell, Outcome};
use super::{DataSet, Table, sheets};
use crate::paper;

/// Writes the table so far, with contact sheets, and returns its Markdown.
pub fn write(table: &Table) -> Result<String> {
    let text = markdown(table);
    let json = serde_json::to_string_pretty(&json(table))?;
    write_atomic(table.out.join("table.json"), json.as_bytes())?;
    write_atomic(table.out.join("table.md"), text.as_bytes())?;
    for data in table.data {
        sheets::write(table, data)?;
    }
    Ok(text)
}

/// SSIM and PSNR in a row of the results of a run.
pub fn scores(result: &Value, row: usize) -> Option<(f64, f64)> {
    let row = result["scores"].as_array()?.get(row)?;
    Some((row["ssim"].as_f64()?, row["psnr"].as_f64()?))
}

/// SSIM and PSNR of the model, which has the last row.
pub fn last_scores(result: &Value) -> Option<(f64, f64)> {
    scores(result, result["scores"].as_array()?.len().checked_sub(1)?)
}

/// The runs of one model on one data set.
fn runs<'a>(table: &'a Table, data: &DataSet, model: ModelName) -> Vec<(&'a Cell<'a>, &'a Outcome)> {
    let runs = table.runs(data);
    runs.filter(|(cell, _)| cell.model == model).collect()
}

/// SSIM and PSNR of those of the runs that have results.
fn values(runs: &[(&Cell, &Outcome)]) -> (Vec<f64>, Vec<f64>) {
    let done = runs.iter().filter_map(|(_, outcome)| outcome.as_ref().ok());
    done.filter_map(last_scores).unzip()
}

/// The mean, and the standard deviation of more than one value.
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

fn number(table: &Table) -> usize {
    if table.task.name == "denoise" { 1 } else { 2 }
}

fn markdown(table: &Table) -> String {
    let mut text = format!(
        "### Table {}: SSIM, {}\n\n| model |",
        number(table),
        table.task.name
    );
    for data in table.data {
        text += &format!(" {} | PSNR, dB | the paper |", data.name);
    }
    text += &format!("\n| --- |{}\n", " --- | --- | --- |".repeat(table.data.len()));
    for (row, name) in ["corrupted", "best classical filter"].into_iter().enumerate() {
        text += &format!("| {name} |");
        for data in table.data {
            let mut results = table.runs(data).filter_map(|(_, outcome)| outcome.as_ref().ok());
            text += &match results.next().and_then(|result| scores(result, row)) {
                Some((ssim, psnr)) => format!(" {ssim:.3} | {psnr:.2} | |"),
                None => " | | |".into(),
            };
        }
        text += "\n";
    }
    let mut notes = Vec::new();
    for &model in &table.models {
        let name = model.config().name();
        text += &format!("| {name} |");
        for data in table.data {
            let runs = runs(table, data, model);
            let (ssim, psnr) = values(&runs);
            text += &match ssim.is_empty() {
                true => " – | – |".to_string(),
                false => format!(" {} | {} |", with_spread(&ssim, 3), with_spread(&psnr, 2)),
            };
            let theirs = paper::ssim(table.task.name, &data.name, model);
            text += &theirs.map_or(" |".into(), |ssim| format!(" *{ssim:.3}* |"));
            for (cell, outcome) in runs {
                if let Err(reason) = outcome {
                    notes.push(format!("{name} on {}, seed {}: {reason}", data.name, cell.seed));
                }
            }
        }
        text += "\n";
    }
    text += "\n";
    for data in table.data {
        text += &format!("{}: {}\n", data.name, budget(table, data));
    }
    for note in notes {
        text += &format!("\n– {note}\n");
    }
    text
}

fn json(table: &Table) -> Value {
    let mut rows = Vec::new();
    for &model in &table.models {
        for data in table.data {
            let name = model.config().name();
            let runs = runs(table, data, model);
            let (ssim, psnr) = values(&runs);
            rows.push(json!({
                "model": name,
                "data": data.name,
                "ssim": ssim, "psnr": psnr,
                "ssim_mean": (!ssim.is_empty()).then(|| spread(&ssim).0),
                "ssim_deviation": (!ssim.is_empty()).then(|| spread(&ssim).1),
                "ssim_paper": paper::ssim(table.task.name, &data.name, model),
                "runs": runs.iter().map(|(cell, outcome)| json!({
                    "seed": cell.seed,
                    "folder": format!("{}/{name}-{}", data.name, cell.seed),
                    "command": cell.settings.command(table.task),
                    "images": outcome.as_ref().ok().map(|result| &result["images"]),
                    "seconds": outcome.as_ref().ok().map(|result| &result["seconds"]),
                    "reason": outcome.as_ref().err(),
                })).collect::<Vec<_>>(),
            }));
        }
    }
    json!({
        "table": number(table),
        "task": table.task.name,
        "library": env!("CARGO_PKG_VERSION"),
        "recipe": word(table.args.recipe()),
        "set": table.args.set,
        "minutes": table.args.minutes,
        "rows": rows,
    })
}

/// How many images and epochs the models of a data set were trained with, in words.
fn budget(table: &Table, data: &DataSet) -> String {
    let mut budgets: Vec<(String, Vec<&str>)> = Vec::new();
    for model in paper::MODELS {
        for (cell, outcome) in runs(table, data, model) {
            let Ok(result) = outcome else { continue };
            let (settings, images) = (&cell.settings, &result["images"]);
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
            match budgets.iter_mut().find(|(known, _)| *known == text) {
                Some((_, names)) if !names.contains(&settings.model) => names.push(settings.model),
                Some(_) => {}
                None => budgets.push((text, vec![settings.model])),
            }
        }
    }
    let budgets = budgets
        .into_iter()
        .map(|(text, names)| format!("{} ({text})", names.join(", ")));
    let budgets: Vec<String> = budgets.collect();
    let args = table.args;
    let seeds: Vec<String> = args.seeds.iter().map(u64::to_string).collect();
    let mut text = format!(
        "{}; batches of {}, recipe `{}`, seeds {}",
        budgets.join("; "),
        args.batch,
        word(args.recipe()),
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
