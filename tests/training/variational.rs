//! Variational autoencoders: learning, the pool, resuming.

use candle_core::{DType, Tensor};
use lnca::data::BinaryImages;
use lnca::model::vae::Estimate;
use lnca::random::Key;
use lnca::train::{Adam, AdamConfig, Evolving, Learner, Reading, VaeTrainer, VaeTrainerConfig};
use lnca::{DecoderConfig, Error, Memory, Result, Vae, VaeCard, VaeConfig};

use crate::common::device::device;
use crate::common::{normal, values};
use crate::learner::{is_refused, stopped_is_never_stopped, unread_is_read_later};

fn doubling() -> DecoderConfig {
    DecoderConfig::Doubling { steps: 2, blocks: 1 }
}

fn broadcast() -> DecoderConfig {
    DecoderConfig::Broadcast {
        steps: 4,
        fire_rate: 0.8,
        output_bias: true,
    }
}

fn baseline() -> DecoderConfig {
    DecoderConfig::Baseline { width: 16 }
}

fn model(decoder: DecoderConfig) -> Result<Vae> {
    let config = VaeConfig {
        latent: 8,
        encoder: 2,
        decoder,
        ..VaeConfig::default()
    };
    Vae::new(VaeCard::new(config), 1, &device())
}

fn config() -> VaeTrainerConfig {
    let default = VaeTrainerConfig::default();
    VaeTrainerConfig {
        adam: AdamConfig {
            learning_rate: 5e-3,
            ..default.adam
        },
        batch: 8,
        steps: 2..=5,
        pool: 24,
        ..default
    }
}

fn trainer(vae: &Vae, config: VaeTrainerConfig) -> Result<VaeTrainer> {
    VaeTrainer::new(vae, BinaryImages::digits(64, 5)?.padded(2)?, config)
}

#[test]
fn images_become_likelier() -> Result<()> {
    let test: Vec<usize> = (0..16).collect();
    let test = BinaryImages::digits(16, 77)?.padded(2)?.batch(&test, &device())?;
    // The bound of the best constant grey.
    let white = f64::from(test.mean_all()?.to_scalar::<f32>()?);
    let grey = 1024.0 * (white * white.ln() + (1.0 - white) * (1.0 - white).ln());
    let longer = DecoderConfig::Broadcast {
        steps: 16,
        fire_rate: 1.0,
        output_bias: true,
    };
    // An automaton that does not double takes much longer; first it learns where the border is.
    for (decoder, gain) in [(doubling(), 70.0), (longer, 5.0), (baseline(), 70.0)] {
        let vae = model(decoder)?;
        let bound = |vae: &Vae| -> Result<f64> {
            Ok(Estimate::mean(&vae.estimate(&test, 2, Key::new(1), 0)?).iwelbo)
        };
        let before = bound(&vae)?;
        let longer = VaeTrainerConfig {
            steps: 12..=20,
            ..config()
        };
        let mut trainer = trainer(&vae, longer)?;
        for _ in 0..100 {
            trainer.update()?;
        }
        let after = bound(&vae)?;
        let name = vae.card().config.decoder.name();
        assert!(
            before < grey && after > grey + gain,
            "{name}: {before} to {after}, grey {grey}"
        );
    }
    Ok(())
}

#[test]
fn a_resumed_training_is_the_one_that_never_stopped() -> Result<()> {
    for decoder in [doubling(), broadcast(), baseline()] {
        // The memory policy may differ.
        let keeps = std::cell::Cell::new(1);
        let make = || -> Result<_> {
            let vae = model(decoder.clone())?;
            let memory = Memory::Every(keeps.replace(keeps.get() + 1));
            Ok((
                vae.weights().clone(),
                trainer(&vae, config())?.with_memory(memory),
            ))
        };
        unread_is_read_later(make)?;
        let (straight, resumed) = stopped_is_never_stopped(make, (3, 5))?;
        assert_eq!(straight.pool().len(), resumed.pool().len());
        for (a, b) in straight.pool().entries().iter().zip(resumed.pool().entries()) {
            assert_eq!(values(&a.cells), values(&b.cells));
        }

        let vae = model(decoder)?;
        let other = VaeTrainerConfig {
            beta: 2.0,
            ..config()
        };
        is_refused(&straight, (vae.weights(), trainer(&vae, other)?))?;
    }
    Ok(())
}

