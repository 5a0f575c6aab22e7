//! Training and testing a model, in the folder of a run.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use candle_core::{Device, Tensor};
use lnca::data::{Batches, Corruption};
use lnca::io::safetensors;
use lnca::model::baseline::ClassicalFilter;
use lnca::train::{Event, Trainer};
use lnca::{AutoencoderTrainer, Fit, Model, Recipe, Scores, TrainingData, Weights};
use serde::Serialize;
use serde_json::{Value, json};

use super::evaluation::{AtStep, along_steps, best_filter, restore, scores, test_batches};
use super::images::Images;
use super::log::{Log, PHASES};
use super::run_folder::RunFolder;
use super::{Args, Settings, Task, curves};
use crate::contact_sheet::{ContactSheet, Label};
use crate::interrupt::Interrupt;
use crate::progress::TrainingProgress;
use crate::{Result, note};

/// The file with the images of the contact sheet: `clean`, `corrupted`, `filtered` and `restored`.
pub const SHOWN_FILE: &str = "shown.safetensors";

/// Images in the contact sheet.
const SHOWN: usize = 8;

/// Batches between two readings of losses on a GPU, which wait for it.
const READ_EVERY: usize = 20;

/// Trains and tests a model, and returns the content of the `results.json` it writes.
///
/// # Errors
/// Arguments contradict each other, images or files cannot be read, or the training diverges.
pub fn train(task: &Task, args: &Args) -> Result<Value> {
    let mut run = Run::new(task, args)?;
    // A latent model learns in two phases: the autoencoder first, then the automaton in its latent space.
    if args.start.is_none() {
        run.train_autoencoder()?;
    }
    // Scored now, because the decoder may learn along with the automaton.
    let autoencoder = run.score_autoencoder()?;
    run.train_model()?;
    let test = run.test(autoencoder)?;
    run.draw(&test)?;
    run.write_results(&test)
}

/// A run of `denoise` or `deblur`.
struct Run<'a> {
    task: &'a Task,
    corruption: Corruption,
    settings: Settings,
    checkpoint_every: usize,
    device: Device,
    recipe: Recipe,
    model: Model,
    images: Images,
    /// The test images, corrupted.
    batches: Batches,
    folder: RunFolder,
    log: Log,
    started: Instant,
    /// Seconds of each part of the run.
    seconds: BTreeMap<&'static str, f64>,
}

/// A row of the table of results.
#[derive(Serialize)]
struct Row {
    name: String,
    ssim: f64,
    /// Infinite, and null in JSON, if images equal the clean ones.
    psnr: f64,
}

impl Row {
    fn new(name: impl Into<String>, ssim: f64, psnr: f64) -> Self {
        Self {
            name: name.into(),
            ssim,
            psnr,
        }
    }
}

/// The result of a test: the classical filter to compare with, and a row for everything tested. The first two
/// rows are those of the corrupted images and of the filter, the last is that of the model.
struct Test {
    filter: ClassicalFilter,
    rows: Vec<Row>,
    /// The scores of an NCA along its trajectory.
    steps: Vec<AtStep>,
}

impl<'a> Run<'a> {
    fn new(task: &'a Task, args: &Args) -> Result<Self> {
        let started = Instant::now();
        let settings = Settings::new(args);
        let device = args.device.open()?;
        let recipe = settings.recipe(args.model.config())?;
        let folder = RunFolder::take(args.out_dir(task))?;
        let model = Model::new(recipe.model.clone(), settings.seed, &device)?;
        check(&settings, &model)?;
        if let Some(path) = &args.start {
            start_from(&model, path)?;
        }
        let images = Images::load(task, args, &settings)?;
        let seconds = started.elapsed().as_secs_f64();
        folder.prepare(&settings, args.resume)?;
        let corruption = args.corruption(task);
        Ok(Self {
            task,
            corruption,
            checkpoint_every: args.checkpoint_every,
            device,
            recipe,
            model,
            batches: test_batches(&images.test, corruption, settings.batch)?,
            images,
            log: Log::open(&folder.file("log.jsonl"))?,
            folder,
            settings,
            started,
            seconds: [("loading", seconds)].into(),
        })
    }

