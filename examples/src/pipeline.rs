//! The pipeline of `denoise` and `deblur`: data, autoencoder, NCA, test, pictures.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use candle_core::Device;
use lnca::data::{Dataset, LoadReport, Split};
use lnca::train::{Event, Trainer};
use lnca::{AutoencoderTrainer, Fit, Model, TrainingData};
use serde::Serialize;
use serde_json::{Value, json};

use super::args::{Args, Settings, Task};
use super::evaluation::{best_filter, eval, open, restore, scores, test_batches};
use super::log::{Log, PHASES};
use super::progress::{TrainingProgress, bar};
use super::run_folder::RunFolder;
use super::{Result, at, curves, sheet, write};

/// Images in a contact sheet.
const SHOWN: usize = 8;

/// Runs `denoise` or `deblur` as its arguments say.
pub fn run(task: &Task) -> Result<()> {
    let args = Args::of(task);
    match (&args.eval, &args.data) {
        (Some(model), Some(dir)) => eval(task, &args, model, dir),
        _ => {
            let results = train(task, &args)?;
            print_table(&results);
            let dir = args.out_dir(task);
            let seconds = &results["seconds"]["this run in all"];
            println!(
                "\nIn {} after {:.0} s: sheet.png, curves.png, results.json, model.safetensors",
                dir.display(),
                seconds.as_f64().unwrap_or_default()
            );
            Ok(())
        }
    }
}

/// One row of the table of results.
#[derive(Serialize)]
struct Row {
    name: String,
    /// A mean that is infinite, of images that equal the clean ones, is null.
    ssim: f64,
    psnr: f64,
}

/// Test images and what became of them, in the folder of a run: `clean`, `corrupted`, `filtered`, `restored`.
pub const SHOWN_FILE: &str = "shown.safetensors";

