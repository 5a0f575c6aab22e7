//! One measurement: read from a file if it was made before, otherwise made in a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use lnca::DeviceName;
use lnca::io::write_atomic;
use lnca_examples::Result;
use lnca_examples::args::word;
use serde::{Deserialize, Serialize};

use super::measure::{Measured, What};
use super::meter::available;
use super::{Args, Cell};

/// The outcome of a measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Measured(Measured),
    /// Why there is no measurement.
    Failed(String),
}

/// The outcome of a measurement, made now unless it is in a file of an earlier run.
pub fn outcome(args: &Args, cell: Cell, what: What) -> Result<Outcome> {
    let file = file(args, cell, what);
    let made = |outcome: &Outcome| matches!(outcome, Outcome::Measured(_)) || !args.retry;
    if let Some(found) = read(&file).filter(made) {
        return Ok(found);
    }
    let mut words = vec![
        "measure".to_string(),
        format!("--model={}", word(cell.subject.model())),
        format!("--size={}", cell.size),
        format!("--batch={}", cell.batch),
        format!("--what={}", word(what)),
        format!("--seconds={}", args.seconds),
        format!("--device={}", args.device.name),
    ];
    if cell.subject.plain {
        words.push("--plain".into());
    }
    let outcome = measure(args, &words)?;
    write_atomic(&file, serde_json::to_string_pretty(&outcome)?.as_bytes())?;
    Ok(outcome)
}

fn file(args: &Args, cell: Cell, what: What) -> PathBuf {
    let (what, model) = (word(what), word(cell.subject.model()));
    // A colon is not for names of files everywhere.
    let device = args.device.name.to_string().replace(':', "");
    let path = if cell.subject.plain { "plain" } else { "engine" };
    let (size, batch) = (cell.size, cell.batch);
    let name = format!("{device}-{what}-{model}-{path}-{size}-{batch}.json");
    args.out.join("cells").join(name)
}

fn read(file: &Path) -> Option<Outcome> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// Runs this program with the arguments `words`, which measure one cell, with limits on its memory and time.
fn measure(args: &Args, words: &[String]) -> Result<Outcome> {
    // In MiB.
    let limit = match args.device.name {
        DeviceName::Cpu => args.memory.map(|gb| gb * 1024.0).or_else(available),
        DeviceName::Cuda(_) => None,
    };
    let mut command = limited(limit)?;
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // Candle's threads wait for each other spinning, which is very slow on a busy machine.
        command.env("CANDLE_NUM_THREADS", "1");
    }
    command.args(words);
    let Some(output) = output(command, Duration::from_secs(args.give_up))? else {
        return Ok(Outcome::Failed(format!("not done after {} s", args.give_up)));
    };
    if output.status.success()
        && let Ok(measured) = serde_json::from_slice(&output.stdout)
    {
        return Ok(Outcome::Measured(measured));
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().rfind(|line| !line.trim().is_empty());
    let out_of_memory = stderr.contains("memory allocation") || stderr.contains("out of memory");
    let reason = match (out_of_memory || output.status.code().is_none(), limit) {
        (true, Some(limit)) => format!("needs more memory than {:.1} GB", limit / 1024.0),
        (true, None) => "out of memory".into(),
        (false, _) => format!("{}: {}", output.status, last.unwrap_or_default()),
    };
    Ok(Outcome::Failed(reason))
}

/// This program, with at most so many MiB of memory where the system can limit it.
fn limited(limit: Option<f64>) -> Result<Command> {
    let program = std::env::current_exe()?;
    Ok(match limit.filter(|_| cfg!(unix)) {
        // The shell's limit also holds for the program that replaces it.
        Some(megabytes) => {
            let mut command = Command::new("sh");
            let limit = format!("{:.0}", megabytes * 1024.0);
            let script = r#"limit=$1; shift; ulimit -v "$limit"; exec "$@""#;
            command.args(["-c", script, "sh", &limit]).arg(program);
            command
        }
        None => Command::new(program),
    })
}

/// The output of a process; `None` if it was killed because it took longer than `limit`.
fn output(mut command: Command, limit: Duration) -> Result<Option<Output>> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(Some(child.wait_with_output()?))
}