    fn train_autoencoder(&mut self) -> Result<()> {
        let Some((autoencoder, weights)) = self.model.autoencoder() else {
            return Ok(());
        };
        let mut trainer = AutoencoderTrainer::new(autoencoder, weights, self.recipe.autoencoder.clone())?;
        let fit = self.fit(trainer.phase(), self.settings.ae_epochs);
        run_phase(&fit, &mut trainer, &self.images.training, &mut self.log, &|| {
            Ok(())
        })
    }

    /// The score of a latent model's autoencoder alone.
    fn score_autoencoder(&self) -> Result<Option<Row>> {
        let Some((autoencoder, _)) = self.model.autoencoder() else {
            return Ok(None);
        };
        let scores = scores("autoencoder", &self.batches, &self.device, |images, _| {
            let encoded = autoencoder.encode(images, false)?;
            autoencoder.decode(&encoded.latent, &encoded.skip, false)
        })?;
        Ok(Some(Row::new("autoencoder alone", scores.ssim, scores.psnr)))
    }

    /// Trains the automaton or network, and then, if asked for, encoder, automaton and decoder together. The
    /// best model of a phase so far is kept on disk.
    fn train_model(&mut self) -> Result<()> {
        let command = self.settings.command(self.task);
        let card = self.model.card_mut();
        card.task = self.task.name.into();
        card.made_by = command;
        card.corruption = Some(self.corruption);
        if self.settings.bypass {
            card.steps = 0;
        }
        self.images.training.curriculum = Some(self.recipe.curriculum(self.corruption));
        let mut phases: Vec<(Box<dyn Trainer>, usize)> = Vec::new();
        if self.settings.epochs > 0 {
            phases.push((self.recipe.trainer(&self.model)?, self.settings.epochs));
        }
        if let Some(epochs) = self.settings.end_to_end {
            phases.push((Box::new(self.recipe.end_to_end_trainer(&self.model)?), epochs));
        }
        let save = || Ok(self.model.save(self.folder.file("model.safetensors"))?);
        for (trainer, epochs) in &mut phases {
            let fit = self.fit(trainer.phase(), *epochs);
            run_phase(&fit, &mut **trainer, &self.images.training, &mut self.log, &save)?;
        }
        save()
    }

    fn fit(&self, phase: &str, epochs: usize) -> Fit {
        Fit {
            epochs,
            batch_size: self.settings.batch,
            seed: self.settings.seed,
            checkpoint: Some(self.folder.file(&format!("{phase}.checkpoint.safetensors"))),
            checkpoint_every: self.checkpoint_every,
            read_every: if self.device.is_cpu() { 1 } else { READ_EVERY },
            ..Fit::default()
        }
    }

    fn test(&mut self, autoencoder: Option<Row>) -> Result<Test> {
        let clock = Instant::now();
        let validation = &self.images.training.validation;
        let filter = best_filter(validation, self.corruption, self.settings.batch)?;
        self.seconds
            .insert("choosing the filter", clock.elapsed().as_secs_f64());
        let clock = Instant::now();
        let Scores {
            ssim_corrupted,
            psnr_corrupted,
            ssim,
            psnr,
            ..
        } = scores("filter", &self.batches, &Device::Cpu, |images, _| {
            filter.apply(images)
        })?;
        let mut rows = vec![
            Row::new("corrupted", ssim_corrupted, psnr_corrupted),
            Row::new(filter.to_string(), ssim, psnr),
        ];
        rows.extend(autoencoder);
        let restored = scores("test", &self.batches, &self.device, |images, first| {
            restore(&self.model, images, first)
        })?;
        rows.push(Row::new(self.settings.model, restored.ssim, restored.psnr));
        let steps = along_steps(&self.model, &self.batches, &self.device)?;
        self.seconds.insert("testing", clock.elapsed().as_secs_f64());
        Ok(Test { filter, rows, steps })
    }