#[test]
fn the_pool_keeps_its_size_and_pairs_images_with_grids() -> Result<()> {
    let vae = model(broadcast())?;
    let mut trainer = trainer(&vae, config())?;
    assert!(trainer.pool().is_empty());
    for _ in 0..3 {
        trainer.update()?;
        assert_eq!(trainer.pool().len(), 24);
    }
    for entry in trainer.pool().entries() {
        assert_eq!(values(&entry.clean), values(&entry.corrupted));
        assert_eq!(entry.cells.dims(), [32, 32, 8]);
    }
    // Grids that an update changed have different cells; in those still as at the start, and there are some,
    // all cells are equal.
    let moved = |cells: &Tensor| -> Result<bool> {
        let first = cells.narrow(0, 0, 1)?.narrow(1, 0, 1)?;
        Ok(cells
            .broadcast_sub(&first)?
            .abs()?
            .sum_all()?
            .to_scalar::<f32>()?
            > 0.0)
    };
    let moved = trainer.pool().entries().iter().map(|entry| moved(&entry.cells));
    let moved = moved.collect::<Result<Vec<bool>>>()?;
    assert!(moved.contains(&true) && moved.contains(&false), "{moved:?}");
    Ok(())
}

#[test]
fn latents_of_images_from_the_pool_count_if_asked() -> Result<()> {
    let images: Vec<usize> = (0..4).collect();
    let images = BinaryImages::digits(4, 3)?.padded(2)?.batch(&images, &device())?;
    let noise = normal(1, (4, 8), DType::F32);
    let readings = |kl: bool| -> Result<Vec<Reading>> {
        let vae = model(broadcast())?;
        let evolving = Evolving {
            cells: Tensor::zeros((2, 32, 32, 8), DType::F32, &device())?,
            kl,
        };
        let mut trainer = trainer(&vae, config())?;
        let rollout = vae.rollout(3, Key::new(1));
        let (readings, cells) = trainer.update_from(&images, &noise, Some(&evolving), &rollout)?;
        assert_eq!(cells.expect("grids").dims(), [4, 32, 32, 8]);
        Ok(readings)
    };
    let (counted, left_out) = (readings(true)?, readings(false)?);
    assert_eq!(counted[0], left_out[0]);
    let kl = values(&model(broadcast())?.encode(&images)?.kl()?);
    let sum = |kl: &[f64]| kl.iter().sum::<f64>() / 4.0;
    assert!((counted[1].value - sum(&kl)).abs() < 1e-5, "{counted:?}");
    assert!((left_out[1].value - sum(&kl[..2])).abs() < 1e-5, "{left_out:?}");

    // Too many grids, or grids for a decoder that has none, are errors.
    let vae = model(doubling())?;
    let evolving = Evolving {
        cells: Tensor::zeros((5, 32, 32, 8), DType::F32, &device())?,
        kl: true,
    };
    let rollout = vae.rollout(1, Key::new(1));
    let error = trainer(&vae, config())?.update_from(&images, &noise, Some(&evolving), &rollout);
    assert!(matches!(error, Err(Error::Config { name: "evolving", .. })));
    let vae = model(broadcast())?;
    let error = trainer(&vae, config())?.update_from(&images, &noise, Some(&evolving), &rollout);
    assert!(matches!(error, Err(Error::Config { name: "evolving", .. })));
    Ok(())
}

#[test]
fn gradients_are_clipped_together() -> Result<()> {
    let var = |x: &[f32]| candle_core::Var::new(x, &device());
    let vars = vec![
        ("a".to_string(), var(&[1.0, 1.0])?),
        ("b".to_string(), var(&[1.0])?),
    ];
    let moments = |clip: Option<f64>| -> Result<Vec<f64>> {
        let config = AdamConfig {
            normalise: false,
            clip,
            ..AdamConfig::default()
        };
        let mut adam = Adam::new(vars.clone(), config).unwrap();
        // Gradients (3, 0) and (4): 5 together.
        let a = (vars[0].1.as_tensor() * Tensor::new(&[3f32, 0.0], &device())?)?;
        let loss = (a.sum_all()? + (vars[1].1.as_tensor() * 4.0)?.sum_all()?)?;
        adam.step(&loss.backward()?)?;
        let state = adam.state()?;
        Ok([values(&state["m.a"]), values(&state["m.b"])].concat())
    };
    for (clip, factor) in [(None, 1.0), (Some(10.0), 1.0), (Some(2.5), 0.5)] {
        for (found, gradient) in moments(clip)?.iter().zip([3.0, 0.0, 4.0]) {
            assert!(
                (found - 0.1 * factor * gradient).abs() < 1e-6,
                "{clip:?}: {found}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_nan_loss_stops_before_a_weight_is_changed() -> Result<()> {
    let vae = model(doubling())?;
    let (name, var) = vae.weights().vars().remove(0);
    var.set(&(var.as_detached_tensor() * f64::NAN)?)?;
    let mut trainer = trainer(&vae, config())?;
    let others: Vec<_> = vae
        .weights()
        .snapshot()?
        .into_iter()
        .filter(|(n, _)| *n != name)
        .collect();
    assert!(matches!(trainer.update(), Err(Error::Diverged { .. })));
    for (name, before) in others {
        let vars = vae.weights().vars();
        let (_, var) = vars.iter().find(|(n, _)| *n == name).expect("the weight");
        assert_eq!(values(var), values(&before), "{name}");
    }
    Ok(())
}
