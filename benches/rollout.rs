//! Rollouts: inference and a training step, that is a rollout and its gradients, of every transition.

use std::hint::black_box;
use std::time::Duration;

use candle_core::{DType, Tensor};
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use lnca::random::Key;
use lnca::{
    CellLayout, Growing, GrowingConfig, Memory, Nafca, NafcaConfig, OutputStart, Precision, Result, Rollout,
    TransitionFn, Vitca, VitcaConfig, Weights,
};

#[path = "common/mod.rs"]
mod common;

use common::{device, done};

/// Candle allocates every intermediate anew; the system's allocator would return such blocks to the system
/// each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STEPS: usize = 8;

/// Cells that are all alive, of a flat image or latent.
fn cells(layout: CellLayout, (b, h, w): (usize, usize, usize)) -> Result<Tensor> {
    if layout.input == 0 {
        let shape = (b, h, w, layout.channels());
        return Ok(Tensor::full(0.3f32, shape, device())?);
    }
    let shape = (b, h, w, layout.input);
    layout.seed(&Tensor::full(0.3f32, shape, device())?, OutputStart::Half)
}

fn bench<T>(
    group: &mut BenchmarkGroup<WallTime>,
    (name, fire_rate): (&str, f64),
    (transition, weights): &(T, Weights),
    size: (usize, usize, usize),
) where
    T: TransitionFn + Clone + 'static,
{
    let cells = cells(transition.layout(), size).unwrap();
    let rollout = Rollout::new(STEPS)
        .fire_rate(fire_rate)
        .key(Key::new(1))
        .training(true);
    let (b, h, w) = size;
    let id = format!("{name} {b}x{h}x{w}");
    group.throughput(Throughput::Elements((STEPS * b * h * w) as u64));
    let train = |rollout: &Rollout| {
        let last = rollout.run(transition, black_box(&cells)).unwrap();
        let grads = last.sqr().unwrap().mean_all().unwrap().backward().unwrap();
        assert!(weights.vars().iter().all(|(_, var)| grads.get(var).is_some()));
        done(Ok(grads))
    };
    let inference = rollout.clone().training(false).memory(Memory::Nothing);
    group.bench_function(format!("{id} inference"), |bencher| {
        bencher.iter(|| done(inference.run(transition, black_box(&cells))));
    });
    group.bench_function(format!("{id} training"), |bencher| {
        bencher.iter(|| train(&rollout));
    });
    let bf16 = [&inference, &rollout].map(|rollout| rollout.clone().precision(Precision::Bf16));
    group.bench_function(format!("{id} inference, bf16"), |bencher| {
        bencher.iter(|| done(bf16[0].run(transition, black_box(&cells))));
    });
    group.bench_function(format!("{id} training, bf16"), |bencher| {
        bencher.iter(|| train(&bf16[1]));
    });
    // Plain operations, for comparison with the engine; on large grids they take too long.
    if b * h * w <= 1024 {
        let (inference, training) = (inference.plain(), rollout.plain());
        group.bench_function(format!("{id} inference, plain"), |bencher| {
            bencher.iter(|| done(inference.run(transition, black_box(&cells))));
        });
        group.bench_function(format!("{id} training, plain"), |bencher| {
            bencher.iter(|| train(&training));
        });
    }
}

fn weights() -> Weights {
    Weights::new(1, DType::F32, device())
}

fn growing() -> Result<(Growing, Weights)> {
    let weights = weights();
    Ok((
        Growing::new(GrowingConfig::default(), weights.builder())?,
        weights,
    ))
}

fn vitca(config: VitcaConfig) -> Result<(Vitca, Weights)> {
    let weights = weights();
    Ok((Vitca::new(config, weights.builder())?, weights))
}

fn nafca() -> Result<(Nafca, Weights)> {
    let weights = weights();
    Ok((Nafca::new(NafcaConfig::default(), weights.builder())?, weights))
}

fn rollouts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rollout");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    let (growing, vitca) = (growing().unwrap(), vitca(VitcaConfig::default()).unwrap());
    let (nafca, latent) = (nafca().unwrap(), self::vitca(VitcaConfig::latent()).unwrap());
    // Latents of images of 32 pixels, latents of 128 or small images, large images.
    for size in [(8, 8, 8), (1, 32, 32), (1, 256, 256)] {
        bench(&mut group, ("growing", 0.5), &growing, size);
        bench(&mut group, ("nafca", 1.0), &nafca, size);
        bench(&mut group, ("latent vitca", 1.0), &latent, size);
        bench(&mut group, ("vitca", 0.5), &vitca, size);
    }
    group.finish();
}

criterion_group!(benches, rollouts);
criterion_main!(benches);
