//! The loop that trains a pattern: progress, log, checkpoints and previews.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use lnca::Pattern;
use lnca::data::Picture;
use lnca::pattern::Rule;
use lnca::random::Key;
use lnca::render::{Background, enlarged, pictures, sheet, write_png};
use lnca::train::{PatternTrainer, Reading};
use serde::Serialize;

use super::progress::bar;
use super::{Result, at};

/// How long a training is and what it leaves in a folder.
pub struct PatternTraining {
    pub out: PathBuf,
    pub updates: usize,
    /// Updates between two previews and checkpoints.
    pub every: usize,
    pub resume: bool,
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
    /// Trains to the end, with pictures of how it stands on the way.
    ///
    /// # Errors
    /// As the trainer, or a file cannot be written.
    pub fn run(&self, trainer: &mut PatternTrainer<Rule>, pattern: &Pattern) -> Result<()> {
        fs::create_dir_all(&self.out).map_err(at(&self.out))?;
        let checkpoint = self.out.join("checkpoint.safetensors");
        let model = self.out.join("model.safetensors");
        let log = self.out.join("log.jsonl");
        if self.resume && checkpoint.exists() {
            trainer.resume(&checkpoint)?;
            eprintln!("goes on after update {} of {}", trainer.updates(), self.updates);
        } else if log.exists() {
            fs::remove_file(&log).map_err(at(&log))?;
        }
        let mut lines = fs::OpenOptions::new();
        let mut lines = lines.create(true).append(true).open(&log).map_err(at(&log))?;
        let bar = bar("training", self.updates).with_position(trainer.updates() as u64);
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(500));
        let (mut clock, mut losses) = (Instant::now(), vec![]);
        while trainer.updates() < self.updates {
            losses.push(Reading::total(&trainer.update()?));
            bar.inc(1);
            let (done, last) = (trainer.updates(), trainer.updates() == self.updates);
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
                self.preview(trainer, pattern)?;
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Two rows: states of the pool, and what the automaton makes of the seed in 32, 64, ..., 256 steps.
    fn preview(&self, trainer: &PatternTrainer<Rule>, pattern: &Pattern) -> Result<()> {
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
        Ok(write_png(&sheet(&rows, 4), self.out.join(name))?)
    }
}
