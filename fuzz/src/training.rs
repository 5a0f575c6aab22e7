//! The smallest training that has a pool.

use candle_core::{DType, Device};
use lnca::data::Emblem;
use lnca::loss::ImageLoss;
use lnca::train::{PatternTrainer, PatternTrainerConfig};
use lnca::{CellLayout, Growing, GrowingConfig, Result, TransitionFn, Weights};

/// A Growing NCA of four channels on 6x6 cells.
pub fn learner() -> Result<PatternTrainer<Growing>> {
    let weights = Weights::new(0, DType::F32, &Device::Cpu);
    let config = GrowingConfig {
        layout: CellLayout {
            input: 0,
            output: 4,
            hidden: 0,
        },
        hidden_dim: 4,
        ..GrowingConfig::default()
    };
    let rule = Growing::new(config, weights.builder())?;
    let seed = rule.layout().single_cell((1, 6, 6), DType::F32, &Device::Cpu)?;
    let config = PatternTrainerConfig {
        pool: 2,
        batch: 2,
        steps: 1..=2,
        damaged: 1,
        ..PatternTrainerConfig::regenerating()
    };
    PatternTrainer::new(
        rule,
        &weights,
        ImageLoss::new(Emblem::Fish.draw(4, 1)?)?,
        &seed,
        config,
    )
}