/// Trains and tests a model, and gives what it wrote as `results.json`.
pub fn train(task: &Task, args: &Args) -> Result<Value> {
    let started = Instant::now();
    let mut seconds = BTreeMap::new();
    let settings = args.settings();
    let device = args.device.open()?;
    let recipe = settings.recipe(args.config())?;
    let mut model = Model::new(recipe.model.clone(), settings.seed, &device)?;
    check(&settings, &model)?;
    if let Some(path) = &args.start {
        start_from(&model, path)?;
    }

    let (data, report) = load(args, &settings)?;
    let parts = split(data, settings.images, settings.seed)?;
    let (test, test_report) = match &args.test_data {
        Some(dir) => {
            let (data, report) = open(dir, args.kind.clone(), settings.size, None, 0)?;
            (data, Some(report))
        }
        None => (parts.test, None),
    };
    let counts = json!({
        "train": parts.train.len(), "validation": parts.validation.len(), "test": test.len(),
    });
    eprintln!(
        "images: {} to train, {} to validate, {} to test",
        parts.train.len(),
        parts.validation.len(),
        test.len()
    );
    if settings.batch > parts.train.len() {
        let (batch, train) = (settings.batch, parts.train.len());
        return Err(format!("`--batch` is {batch}, but there are only {train} images to train on").into());
    }
    let training = TrainingData {
        train: parts.train,
        validation: parts.validation,
        corruption: Some(task.corruption),
        curriculum: None,
    };
    seconds.insert("loading", started.elapsed().as_secs_f64());

    let folder = RunFolder::open(args.out_dir(task), &settings, args.resume)?;
    let mut log = Log::open(&folder.file("log.jsonl"))?;
    let fit = |phase: &str, epochs: usize| Fit {
        epochs,
        batch_size: settings.batch,
        seed: settings.seed,
        checkpoint: Some(folder.file(&format!("{phase}.checkpoint.safetensors"))),
        checkpoint_every: args.checkpoint_every,
        device: device.clone(),
        ..Fit::default()
    };
    // A latent model learns in two phases: the autoencoder first, then the automaton in its latent space.
    if let Some((autoencoder, weights)) = model.autoencoder().filter(|_| args.start.is_none()) {
        let mut trainer = AutoencoderTrainer::new(autoencoder, weights, recipe.autoencoder.clone());
        run_phase(
            &fit("autoencoder", settings.ae_epochs),
            &mut trainer,
            &training,
            &mut log,
            &|| Ok(()),
        )?;
    }
    // Measured here, because the decoder may learn along with the automaton.
    let batches = test_batches(&test, task.corruption, settings.batch)?;
    let mut alone = None;
    if let Some((autoencoder, _)) = model.autoencoder() {
        let scores = scores("autoencoder", &batches, &device, |images, _| {
            let encoded = autoencoder.encode(images, false)?;
            autoencoder.decode(&encoded.latent, &encoded.skip, false)
        })?;
        alone = Some(Row {
            name: "autoencoder alone".into(),
            ssim: scores.ssim,
            psnr: scores.psnr,
        });
    }
    let training = TrainingData {
        curriculum: Some(recipe.curriculum(task.corruption)),
        ..training
    };
    let card = model.card_mut();
    card.task = task.name.into();
    card.made_by = settings.command(task);
    let save = || Ok(model.save(folder.file("model.safetensors"))?);
    let mut phases: Vec<(Box<dyn Trainer>, usize)> = Vec::new();
    if settings.epochs > 0 {
        phases.push((recipe.trainer(&model)?, settings.epochs));
    }
    if let Some(epochs) = settings.end_to_end {
        phases.push((Box::new(recipe.end_to_end_trainer(&model)?), epochs));
    }
    for (trainer, epochs) in &mut phases {
        let fit = fit(trainer.phase(), *epochs);
        run_phase(&fit, &mut **trainer, &training, &mut log, &save)?;
    }
    save()?;

    let clock = Instant::now();
    let filter = best_filter(&training.validation, task.corruption, settings.batch)?;
    seconds.insert("choosing the filter", clock.elapsed().as_secs_f64());
    let clock = Instant::now();
    let mut rows = Vec::new();
    let filtered = scores("filter", &batches, &Device::Cpu, |images, _| filter.apply(images))?;
    rows.push(Row {
        name: "corrupted".into(),
        ssim: filtered.ssim_corrupted,
        psnr: filtered.psnr_corrupted,
    });
    rows.push(Row {
        name: filter.to_string(),
        ssim: filtered.ssim,
        psnr: filtered.psnr,
    });
    rows.extend(alone);
    let restored = scores("test", &batches, &device, |images, first| {
        restore(&model, images, first)
    })?;
    rows.push(Row {
        name: settings.model.into(),
        ssim: restored.ssim,
        psnr: restored.psnr,
    });
    seconds.insert("testing", clock.elapsed().as_secs_f64());

    let shown = test_batches(&test, task.corruption, SHOWN)?.get(0, &device)?;
    let row = |at: usize, name: &str| sheet::Label {
        name: name.to_string(),
        note: rows
            .get(at)
            .map_or(String::new(), |row| format!("SSIM {:.3}", row.ssim)),
    };
    let filtered = filter.apply(&shown.corrupted)?;
    let images = restore(&model, &shown.corrupted, 0)?;
    let all = [
        ("clean", &shown.clean),
        ("corrupted", &shown.corrupted),
        ("filtered", &filtered),
        ("restored", &images),
    ];
    let path = folder.file(SHOWN_FILE);
    candle_core::safetensors::save(&all.map(|(name, images)| (name, images.clone())).into(), &path)
        .map_err(at(&path))?;
    sheet::Sheet {
        title: format!("{}: test images, SSIM over all {} of them", task.name, test.len()),
        rows: vec![
            (
                sheet::Label {
                    name: "clean".into(),
                    note: String::new(),
                },
                shown.clean.clone(),
            ),
            (row(0, "corrupted"), shown.corrupted.clone()),
            (row(1, &filter.to_string()), filtered),
            (row(rows.len() - 1, settings.model), images),
        ],
    }
    .save(&folder.file("sheet.png"))?;
    curves::save(&folder.file("curves.png"), task.name, settings.model, &log)?;

    let history: BTreeMap<_, _> = PHASES.map(|phase| (phase, log.epochs(phase))).into();
    for (phase, epochs) in history.iter().filter(|(_, epochs)| !epochs.is_empty()) {
        seconds.insert(phase, epochs.iter().map(|epoch| epoch.seconds).sum());
    }
    seconds.insert("this run in all", started.elapsed().as_secs_f64());
    let parameters = |weights: &lnca::Weights| {
        weights
            .vars()
            .iter()
            .map(|(_, var)| var.elem_count())
            .sum::<usize>()
    };
    let results = json!({
        "task": task.name,
        "command": settings.command(task),
        "library": env!("CARGO_PKG_VERSION"),
        "settings": settings,
        "corruption": task.corruption,
        "test_difficulty": task.corruption.test_difficulty(),
        "images": counts,
        "data": report,
        "test_data": test_report,
        "recipe": recipe,
        "model": model.card(),
        "parameters": {
            if model.network().is_some() { "network" } else { "nca" }: parameters(model.weights()),
            "autoencoder": model.autoencoder().map(|(_, weights)| parameters(weights)),
        },
        "filter": filter,
        "scores": rows,
        "seconds": seconds,
        "history": history,
    });
    write(
        &folder.file("results.json"),
        serde_json::to_string_pretty(&results)?.as_bytes(),
    )?;
    Ok(results)
}

