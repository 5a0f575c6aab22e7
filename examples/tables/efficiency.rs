//! Tables 3, 4 and 5: memory and time, each configuration in a process of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::charts;
use super::measure::{Measured, STEPS, What, epoch_seconds};
use super::meter::available;
use super::paper::{CONFIGURATIONS, Efficiency, MODELS};
use lnca_examples::args::{DeviceName, ModelName, positive};
use lnca_examples::{Result, at, write};

/// What to measure.
#[derive(clap::Args)]
pub struct Args {
    /// Tables to make
    #[arg(long = "table", value_enum, value_delimiter = ',', default_values = ["3", "4", "5"])]
    tables: Vec<Efficiency>,

    /// Models to measure [default: all five]
    #[arg(long, value_enum, value_delimiter = ',')]
    models: Vec<ModelName>,

    /// Sides of the images in pixels
    #[arg(long, value_delimiter = ',', default_values = ["32", "64", "128"], value_parser = positive)]
    sizes: Vec<usize>,

    /// Images in a batch
    #[arg(long, value_delimiter = ',', default_values = ["8", "16", "32"], value_parser = positive)]
    batches: Vec<usize>,

    /// Leave out the automata on plain Candle operations, which show what the engine gains
    #[arg(long)]
    engine_only: bool,

    /// Seconds for the repetitions of a cell, after a first one; there are at least two
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,

    /// Seconds after which a cell is given up
    #[arg(long, default_value_t = 600)]
    give_up: u64,

    /// Memory that a cell may take, in GB [default: what is free; on a GPU there is no limit]
    #[arg(long)]
    memory: Option<f64>,

    /// Measure cells again that did not fit before; the others are read from --out
    #[arg(long)]
    retry: bool,

    /// Where to compute
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceName,

    /// Folder for everything that is written
    #[arg(long, value_name = "DIR", default_value = "out/efficiency")]
    out: PathBuf,
}

/// Who is measured: a model, on the engine or on plain Candle operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    at: usize,
    pub plain: bool,
}

impl Subject {
    pub fn model(self) -> ModelName {
        MODELS[self.at]
    }

    pub fn name(self) -> String {
        let name = self.model().config().name();
        match self.plain {
            true => format!("{name}, plain Candle"),
            false => name.into(),
        }
    }
}

/// What became of a cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Measured(Measured),
    Failed(String),
}

impl Outcome {
    fn measured(&self) -> Option<&Measured> {
        match self {
            Self::Measured(measured) => Some(measured),
            Self::Failed(_) => None,
        }
    }
}

type Cell = (Subject, usize, usize);

/// The cells of both kinds of measurement.
type Cells = BTreeMap<(Subject, usize, usize, bool), Outcome>;

