//! Tables 1 and 2: each model trained and tested on each data set.

mod cell;
mod report;
mod sheets;
mod speed;

use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;
use lnca::DeviceName;
use lnca_examples::args::{ModelName, OnDevice, amount, at_once, count, side};
use lnca_examples::lock::FolderLock;
use lnca_examples::output::print;
use lnca_examples::restoration::{self, Task};
use lnca_examples::{Result, note};

use super::paper;
use cell::{Cell, Outcome};
use speed::Speeds;

/// A table of a few minutes, on generated images.
const BUILT_IN: BuiltIn = BuiltIn {
    images: 400,
    epochs: 4,
    ae_epochs: 10,
};

struct BuiltIn {
    images: usize,
    epochs: usize,
    ae_epochs: usize,
}

/// What to train, on what, and how long
#[derive(clap::Args)]
pub struct Args {
    /// A data set: NAME=DIR, or NAME=DIR,TEST_DIR with its own images to test on. For the names celeba,
    /// cifar10, tinyimagenet, renoir, sid, gopro and realblur the table has the paper's numbers too. May be
    /// given more than once [default: 400 generated images, 4 epochs]
    #[arg(long, value_name = "NAME=DIR", value_parser = data_set)]
    data: Vec<DataSet>,

    /// Models to train [default: all five]
    #[arg(long, value_enum, value_delimiter = ',')]
    models: Vec<ModelName>,

    /// Use at most N images of each data set (for pairs N tiles), a random sample [default: all]
    #[arg(long, value_name = "N", value_parser = count)]
    images: Option<usize>,

    /// Epochs of each phase [default: 20]
    #[arg(long, value_name = "N", value_parser = count)]
    epochs: Option<usize>,

    /// Epochs of the autoencoder of a latent model [default: those of the other phases]
    #[arg(long, value_name = "N", value_parser = count)]
    ae_epochs: Option<usize>,

    /// Epochs of encoder, NCA and decoder of a latent model together, after the others; for the recipe
    /// `tuned`
    #[arg(long, value_name = "N", value_parser = count)]
    end_to_end: Option<usize>,

    /// Use only as many images as a model can train on in so many minutes, estimated from the speed of its
    /// first updates
    #[arg(long, value_name = "MINUTES", allow_negative_numbers = true, value_parser = amount)]
    minutes: Option<f64>,

    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_once)]
    batch: usize,

    /// Side of the images in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 32, value_parser = side)]
    size: usize,

    /// Seeds, each of which is a training; a cell is their mean and standard deviation
    #[arg(long, value_delimiter = ',', default_values = ["0"])]
    seeds: Vec<u64>,

    /// Recipe of the automata [default: paper; tuned for generated images, where the paper's is too slow]
    #[arg(long, value_enum)]
    recipe: Option<RecipeName>,

    /// Change one field of every recipe, as in `denoise` and `deblur`
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,

    /// Folder for everything that is written; a table that was stopped is resumed from there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    #[command(flatten)]
    device: OnDevice,
}

/// A recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RecipeName {
    /// As published
    Paper,
    /// The library's own
    Tuned,
}

impl Args {
    /// The recipe that is given, or the default for the data.
    fn recipe(&self) -> RecipeName {
        let default = match self.data.is_empty() {
            true => RecipeName::Tuned,
            false => RecipeName::Paper,
        };
        self.recipe.unwrap_or(default)
    }

    /// The rows, in the paper's order.
    fn models(&self) -> Vec<ModelName> {
        let all = paper::MODELS.into_iter();
        all.filter(|model| self.models.is_empty() || self.models.contains(model))
            .collect()
    }

    /// The columns.
    ///
    /// # Errors
    /// Two have the same name.
    fn data_sets(&self) -> Result<Vec<DataSet>> {
        if self.data.is_empty() {
            return Ok(vec![DataSet {
                name: "generated".into(),
                dir: None,
                test_dir: None,
            }]);
        }
        for (n, data) in self.data.iter().enumerate() {
            if self.data[..n].iter().any(|other| other.name == data.name) {
                return Err(format!("`--data`: there are two data sets named {}", data.name).into());
            }
        }
        Ok(self.data.clone())
    }
}

