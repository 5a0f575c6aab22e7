//! Recipes: what each of them trains, what it leaves unchanged, and where it starts.

use candle_core::Tensor;
use lnca::data::Corruption;
use lnca::io::safetensors::Tensors;
use lnca::random::Key;
use lnca::train::{Event, PoolTrainerConfig, Trainer};
use lnca::{Fit, Learning, Model, ModelConfig, PoolTrainer, Recipe, Result, Rollout};

use crate::common::device::device;
use crate::common::values;
use crate::setup::{data, small_latent, small_vitca};

/// The names of the weights that differ between two snapshots, up to the first dot.
fn changed(before: &Tensors, after: &Tensors) -> Result<Vec<String>> {
    let mut layers = Vec::new();
    for (name, tensor) in before {
        if values(tensor) != values(&after[name]) {
            layers.push(name.split('.').next().unwrap_or_default().to_string());
        }
    }
    layers.dedup();
    Ok(layers)
}

fn layers_trained(recipe: &Recipe, trainer: impl Fn(&Model) -> Result<PoolTrainer>) -> Result<Vec<String>> {
    let model = Model::new(recipe.model.clone(), 3, &device())?;
    let (_, autoencoder) = model.autoencoder().expect("a latent model");
    let (before, transition) = (autoencoder.snapshot()?, model.weights().snapshot()?);
    let fit = Fit {
        epochs: 1,
        batch_size: 4,
        ..Fit::default()
    };
    fit.run(&mut trainer(&model)?, &data(8, 16)?, &mut |_| ())?;
    assert!(!changed(&transition, &model.weights().snapshot()?)?.is_empty());
    changed(&before, &autoencoder.snapshot()?)
}

#[test]
fn a_model_restores_as_its_published_training_validates() -> Result<()> {
    for config in [
        ModelConfig::latent_nafca(),
        ModelConfig::latent_vitca(),
        ModelConfig::vitca(),
    ] {
        let nca = Recipe::paper(config.clone()).nca;
        let model = Model::new(config, 0, &device())?;
        let card = model.card();
        assert_eq!(
            (card.fire_rate, card.steps),
            (nca.fire_rate, nca.validation_steps)
        );
    }
    Ok(())
}

#[test]
fn what_learns_is_what_the_recipe_says() -> Result<()> {
    let (paper, tuned) = (Recipe::paper(small_latent()), Recipe::tuned(small_latent()));
    let everything = Recipe {
        learning: Learning::Everything,
        ..paper.clone()
    };
    let all = ["dec1", "dec2", "enc1", "enc2", "mix", "side1"];
    let nothing: [&str; 0] = [];
    assert_eq!(layers_trained(&paper, |model| paper.nca_trainer(model))?, nothing);
    assert_eq!(
        layers_trained(&tuned, |model| tuned.nca_trainer(model))?,
        ["dec1", "dec2", "mix"]
    );
    assert_eq!(
        layers_trained(&everything, |model| everything.nca_trainer(model))?,
        all
    );
    assert_eq!(
        layers_trained(&tuned, |model| tuned.end_to_end_trainer(model))?,
        all
    );
    let model = Model::new(paper.model.clone(), 3, &device())?;
    let error = paper.end_to_end_trainer(&model).err().expect("no such phase");
    assert!(error.to_string().contains("end_to_end"), "{error}");
    Ok(())
}

