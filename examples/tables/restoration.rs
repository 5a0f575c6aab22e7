//! Tables 1 and 2: each model trained and tested on each data set, cell by cell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Device;
use clap::ValueEnum;
use lnca::data::{Corruption, Dataset};
use lnca::random::Key;
use lnca::train::Trainer;
use lnca::{AutoencoderTrainer, Model, Recipe};
use serde_json::{Value, json};

use super::common::args::{Args as CellArgs, ModelName, Task, positive};
use super::common::sheet::{Label, Sheet};
use super::common::{Result, at, pipeline, write};
use super::paper;

/// Without data of one's own, a table of a few minutes.
const BUILT_IN: (usize, usize) = (300, 2);

/// What the paper has.
const PAPER_EPOCHS: usize = 20;

/// What to train, on what, and how long.
#[derive(clap::Args)]
pub struct Args {
    /// A data set: NAME=DIR, or NAME=DIR,TEST_DIR with images of its own to test on. With the names celeba, cifar10,
    /// tinyimagenet, renoir, sid, gopro and realblur the paper's numbers stand beside ours. May be given
    /// more than once [default: 300 generated images, 2 epochs]
    #[arg(long, value_name = "NAME=DIR", value_parser = data_set)]
    data: Vec<DataSet>,

    /// Models to train [default: all five]
    #[arg(long, value_enum, value_delimiter = ',')]
    models: Vec<ModelName>,

    /// Use at most N images of each data set (for pairs N tiles), a random sample [default: all]
    #[arg(long, value_name = "N", value_parser = positive)]
    images: Option<usize>,

    /// Epochs of each phase [default: 20]
    #[arg(long, value_name = "N", value_parser = positive)]
    epochs: Option<usize>,

    /// Epochs of the autoencoder of a latent model [default: those of the others]
    #[arg(long, value_name = "N", value_parser = positive)]
    ae_epochs: Option<usize>,

    /// Take as few images as a model can learn from in so many minutes, by the speed of its first updates
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<f64>,

    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive)]
    batch: usize,

    /// Side of the images in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 32, value_parser = positive)]
    size: usize,

    /// Seeds: each makes a training of its own, and a cell is their mean and spread
    #[arg(long, value_delimiter = ',', default_values = ["0"])]
    seeds: Vec<u64>,

    /// The recipe of the automata
    #[arg(long, value_enum, default_value = "paper")]
    recipe: RecipeName,

    /// Change one field of every recipe, as in `denoise` and `deblur`
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,

    /// Folder for everything that is written; a table that was stopped goes on from there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RecipeName {
    /// As published
    Paper,
    /// The library's own
    Quick,
}

#[derive(Clone, Debug)]
struct DataSet {
    name: String,
    dir: Option<PathBuf>,
    test_dir: Option<PathBuf>,
}

fn data_set(text: &str) -> Result<DataSet, String> {
    let (name, dirs) = text.split_once('=').ok_or("expected NAME=DIR")?;
    if name.is_empty() || dirs.is_empty() || name.contains(['/', '|']) {
        return Err("expected NAME=DIR, the name without slashes".into());
    }
    let (dir, test_dir) = match dirs.split_once(',') {
        Some((dir, test_dir)) => (dir, Some(test_dir.into())),
        None => (dirs, None),
    };
    Ok(DataSet {
        name: name.into(),
        dir: Some(dir.into()),
        test_dir,
    })
}

/// A training and its test.
struct Cell<'a> {
    data: &'a DataSet,
    model: ModelName,
    seed: u64,
    dir: PathBuf,
    args: CellArgs,
}

/// What became of a cell: what its run wrote, or why it has none.
type Outcome = Result<Value, String>;

