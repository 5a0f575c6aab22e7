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
use serde_json::Value;

use super::{paper, report};
use lnca_examples::args::{Args as CellArgs, ModelName, Task, positive};
use lnca_examples::{Result, at, pipeline, write};

/// Without data of one's own, a table of a few minutes: images, epochs, and those of an autoencoder.
const BUILT_IN: (usize, usize, usize) = (400, 4, 10);

/// What the paper has.
const PAPER_EPOCHS: usize = 20;

/// What to train, on what, and how long.
#[derive(clap::Args)]
pub struct Args {
    /// A data set: NAME=DIR, or NAME=DIR,TEST_DIR with images of its own to test on. With the names celeba, cifar10,
    /// tinyimagenet, renoir, sid, gopro and realblur the paper's numbers stand beside ours. May be given
    /// more than once [default: 400 generated images, 4 epochs]
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

    /// Epochs of encoder, NCA and decoder of a latent model together, after the others; for the recipe `tuned`
    #[arg(long, value_name = "N", value_parser = positive)]
    end_to_end: Option<usize>,

    /// Take as few images as a model can learn from in so many minutes, by the speed of its first updates
    #[arg(long, value_name = "MINUTES")]
    pub minutes: Option<f64>,

    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive)]
    pub batch: usize,

    /// Side of the images in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 32, value_parser = positive)]
    size: usize,

    /// Seeds: each makes a training of its own, and a cell is their mean and spread
    #[arg(long, value_delimiter = ',', default_values = ["0"])]
    pub seeds: Vec<u64>,

    /// The recipe of the automata [default: paper; tuned on generated images, for which the paper's is too slow]
    #[arg(long, value_enum)]
    recipe: Option<RecipeName>,

    /// Change one field of every recipe, as in `denoise` and `deblur`
    #[arg(long, value_name = "FIELD=VALUE")]
    pub set: Vec<String>,

    /// Folder for everything that is written; a table that was stopped goes on from there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RecipeName {
    /// As published
    Paper,
    /// The library's own
    Tuned,
}

impl Args {
    /// The recipe that was asked for, or what suits the data.
    pub fn recipe(&self) -> RecipeName {
        let suits = if self.data.is_empty() {
            RecipeName::Tuned
        } else {
            RecipeName::Paper
        };
        self.recipe.unwrap_or(suits)
    }
}

#[derive(Clone, Debug)]
pub struct DataSet {
    pub name: String,
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
pub struct Cell<'a> {
    pub data: &'a DataSet,
    pub model: ModelName,
    pub seed: u64,
    pub dir: PathBuf,
    pub args: CellArgs,
}

/// What became of a cell: what its run wrote, or why it has none.
pub type Outcome = Result<Value, String>;

/// A cell and what became of it.
pub type Run<'a> = (&'a Cell<'a>, &'a Outcome);

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
    if let Some(twice) = (1..data.len()).find(|&n| data[..n].iter().any(|other| other.name == data[n].name)) {
        return Err(format!("`--data`: there are two sets of the name {}", data[twice].name).into());
    }
    let file = format!("speeds-{}-{}.json", args.size, args.batch);
    let speeds = speeds(&out.join(file), &models, args)?;
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
        report::write_all(task, args, &out, (data, &models), (&cells, &outcomes))?;
    }
    let text = report::write_all(task, args, &out, (data, &models), (&cells, &outcomes))?;
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
    let built_in = (data.dir.is_none() && args.epochs.is_none()).then_some(BUILT_IN.2);
    let ae_epochs = args.ae_epochs.or(built_in).unwrap_or(epochs);
    say("epochs", epochs.to_string());
    say("ae-epochs", ae_epochs.to_string());
    let end_to_end = args.end_to_end.filter(|_| model.is_latent());
    if let Some(epochs) = end_to_end {
        say("end-to-end", epochs.to_string());
    }
    let mut images = args.images.or_else(|| data.dir.is_none().then_some(BUILT_IN.0));
    if let (Some(minutes), Some((autoencoder, main))) = (args.minutes, speeds.get(name)) {
        let batch = autoencoder * ae_epochs as f64 + main * (epochs + end_to_end.unwrap_or(0)) as f64;
        let batches = (minutes * 60.0 / batch).max(1.0) as usize;
        // Of these, 64 % are trained on.
        let fit = (batches * args.batch).div_ceil(16) * 25;
        images = Some(images.map_or(fit, |images| images.min(fit)));
    }
    images
        .into_iter()
        .for_each(|images| say("images", images.to_string()));
    // Only latent models have a phase from end to end.
    let set = args
        .set
        .iter()
        .filter(|set| model.is_latent() || !set.starts_with("end_to_end."));
    set.for_each(|set| say("set", set.clone()));
    for (name, dir) in [("data", &data.dir), ("test-data", &data.test_dir)] {
        dir.iter().for_each(|dir| say(name, dir.display().to_string()));
    }
    if args.recipe() == RecipeName::Paper {
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
    let epochs = settings.epochs + settings.end_to_end.unwrap_or(0);
    batches * (autoencoder * settings.ae_epochs as f64 + main * epochs as f64)
}
