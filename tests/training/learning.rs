//! The whole pipeline on generated data: it must learn to restore.

use lnca::data::{Corruption, Curriculum, Dataset};
use lnca::random::Key;
use lnca::train::{AutoencoderTrainerConfig, Event, PoolTrainerConfig, Reading};
use lnca::{AutoencoderTrainer, Fit, Model, PoolTrainer, Result, Rollout, TrainingData, evaluate};

use crate::common::device::device;
use crate::setup::small_latent;

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
