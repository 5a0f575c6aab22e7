//! Tables 3, 4 and 5: memory and time, each configuration measured in a process of its own.

mod cell;
mod charts;
pub mod measure;
mod meter;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use lnca_examples::args::{ModelName, OnDevice, amount, at_once, side};
use lnca_examples::lock::FolderLock;
use lnca_examples::output::begin;
use lnca_examples::{Result, folder, note};

use super::paper::{CONFIGURATIONS, Efficiency, MODELS};
use cell::Outcome;
use measure::{What, epoch_seconds};

/// What to measure
#[derive(clap::Args)]
pub struct Args {
    /// Tables to make
    #[arg(long = "table", value_enum, value_delimiter = ',', default_values = ["3", "4", "5"])]
    tables: Vec<Efficiency>,

    /// Models to measure [default: all five]
    #[arg(long, value_enum, value_delimiter = ',')]
    models: Vec<ModelName>,

    /// Sides of the images in pixels
    #[arg(long, value_delimiter = ',', default_values = ["32", "64", "128"], value_parser = side)]
    sizes: Vec<usize>,

    /// Images in a batch
    #[arg(long, value_delimiter = ',', default_values = ["8", "16", "32"], value_parser = at_once)]
    batches: Vec<usize>,

    /// Leave out the automata on plain Candle operations, which show what the engine gains
    #[arg(long)]
    engine_only: bool,

    /// Seconds for the repetitions of a cell, after a first one; there are at least two
    #[arg(long, default_value_t = 5.0, allow_negative_numbers = true, value_parser = amount)]
    seconds: f64,

    /// Seconds after which a cell is given up
    #[arg(long, default_value_t = 600)]
    give_up: u64,

    /// Memory that a cell may take, in GB [default: what is free; on a GPU there is no limit]
    #[arg(long, allow_negative_numbers = true, value_parser = amount)]
    memory: Option<f64>,

    /// Measure cells again that failed before; all others are read from --out
    #[arg(long)]
    retry: bool,

    #[command(flatten)]
    device: OnDevice,

    /// Folder for everything that is written
    #[arg(long, value_name = "DIR", default_value = "out/efficiency")]
    out: PathBuf,
}

/// What is measured: a model, on the engine or on plain Candle operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Subject {
    /// Its place in [`MODELS`].
    at: usize,
    plain: bool,
}

impl Subject {
    fn model(self) -> ModelName {
        MODELS[self.at]
    }

    fn name(self) -> String {
        let name = self.model().config().name();
        match self.plain {
            true => format!("{name}, plain Candle"),
            false => name.into(),
        }
    }
}

/// A place in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    subject: Subject,
    /// Side of the images in pixels.
    size: usize,
    batch: usize,
}

impl Cell {
    /// The paper's value in `table`.
    fn paper(self, table: Efficiency) -> Option<f64> {
        let configuration = (self.size, self.batch);
        let place = CONFIGURATIONS.iter().position(|known| *known == configuration)?;
        let values = table.paper(self.subject.model());
        values.get(place).copied().filter(|_| !self.subject.plain)
    }
}

/// The results of all measurements.
#[derive(Default)]
struct Results(BTreeMap<(Cell, What), Outcome>);

impl Results {
    /// The value of a cell in `table`, or why there is none.
    fn value(&self, table: Efficiency, cell: Cell) -> Result<f64, String> {
        let of = |what| match self.0.get(&(cell, what)) {
            Some(Outcome::Measured(measured)) => Ok(measured),
            Some(Outcome::Failed(reason)) => Err(reason.clone()),
            None => Err("not measured".to_string()),
        };
        let seconds = |what| Ok::<_, String>(of(what)?.batch_seconds());
        Ok(match table {
            Efficiency::Memory => of(What::Train)?.peak_mb / 1024.0,
            Efficiency::Training => epoch_seconds(cell.batch, seconds(What::Train)?, seconds(What::Infer)?),
            Efficiency::Inference => seconds(What::Infer)?,
        })
    }
}

impl Args {
    /// Sides of images and batches, the columns of the tables.
    fn configurations(&self) -> Vec<(usize, usize)> {
        let batches = |size| self.batches.iter().map(move |&batch| (size, batch));
        self.sizes.iter().flat_map(|&size| batches(size)).collect()
    }

    /// The rows of the tables.
    fn subjects(&self) -> Vec<Subject> {
        let mut subjects = Vec::new();
        for (at, model) in MODELS.into_iter().enumerate() {
            if !self.models.is_empty() && !self.models.contains(&model) {
                continue;
            }
            subjects.push(Subject { at, plain: false });
            if !self.engine_only && model.config().is_nca() {
                subjects.push(Subject { at, plain: true });
            }
        }
        subjects
    }

    /// All measurements, the small ones first, so that tables fill from the left.
    fn wanted(&self) -> Vec<(Cell, What)> {
        let needs = |what| match what {
            What::Train => self.tables.iter().any(|&table| table != Efficiency::Inference),
            What::Infer => self.tables.iter().any(|&table| table != Efficiency::Memory),
        };
        let whats: Vec<What> = [What::Train, What::Infer]
            .into_iter()
            .filter(|&w| needs(w))
            .collect();
        let mut wanted = Vec::new();
        for (size, batch) in self.configurations() {
            for subject in self.subjects() {
                let cell = Cell { subject, size, batch };
                wanted.extend(whats.iter().map(|&what| (cell, what)));
            }
        }
        wanted
    }
}

/// Measures what has not been measured before, and writes the tables.
pub fn run(args: &Args) -> Result<()> {
    args.device.open()?;
    let _lock = FolderLock::take(&args.out)?;
    folder(&args.out.join("cells"))?;
    let wanted = args.wanted();
    let mut results = Results::default();
    let clock = Instant::now();
    for (done, &(cell, what)) in wanted.iter().enumerate() {
        let passed = match done {
            0 => String::new(),
            _ => format!(", {:.0} min so far", clock.elapsed().as_secs_f64() / 60.0),
        };
        let doing = match what {
            What::Train => "training",
            What::Infer => "inference",
        };
        let (number, all, name) = (done + 1, wanted.len(), cell.subject.name());
        let (size, batch) = (cell.size, cell.batch);
        begin(format_args!(
            "[{number}/{all}{passed}] {doing} of {name}, {size} pixels, batch {batch}: "
        ));
        let outcome = cell::outcome(args, cell, what)?;
        match &outcome {
            Outcome::Measured(measured) => {
                let (seconds, peak) = (measured.batch_seconds(), measured.peak_mb);
                note!("{seconds:.3} s a batch, {peak:.0} MB");
            }
            Outcome::Failed(reason) => note!("{reason}"),
        }
        results.0.insert((cell, what), outcome);
    }
    report::write(args, &results)
}
