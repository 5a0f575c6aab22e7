//! The number of threads does not change a single bit.

use std::collections::BTreeMap;
use std::process::Command;

use candle_core::{DType, Tensor};
use lnca::data::{BinaryImages, Corruption, Dataset};
use lnca::random::Key;
use lnca::train::{
    AutoencoderTrainerConfig, Learner, PoolTrainerConfig, Trainer, VaeTrainer, VaeTrainerConfig,
};
use lnca::{
    AutoencoderTrainer, DecoderConfig, Model, ModelConfig, NafcaConfig, PoolTrainer, Precision, Result,
    Rollout, TransitionFn, Vae, VaeCard, VaeConfig, Weights,
};

use crate::common::device::device;
use crate::common::normal;

/// Set in the child processes; the test that starts them compares their output.
const CHILD: &str = "LNCA_TEST_THREADS_CHILD";

/// A hash of all bits of all values.
fn hash<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for tensor in tensors {
        let flat = tensor.to_dtype(DType::F32).and_then(|x| x.flatten_all()).unwrap();
        for value in flat.to_vec1::<f32>().unwrap() {
            hash = (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash
}

/// Hashes of cells and of the gradients of weights.
fn both(last: &Tensor, weights: &Weights) -> Result<[u64; 2]> {
    let grads = last.sqr()?.sum_all()?.backward()?;
    let grads: Vec<Tensor> = weights
        .vars()
        .iter()
        .map(|(_, var)| grads.get(var).unwrap().clone())
        .collect();
    Ok([hash([last]), hash(&grads)])
}

/// A rollout large enough that Candle splits its operations over threads.
fn rollout(precision: Precision) -> Result<[u64; 2]> {
    let weights = Weights::new(1, DType::F32, &device());
    let transition = lnca::Nafca::new(NafcaConfig::default(), weights.builder())?;
    crate::common::randomise(&weights, 3, 0.1)?;
    let cells = transition
        .layout()
        .seed(&normal(1, (4, 16, 16, 16), DType::F32), lnca::OutputStart::Half)?;
    let rollout = Rollout::new(3)
        .fire_rate(0.5)
        .key(Key::new(9))
        .training(true)
        .precision(precision);
    both(&rollout.run(&transition, &cells)?, &weights)
}

/// A rollout of a single image whose grid is cut into several strips.
fn strips() -> Result<[u64; 2]> {
    let weights = Weights::new(1, DType::F32, &device());
    let transition = lnca::Vitca::new(lnca::VitcaConfig::default(), weights.builder())?;
    crate::common::randomise(&weights, 3, 0.1)?;
    let cells = normal(1, (1, 96, 40, 38), DType::F32);
    let rollout = Rollout::new(3).fire_rate(0.5).key(Key::new(9));
    both(&rollout.run(&transition, &cells)?, &weights)
}

/// Two batches of either trainer, on images corrupted here.
fn training() -> Result<[u64; 4]> {
    let data = Dataset::dead_leaves(16, 32, 5)?;
    let batches = data.training_batches(0, 8, Some((Corruption::NOISE, 0.5)), Key::new(1))?;
    let model = Model::new(ModelConfig::latent_nafca(), 4, &device())?;
    let (autoencoder, weights) = model.autoencoder().expect("a latent model");
    let mut first =
        AutoencoderTrainer::new(autoencoder, weights, AutoencoderTrainerConfig::default()).unwrap();
    let config = PoolTrainerConfig {
        steps: 1..=3,
        fire_rate: 0.5,
        ..PoolTrainerConfig::default()
    };
    let mut second = PoolTrainer::new(model.restorer()?, model.weights(), config)?;
    let mut hashes = Vec::new();
    let trainers: [&mut dyn Trainer; 2] = [&mut first, &mut second];
    for trainer in trainers {
        for i in 0..2 {
            trainer.learn(&batches.get(i, &device())?, Key::new(i as u64))?;
        }
        hashes.push(hash(trainer.weights().snapshot()?.values()));
        hashes.push(hash(
            trainer
                .state()?
                .values()
                .chain(trainer.optimiser().state()?.values()),
        ));
    }
    Ok(hashes.try_into().expect("four hashes"))
}

/// Updates of variational autoencoders with every decoder.
fn variational() -> Result<Vec<u64>> {
    let images = BinaryImages::digits(40, 5)?.padded(2)?;
    let decoders = [
        DecoderConfig::Doubling { steps: 2, blocks: 1 },
        DecoderConfig::Broadcast {
            steps: 3,
            fire_rate: 0.5,
            output_bias: true,
        },
        DecoderConfig::Baseline { width: 32 },
    ];
    let hashes = decoders.into_iter().map(|decoder| {
        let config = VaeConfig {
            latent: 16,
            encoder: 4,
            decoder,
            ..VaeConfig::default()
        };
        let vae = Vae::new(VaeCard::new(config), 2, &device())?;
        let config = VaeTrainerConfig {
            batch: 8,
            steps: 2..=4,
            pool: 16,
            ..VaeTrainerConfig::default()
        };
        let mut trainer = VaeTrainer::new(&vae, images.clone(), config)?;
        for _ in 0..3 {
            trainer.update()?;
        }
        let pool = trainer.pool().entries().iter().map(|entry| &entry.cells);
        Ok(hash(vae.weights().snapshot()?.values().chain(pool)))
    });
    hashes.collect()
}

fn work() -> Result<String> {
    let rollouts = [rollout(Precision::F32)?, rollout(Precision::Bf16)?];
    Ok(format!(
        "{rollouts:016x?} {:016x?} {:016x?} {:016x?}",
        strips()?,
        training()?,
        variational()?
    ))
}

#[test]
fn one_thread_and_two_give_the_same_bits() -> Result<()> {
    if std::env::var_os(CHILD).is_some() {
        println!("{CHILD} {}", work()?);
        return Ok(());
    }
    let mut results = BTreeMap::new();
    for threads in ["1", "2", "3"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "threads::one_thread_and_two_give_the_same_bits",
                "--nocapture",
            ])
            .env(CHILD, "1")
            .env("RAYON_NUM_THREADS", threads)
            .env("CANDLE_NUM_THREADS", threads)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find_map(|line| line.split_once(CHILD));
        let Some((_, hashes)) = line else {
            panic!(
                "{threads} threads: {text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        results.insert(hashes.trim().to_string(), threads);
    }
    assert_eq!(results.len(), 1, "rollout, gradients, trainers: {results:?}");
    Ok(())
}
