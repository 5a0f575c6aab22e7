//! The log of a training: a line of JSON for every batch and epoch, which survives a kill.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lnca::train::Event;
use serde::{Deserialize, Serialize};

use super::{Result, at, write};

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Line {
    /// A batch was learned from.
    Batch {
        phase: String,
        epoch: usize,
        batch: usize,
        learning_rate: f64,
        /// Terms of the loss, each times its weight.
        losses: BTreeMap<String, f64>,
        seconds: f64,
    },
    /// An epoch was validated.
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
    file: File,
    lines: Vec<Line>,
    clock: Instant,
}

/// The phases that a training may have, in their order.
pub const PHASES: [&str; 4] = ["autoencoder", "nca", "network", "end-to-end"];

/// An epoch of one phase, summed up.
#[derive(Clone, Debug, Serialize)]
pub struct Epoch {
    pub epoch: usize,
    /// Means over the batches of the terms of the loss, each times its weight.
    pub losses: BTreeMap<String, f64>,
    /// Of the last update.
    pub learning_rate: f64,
    /// Mean over the validation images.
    pub ssim: f64,
    pub best: bool,
    pub seconds: f64,
}

impl Log {
    /// Opens a log and reads what it holds.
    pub fn open(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(at(path)(error).into()),
            text => text.unwrap_or_default(),
        };
        // A kill may have cut the last line short.
        let lines = text
            .lines()
            .map_while(|line| serde_json::from_str(line).ok())
            .collect();
        Ok(Self {
            path: path.into(),
            file: append_to(path)?,
            lines,
            clock: Instant::now(),
        })
    }

    /// Adds what an event says; at the start of a phase, drops what the checkpoint does not know of.
    pub fn hear(&mut self, event: &Event, epochs: usize) -> Result<()> {
        let seconds = self.clock.elapsed().as_secs_f64();
        let line = match *event {
            Event::Started { phase, done, batches } => {
                self.clock = Instant::now();
                return self.rewind(phase, done, batches / epochs);
            }
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
        let text = serde_json::to_string(&line)? + "\n";
        self.file.write_all(text.as_bytes()).map_err(at(&self.path))?;
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
        let mut text = String::new();
        for line in &self.lines {
            text += &(serde_json::to_string(line)? + "\n");
        }
        write(&self.path, text.as_bytes())?;
        self.file = append_to(&self.path)?;
        Ok(())
    }

    /// The batches of a phase, in order: the terms of their losses.
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

fn append_to(path: &Path) -> Result<File> {
    Ok(OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(at(path))?)
}
