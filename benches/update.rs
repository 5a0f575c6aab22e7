//! One update of a LatentNAFCA and its parts: the rollout should take nearly all of the time.

use std::hint::black_box;
use std::time::Duration;

use candle_core::Tensor;
use criterion::{Criterion, criterion_group, criterion_main};
use lnca::data::{Batch, Corruption, Dataset};
use lnca::random::Key;
use lnca::train::Trainer;
use lnca::{AutoencoderTrainer, Model, ModelConfig, PoolTrainer, Recipe, Result, Rollout};

#[path = "common/mod.rs"]
mod common;

use common::{device, done};

/// Candle allocates every intermediate anew; the system's allocator would return such blocks to the system
/// each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 8;
const STEPS: usize = 20;

fn batches() -> Result<lnca::data::Batches> {
    let images = Dataset::dead_leaves(8 * BATCH, 32, 1)?;
    images.training_batches(0, BATCH, Some((Corruption::NOISE, 0.5)), Key::new(1))
}

fn updates(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("update");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    let recipe = Recipe::paper(ModelConfig::latent_nafca());
    let model = Model::new(recipe.model.clone(), 1, device()).unwrap();
    let batches = batches().unwrap();
    let batch: Batch = batches.get(0, device()).unwrap();
    let rollout = Rollout::new(STEPS).training(true).key(Key::new(2));
    let restorer = model.restorer().unwrap();

    group.bench_function("whole", |bencher| {
        let mut trainer: PoolTrainer = recipe.nca_trainer(&model).unwrap();
        let mut at = 0;
        bencher.iter(|| {
            at += 1;
            let batch = batches.get(at % batches.len(), device()).unwrap();
            trainer.fresh_update(&batch, &rollout).unwrap();
            done(trainer.pool_mut().shuffle(Key::new(at as u64)));
        });
    });
    let seed = restorer.seed(&batch.corrupted).unwrap().detach();
    group.bench_function("rollout and its gradients", |bencher| {
        bencher.iter(|| {
            let cells = restorer.evolve(black_box(&seed), &rollout).unwrap();
            done(Ok(cells.mean_all().unwrap().backward().unwrap()))
        });
    });
    let cells = restorer.evolve(&seed, &rollout).unwrap().detach();
    let shown = |cells: &Tensor| restorer.readout(cells, &batch.corrupted);
    group.bench_function("encoding", |bencher| {
        bencher.iter(|| done(restorer.seed(black_box(&batch.corrupted))));
    });
    group.bench_function("decoding", |bencher| {
        bencher.iter(|| done(shown(black_box(&cells))));
    });
    let cells = candle_core::Var::from_tensor(&cells).unwrap();
    group.bench_function("decoding and its gradients", |bencher| {
        bencher.iter(|| {
            let decoded = shown(black_box(cells.as_tensor())).unwrap();
            done(Ok(decoded.mean_all().unwrap().backward().unwrap()))
        });
    });
    group.bench_function("loading", |bencher| {
        bencher.iter(|| done(batches.get(1, device())));
    });
    group.bench_function("autoencoder", |bencher| {
        let (autoencoder, weights) = model.autoencoder().unwrap();
        let mut trainer = AutoencoderTrainer::new(autoencoder, weights, recipe.autoencoder.clone()).unwrap();
        bencher.iter(|| done(trainer.learn(&batch, Key::new(3))));
    });
    group.finish();
}

criterion_group!(benches, updates);
criterion_main!(benches);
