//! Checksums of what the library computes, to compare two commits with: `.ci/same-bits COMMIT` runs this in
//! both.
//!
//! States of the shipped models, and losses and weights of a short training of each trainer. It takes what it
//! names from the short public paths alone, so that it compiles at either commit.

// Of a later commit `Learner`, whose methods are those of the trainers themselves in an earlier one.
#[allow(unused_imports)]
use lnca::prelude::*;

use candle_core::{DType, Device, Tensor};
use lnca::data::{BinaryImages, Corruption, Dataset, Emblem, Swatch};
use lnca::loss::{ImageLoss, OverflowNorm, PatchTransport, TextureLoss};
use lnca::random::Key;
use lnca::train::{
    AutoencoderTrainerConfig, NetworkTrainer, NetworkTrainerConfig, PatternTrainer, PatternTrainerConfig,
    PoolTrainerConfig, Trainer, VaeTrainer, VaeTrainerConfig,
};
use lnca::{
    AutoencoderTrainer, DecoderConfig, Model, ModelConfig, Pattern, PatternCard, PatternConfig, PoolTrainer,
    Precision, Recipe, Result, TextureConfig, Vae, VaeCard, VaeConfig, Weights,
};

/// FNV-1a over the bits of all values.
fn hash(x: &Tensor) -> Result<u64> {
    let values = x.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    let bytes = values.into_iter().flat_map(|value| value.to_bits().to_le_bytes());
    Ok(bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    }))
}

fn tell(name: &str, x: &Tensor) -> Result<()> {
    println!("checksum {name}: {:016x}", hash(x)?);
    Ok(())
}

fn tell_weights(name: &str, weights: &Weights) -> Result<()> {
    for (weight, var) in weights.vars() {
        tell(&format!("{name} {weight}"), var.as_tensor())?;
    }
    Ok(())
}

fn shipped() -> Result<()> {
    let images = Dataset::dead_leaves(5, 32, 3)?;
    let batches = images.training_batches(0, 5, Some((Corruption::NOISE, 0.5)), Key::new(1))?;
    let images = batches.get(0, &Device::Cpu)?.corrupted;
    for name in ["denoise", "denoise-vitca", "deblur", "deblur-vitca"] {
        let model = Model::load(format!("models/{name}.safetensors"), &Device::Cpu)?;
        tell(name, &model.restore(&images, Key::new(2))?)?;
        for precision in [Precision::F32, Precision::Bf16] {
            let restorer = model.restorer()?;
            let rollout = model.rollout(Key::new(4)).precision(precision);
            let cells = restorer.evolve(&restorer.seed(&images)?, &rollout)?;
            tell(&format!("{name} cells {precision:?}"), &cells)?;
        }
    }
    for name in ["lizard", "fish", "weave", "bubbles"] {
        let pattern = Pattern::load(format!("models/{name}.safetensors"), &Device::Cpu)?;
        let cells = pattern.seed(2, (40, 37))?;
        let rollout = pattern.rollout(50, Key::new(5));
        tell(name, &rollout.run(pattern.rule(), &cells)?)?;
        let states = pattern.rollout(9, Key::new(6)).trajectory(pattern.rule(), &cells)?;
        tell(&format!("{name} trajectory"), &Tensor::stack(&states, 0)?)?;
    }
    Ok(())
}

fn learn(name: &str, trainer: &mut dyn Trainer, weights: &Weights, side: usize) -> Result<()> {
    let images = Dataset::dead_leaves(4, side, 3)?;
    let batches = images.training_batches(0, 4, Some((Corruption::NOISE, 0.5)), Key::new(1))?;
    let batch = batches.get(0, &Device::Cpu)?;
    for n in 0..4 {
        let losses = trainer.learn(&batch, Key::new(n))?;
        println!("checksum {name} losses {n}: {losses:?}");
    }
    tell_weights(name, weights)
}