/// A column of the table.
#[derive(Clone, Debug)]
struct DataSet {
    name: String,
    /// Images; generated ones without it.
    dir: Option<PathBuf>,
    /// Images to test on, if they are not a part of the others.
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

/// A table: its task and arguments, and its cells, of which the first have outcomes.
struct Table<'a> {
    task: &'a Task,
    args: &'a Args,
    out: PathBuf,
    data: &'a [DataSet],
    models: Vec<ModelName>,
    cells: Vec<Cell<'a>>,
    outcomes: Vec<Outcome>,
}

impl<'a> Table<'a> {
    /// The runs of a column that have an outcome, in the order of their training.
    fn runs(&self, data: &DataSet) -> impl Iterator<Item = (&Cell<'a>, &Outcome)> {
        let runs = self.cells.iter().zip(&self.outcomes);
        runs.filter(move |(cell, _)| cell.data.name == data.name)
    }

    /// Trains and tests the cells that are not finished.
    fn fill(&mut self, speeds: &Speeds) -> Result<()> {
        let clock = Instant::now();
        let (mut expected, mut passed) = (0.0, 0.0);
        for number in 0..self.cells.len() {
            let cell = &self.cells[number];
            if let Some(results) = cell.finished()? {
                self.outcomes.push(Ok(results));
                continue;
            }
            let rest: f64 = self.cells[number..].iter().map(|cell| speeds.seconds(cell)).sum();
            // Estimates are corrected by the time that past cells took.
            let slower = if expected > 0.0 { passed / expected } else { 1.0 };
            note!(
                "[{}/{}] {} on {}, seed {}; about {:.0} min left in all",
                number + 1,
                self.cells.len(),
                cell.settings.model,
                cell.data.name,
                cell.seed,
                rest * slower / 60.0
            );
            let began = clock.elapsed().as_secs_f64();
            let outcome = restoration::train(self.task, &cell.args).map_err(|error| error.to_string());
            if let Err(error) = &outcome {
                note!("error: {}: {error}", cell.dir.display());
            }
            expected += speeds.seconds(cell);
            passed += clock.elapsed().as_secs_f64() - began;
            self.outcomes.push(outcome);
            // Written after every cell: the table may be stopped.
            report::write(self)?;
        }
        Ok(())
    }
}

/// Makes the table of a task.
pub fn run(task: &Task, args: &Args) -> Result<()> {
    let default = || ["out", "tables", task.name].iter().collect();
    let out: PathBuf = args.out.clone().unwrap_or_else(default);
    let data = args.data_sets()?;
    let _lock = FolderLock::take(&out)?;
    let models = args.models();
    let device = match args.device.name {
        DeviceName::Cpu => String::new(),
        DeviceName::Cuda(index) => format!("-cuda{index}"),
    };
    let file = format!("speeds-{}-{}{device}.json", args.size, args.batch);
    let speeds = Speeds::load(&out.join(file), &models, args)?;
    let mut cells = Vec::new();
    for data in &data {
        // The quick ones first, so that most of a table is there early.
        for &model in models.iter().rev() {
            for &seed in &args.seeds {
                cells.push(Cell::new(task, args, &out, (data, model, seed), &speeds)?);
            }
        }
    }
    let mut table = Table {
        task,
        args,
        out,
        data: &data,
        models,
        cells,
        outcomes: vec![],
    };
    table.fill(&speeds)?;
    print(report::write(&table)?)?;
    let out = table.out.display();
    print(format_args!(
        "In {out}: table.md, table.json, a sheet of images for each data set"
    ))?;
    match table.outcomes.iter().filter(|outcome| outcome.is_err()).count() {
        0 => Ok(()),
        failed => {
            let all = table.cells.len();
            Err(format!("{failed} of {all} cells have no result, for the reasons above").into())
        }
    }
}