/// Makes the table of a task.
pub fn run(task: &Task, args: &Args) -> Result<()> {
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| ["out", "tables", task.name].iter().collect());
    std::fs::create_dir_all(&out).map_err(at(&out))?;
    let built_in = [DataSet {
        name: "generated".into(),
        dir: None,
        test_dir: None,
    }];
    let data = if args.data.is_empty() {
        &built_in[..]
    } else {
        &args.data
    };
    let models: Vec<ModelName> = paper::MODELS
        .into_iter()
        .filter(|model| args.models.is_empty() || args.models.contains(model))
        .collect();
    let speeds = speeds(&out.join("speeds.json"), &models, args)?;
    let mut cells = Vec::new();
    for data in data {
        // The quick ones first, so that most of a table is there early.
        for &model in models.iter().rev() {
            for &seed in &args.seeds {
                cells.push(cell(task, args, &out, (data, model, seed), &speeds)?);
            }
        }
    }
    let mut outcomes: Vec<Outcome> = Vec::new();
    let clock = Instant::now();
    let (mut expected, mut passed) = (0.0, 0.0);
    for (number, cell) in cells.iter().enumerate() {
        if let Some(done) = done(cell)? {
            outcomes.push(Ok(done));
            continue;
        }
        let rest: f64 = cells[number..].iter().map(|cell| seconds(cell, &speeds)).sum();
        // How much longer than expected it took so far tells of the rest.
        let slower = if expected > 0.0 { passed / expected } else { 1.0 };
        eprintln!(
            "[{}/{}] {} on {}, seed {}; about {:.0} min left in all",
            number + 1,
            cells.len(),
            cell.model.config().name(),
            cell.data.name,
            cell.seed,
            rest * slower / 60.0
        );
        let began = clock.elapsed().as_secs_f64();
        let outcome = pipeline::train(task, &cell.args).map_err(|error| error.to_string());
        if let Err(error) = &outcome {
            eprintln!("error: {}: {error}", cell.dir.display());
        }
        expected += seconds(cell, &speeds);
        passed += clock.elapsed().as_secs_f64() - began;
        outcomes.push(outcome);
        // What is there so far, should it be stopped.
        report(task, args, &out, (data, &models), (&cells, &outcomes))?;
    }
    let text = report(task, args, &out, (data, &models), (&cells, &outcomes))?;
    println!("{text}");
    println!(
        "In {}: table.md, table.json, a sheet of images for each data set",
        out.display()
    );
    match outcomes.iter().filter(|outcome| outcome.is_err()).count() {
        0 => Ok(()),
        failed => Err(format!(
            "{failed} of {} cells have no result, for the reasons above",
            cells.len()
        )
        .into()),
    }
}

fn cell<'a>(
    task: &Task,
    args: &Args,
    out: &Path,
    (data, model, seed): (&'a DataSet, ModelName, u64),
    speeds: &BTreeMap<String, (f64, f64)>,
) -> Result<Cell<'a>> {
    let name = model.config().name();
    let dir = out.join(&data.name).join(format!("{name}-{seed}"));
    let mut words = vec![task.name.to_string(), "--resume".into()];
    let mut say = |name: &str, value: String| words.push(format!("--{name}={value}"));
    say("model", name.into());
    say("seed", seed.to_string());
    say("batch", args.batch.to_string());
    say("size", args.size.to_string());
    say("out", dir.display().to_string());
    let epochs = args.epochs.unwrap_or(if data.dir.is_some() {
        PAPER_EPOCHS
    } else {
        BUILT_IN.1
    });
    let ae_epochs = args.ae_epochs.unwrap_or(epochs);
    say("epochs", epochs.to_string());
    say("ae-epochs", ae_epochs.to_string());
    let mut images = args.images.or_else(|| data.dir.is_none().then_some(BUILT_IN.0));
    if let (Some(minutes), Some((autoencoder, main))) = (args.minutes, speeds.get(name)) {
        let batch = autoencoder * ae_epochs as f64 + main * epochs as f64;
        let batches = (minutes * 60.0 / batch).max(1.0) as usize;
        // Of these, 64 % are trained on.
        let fit = (batches * args.batch).div_ceil(16) * 25;
        images = Some(images.map_or(fit, |images| images.min(fit)));
    }
    images
        .into_iter()
        .for_each(|images| say("images", images.to_string()));
    args.set.iter().for_each(|set| say("set", set.clone()));
    for (name, dir) in [("data", &data.dir), ("test-data", &data.test_dir)] {
        dir.iter().for_each(|dir| say(name, dir.display().to_string()));
    }
    if args.recipe == RecipeName::Paper {
        words.push("--paper".into());
    }
    let args = CellArgs::from_words(task, &words)?;
    // A field that no recipe has should not come up after hours.
    args.settings().recipe(args.config())?;
    Ok(Cell {
        data,
        model,
        seed,
        dir,
        args,
    })
}

/// The result of a cell that was finished under the same settings.
fn done(cell: &Cell) -> Result<Option<Value>> {
    let Ok(bytes) = std::fs::read(cell.dir.join("results.json")) else {
        return Ok(None);
    };
    let found: Value = serde_json::from_slice(&bytes).map_err(at(&cell.dir))?;
    let wanted = serde_json::to_value(cell.args.settings())?;
    Ok((found["settings"] == wanted).then_some(found))
}

