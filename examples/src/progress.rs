//! Progress on the terminal: a bar for whatever takes long, and a line for each epoch, all on stderr.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use lnca::train::{Event, Reading};

use crate::note;

/// A bar of `len` parts. It is hidden where stderr is no terminal.
pub fn bar(name: &str, len: usize) -> ProgressBar {
    let template = "{prefix:>12} {bar:30} {pos}/{len}  {elapsed_precise}, {eta} left  {msg}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(len as u64)
        .with_style(style)
        .with_prefix(name.to_string())
}

/// Shows the events of a [`Fit`](lnca::Fit).
pub struct TrainingProgress {
    bar: ProgressBar,
    epochs: usize,
    /// A running mean: the loss of a single batch is noisy.
    loss: Option<f64>,
}

impl TrainingProgress {
    /// Of a phase of so many epochs.
    pub fn new(epochs: usize) -> Self {
        Self {
            bar: ProgressBar::hidden(),
            epochs,
            loss: None,
        }
    }

    /// Shows an event.
    pub fn show(&mut self, event: &Event) {
        match *event {
            Event::Started { phase, done, batches } => {
                self.loss = None;
                self.bar = bar(phase, batches).with_position(done as u64);
                self.bar.reset_eta();
                self.bar.enable_steady_tick(Duration::from_millis(500));
                if done == batches {
                    self.say(&format!("{phase:>12} was done before"));
                } else if done > 0 {
                    self.say(&format!("{phase:>12} resumes after batch {done} of {batches}"));
                }
            }
            Event::Batch {
                learning_rate,
                readings,
                ..
            } => {
                self.bar.inc(1);
                // On a GPU losses are read once in many batches.
                if !readings.is_empty() {
                    let new = Reading::total(readings);
                    let loss = self.loss.map_or(new, |mean| 0.95 * mean + 0.05 * new);
                    self.loss = Some(loss);
                    self.bar
                        .set_message(format!("loss {loss:.3}, lr {learning_rate:.1e}"));
                }
            }
            Event::Validated {
                phase,
                epoch,
                ssim,
                best,
                time,
            } => {
                let loss = self
                    .loss
                    .map_or(String::new(), |loss| format!("loss {loss:8.3}  "));
                let (best, seconds) = (if best { "best" } else { "    " }, time.as_secs_f64());
                self.say(&format!(
                    "{phase:>12} epoch {:>2}/{}  {loss}validation SSIM {ssim:.4} {best}  {seconds:.1} s",
                    epoch + 1,
                    self.epochs
                ));
            }
            _ => {}
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Prints a line above the bar.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| note!("{line}"));
    }
}
