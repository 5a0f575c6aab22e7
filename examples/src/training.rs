//! The loop around a [`Learner`]: progress, log, checkpoints and previews.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lnca::train::{Learner, Reading};
use lnca::{DeviceName, Error};
use serde::Serialize;
use serde_json::Value;

use crate::args::{OnDevice, count};
use crate::interrupt::Interrupt;
use crate::lines::{self, Lines};
use crate::lock::FolderLock;
use crate::progress::bar;
use crate::{Result, at, note};

/// Where a training starts and what it writes
#[derive(clap::Args)]
pub struct Training {
    /// Model file to start from, with a new pool and optimiser
    #[arg(long, value_name = "FILE")]
    pub start: Option<PathBuf>,

    /// Seed of the weights and of every draw in training
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Folder for the model, checkpoint, log and previews [default: out/ and the name of this example]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Updates between two previews and checkpoints
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = count)]
    every: usize,

    /// Resume from the checkpoint in --out
    #[arg(long)]
    resume: bool,

    #[command(flatten)]
    pub device: OnDevice,
}

/// Where the model and a preview of it are to be written.
pub struct Snapshot {
    /// The model file.
    pub model: PathBuf,
    /// A PNG.
    pub preview: PathBuf,
}

impl Training {
    /// Takes the folder of this training, before anything that takes long.
    ///
    /// # Errors
    /// Another process writes there, or it cannot be written.
    pub fn folder(&self, example: &str) -> Result<TrainingFolder> {
        let out = self.out.clone().unwrap_or_else(|| Path::new("out").join(example));
        let lock = FolderLock::take(&out)?;
        Ok(TrainingFolder { out, _lock: lock })
    }

    /// Makes `updates` updates. Every now and then, and after the last, a checkpoint is saved and `write` is
    /// called to write the model and a preview.
    ///
    /// # Errors
    /// Those of the learner and of `write`; a file cannot be read or written. Only the log may fail: that is
    /// said, and the training goes on.
    pub fn run<L: Learner>(
        &self,
        TrainingFolder { out, _lock }: TrainingFolder,
        learner: &mut L,
        updates: usize,
        write: impl Fn(&L, Snapshot) -> Result<()>,
    ) -> Result<()> {
        let (checkpoint, model) = (out.join("checkpoint.safetensors"), out.join("model.safetensors"));
        let there = |path: &Path| path.try_exists().map_err(at(path));
        if self.resume && there(&checkpoint)? {
            learner.resume(&checkpoint)?;
            note!("resuming after update {} of {updates}", learner.updates());
        } else if self.resume {
            let checkpoint = checkpoint.display();
            if there(&model)? {
                let advice = "leave out --resume to start over";
                return Err(format!("{checkpoint} is missing, there is nothing to resume: {advice}").into());
            }
            note!("{checkpoint}: not there, starting");
        }
        let mut log = Log::open(&out.join("log.jsonl"), learner.updates())?;
        let bar = bar("training", updates).with_position(learner.updates() as u64);
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(500));
        let snapshot = |learner: &L| {
            let preview = out.join(format!("preview_{:05}.png", learner.updates()));
            let model = model.clone();
            write(learner, Snapshot { model, preview })
        };
        if learner.updates() >= updates {
            // It may have ended between its last checkpoint and the model.
            snapshot(learner)?;
        }
        let interrupt = Interrupt::listen();
        learner.defer(self.device.name != DeviceName::Cpu);
        while learner.updates() < updates {
            log.push(learner.update()?);
            bar.inc(1);
            let (done, last) = (learner.updates(), learner.updates() == updates);
            if interrupt.is_raised() && !last {
                log.push(learner.settle()?);
                log.write(done, learner.learning_rate())?;
                learner.save(&checkpoint)?;
                bar.finish_and_clear();
                let at = format!("update {done} of {updates}");
                return Err(Error::Interrupted { at }.into());
            }
            if done.is_multiple_of(self.every.min(50)) || last {
                log.push(learner.settle()?);
                let loss = log.write(done, learner.learning_rate())?;
                bar.set_message(format!("loss {loss:.3e}"));
                if done.is_multiple_of(500) || last {
                    bar.suspend(|| note!("update {done:>5}  loss {loss:.3e}"));
                }
            }
            if done.is_multiple_of(self.every) || last {
                learner.save(&checkpoint)?;
                snapshot(learner)?;
            }
        }
        bar.finish_and_clear();
        Ok(())
    }
}

/// A line of the log. Losses are means over the updates since the line before.
#[derive(Serialize)]
struct Line {
    update: usize,
    learning_rate: f64,
    loss: f64,
    /// Terms of the loss, unweighted.
    terms: BTreeMap<&'static str, f64>,
    seconds: f64,
}

/// The folder of a training, held against other processes.
pub struct TrainingFolder {
    out: PathBuf,
    _lock: FolderLock,
}

/// `log.jsonl`, and what its next line is about.
struct Log {
    lines: Lines,
    readings: Vec<Vec<Reading>>,
    clock: Instant,
}

