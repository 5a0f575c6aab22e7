//! Training of a pattern.

use std::path::Path;

use candle_core::{Device, Tensor};
use lnca::io::Picture;
use lnca::io::{Background, enlarged, pictures, sheet, write_png};
use lnca::model::pattern::Rule;
use lnca::random::Key;
use lnca::train::{PatternTrainer, Reading};
use lnca::{Pattern, PatternCard};

use super::Result;
use super::training::{Learner, Training};

/// A pattern and what trains it.
pub struct PatternLearner {
    pub trainer: PatternTrainer<Rule>,
    pub pattern: Pattern,
}

impl PatternLearner {
    /// A pattern with random weights, or those of the model to start from.
    ///
    /// # Errors
    /// That model cannot be read or is of another kind.
    pub fn pattern(training: &Training, card: PatternCard) -> Result<Pattern> {
        let pattern = Pattern::new(card, training.seed, &Device::Cpu)?;
        if let Some(path) = &training.start {
            let start = Pattern::load(path, &Device::Cpu)?;
            pattern.weights().load(&start.weights().snapshot()?)?;
        }
        Ok(pattern)
    }
}

impl Learner for PatternLearner {
    fn updates(&self) -> usize {
        self.trainer.updates()
    }

    fn learning_rate(&self) -> f64 {
        self.trainer.learning_rate()
    }

    fn update(&mut self) -> lnca::Result<Vec<Reading>> {
        self.trainer.update()
    }

    fn save(&self, checkpoint: &Path) -> lnca::Result<()> {
        self.trainer.save(checkpoint)
    }

    fn resume(&mut self, checkpoint: &Path) -> lnca::Result<()> {
        self.trainer.resume(checkpoint)
    }

    fn save_model(&self, path: &Path) -> lnca::Result<()> {
        self.pattern.save(path)
    }

    /// Two rows: states of the pool, and what the automaton makes of the seed in 32, 64, ..., 256 steps.
    fn preview(&self, path: &Path) -> Result<()> {
        let pattern = &self.pattern;
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
        let rows = [shown(&self.trainer.pool(8)?)?, made];
        Ok(write_png(&sheet(&rows, 4), path)?)
    }
}
