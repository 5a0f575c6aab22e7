//! The loop of a training that is a number of updates: progress, log, checkpoints, and what is to be seen on the way.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lnca::train::Reading;
use serde::Serialize;

use super::args::positive;
use super::progress::bar;
use super::{Result, at};

/// Where a training starts and what it leaves
#[derive(clap::Args)]
pub struct Training {
    /// Model file to go on from, with a new pool and optimiser
    #[arg(long, value_name = "FILE")]
    pub start: Option<PathBuf>,

    /// Seed of weights and of all that is drawn in training
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Folder for the model, checkpoint, log and previews [default: out/ and the name of this example]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Updates between two previews and checkpoints
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = positive)]
    every: usize,

    /// Go on from the checkpoint in --out
    #[arg(long)]
    resume: bool,
}

/// What is trained, update by update.
pub trait Learner {
    /// The number of updates made.
    fn updates(&self) -> usize;

    /// The learning rate of the next update.
    fn learning_rate(&self) -> f64;

    /// One update.
    fn update(&mut self) -> lnca::Result<Vec<Reading>>;

    /// Writes all that the next update depends on.
    fn save(&self, checkpoint: &Path) -> lnca::Result<()>;

    /// Goes on from such a file.
    fn resume(&mut self, checkpoint: &Path) -> lnca::Result<()>;

    /// Writes the model as it is.
    fn save_model(&self, path: &Path) -> lnca::Result<()>;

    /// Writes a picture of how the training stands.
    fn preview(&self, path: &Path) -> Result<()>;
}

/// A line of `log.jsonl`; losses are means since the line before.
#[derive(Serialize)]
struct Line {
    update: usize,
    learning_rate: f64,
    loss: f64,
    /// Terms of the loss, each without its weight.
    terms: BTreeMap<&'static str, f64>,
    seconds: f64,
}

impl Training {
    /// The folder of the results of `example`.
    pub fn folder(&self, example: &str) -> PathBuf {
        self.out.clone().unwrap_or_else(|| Path::new("out").join(example))
    }

    /// Trains to the end, with pictures of how it stands on the way.
    ///
    /// # Errors
    /// As the learner, or a file cannot be written.
    pub fn run(&self, learner: &mut dyn Learner, updates: usize, example: &str) -> Result<()> {
        let out = self.folder(example);
        fs::create_dir_all(&out).map_err(at(&out))?;
        let checkpoint = out.join("checkpoint.safetensors");
        let model = out.join("model.safetensors");
        let log = out.join("log.jsonl");
        if self.resume && checkpoint.exists() {
            learner.resume(&checkpoint)?;
            eprintln!("goes on after update {} of {}", learner.updates(), updates);
        } else if log.exists() {
            fs::remove_file(&log).map_err(at(&log))?;
        }
        let mut lines = fs::OpenOptions::new();
        let mut lines = lines.create(true).append(true).open(&log).map_err(at(&log))?;
        let bar = bar("training", updates).with_position(learner.updates() as u64);
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(500));
        let (mut clock, mut readings) = (Instant::now(), vec![]);
        while learner.updates() < updates {
            readings.push(learner.update()?);
            bar.inc(1);
            let (done, last) = (learner.updates(), learner.updates() == updates);
            if done.is_multiple_of(self.every.min(50)) || last {
                let mut line = Line {
                    update: done,
                    learning_rate: learner.learning_rate(),
                    loss: 0.0,
                    terms: BTreeMap::new(),
                    seconds: clock.elapsed().as_secs_f64(),
                };
                for reading in readings.iter().flatten() {
                    let share = reading.value / readings.len() as f64;
                    line.loss += reading.weight * share;
                    *line.terms.entry(reading.name).or_default() += share;
                }
                bar.set_message(format!("loss {:.3e}", line.loss));
                if done.is_multiple_of(500) || last {
                    bar.suspend(|| eprintln!("update {done:>5}  loss {:.3e}", line.loss));
                }
                writeln!(lines, "{}", serde_json::to_string(&line)?).map_err(at(&log))?;
                (clock, readings) = (Instant::now(), vec![]);
            }
            if done.is_multiple_of(self.every) || last {
                learner.save(&checkpoint)?;
                learner.save_model(&model)?;
                learner.preview(&out.join(format!("preview_{done:05}.png")))?;
            }
        }
        bar.finish_and_clear();
        Ok(())
    }
}
