//! The restoration networks learn.

use candle_core::DType;
use lnca::data::{Corruption, Dataset};
use lnca::model::baseline::{NafNet, NafNetConfig, Restormer, RestormerConfig};
use lnca::random::Key;
use lnca::train::{NetworkTrainer, NetworkTrainerConfig, Reading, Trainer};
use lnca::{Result, Weights};

use crate::common::device::device;

/// Loss of the first and of the last of some updates on the same batch.
fn progress(trainer: &mut dyn Trainer) -> Result<(f64, f64)> {
    let images = Dataset::dead_leaves(4, 16, 3)?;
    let batches = images.training_batches(0, 4, Some((Corruption::NOISE, 0.5)), Key::new(1))?;
    let batch = batches.get(0, &device())?;
    let losses = (0..25).map(|n| Ok(Reading::total(&trainer.learn(&batch, Key::new(n))?)));
    let losses = losses.collect::<Result<Vec<_>>>()?;
    Ok((losses[0], losses[24]))
}

#[test]
fn nafnet_and_restormer_learn() -> Result<()> {
    let weights = Weights::new(1, DType::F32, &device());
    let config = NafNetConfig {
        width: 8,
        encoder: vec![1],
        middle: 1,
        decoder: vec![1],
    };
    let nafnet = NafNet::new(&config, weights.builder())?;
    let mut trainer = NetworkTrainer::new(nafnet, &weights, NetworkTrainerConfig::nafnet()).unwrap();
    let (first, last) = progress(&mut trainer)?;
    assert!(last < first - 0.5, "PSNR loss {first} to {last}");

    let weights = Weights::new(1, DType::F32, &device());
    let config = RestormerConfig {
        width: 8,
        blocks: [1; 4],
        refinement: 1,
        ..RestormerConfig::default()
    };
    let restormer = Restormer::new(&config, weights.builder())?;
    let mut trainer = NetworkTrainer::new(restormer, &weights, NetworkTrainerConfig::restormer()).unwrap();
    let (first, last) = progress(&mut trainer)?;
    assert!(last < 0.95 * first, "{first} to {last}");
    Ok(())
}