impl Log {
    /// The log of a training that goes on after so many updates; later lines are of updates that its
    /// checkpoint lacks.
    fn open(path: &Path, updates: usize) -> Result<Self> {
        let mut lines = match updates {
            0 => vec![],
            _ => lines::read(path)?,
        };
        lines.retain(|line| {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            line["update"]
                .as_u64()
                .is_some_and(|update| update <= updates as u64)
        });
        Ok(Self {
            lines: Lines::start(path, &lines)?,
            readings: vec![],
            clock: Instant::now(),
        })
    }

    /// Adds the losses of an update, or, where they are read later, the means of several: then they are all
    /// of the next line.
    fn push(&mut self, readings: Vec<Reading>) {
        if !readings.is_empty() {
            self.readings.push(readings);
        }
    }

    /// Writes a line and returns its loss.
    fn write(&mut self, update: usize, learning_rate: f64) -> Result<f64> {
        let mut line = Line {
            update,
            learning_rate,
            loss: 0.0,
            terms: BTreeMap::new(),
            seconds: self.clock.elapsed().as_secs_f64(),
        };
        for reading in self.readings.iter().flatten() {
            let share = reading.value / self.readings.len() as f64;
            line.loss += reading.weight * share;
            *line.terms.entry(reading.name).or_default() += share;
        }
        self.lines.push(&serde_json::to_string(&line)?);
        (self.clock, self.readings) = (Instant::now(), vec![]);
        Ok(line.loss)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        training: Training,
    }

    /// Learns nothing, and remembers how often it was asked to.
    struct Counter(usize);

    impl Learner for Counter {
        fn updates(&self) -> usize {
            self.0
        }

        fn learning_rate(&self) -> f64 {
            0.5
        }

        fn update(&mut self) -> lnca::Result<Vec<Reading>> {
            self.0 += 1;
            Ok(vec![Reading {
                name: "term",
                weight: 2.0,
                value: self.0 as f64,
            }])
        }

        fn save(&self, checkpoint: &Path) -> lnca::Result<()> {
            lnca::io::write_atomic(checkpoint, self.0.to_string().as_bytes())
        }

        fn resume(&mut self, checkpoint: &Path) -> lnca::Result<()> {
            let text = fs::read_to_string(checkpoint).unwrap_or_default();
            self.0 = text.parse().unwrap_or_default();
            Ok(())
        }
    }

    #[test]
    fn a_training_is_logged_saved_and_resumed() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let out = folder.path().display().to_string();
        let train = |words: &[&str], learner: &mut Counter, updates: usize| -> Result<Vec<String>> {
            let words = [&["train", "--every", "2", "--out", &out], words].concat();
            let previews = std::cell::RefCell::new(vec![]);
            let write = |learner: &Counter, snapshot: Snapshot| -> Result<()> {
                let name = snapshot.preview.file_name().unwrap_or_default();
                previews
                    .borrow_mut()
                    .push(format!("{} {}", learner.0, name.display()));
                Ok(())
            };
            let training = Command::parse_from(words).training;
            training.run(training.folder("test")?, learner, updates, write)?;
            Ok(previews.into_inner())
        };
        let lines = || fs::read_to_string(folder.path().join("log.jsonl"));
        let first = train(&[], &mut Counter(0), 3)?;
        assert_eq!(first, ["2 preview_00002.png", "3 preview_00003.png"]);
        assert_eq!(lines()?.lines().count(), 2);
        assert!(
            lines()?.contains(r#""loss":3.0,"terms":{"term":1.5}"#),
            "{}",
            lines()?
        );

        let resumed = train(&["--resume"], &mut Counter(0), 5)?;
        assert_eq!(resumed, ["4 preview_00004.png", "5 preview_00005.png"]);
        // It may have been killed before the model was written.
        assert_eq!(train(&["--resume"], &mut Counter(0), 5)?, ["5 preview_00005.png"]);
        assert_eq!(lines()?.lines().count(), 4);

        // A crash cut the last line short, after lines of updates that the checkpoint lacks.
        let later = lines()? + "{\"update\":6,\"loss\":1.0}\n{\"upd";
        fs::write(folder.path().join("log.jsonl"), later)?;
        train(&["--resume"], &mut Counter(0), 7)?;
        let text = lines()?;
        let updates = text
            .lines()
            .map(|line| Ok(serde_json::from_str::<Value>(line)?["update"].as_u64()));
        let updates: Vec<Option<u64>> = updates.collect::<Result<_>>()?;
        assert_eq!(updates, [2, 3, 4, 5, 6, 7].map(Some));

        fs::write(folder.path().join("model.safetensors"), "")?;
        fs::remove_file(folder.path().join("checkpoint.safetensors"))?;
        let error = train(&["--resume"], &mut Counter(0), 7).unwrap_err().to_string();
        assert!(error.contains("checkpoint.safetensors is missing"), "{error}");
        assert_eq!(lines()?, text, "the log is kept");

        train(&[], &mut Counter(0), 2)?;
        assert_eq!(lines()?.lines().count(), 1);
        Ok(())
    }
}
