//! Training that diverges or cannot start says so, and keeps the last good weights.

use std::fs;

use candle_core::Tensor;
use lnca::data::{Batch, Dataset};
use lnca::random::Key;
use lnca::train::{Event, PoolTrainerConfig, Trainer};
use lnca::{Error, Fit, Memory, Model, PoolTrainer, Result, Weights};

use crate::common::device::device;
use crate::common::values;
use crate::setup::{PHASES, Phase, data, fit, small_vitca};

/// Turns every weight into NaN.
fn spoil(weights: &Weights) -> Result<()> {
    for (_, var) in weights.vars() {
        var.set(&(var.as_detached_tensor() * f64::NAN)?)?;
    }
    Ok(())
}

#[test]
fn a_loss_that_is_not_finite_is_named_with_its_place() -> Result<()> {
    for phase in PHASES {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let data = data(13, 12)?;
        let (_model, mut trainer) = phase.trainer()?;
        spoil(trainer.weights())?;
        let error = fit(&path).run(&mut *trainer, &data, &mut |_| {}).unwrap_err();
        let message = error.to_string();
        assert!(
            matches!(error, Error::Diverged { value, .. } if value.is_nan()),
            "{message}"
        );
        let phase = trainer.phase();
        for part in ["`rec`", "update 0", "epoch 0", "batch 0", phase] {
            assert!(message.contains(part), "{message}");
        }
        assert!(!path.exists());
    }
    Ok(())
}

#[test]
fn a_run_that_diverges_leaves_its_last_checkpoint() -> Result<()> {
    for phase in PHASES {
        let folder = tempfile::tempdir().unwrap();
        let data = data(13, 12)?;
        let (_model, mut whole) = phase.trainer()?;
        fit(&folder.path().join("whole")).run(&mut *whole, &data, &mut |_| {})?;

        let path = folder.path().join("checkpoint");
        let (_model, mut trainer) = phase.trainer()?;
        let weights = trainer.weights().clone();
        let mut saved = Vec::new();
        let error = fit(&path).run(&mut *trainer, &data, &mut |event| {
            if let Event::Saved { path } = event {
                saved.push(fs::read(path).unwrap());
                if saved.len() == 4 {
                    spoil(&weights).unwrap();
                }
            }
        });
        let message = error.unwrap_err().to_string();
        assert!(message.contains("epoch 1, batch 1"), "{message}");
        assert!(fs::read(&path).unwrap() == saved[3]);
        // Resuming from there ends as if nothing had happened.
        let (_model, mut trainer) = phase.trainer()?;
        fit(&path).run(&mut *trainer, &data, &mut |_| {})?;
        for ((name, a), (_, b)) in whole.weights().vars().iter().zip(trainer.weights().vars()) {
            assert_eq!(values(a), values(&b), "{phase:?} {name}");
        }
    }
    Ok(())
}

#[test]
fn a_gradient_that_is_not_finite_is_named() -> Result<()> {
    let model = Model::new(small_vitca(), 7, &device())?;
    let mut config = PoolTrainerConfig {
        steps: 2..=3,
        ..PoolTrainerConfig::default()
    };
    // So large that squares in a layer norm overflow after an update.
    config.adam.learning_rate = 1e19;
    let mut trainer = PoolTrainer::new(model.restorer()?, model.weights(), config)?;
    let folder = tempfile::tempdir().unwrap();
    let fit = fit(&folder.path().join("checkpoint"));
    let error = fit.run(&mut trainer, &data(13, 12)?, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    Ok(())
}

#[test]
fn images_that_are_not_finite_change_no_weight() -> Result<()> {
    for phase in PHASES {
        let (_model, mut trainer) = phase.trainer()?;
        let clean = Tensor::full(0.5f32, (2, 12, 12, 3), &device())?;
        let batch = Batch {
            corrupted: (&clean * f64::NAN)?,
            clean,
        };
        let learned = |trainer: &dyn Trainer| -> Result<Vec<f64>> {
            let mut all = trainer.weights().snapshot()?;
            // Batch norm is updated before the loss is known.
            all.retain(|name, _| !name.contains("running"));
            Ok(all.values().flat_map(values).collect())
        };
        let before = learned(&*trainer)?;
        let error = trainer.learn(&batch, Key::new(0)).unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "{phase:?}: {error}");
        assert_eq!(learned(&*trainer)?, before);
        assert_eq!(trainer.optimiser().updates(), 0);
    }
    Ok(())
}

