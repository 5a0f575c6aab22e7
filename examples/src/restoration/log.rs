//! The log of a training: a line of JSON for each batch and epoch. It survives a kill.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lnca::train::Event;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::lines::{self, Lines};

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    /// After a batch of training.
    Batch {
        phase: String,
        epoch: usize,
        batch: usize,
        learning_rate: f64,
        /// Weighted terms of the loss.
        losses: BTreeMap<String, f64>,
        seconds: f64,
    },
    /// After the validation of an epoch.
    Validated {
        phase: String,
        epoch: usize,
        ssim: f64,
        best: bool,
        seconds: f64,
    },
}

/// The lines of a run, in memory and in a file.
pub struct Log {
    path: PathBuf,
    file: Lines,
    lines: Vec<Line>,
    clock: Instant,
}

/// All phases of training, in their order.
pub const PHASES: [&str; 4] = ["autoencoder", "nca", "network", "end-to-end"];

/// Summary of an epoch.
#[derive(Clone, Debug, Serialize)]
pub struct Epoch {
    /// Its number in its phase, from 0.
    pub epoch: usize,
    /// Weighted terms of the loss, means over the batches.
    pub losses: BTreeMap<String, f64>,
    /// That of the last update.
    pub learning_rate: f64,
    /// Mean over the validation images.
    pub ssim: f64,
    /// Whether it is the best so far.
    pub best: bool,
    /// Of training and validation.
    pub seconds: f64,
}

impl Log {
    /// Opens a log and reads its lines; those that a crash damaged are left out.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn open(path: &Path) -> Result<Self> {
        let lines = lines::read(path)?.into_iter();
        let lines: Vec<Line> = lines
            .filter_map(|line| serde_json::from_str(&line).ok())
            .collect();
        Ok(Self {
            path: path.into(),
            file: file(path, &lines)?,
            lines,
            clock: Instant::now(),
        })
    }

    /// Records an event. At the start of a phase, lines later than the checkpoint are removed.
    pub fn record(&mut self, event: &Event, epochs: usize) -> Result<()> {
        let seconds = self.clock.elapsed().as_secs_f64();
        let line = match *event {
            Event::Started { phase, done, batches } => {
                self.clock = Instant::now();
                return self.rewind(phase, done, batches / epochs);
            }
            Event::Batch { readings: [], .. } => return Ok(()),
            Event::Batch {
                phase,
                epoch,
                batch,
                learning_rate,
                readings,
            } => Line::Batch {
                phase: phase.into(),
                epoch,
                batch,
                learning_rate,
                losses: readings
                    .iter()
                    .map(|r| (r.name.into(), r.weight * r.value))
                    .collect(),
                seconds,
            },
            Event::Validated {
                phase,
                epoch,
                ssim,
                best,
                ..
            } => Line::Validated {
                phase: phase.into(),
                epoch,
                ssim,
                best,
                seconds,
            },
            _ => return Ok(()),
        };
        self.clock = Instant::now();
        self.file.push(&serde_json::to_string(&line)?);
        self.lines.push(line);
        Ok(())
    }

    fn rewind(&mut self, of: &str, done: usize, batches_per_epoch: usize) -> Result<()> {
        self.lines.retain(|line| match line {
            Line::Batch {
                phase, epoch, batch, ..
            } => phase != of || epoch * batches_per_epoch + batch < done,
            Line::Validated { phase, epoch, .. } => phase != of || (epoch + 1) * batches_per_epoch <= done,
        });
        self.file = file(&self.path, &self.lines)?;
        Ok(())
    }

    /// Whether no epoch of any phase is in it.
    pub fn is_empty(&self) -> bool {
        PHASES.iter().all(|phase| self.epochs(phase).is_empty())
    }

    /// The weighted terms of the loss of each batch of a phase, in order.
    pub fn batches<'a>(&'a self, of: &'a str) -> impl Iterator<Item = &'a BTreeMap<String, f64>> {
        self.lines.iter().filter_map(move |line| match line {
            Line::Batch { phase, losses, .. } if phase == of => Some(losses),
            _ => None,
        })
    }

    /// The epochs of a phase.
    pub fn epochs(&self, of: &str) -> Vec<Epoch> {
        let mut epochs = Vec::new();
        let (mut sums, mut count, mut rate, mut time) = (BTreeMap::<String, f64>::new(), 0, 0.0, 0.0);
        for line in &self.lines {
            match line {
                Line::Batch {
                    phase,
                    learning_rate,
                    losses,
                    seconds,
                    ..
                } if phase == of => {
                    for (name, value) in losses {
                        *sums.entry(name.clone()).or_default() += value;
                    }
                    (count, rate, time) = (count + 1, *learning_rate, time + seconds);
                }
                Line::Validated {
                    phase,
                    epoch,
                    ssim,
                    best,
                    seconds,
                } if phase == of => {
                    let mut losses = std::mem::take(&mut sums);
                    losses
                        .values_mut()
                        .for_each(|sum| *sum /= f64::from(count.max(1)));
                    epochs.push(Epoch {
                        epoch: *epoch,
                        losses,
                        learning_rate: rate,
                        ssim: *ssim,
                        best: *best,
                        seconds: time + seconds,
                    });
                    (count, time) = (0, 0.0);
                }
                _ => {}
            }
        }
        epochs
    }
}

/// The file with these lines and nothing else.
fn file(path: &Path, lines: &[Line]) -> Result<Lines> {
    let text = lines.iter().map(serde_json::to_string);
    Lines::start(path, &text.collect::<Result<Vec<_>, _>>()?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use lnca::train::Reading;

    use super::*;

    /// An epoch of two batches.
    fn train(log: &mut Log, epoch: usize, loss: f64) -> Result<()> {
        let reading = Reading {
            name: "rec",
            weight: 2.0,
            value: loss,
        };
        for batch in 0..2 {
            let event = Event::Batch {
                phase: "nca",
                epoch,
                batch,
                learning_rate: 0.1,
                readings: &[reading],
            };
            log.record(&event, 3)?;
        }
        let event = Event::Validated {
            phase: "nca",
            epoch,
            ssim: 0.5,
            best: true,
            time: Duration::ZERO,
        };
        log.record(&event, 3)
    }

    #[test]
    fn a_killed_run_loses_only_what_its_checkpoint_lacks() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("log.jsonl");
        let mut log = Log::open(&path)?;
        train(&mut log, 0, 1.0)?;
        train(&mut log, 1, 3.0)?;
        fs::write(
            &path,
            fs::read_to_string(&path)? + "no line of ours\n{\"event\":\"bat",
        )?;

        let mut log = Log::open(&path)?;
        assert_eq!(log.epochs("nca").len(), 2);
        let started = Event::Started {
            phase: "nca",
            done: 3,
            batches: 6,
        };
        log.record(&started, 3)?;
        assert_eq!((log.batches("nca").count(), log.epochs("nca").len()), (3, 1));
        assert_eq!(log.epochs("nca")[0].losses["rec"], 2.0);
        assert_eq!(Log::open(&path)?.batches("nca").count(), 3);
        Ok(())
    }
}
