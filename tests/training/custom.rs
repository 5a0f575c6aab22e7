//! A custom transition, written with the public interface alone.

use candle_core::{DType, Tensor};
use candle_nn::{Linear, Module, VarBuilder, linear};
use lnca::data::{Corruption, Dataset};
use lnca::random::Key;
use lnca::train::{PoolTrainerConfig, Reading, Trainer};
use lnca::{
    CellLayout, Memory, Padding, PlainNca, PoolTrainer, Restorer, Result, Rollout, Step, TransitionFn,
    Weights, neighbourhood,
};
use std::sync::Arc;

use crate::common::device::device;
use crate::common::{normal, randomise, values};

/// Reads its neighbours, applies a small perceptron, and drops out a little.
#[derive(Clone)]
struct Mine {
    see: Linear,
    act: Linear,
}

const LAYOUT: CellLayout = CellLayout {
    input: 3,
    output: 3,
    hidden: 2,
};

impl Mine {
    fn new(vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            see: linear(9 * LAYOUT.channels(), 12, vb.pp("see"))?,
            act: linear(12, LAYOUT.update_channels(), vb.pp("act"))?,
        })
    }
}

impl TransitionFn for Mine {
    fn layout(&self) -> CellLayout {
        LAYOUT
    }

    fn update(&self, cells: &Tensor, step: &Step) -> Result<Tensor> {
        let seen = neighbourhood(cells, Padding::Circular)?.flatten_from(3)?;
        let thought = step.dropout(&self.see.forward(&seen)?.tanh()?, 0.1, 0)?;
        Ok((self.act.forward(&thought)? * 0.1)?)
    }
}

fn train(memory: Memory, batches: usize) -> Result<(Weights, Vec<f64>)> {
    let data = Dataset::dead_leaves(8, 12, 1)?;
    let data = data.training_batches(0, 4, Some((Corruption::NOISE, 0.5)), Key::new(1))?;
    let weights = Weights::new(1, DType::F32, &device());
    let restorer: Arc<dyn Restorer> = Arc::new(PlainNca::new(Mine::new(weights.builder())?)?);
    let mut config = PoolTrainerConfig {
        steps: 4..=6,
        fire_rate: 0.5,
        ..PoolTrainerConfig::default()
    };
    // Without normalised gradients, which amplify the rounding of small ones.
    config.adam.normalise = false;
    config.adam.learning_rate = 1e-3;
    config.adam.eps = 1e-2;
    let mut trainer = PoolTrainer::new(restorer, &weights, config)?.with_memory(memory);
    let mut losses = Vec::new();
    for i in 0..batches {
        let batch = data.get(i % data.len(), &device())?;
        losses.push(Reading::total(&trainer.learn(&batch, Key::new(i as u64))?));
    }
    Ok((weights, losses))
}

#[test]
fn it_learns() -> Result<()> {
    let (_, losses) = train(Memory::Every(1), 40)?;
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..4]), mean(&losses[36..]));
    assert!(last < 0.8 * first, "from {first} to {last}");
    Ok(())
}

#[test]
fn checkpoints_lead_to_the_same_weights() -> Result<()> {
    let (kept, _) = train(Memory::Everything, 4)?;
    for memory in [Memory::Every(1), Memory::Every(3)] {
        let (weights, _) = train(memory, 4)?;
        for ((name, a), (_, b)) in kept.vars().iter().zip(weights.vars()) {
            for (a, b) in values(a).iter().zip(values(&b)) {
                assert!((a - b).abs() < 1e-6, "{memory:?} {name}: {a} and {b}");
            }
        }
    }
    Ok(())
}

/// In Candle's graph the depth of a rollout is limited by the stack, here the 2 MiB of a test's thread.
#[test]
fn a_deep_rollout_fits_a_small_stack() -> Result<()> {
    let weights = Weights::new(2, DType::F32, &device());
    let transition = Mine::new(weights.builder())?;
    randomise(&weights, 1, 0.05)?;
    let cells = normal(1, (1, 3, 3, LAYOUT.channels()), DType::F32);
    for memory in [Memory::Every(1), Memory::Every(10)] {
        let rollout = Rollout::new(1000).fire_rate(0.5).memory(memory);
        let last = rollout.run(&transition, &cells)?;
        let grads = last.sqr()?.mean_all()?.backward()?;
        for (name, var) in weights.vars() {
            let grad = grads.get(&var).unwrap_or_else(|| panic!("no gradient of {name}"));
            assert!(values(grad).iter().all(|value| value.is_finite()), "{name}");
        }
    }
    Ok(())
}