    /// Writes the contact sheet, its images, and the curves.
    fn draw(&self, test: &Test) -> Result<()> {
        let (task, model) = (self.task, self.settings.model);
        let shown = test_batches(&self.images.test, self.corruption, SHOWN)?.get(0, &self.device)?;
        let filtered = test.filter.apply(&shown.corrupted)?;
        let restored = restore(&self.model, &shown.corrupted, 0)?;
        let all: [(&str, &Tensor); 4] = [
            ("clean", &shown.clean),
            ("corrupted", &shown.corrupted),
            ("filtered", &filtered),
            ("restored", &restored),
        ];
        let path = self.folder.file(SHOWN_FILE);
        let all = all.map(|(name, images)| (name.to_string(), images.clone()));
        safetensors::write(&path, &all.into(), &json!({"shown": task.name}))?;
        let label = |row: Option<&Row>, name: &str| Label::with_ssim(name, row.map(|row| row.ssim));
        let images = self.images.test.len();
        ContactSheet {
            title: format!("{}: test images, SSIM over all {images} of them", task.name),
            rows: vec![
                (Label::new("clean"), shown.clean.clone()),
                (label(test.rows.first(), "corrupted"), shown.corrupted.clone()),
                (label(test.rows.get(1), &test.filter.to_string()), filtered),
                (label(test.rows.last(), model), restored),
            ],
        }
        .save(&self.folder.file("sheet.png"))?;
        if self.log.is_empty() {
            // A run may be resumed whose log was removed.
            note!("log.jsonl has no lines of this training: there is no curves.png, and no history");
            return Ok(());
        }
        curves::save(&self.folder.file("curves.png"), task.name, model, &self.log)
    }

    /// Writes and returns the results.
    fn write_results(&mut self, test: &Test) -> Result<Value> {
        let history: BTreeMap<_, _> = PHASES.map(|phase| (phase, self.log.epochs(phase))).into();
        for (phase, epochs) in history.iter().filter(|(_, epochs)| !epochs.is_empty()) {
            let seconds = epochs.iter().map(|epoch| epoch.seconds).sum();
            self.seconds.insert(phase, seconds);
        }
        let all = self.started.elapsed().as_secs_f64();
        self.seconds.insert("this run in all", all);
        let Self {
            task, model, images, ..
        } = self;
        let results = json!({
            "task": task.name,
            "command": self.settings.command(task),
            "library": env!("CARGO_PKG_VERSION"),
            "settings": self.settings,
            "corruption": self.corruption,
            "test_difficulty": self.corruption.test_difficulty(),
            "images": {
                "train": images.training.train.len(),
                "validation": images.training.validation.len(),
                "test": images.test.len(),
            },
            "data": images.report,
            "test_data": images.test_report,
            "recipe": self.recipe,
            "model": model.card(),
            "parameters": {
                if model.network().is_some() { "network" } else { "nca" }: parameters(model.weights()),
                "autoencoder": model.autoencoder().map(|(_, weights)| parameters(weights)),
            },
            "filter": test.filter,
            "scores": test.rows,
            "steps": test.steps,
            "seconds": self.seconds,
            "history": history,
        });
        self.folder.write("results.json", &results)?;
        Ok(results)
    }
}

fn parameters(weights: &Weights) -> usize {
    weights.vars().iter().map(|(_, var)| var.elem_count()).sum()
}

/// Rejects settings that the model cannot be trained with, before any work is done.
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

/// Trains with a progress bar and a log, and calls `improved` whenever the weights are the best so far. If
/// that fails, it is said, and the training goes on: the checkpoint has these weights, too, and where that
/// cannot be written, the training ends.
fn run_phase(
    fit: &Fit,
    trainer: &mut dyn Trainer,
    data: &TrainingData,
    log: &mut Log,
    improved: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let interrupt = Interrupt::listen();
    let fit = Fit {
        stop: Some(interrupt.flag()),
        ..fit.clone()
    };
    let mut progress = TrainingProgress::new(fit.epochs);
    let mut written = Ok(());
    let result = fit.run(trainer, data, &mut |event| {
        progress.show(event);
        let recorded = log.record(event, fit.epochs);
        let saved = match event {
            Event::Validated { best: true, .. } => improved(),
            _ => Ok(()),
        };
        if let (Ok(()), Err(error)) = (&written, recorded.and(saved)) {
            progress.say(&format!("warning: {error}; the training goes on"));
            written = Err(error);
        }
    });
    progress.finish();
    Ok(result?)
}
