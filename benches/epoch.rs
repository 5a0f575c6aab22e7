//! A whole epoch of training: loading, both updates of every batch, and validation.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lnca::data::{Corruption, Dataset};
use lnca::{AutoencoderTrainer, Fit, Model, ModelConfig, Recipe, Result, TrainingData};

#[path = "common/mod.rs"]
mod common;

use common::{device, done};

/// Candle allocates every intermediate anew; the system's allocator would return such blocks to the system
/// each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Images to train on.
const IMAGES: usize = 64;

fn data() -> Result<TrainingData> {
    let images = |seed| Dataset::dead_leaves(if seed == 1 { IMAGES } else { 16 }, 32, seed);
    Ok(TrainingData {
        train: images(1)?,
        validation: images(2)?,
        corruption: Some(Corruption::NOISE),
        curriculum: None,
    })
}

fn epochs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("epoch of 64 images");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(5))
        .throughput(Throughput::Elements(IMAGES as u64));
    let data = data().unwrap();
    for batch_size in [8, 64] {
        let fit = Fit {
            epochs: 1,
            batch_size,
            ..Fit::default()
        };
        let recipe = Recipe::paper(ModelConfig::latent_nafca());
        let model = Model::new(recipe.model.clone(), 1, device()).unwrap();
        group.bench_function(format!("autoencoder, batch {batch_size}"), |bencher| {
            let (layers, weights) = model.autoencoder().unwrap();
            let mut trainer = AutoencoderTrainer::new(layers, weights, recipe.autoencoder.clone()).unwrap();
            bencher.iter(|| done(fit.run(&mut trainer, &data, &mut |_| ())));
        });
        for config in [ModelConfig::latent_nafca(), ModelConfig::latent_vitca()] {
            let recipe = Recipe::paper(config);
            let model = Model::new(recipe.model.clone(), 1, device()).unwrap();
            let name = model.card().config.name();
            group.bench_function(format!("{name}, batch {batch_size}"), |bencher| {
                let mut trainer = recipe.nca_trainer(&model).unwrap();
                bencher.iter(|| done(fit.run(&mut trainer, &data, &mut |_| ())));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, epochs);
criterion_main!(benches);