/// Makes the tables.
pub fn run(args: &Args) -> Result<()> {
    args.device.open()?;
    std::fs::create_dir_all(args.out.join("cells")).map_err(at(&args.out))?;
    let configurations: Vec<(usize, usize)> = args
        .sizes
        .iter()
        .flat_map(|&size| args.batches.iter().map(move |&batch| (size, batch)))
        .collect();
    let subjects = subjects(args);
    let mut wanted: Vec<(Cell, What)> = Vec::new();
    // The small ones first: a table grows from its left.
    for &(size, batch) in &configurations {
        for &subject in &subjects {
            let cell = (subject, size, batch);
            if args.tables.iter().any(|&table| table != Efficiency::Inference) {
                wanted.push((cell, What::Train));
            }
            if args.tables.iter().any(|&table| table != Efficiency::Memory) {
                wanted.push((cell, What::Infer));
            }
        }
    }
    let mut cells = Cells::new();
    let clock = Instant::now();
    for (done, (cell, what)) in wanted.iter().enumerate() {
        let (subject, size, batch) = *cell;
        let left = match done {
            0 => String::new(),
            done => {
                let each = clock.elapsed().as_secs_f64() / done as f64;
                format!(", {:.0} min so far", each * done as f64 / 60.0)
            }
        };
        let doing = match what {
            What::Train => "training",
            What::Infer => "inference",
        };
        eprint!(
            "[{}/{}{left}] {doing} of {}, {size} pixels, batch {batch}: ",
            done + 1,
            wanted.len(),
            subject.name()
        );
        let outcome = cell_outcome(args, *cell, *what)?;
        match &outcome {
            Outcome::Measured(measured) => {
                let (seconds, peak) = (measured.batch_seconds(), measured.peak_mb);
                eprintln!("{seconds:.3} s a batch, {peak:.0} MB");
            }
            Outcome::Failed(reason) => eprintln!("{reason}"),
        }
        cells.insert((subject, size, batch, *what == What::Train), outcome);
    }
    let mut text = heading(args);
    let mut tables = Vec::new();
    for &table in &args.tables {
        let values = |cell| value(table, &cells, cell);
        text += &markdown(table, &subjects, &configurations, values);
        tables.push(json!({
            "table": table.number(),
            "what": table.title(),
            "rows": subjects.iter().map(|&subject| json!({
                "model": subject.model().config().name(),
                "plain_candle": subject.plain,
                "values": configurations.iter().map(|&(size, batch)| {
                    let value = values((subject, size, batch));
                    json!({
                        "size": size, "batch": batch,
                        "value": value.as_ref().ok(),
                        "reason": value.as_ref().err(),
                        "paper": paper(table, subject, size, batch),
                    })
                }).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
        }));
        let path = args.out.join(format!("table{}.png", table.number()));
        charts::efficiency(&path, table, &subjects, &configurations, values)?;
    }
    let all = json!({
        "library": env!("CARGO_PKG_VERSION"),
        "threads": threads(),
        "processor": processor(),
        "device": args.device.to_possible_value().map(|name| name.get_name().to_string()),
        "seconds": args.seconds,
        "tables": tables,
    });
    write(
        &args.out.join("tables.json"),
        serde_json::to_string_pretty(&all)?.as_bytes(),
    )?;
    write(&args.out.join("tables.md"), text.as_bytes())?;
    println!("{text}");
    println!(
        "In {}: tables.md, tables.json, table3.png and so on",
        args.out.display()
    );
    Ok(())
}

fn subjects(args: &Args) -> Vec<Subject> {
    let asked = |model| args.models.is_empty() || args.models.contains(&model);
    let mut subjects = Vec::new();
    for (at, &model) in MODELS.iter().enumerate() {
        if !asked(model) {
            continue;
        }
        subjects.push(Subject { at, plain: false });
        if !args.engine_only && model.config().is_nca() {
            subjects.push(Subject { at, plain: true });
        }
    }
    subjects
}

/// A cell as it was measured before, or as it is now.
fn cell_outcome(args: &Args, (subject, size, batch): Cell, what: What) -> Result<Outcome> {
    let name = |value: &dyn Fn() -> Option<clap::builder::PossibleValue>| {
        value().map_or(String::new(), |name| name.get_name().to_string())
    };
    let model = name(&|| subject.model().to_possible_value());
    let (what, device) = (
        name(&|| what.to_possible_value()),
        name(&|| args.device.to_possible_value()),
    );
    let path = if subject.plain { "plain" } else { "engine" };
    let file = args
        .out
        .join("cells")
        .join(format!("{device}-{what}-{model}-{path}-{size}-{batch}.json"));
    if let Some(found) = read(&file).filter(|found| found.measured().is_some() || !args.retry) {
        return Ok(found);
    }
    let mut words = vec![
        "measure".to_string(),
        format!("--model={model}"),
        format!("--size={size}"),
        format!("--batch={batch}"),
        format!("--what={what}"),
        format!("--seconds={}", args.seconds),
        format!("--device={device}"),
    ];
    if subject.plain {
        words.push("--plain".into());
    }
    let outcome = measure(args, &words)?;
    write(&file, serde_json::to_string_pretty(&outcome)?.as_bytes())?;
    Ok(outcome)
}

fn read(file: &Path) -> Option<Outcome> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// Runs a process that measures one cell, with limits on its memory and time.
fn measure(args: &Args, words: &[String]) -> Result<Outcome> {
    let program = std::env::current_exe()?;
    let limit = match args.device {
        DeviceName::Cpu => args.memory.map(|gb| gb * 1024.0).or_else(available),
        DeviceName::Cuda => None,
    };
    let mut command = match limit.filter(|_| cfg!(unix)) {
        // The limit is the shell's, and holds for what it becomes.
        Some(megabytes) => {
            let mut command = Command::new("sh");
            let limit = format!("{:.0}", megabytes * 1024.0);
            let script = r#"limit=$1; shift; ulimit -v "$limit"; exec "$@""#;
            command.args(["-c", script, "sh", &limit]).arg(program);
            command
        }
        None => Command::new(program),
    };
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // Candle's threads wait for each other busily; where anything else runs too that costs many times the work.
        command.env("CANDLE_NUM_THREADS", "1");
    }
    let mut child = command
        .args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let started = Instant::now();
    let given_up = loop {
        if child.try_wait()?.is_some() {
            break false;
        }
        if started.elapsed() > Duration::from_secs(args.give_up) {
            child.kill()?;
            break true;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let output = child.wait_with_output()?;
    if given_up {
        return Ok(Outcome::Failed(format!("not done after {} s", args.give_up)));
    }
    if output.status.success()
        && let Ok(measured) = serde_json::from_slice(&output.stdout)
    {
        return Ok(Outcome::Measured(measured));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or_default();
    let out_of_memory = said.contains("memory allocation") || said.contains("out of memory");
    Ok(Outcome::Failed(
        match (out_of_memory || output.status.code().is_none(), limit) {
            (true, Some(limit)) => format!("needs more memory than {:.1} GB", limit / 1024.0),
            (true, None) => "out of memory".into(),
            (false, _) => format!("{}: {last}", output.status),
        },
    ))
}

/// The value of a cell in a table, or why there is none.
fn value(table: Efficiency, cells: &Cells, (subject, size, batch): Cell) -> Result<f64, String> {
    let of = |train| match cells.get(&(subject, size, batch, train)) {
        Some(Outcome::Measured(measured)) => Ok(measured),
        Some(Outcome::Failed(reason)) => Err(reason.clone()),
        None => Err("not measured".to_string()),
    };
    Ok(match table {
        Efficiency::Memory => of(true)?.peak_mb / 1024.0,
        Efficiency::Training => epoch_seconds(batch, of(true)?.batch_seconds(), of(false)?.batch_seconds()),
        Efficiency::Inference => of(false)?.batch_seconds(),
    })
}

/// The paper's value of a cell.
pub fn paper(table: Efficiency, subject: Subject, size: usize, batch: usize) -> Option<f64> {
    let place = CONFIGURATIONS.iter().position(|known| *known == (size, batch))?;
    table
        .paper(subject.model())
        .get(place)
        .copied()
        .filter(|_| !subject.plain)
}

fn heading(args: &Args) -> String {
    let place = match args.device {
        DeviceName::Cpu => format!("{} ({} threads)", processor(), threads()),
        DeviceName::Cuda => "a CUDA GPU".into(),
    };
    format!(
        "Measured on {place}, lnca {}; the paper's numbers are of an A100. A batch of training is all of its updates, \
         of {} steps each; of the latent models it is one batch of the autoencoder and one of the automaton. \
         Medians; an epoch is 800 images of training and 200 of validation, from the time of its batches. Memory is the \
         peak of a process without the pool's states.\n",
        env!("CARGO_PKG_VERSION"),
        STEPS,
    )
}

fn markdown(
    table: Efficiency,
    subjects: &[Subject],
    configurations: &[(usize, usize)],
    value: impl Fn(Cell) -> Result<f64, String>,
) -> String {
    let mut reasons: Vec<String> = Vec::new();
    let mut text = format!("\n### Table {}: {}\n\n| model |", table.number(), table.title());
    for (size, batch) in configurations {
        text += &format!(" {size}/{batch} |");
    }
    text += &format!("\n| --- |{}\n", " --- |".repeat(configurations.len()));
    for &subject in subjects {
        text += &format!("| {} |", subject.name());
        for &(size, batch) in configurations {
            text += &match value((subject, size, batch)) {
                Ok(value) => format!(" {} |", short(value)),
                Err(reason) => {
                    let known = reasons.iter().position(|known| *known == reason);
                    let number = known.unwrap_or_else(|| {
                        reasons.push(reason);
                        reasons.len() - 1
                    });
                    format!(" – ({}) |", number + 1)
                }
            };
        }
        text += "\n";
        if !subject.plain {
            text += "| *the paper* |";
            for &(size, batch) in configurations {
                let number = paper(table, subject, size, batch);
                text += &number.map_or(" – |".into(), |number| format!(" *{number}* |"));
            }
            text += "\n";
        }
    }
    for (number, reason) in reasons.iter().enumerate() {
        text += &format!("\n({}) {reason}\n", number + 1);
    }
    text
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

/// Threads that the cells use.
fn threads() -> usize {
    let asked = std::env::var("RAYON_NUM_THREADS")
        .ok()
        .and_then(|text| text.parse().ok());
    let there = || std::thread::available_parallelism().map_or(1, usize::from);
    asked.filter(|&threads| threads > 0).unwrap_or_else(there)
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name"));
    let name = name.and_then(|line| line.split_once(':'));
    name.map_or("an unknown processor".into(), |(_, name)| name.trim().to_string())
}