fn restorers() -> Result<()> {
    for config in [ModelConfig::latent_nafca(), ModelConfig::latent_vitca(), ModelConfig::vitca()] {
        let name = config.name();
        let model = Model::new(config.clone(), 7, &Device::Cpu)?;
        let side = if name == "vitca" { 32 } else { 64 };
        if let Some((autoencoder, weights)) = model.autoencoder() {
            let config = AutoencoderTrainerConfig::default();
            let mut trainer = AutoencoderTrainer::new(autoencoder, weights, config)?;
            learn(&format!("{name} autoencoder"), &mut trainer, weights, side)?;
        }
        let mut settings = PoolTrainerConfig {
            pool: 7,
            steps: 3..=6,
            average: Some(0.9),
            ..PoolTrainerConfig::default()
        };
        settings.fire_rate = if name == "latent-nafca" { 1.0 } else { 0.5 };
        // The published grid of ViTCA is that of its positional table.
        let mut trainer = PoolTrainer::new(model.restorer()?, model.weights(), settings)?;
        let side = if name == "vitca" { 32 } else { side };
        learn(name, &mut trainer, model.weights(), side)?;
    }
    let mut recipe = Recipe::tuned(ModelConfig::latent_nafca());
    if let Some(config) = &mut recipe.end_to_end {
        config.steps = 3..=6;
    }
    let model = Model::new(recipe.model.clone(), 7, &Device::Cpu)?;
    let mut trainer = recipe.end_to_end_trainer(&model)?;
    learn("end to end", &mut trainer, model.weights(), 32)?;
    for (config, settings) in [
        (ModelConfig::nafnet(), NetworkTrainerConfig::nafnet()),
        (ModelConfig::restormer(), NetworkTrainerConfig::restormer()),
    ] {
        let model = Model::new(config, 7, &Device::Cpu)?;
        if let Some(network) = model.network() {
            let mut trainer = NetworkTrainer::new(network, model.weights(), settings)?;
            learn("network", &mut trainer, model.weights(), 16)?;
        }
    }
    Ok(())
}

fn patterns() -> Result<()> {
    let settings = |published: PatternTrainerConfig| PatternTrainerConfig {
        pool: 12,
        batch: 4,
        damaged: published.damaged.min(2),
        steps: 14..=20,
        ..published
    };
    let card = PatternCard::new(PatternConfig::Growing(Default::default()), (18, 18));
    let pattern = Pattern::new(card, 1, &Device::Cpu)?;
    let seed = pattern.seed(1, (18, 18))?;
    let loss = ImageLoss::new(Emblem::Flower.draw(12, 3)?)?;
    let config = settings(PatternTrainerConfig::growing());
    let mut trainer = PatternTrainer::new(pattern.rule().clone(), pattern.weights(), loss, &seed, config)?;
    for n in 0..4 {
        println!("checksum growing losses {n}: {:?}", trainer.update()?);
    }
    tell_weights("growing", pattern.weights())?;
    let card = PatternCard::new(PatternConfig::Texture(TextureConfig::default()), (16, 16));
    let pattern = Pattern::new(card, 1, &Device::Cpu)?;
    let seed = pattern.seed(1, (16, 16))?;
    let transport = PatchTransport::new(&Swatch::Weave.draw(32)?, 2, 16)?;
    let loss = TextureLoss::new(transport, 1.0, 1.0, OverflowNorm::Elements);
    let config = settings(PatternTrainerConfig::texture());
    let mut trainer = PatternTrainer::new(pattern.rule().clone(), pattern.weights(), loss, &seed, config)?;
    for n in 0..4 {
        println!("checksum texture losses {n}: {:?}", trainer.update()?);
    }
    tell_weights("texture", pattern.weights())
}

fn variational() -> Result<()> {
    let decoders = [
        DecoderConfig::Doubling { steps: 2, blocks: 1 },
        DecoderConfig::Broadcast {
            steps: 4,
            fire_rate: 0.8,
            output_bias: true,
        },
        DecoderConfig::Baseline { width: 16 },
    ];
    for decoder in decoders {
        let config = VaeConfig {
            latent: 8,
            encoder: 2,
            decoder,
            ..VaeConfig::default()
        };
        let name = format!("vae {:?}", config.decoder);
        let vae = Vae::new(VaeCard::new(config), 1, &Device::Cpu)?;
        let settings = VaeTrainerConfig {
            batch: 8,
            steps: 2..=5,
            pool: 24,
            ..VaeTrainerConfig::default()
        };
        let mut trainer = VaeTrainer::new(&vae, BinaryImages::digits(64, 5)?.padded(2)?, settings)?;
        for n in 0..4 {
            println!("checksum {name} losses {n}: {:?}", trainer.update()?);
        }
        tell_weights(&name, vae.weights())?;
    }
    Ok(())
}

#[test]
fn checksums() -> Result<()> {
    shipped()?;
    patterns()?;
    variational()?;
    restorers()
}
