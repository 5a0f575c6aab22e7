//! The loop that trains a pattern: progress, log, checkpoints and previews.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use lnca::data::Picture;
use lnca::pattern::Rule;
use lnca::random::Key;
use lnca::render::{Background, enlarged, pictures, sheet, write_png};
use lnca::train::{PatternTrainer, Reading};
use lnca::{Pattern, PatternCard};
use serde::Serialize;

use super::args::positive;
use super::progress::bar;
use super::{Result, at};

/// Where a training starts and what it leaves
#[derive(clap::Args)]
pub struct PatternTraining {
    /// Model file to go on from, with a new pool and optimiser
    #[arg(long, value_name = "FILE")]
    start: Option<PathBuf>,

    /// Seed of weights, pool, masks and damage or directions
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Folder for the model, checkpoint, log and previews [default: out/ and the name of this example]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Updates between two previews and checkpoints
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = positive)]
    every: usize,

    /// Go on from the checkpoint in --out
    #[arg(long)]
    resume: bool,
}

/// A line of `log.jsonl`.
#[derive(Serialize)]
struct Line {
    update: usize,
    learning_rate: f64,
    /// Mean since the line before.
    loss: f64,
    seconds: f64,
}

impl PatternTraining {
    /// A pattern with random weights, or those of the model to start from.
    ///
    /// # Errors
    /// That model cannot be read or is of another kind.
    pub fn pattern(&self, card: PatternCard) -> Result<Pattern> {
        let pattern = Pattern::new(card, self.seed, &Device::Cpu)?;
        if let Some(path) = &self.start {
            let start = Pattern::load(path, &Device::Cpu)?;
            pattern.weights().load(&start.weights().snapshot()?)?;
        }
        Ok(pattern)
    }

    /// Trains to the end, with pictures of how it stands on the way.
    ///
    /// # Errors
    /// As the trainer, or a file cannot be written.
    pub fn run(
        &self,
        trainer: &mut PatternTrainer<Rule>,
        pattern: &Pattern,
        updates: usize,
        example: &str,
    ) -> Result<()> {
        let out = self.out.clone().unwrap_or_else(|| Path::new("out").join(example));
        fs::create_dir_all(&out).map_err(at(&out))?;
        let checkpoint = out.join("checkpoint.safetensors");
        let model = out.join("model.safetensors");
        let log = out.join("log.jsonl");
        if self.resume && checkpoint.exists() {
            trainer.resume(&checkpoint)?;
            eprintln!("goes on after update {} of {}", trainer.updates(), updates);
        } else if log.exists() {
            fs::remove_file(&log).map_err(at(&log))?;
        }
        let mut lines = fs::OpenOptions::new();
        let mut lines = lines.create(true).append(true).open(&log).map_err(at(&log))?;
        let bar = bar("training", updates).with_position(trainer.updates() as u64);
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(500));
        let (mut clock, mut losses) = (Instant::now(), vec![]);
        while trainer.updates() < updates {
            losses.push(Reading::total(&trainer.update()?));
            bar.inc(1);
            let (done, last) = (trainer.updates(), trainer.updates() == updates);
            if done.is_multiple_of(self.every.min(50)) || last {
                let line = Line {
                    update: done,
                    learning_rate: trainer.learning_rate(),
                    loss: losses.iter().sum::<f64>() / losses.len() as f64,
                    seconds: clock.elapsed().as_secs_f64(),
                };
                bar.set_message(format!("loss {:.3e}", line.loss));
                if done.is_multiple_of(500) || last {
                    bar.suspend(|| eprintln!("update {done:>5}  loss {:.3e}", line.loss));
                }
                writeln!(lines, "{}", serde_json::to_string(&line)?).map_err(at(&log))?;
                (clock, losses) = (Instant::now(), vec![]);
            }
            if done.is_multiple_of(self.every) || last {
                trainer.save(&checkpoint)?;
                pattern.save(&model)?;
                preview(trainer, pattern, &out)?;
            }
        }
        bar.finish_and_clear();
        Ok(())
    }
}

/// Two rows: states of the pool, and what the automaton makes of the seed in 32, 64, ..., 256 steps.
fn preview(trainer: &PatternTrainer<Rule>, pattern: &Pattern, out: &Path) -> Result<()> {
    let shown = |cells: &Tensor| -> Result<Vec<Picture>> {
        let pictures = pictures(&pattern.rgba(cells)?, Background::White)?;
        Ok(pictures.iter().map(|picture| enlarged(picture, 2)).collect())
    };
    let mut cells = pattern.seed(1, pattern.card().size)?;
    let mut made = vec![];
    for n in 0..8 {
        cells = pattern.rollout(32, Key::new(n)).run(pattern.rule(), &cells)?;
        made.extend(shown(&cells)?);
    }
    let rows = [shown(&trainer.pool(8)?)?, made];
    let name = format!("preview_{:05}.png", trainer.updates());
    Ok(write_png(&sheet(&rows, 4), out.join(name))?)
}
