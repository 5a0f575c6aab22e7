//! Work on whole images: autoencoder, restoring, SSIM, and a training batch of either phase.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lnca::data::{Batch, Corruption, Dataset};
use lnca::metric::ssim;
use lnca::random::Key;
use lnca::train::{AutoencoderTrainerConfig, PoolTrainerConfig, Trainer};
use lnca::{AutoencoderTrainer, Model, ModelConfig, PoolTrainer};

#[path = "common/mod.rs"]
mod common;

use common::{device, done};

/// Candle allocates every intermediate anew; the system's allocator would return such blocks to the system
/// each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 8;

/// A batch of dead leaves under noise, 32 pixels a side.
fn batch() -> Batch {
    let data = Dataset::dead_leaves(BATCH, 32, 1).unwrap();
    let batches = data.training_batches(0, BATCH, Some((Corruption::NOISE, 0.5)), Key::new(1));
    batches.unwrap().get(0, device()).unwrap()
}

fn images(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("8 images of 32x32");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .throughput(Throughput::Elements(BATCH as u64));
    let batch = batch();
    group.bench_function("ssim", |bencher| {
        bencher.iter(|| done(ssim(black_box(&batch.corrupted), &batch.clean)));
    });

    let model = Model::new(ModelConfig::latent_nafca(), 1, device()).unwrap();
    let (autoencoder, weights) = model.autoencoder().unwrap();
    group.bench_function("autoencoder inference", |bencher| {
        bencher.iter(|| {
            let encoded = autoencoder.encode(black_box(&batch.corrupted), false).unwrap();
            done(autoencoder.decode(&encoded.latent, &encoded.skip, false))
        });
    });
    // Both updates of a batch: 3 and 2 passes through encoder and decoder, with gradients.
    let mut trainer =
        AutoencoderTrainer::new(autoencoder, weights, AutoencoderTrainerConfig::default()).unwrap();
    group.bench_function("autoencoder training batch", |bencher| {
        bencher.iter(|| done(trainer.learn(black_box(&batch), Key::new(1))));
    });

    for config in [ModelConfig::latent_nafca(), ModelConfig::latent_vitca()] {
        let model = Model::new(config, 1, device()).unwrap();
        let name = model.card().config.name();
        group.bench_function(format!("{name} restore, 64 steps"), |bencher| {
            bencher.iter(|| done(model.restore(black_box(&batch.corrupted), Key::new(1))));
        });
        // The mean of 8 to 32 steps, in each of the two updates of a batch.
        let config = PoolTrainerConfig {
            steps: 20..=20,
            ..PoolTrainerConfig::default()
        };
        let mut trainer = PoolTrainer::new(model.restorer().unwrap(), model.weights(), config).unwrap();
        group.bench_function(format!("{name} training batch, 20 steps"), |bencher| {
            bencher.iter(|| done(trainer.learn(black_box(&batch), Key::new(1))));
        });
    }
    group.finish();
}

criterion_group!(benches, images);
criterion_main!(benches);