#[test]
fn a_running_mean_is_kept_in_place_of_the_last_weights() -> Result<()> {
    let decay = 0.25;
    let recipe = Recipe::paper(small_latent());
    let model = Model::new(recipe.model.clone(), 3, &device())?;
    let config = PoolTrainerConfig {
        average: Some(decay),
        ..recipe.nca
    };
    let mut trainer = PoolTrainer::new(model.restorer()?, model.weights(), config)?;
    let batches = data(8, 16)?.train.training_batches(0, 4, None, Key::new(1))?;
    assert!(trainer.average().is_none());
    let mut mean: Option<Tensors> = None;
    for n in 0..4 {
        let batch = batches.get(n % 2, &device())?;
        trainer.fresh_update(&batch, &Rollout::new(2))?;
        let weights = model.weights().snapshot()?;
        // The first few updates weigh more, because the mean begins with random weights.
        let decay: f64 = decay.min((2.0 + n as f64) / (11.0 + n as f64));
        mean = Some(match mean {
            None => weights,
            Some(mean) => {
                let mix = |(name, mean): (String, Tensor)| {
                    let moved = ((mean * decay)? + (&weights[&name] * (1.0 - decay))?)?;
                    Ok((name, moved))
                };
                mean.into_iter().map(mix).collect::<Result<_>>()?
            }
        });
    }
    let found = trainer.average().expect("a mean");
    for (name, expected) in mean.expect("four updates") {
        let differences = values(&found[&name]).into_iter().zip(values(&expected));
        for (found, expected) in differences {
            assert!((found - expected).abs() < 1e-6, "{name}: {found}, {expected}");
        }
    }
    Ok(())
}

#[test]
fn a_validation_event_is_told_with_the_validated_weights() -> Result<()> {
    let recipe = Recipe::tuned(small_latent());
    let model = Model::new(recipe.model.clone(), 3, &device())?;
    let fit = Fit {
        epochs: 3,
        batch_size: 4,
        ..Fit::default()
    };
    let (mut best, mut last) = (None, None);
    fit.run(&mut recipe.nca_trainer(&model)?, &data(8, 16)?, &mut |event| {
        match event {
            Event::Validated { best: true, .. } => best = Some(model.weights().snapshot()),
            Event::Batch { .. } => last = Some(model.weights().snapshot()),
            _ => {}
        };
    })?;
    let (best, last) = (best.expect("a best epoch")?, last.expect("a batch")?);
    let left = model.weights().snapshot()?;
    assert_eq!(changed(&best, &left)?, Vec::<String>::new());
    // The validated running mean is not the weights of the last update.
    assert!(!changed(&last, &left)?.is_empty());
    Ok(())
}

#[test]
fn the_tuned_recipe_starts_with_what_was_given() -> Result<()> {
    let images = data(4, 16)?
        .train
        .evaluation_batches(4, None, Key::new(0))?
        .get(0, &device())?
        .clean;
    for config in [small_latent(), ModelConfig::latent_vitca(), small_vitca()] {
        let model = Model::new(Recipe::tuned(config).model, 5, &device())?;
        let expected = match model.autoencoder() {
            Some((autoencoder, _)) => {
                let encoded = autoencoder.encode(&images, false)?;
                autoencoder.decode(&encoded.latent, &encoded.skip, false)?
            }
            None => images.clone(),
        };
        let restored = model.restore_by(&images, &Rollout::new(7))?;
        assert_eq!(
            values(&restored),
            values(&expected),
            "{}",
            model.card().config.name()
        );
    }
    Ok(())
}

#[test]
fn a_recipe_is_for_its_own_model() -> Result<()> {
    let model = Model::new(small_latent(), 3, &device())?;
    let error = Recipe::paper(small_vitca())
        .nca_trainer(&model)
        .err()
        .expect("another model");
    assert!(error.to_string().contains("model"), "{error}");
    Ok(())
}

#[test]
fn the_tuned_curriculum_ends_at_the_difficulty_of_the_test() {
    let recipe = Recipe::tuned(ModelConfig::latent_nafca());
    for corruption in [Corruption::NOISE, Corruption::BLUR] {
        let last = recipe.curriculum(corruption).difficulty(19, 20);
        assert_eq!(last, corruption.test_difficulty());
    }
    let paper = Recipe::paper(ModelConfig::latent_nafca()).curriculum(Corruption::NOISE);
    assert_eq!(paper.difficulty(19, 20), 0.75);
}