/// Takes the weights of a model of the same sizes.
fn start_from(model: &Model, path: &Path) -> Result<()> {
    let from = Model::load(path, model.weights().device())?;
    if from.card().config != model.card().config {
        let (path, found, wanted) = (path.display(), &from.card().config, &model.card().config);
        return Err(format!("`--start`: {path} is {found:?}, and this run trains {wanted:?}").into());
    }
    model.weights().load(&from.weights().snapshot()?)?;
    if let (Some((_, to)), Some((_, from))) = (model.autoencoder(), from.autoencoder()) {
        to.load(&from.snapshot()?)?;
    }
    Ok(())
}

/// Refuses what the model cannot train on, before any work is done.
fn check(settings: &Settings, model: &Model) -> Result<()> {
    let multiple = model.multiple();
    if !settings.size.is_multiple_of(multiple) {
        let (size, model) = (settings.size, settings.model);
        return Err(format!("`--size` is {size}, but {model} trains on multiples of {multiple}").into());
    }
    if model.autoencoder().is_some() && settings.batch < 2 {
        return Err("`--batch` is 1, but an autoencoder is trained on pairs of images: at least 2".into());
    }
    Ok(())
}

fn load(args: &Args, settings: &Settings) -> Result<(Dataset, Option<LoadReport>)> {
    let (size, seed) = (settings.size, settings.seed);
    match (&args.data, settings.images) {
        (Some(dir), limit) => {
            let (data, report) = open(dir, args.kind.clone(), size, limit, seed)?;
            Ok((data, Some(report)))
        }
        (None, count) => {
            let bar = bar("dead leaves", 1);
            let data = Dataset::dead_leaves(count.unwrap_or(1), size, seed)?;
            bar.finish_and_clear();
            Ok((data, None))
        }
    }
}

/// Splits by photograph, then keeps of each part its share of the `limit`: tiles are more than photographs.
fn split(data: Dataset, limit: Option<usize>, seed: u64) -> Result<Split<Dataset>> {
    let images = limit.unwrap_or(data.len());
    let parts = data
        .split(seed)
        .map_err(|error| format!("the images cannot be split into training, validation and test: {error}"))?;
    let seen = images * 4 / 5;
    let train = seen * 4 / 5;
    Ok(Split {
        train: parts.train.take(train.max(1)),
        validation: parts.validation.take((seen - train).max(1)),
        test: parts.test.take((images - seen).max(1)),
    })
}

/// Trains, and calls `improved` whenever the weights are the best so far.
fn run_phase(
    fit: &Fit,
    trainer: &mut dyn Trainer,
    data: &TrainingData,
    log: &mut Log,
    improved: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let mut progress = TrainingProgress::new(fit.epochs);
    let mut written = Ok(());
    let result = fit.run(trainer, data, &mut |event| {
        progress.show(event);
        if written.is_ok() {
            written = log.hear(event, fit.epochs);
        }
        if let (Event::Validated { best: true, .. }, Ok(())) = (event, &written) {
            written = improved();
        }
    });
    progress.finish();
    result?;
    written
}

fn print_table(results: &Value) {
    let images = format!("{} test images", results["images"]["test"]);
    println!("\n{images:<20} {:>7} {:>9}", "SSIM", "PSNR, dB");
    for row in results["scores"].as_array().into_iter().flatten() {
        let score = |name: &str| row[name].as_f64().unwrap_or(f64::INFINITY);
        let name = row["name"].as_str().unwrap_or_default();
        println!("{name:<20} {:>7.4} {:>9.2}", score("ssim"), score("psnr"));
    }
}