/// Seconds of a batch of the autoencoder and of the model itself, measured once.
fn speeds(path: &Path, models: &[ModelName], args: &Args) -> Result<BTreeMap<String, (f64, f64)>> {
    let mut speeds: BTreeMap<String, (f64, f64)> = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(at(path))?,
        Err(_) => BTreeMap::new(),
    };
    for model in models {
        let config = model.config();
        let name = config.name();
        if speeds.contains_key(name) {
            continue;
        }
        eprintln!("timing {name}");
        let mut recipe = Recipe::paper(config);
        let mean = recipe.nca.steps.start().midpoint(*recipe.nca.steps.end());
        recipe.nca.steps = mean..=mean;
        let model = Model::new(recipe.model.clone(), 0, &Device::Cpu)?;
        let data = Dataset::dead_leaves(args.batch, args.size, 0)?;
        let corruption = Some((Corruption::NOISE, 0.5));
        let batch = data
            .training_batches(0, args.batch, corruption, Key::new(0))?
            .get(0, &Device::Cpu)?;
        let time = |trainer: &mut dyn Trainer| -> Result<f64> {
            trainer.learn(&batch, Key::new(0))?;
            let began = Instant::now();
            trainer.learn(&batch, Key::new(1))?;
            Ok(began.elapsed().as_secs_f64())
        };
        let mut autoencoder = 0.0;
        if let Some((layers, weights)) = model.autoencoder() {
            let config = recipe.autoencoder.clone();
            autoencoder = time(&mut AutoencoderTrainer::new(layers, weights, config))?;
        }
        speeds.insert(name.into(), (autoencoder, time(&mut *recipe.trainer(&model)?)?));
        write(path, serde_json::to_string_pretty(&speeds)?.as_bytes())?;
    }
    Ok(speeds)
}

/// About how long a cell trains; without a limit on its images that is known only up to a factor.
fn seconds(cell: &Cell, speeds: &BTreeMap<String, (f64, f64)>) -> f64 {
    let settings = cell.args.settings();
    let (autoencoder, main) = speeds.get(settings.model).copied().unwrap_or_default();
    let batches = settings.images.unwrap_or(50_000) as f64 * 0.64 / settings.batch as f64;
    batches * (autoencoder * settings.ae_epochs as f64 + main * settings.epochs as f64)
}

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
fn report(
    task: &Task,
    args: &Args,
    out: &Path,
    (data, models): (&[DataSet], &[ModelName]),
    (cells, outcomes): (&[Cell], &[Outcome]),
) -> Result<String> {
    let of = |data: &DataSet, model: ModelName| -> Vec<(&Cell, &Outcome)> {
        let all = cells.iter().zip(outcomes);
        all.filter(|(cell, _)| cell.data.name == data.name && cell.model == model)
            .collect()
    };
    let first_of = |data: &DataSet| -> Option<&Value> {
        let mut all = cells.iter().zip(outcomes);
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
        text += &format!("{}: {}\n", data.name, budget(args, data, &of, models));
    }
    for note in notes {
        text += &format!("\n– {note}\n");
    }
    let all = json!({
        "table": number,
        "task": task.name,
        "library": env!("CARGO_PKG_VERSION"),
        "recipe": args.recipe.to_possible_value().map(|name| name.get_name().to_string()),
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
        sheet(task, out, data, &cells.iter().zip(outcomes).collect::<Vec<_>>())?;
    }
    Ok(text)
}

/// What the models of a data set had to learn from, in words.
fn budget<'a>(
    args: &Args,
    data: &DataSet,
    of: &dyn Fn(&DataSet, ModelName) -> Vec<(&'a Cell<'a>, &'a Outcome)>,
    models: &[ModelName],
) -> String {
    let mut budgets: Vec<(String, Vec<&str>)> = Vec::new();
    for &model in models {
        for (cell, outcome) in of(data, model) {
            let Ok(result) = outcome else { continue };
            let (settings, images) = (cell.args.settings(), &result["images"]);
            let epochs = match result["parameters"]["autoencoder"].is_null() {
                true => settings.epochs.to_string(),
                false => format!("{} + {}", settings.ae_epochs, settings.epochs),
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
    let recipe = match args.recipe {
        RecipeName::Paper => "paper",
        RecipeName::Quick => "quick",
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
fn sheet(task: &Task, out: &Path, data: &DataSet, cells: &[(&Cell, &Outcome)]) -> Result<()> {
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
