//! The whole pipeline on generated data: it must learn to restore.

use lnca::data::{Corruption, Curriculum, Dataset};
use lnca::random::Key;
use lnca::train::{AutoencoderTrainerConfig, Event, PoolTrainerConfig, Reading};
use lnca::{AutoencoderTrainer, Fit, Model, PoolTrainer, Result, Rollout, TrainingData, evaluate};

use crate::common::device::device;
use crate::common::values;
use crate::setup::{PHASES, data, small_latent};

/// Losses and validation SSIMs of a run.
#[derive(Default)]
struct Course {
    losses: Vec<f64>,
    ssims: Vec<f64>,
}

impl Course {
    /// Mean loss of the last fifth of the batches over that of the first fifth.
    fn change(&self) -> f64 {
        let n = self.losses.len() / 5;
        let sum = |losses: &[f64]| losses.iter().sum::<f64>();
        sum(&self.losses[self.losses.len() - n..]) / sum(&self.losses[..n])
    }

    fn hear(&mut self, event: &Event) {
        match event {
            Event::Batch { readings, .. } => self.losses.push(Reading::total(readings)),
            Event::Validated { ssim, .. } => self.ssims.push(*ssim),
            _ => {}
        }
    }
}

#[test]
fn a_latent_automaton_learns_to_denoise() -> Result<()> {
    let parts = Dataset::dead_leaves(150, 16, 3)?.split(3)?;
    let data = TrainingData {
        train: parts.train,
        validation: parts.validation,
        corruption: Some(Corruption::NOISE),
        // As difficult from the start as in the test, so that losses can be compared.
        curriculum: Some(Curriculum {
            range: 1.0,
            min: 0.5,
            max: 0.5,
        }),
    };
    let fit = Fit {
        epochs: 10,
        ..Fit::default()
    };
    let model = Model::new(small_latent(), 1, &device())?;
    let test = parts
        .test
        .evaluation_batches(8, Some((Corruption::NOISE, 0.5)), Key::new(5))?;
    let score = |steps: usize| {
        evaluate(&test, &device(), |images, first| {
            let rollout = Rollout::new(steps).first_image(first);
            model.restore_by(images, &rollout)
        })
    };

    let (autoencoder, weights) = model.autoencoder().expect("a latent model");
    let mut trainer =
        AutoencoderTrainer::new(autoencoder, weights, AutoencoderTrainerConfig::default()).unwrap();
    let mut first = Course::default();
    fit.run(&mut trainer, &data, &mut |event| first.hear(event))?;

    let config = PoolTrainerConfig {
        steps: 4..=8,
        validation_steps: 8,
        ..PoolTrainerConfig::default()
    };
    let untrained = score(8)?;
    let mut trainer = PoolTrainer::new(model.restorer()?, model.weights(), config)?;
    let mut second = Course::default();
    fit.run(&mut trainer, &data, &mut |event| second.hear(event))?;
    let trained = score(8)?;
    // Everything is seeded, but processors round differently, so the bounds leave room.
    assert!(
        first.change() < 0.75,
        "autoencoder: {} {:?}",
        first.change(),
        first.ssims
    );
    assert!(
        second.change() < 0.5,
        "automaton: {} {:?}",
        second.change(),
        second.ssims
    );
    assert!(trained.ssim > untrained.ssim + 0.1, "{untrained:?}, {trained:?}");
    assert!(trained.ssim > trained.ssim_corrupted + 0.01, "{trained:?}");
    assert!(trained.psnr > trained.psnr_corrupted + 0.5, "{trained:?}");
    Ok(())
}

#[test]
fn losses_that_are_read_later_are_the_same() -> Result<()> {
    for phase in PHASES {
        let run = |read_every: usize| -> Result<(Vec<Vec<Reading>>, Vec<f64>)> {
            let (model, mut trainer) = phase.trainer()?;
            let mut told = vec![];
            let fit = Fit {
                epochs: 2,
                batch_size: 4,
                read_every,
                ..Fit::default()
            };
            fit.run(&mut *trainer, &data(20, 16)?, &mut |event| {
                if let Event::Batch { readings, .. } = event {
                    told.push(readings.to_vec());
                }
            })?;
            let weights = model.weights().vars();
            Ok((told, weights.iter().flat_map(|(_, var)| values(var)).collect()))
        };
        let ((each, weights), (some, others)) = (run(1)?, run(3)?);
        assert_eq!(weights, others, "{phase:?}");
        // Five batches an epoch: three, and the two that are left.
        let means = [0..3, 3..5, 5..8, 8..10];
        let read: Vec<usize> = (0..10).filter(|&batch| !some[batch].is_empty()).collect();
        assert_eq!(read, [2, 4, 7, 9], "{phase:?}");
        for (batch, of) in read.into_iter().zip(means) {
            for (n, mean) in some[batch].iter().enumerate() {
                let sum: f64 = each[of.clone()].iter().map(|readings| readings[n].value).sum();
                let expected = sum / of.len() as f64;
                let gap = (mean.value - expected).abs();
                assert!(gap <= 1e-9 * expected.abs(), "{phase:?} {mean:?}: {expected}");
            }
        }
    }
    Ok(())
}