#[test]
fn what_cannot_be_trained_on_is_an_error_at_the_start() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    for phase in PHASES {
        // None of these writes one.
        assert!(!path.exists());
        let fails = |fit: Fit, train: usize, size: usize| -> Result<String> {
            let (_model, mut trainer) = phase.trainer()?;
            let error = fit
                .run(&mut *trainer, &data(train, size)?, &mut |_| {})
                .unwrap_err();
            Ok(error.to_string())
        };
        assert!(
            fails(
                Fit {
                    epochs: 0,
                    ..fit(&path)
                },
                13,
                12
            )?
            .contains("epochs")
        );
        assert!(fails(fit(&path), 3, 12)?.contains("batch_size"));
        // Too small for the window of SSIM, which chooses the best weights.
        assert!(fails(fit(&path), 13, 8)?.contains("11"));
        // Nothing to choose the best weights by.
        let mut none = data(13, 12)?;
        none.validation = none.validation.take(0);
        let (_model, mut trainer) = phase.trainer()?;
        let error = fit(&path).run(&mut *trainer, &none, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("validation"), "{error}");
    }
    // A derangement needs two images, an autoencoder sides that are multiples of 4.
    let one = Fit {
        batch_size: 1,
        ..fit(&path)
    };
    let (_model, mut trainer) = Phase::Autoencoder.trainer()?;
    assert!(one.run(&mut *trainer, &data(13, 12)?, &mut |_| {}).is_err());
    assert!(
        fit(&path)
            .run(&mut *trainer, &data(13, 14)?, &mut |_| {})
            .is_err()
    );
    Ok(())
}

#[test]
fn images_that_need_no_restoring_train_too() -> Result<()> {
    // Without a corruption the mask of the autoencoder's losses is empty; nothing may divide by its sum.
    for phase in PHASES {
        let folder = tempfile::tempdir().unwrap();
        let mut data = data(13, 12)?;
        data.corruption = None;
        data.train = Dataset::new(12, vec![128; 13 * 12 * 12 * 3], None, None)?;
        let (_model, mut trainer) = phase.trainer()?;
        fit(&folder.path().join("checkpoint")).run(&mut *trainer, &data, &mut |_| {})?;
        let weights = trainer.weights().snapshot()?;
        assert!(
            weights.values().flat_map(values).all(|value| value.is_finite()),
            "{phase:?}"
        );
    }
    Ok(())
}

#[test]
fn memory_policies_train_alike() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let data = data(13, 12)?;
    let trained = |memory| -> Result<Vec<f64>> {
        let model = Model::new(small_vitca(), 7, &device())?;
        let config = PoolTrainerConfig {
            steps: 3..=5,
            validation_steps: 3,
            fire_rate: 0.5,
            ..PoolTrainerConfig::default()
        };
        let trainer = PoolTrainer::new(model.restorer()?, model.weights(), config)?;
        let fit = Fit {
            epochs: 1,
            checkpoint: None,
            ..fit(folder.path())
        };
        fit.run(&mut trainer.with_memory(memory), &data, &mut |_| {})?;
        Ok(model.weights().snapshot()?.values().flat_map(values).collect())
    };
    let kept = trained(Memory::Everything)?;
    for memory in [Memory::Every(1), Memory::Every(2)] {
        for (a, b) in kept.iter().zip(trained(memory)?) {
            assert!((a - b).abs() < 1e-4, "{memory:?}: {a} and {b}");
        }
    }
    Ok(())
}

#[test]
fn a_loss_without_a_gradient_is_an_error() -> Result<()> {
    let model = Model::new(small_vitca(), 7, &device())?;
    let config = PoolTrainerConfig::default();
    let trainer = PoolTrainer::new(model.restorer()?, model.weights(), config)?;
    let batch = data(13, 12)?
        .train
        .training_batches(0, 4, None, Key::new(0))?
        .get(0, &device())?;
    // It would look like training and change nothing.
    let error = trainer
        .with_memory(Memory::Nothing)
        .learn(&batch, Key::new(0))
        .unwrap_err();
    assert!(error.to_string().contains("weight"), "{error}");
    Ok(())
}
