//! Growing patterns and textures: learning, the pool, resuming.

use candle_core::{DType, Tensor};
use lnca::data::{Emblem, Swatch};
use lnca::loss::{ImageLoss, OverflowNorm, PatchTransport, PatternLoss, TextureLoss};
use lnca::model::pattern::Rule;
use lnca::train::{AdamConfig, Learner, PatternTrainer, PatternTrainerConfig, Reading};
use lnca::{Error, GrowingConfig, Pattern, PatternCard, PatternConfig, Result, TextureConfig};

use crate::common::device::device;
use crate::common::values;
use crate::learner::{is_refused, stopped_is_never_stopped, unread_is_read_later};

fn growing(config: PatternTrainerConfig) -> Result<(Pattern, PatternTrainer<Rule>)> {
    let target = Emblem::Flower.draw(12, 3)?;
    let small = GrowingConfig {
        hidden_dim: 24,
        ..GrowingConfig::default()
    };
    let pattern = Pattern::new(
        PatternCard::new(PatternConfig::Growing(small), (18, 18)),
        1,
        &device(),
    )?;
    let seed = pattern.seed(1, (18, 18))?;
    let loss = ImageLoss::new(target)?;
    let trainer = PatternTrainer::new(pattern.rule().clone(), pattern.weights(), loss, &seed, config)?;
    Ok((pattern, trainer))
}

fn small(config: PatternTrainerConfig) -> PatternTrainerConfig {
    PatternTrainerConfig {
        pool: config.pool.min(12),
        batch: 4,
        damaged: config.damaged.min(2),
        steps: 14..=20,
        ..config
    }
}

#[test]
fn a_picture_is_learned() -> Result<()> {
    let (_, mut trainer) = growing(small(PatternTrainerConfig::growing()))?;
    let mut losses = vec![];
    for _ in 0..60 {
        losses.push(Reading::total(&trainer.update()?));
    }
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..5]), mean(&losses[55..]));
    assert!(last < 0.6 * first, "{first} {last}");
    Ok(())
}

#[test]
fn a_texture_is_learned() -> Result<()> {
    let target = Swatch::Weave.draw(32)?;
    let card = PatternCard::new(PatternConfig::Texture(TextureConfig::default()), (16, 16));
    let pattern = Pattern::new(card, 1, &device())?;
    let seed = pattern.seed(1, (16, 16))?;
    let loss = || -> Result<TextureLoss> {
        Ok(TextureLoss::new(
            PatchTransport::new(&target, 2, 16)?,
            1.0,
            1.0,
            OverflowNorm::Elements,
        ))
    };
    let published = PatternTrainerConfig::texture();
    let config = PatternTrainerConfig {
        adam: AdamConfig {
            learning_rate: 3e-3,
            ..published.adam
        },
        pool: 8,
        steps: 12..=20,
        bound: Some(4.0),
        ..published
    };
    let mut trainer = PatternTrainer::new(pattern.rule().clone(), pattern.weights(), loss()?, &seed, config)?;
    let distance = |pattern: &Pattern| -> Result<f64> {
        let rollout = pattern.rollout(16, lnca::random::Key::new(5));
        Ok(loss()?.each(&rollout.run(pattern.rule(), &seed)?)?[0])
    };
    let before = distance(&pattern)?;
    for _ in 0..200 {
        trainer.update()?;
    }
    let after = distance(&pattern)?;
    assert!(after < 0.6 * before, "{before} {after}");
    Ok(())
}

#[test]
fn a_resumed_training_is_the_one_that_never_stopped() -> Result<()> {
    let config = small(PatternTrainerConfig::regenerating());
    let make = || -> Result<_> {
        let (pattern, trainer) = growing(config.clone())?;
        Ok((pattern.weights().clone(), trainer))
    };
    unread_is_read_later(make)?;
    let (straight, resumed) = stopped_is_never_stopped(make, (4, 7))?;
    assert_eq!(values(&straight.pool(12)?), values(&resumed.pool(12)?));

    let (pattern, other) = growing(PatternTrainerConfig {
        seed: 1,
        ..config.clone()
    })?;
    is_refused(&straight, (pattern.weights(), other))
}

#[test]
fn the_pool_remembers_and_the_seed_comes_back() -> Result<()> {
    let (pattern, mut trainer) = growing(small(PatternTrainerConfig::persistent()))?;
    let seed = pattern.seed(1, (18, 18))?;
    let changed = |trainer: &PatternTrainer<Rule>| -> Result<usize> {
        let pool = trainer.pool(12)?;
        let differs = |n: usize| -> Result<bool> { Ok(values(&pool.narrow(0, n, 1)?) != values(&seed)) };
        (0..12).map(|n| Ok(usize::from(differs(n)?))).sum()
    };
    assert_eq!(changed(&trainer)?, 0);
    trainer.update()?;
    // The first update changes only weights, because the untrained rule changes nothing. The second leaves 4
    // states.
    trainer.update()?;
    assert_eq!(changed(&trainer)?, 4);

    // Of four states at different distances from the target, the worst is replaced by the seed.
    let scale = Tensor::new(&[1f32, 3.0, 2.0, 0.0], &device())?.reshape((4, 1, 1, 1))?;
    let states = Tensor::ones((4, 18, 18, 16), DType::F32, &device())?.broadcast_mul(&scale)?;
    let (order, prepared) = trainer.prepare(&states, &[])?;
    assert_eq!(order, [1, 2, 0, 3]);
    assert_eq!(values(&prepared.narrow(0, 0, 1)?), values(&seed));
    assert_eq!(
        values(&prepared.narrow(0, 1, 1)?),
        values(&states.narrow(0, 2, 1)?)
    );
    Ok(())
}

#[test]
fn settings_out_of_range_are_errors() {
    let base = || small(PatternTrainerConfig::regenerating());
    let wrong = [
        PatternTrainerConfig { batch: 0, ..base() },
        PatternTrainerConfig { batch: 13, ..base() },
        PatternTrainerConfig { damaged: 4, ..base() },
        PatternTrainerConfig {
            fire_rate: 1.5,
            ..base()
        },
        #[allow(clippy::reversed_empty_ranges)]
        PatternTrainerConfig {
            steps: 9..=8,
            ..base()
        },
        PatternTrainerConfig {
            reseed: lnca::train::Reseed::Every(0),
            ..base()
        },
    ];
    for config in wrong {
        let shown = format!("{config:?}");
        assert!(matches!(growing(config), Err(Error::Config { .. })), "{shown}");
    }
}
