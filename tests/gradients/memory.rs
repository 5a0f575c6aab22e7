//! Memory policies: what is stored of a rollout changes its cost and nothing else.

use candle_core::{DType, Tensor, Var};
use lnca::random::Key;
use lnca::{
    CellLayout, Memory, Nafca, NafcaConfig, Result, Rollout, TransitionFn, Vitca, VitcaConfig, Weights,
};

use crate::assert_gradients;
use crate::common::device::device;
use crate::common::{normal, randomise, values};

const LAYOUT: CellLayout = CellLayout {
    input: 1,
    output: 2,
    hidden: 2,
};
/// A number of steps that only the first stretch of `CHECKPOINTS` divides.
const STEPS: usize = 7;
const CHECKPOINTS: [Memory; 4] = [
    Memory::Every(1),
    Memory::Every(2),
    Memory::Every(5),
    Memory::Every(100),
];

fn nafca(dtype: DType) -> Result<(Nafca, Weights)> {
    let weights = Weights::new(1, dtype, &device());
    let config = NafcaConfig {
        layout: LAYOUT,
        embed_dim: 6,
        ..NafcaConfig::default()
    };
    let transition = Nafca::new(config, weights.builder())?;
    randomise(&weights, 7, 0.1)?;
    Ok((transition, weights))
}

fn vitca(dtype: DType) -> Result<(Vitca, Weights)> {
    let weights = Weights::new(2, dtype, &device());
    let config = VitcaConfig {
        layout: LAYOUT,
        embed_dim: 6,
        heads: 3,
        mlp_dim: 5,
        ..VitcaConfig::default()
    };
    let transition = Vitca::new(config, weights.builder())?;
    randomise(&weights, 8, 0.1)?;
    Ok((transition, weights))
}

/// The last state and the gradients of all weights and of the first state.
fn rolled<T>((transition, weights): &(T, Weights), memory: Memory) -> Result<Vec<(String, Vec<f64>)>>
where
    T: TransitionFn + Clone + 'static,
{
    let dtype = weights.vars()[0].1.dtype();
    let shape = (2, 3, 5, LAYOUT.channels());
    let cells = Var::from_tensor(&normal(3, shape, dtype))?;
    let rollout = Rollout::new(STEPS)
        .fire_rate(0.5)
        .key(Key::new(11))
        .training(true)
        .memory(memory)
        .plain();
    let last = rollout.run(transition, cells.as_tensor())?;
    let grads = (&last * normal(4, shape, dtype))?.sum_all()?.backward()?;
    let mut all = vec![("last state".to_string(), values(&last))];
    for (name, var) in weights.vars().into_iter().chain([("cells".to_string(), cells)]) {
        let grad = grads
            .get(&var)
            .unwrap_or_else(|| panic!("{memory:?}: no gradient of {name}"));
        all.push((name, values(grad)));
    }
    Ok(all)
}

fn assert_same<T>(model: impl Fn(DType) -> Result<(T, Weights)>) -> Result<()>
where
    T: TransitionFn + Clone + 'static,
{
    for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-13)] {
        let model = model(dtype)?;
        let kept = rolled(&model, Memory::Everything)?;
        for memory in CHECKPOINTS {
            for ((name, a), (_, b)) in kept.iter().zip(rolled(&model, memory)?) {
                let scale = a.iter().fold(1e-6, |max: f64, value| max.max(value.abs()));
                let error = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / scale;
                assert!(
                    error <= tolerance,
                    "{dtype:?} {memory:?} {name}: off by {error:.1e}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn checkpoints_change_neither_states_nor_gradients() -> Result<()> {
    assert_same(nafca)?;
    assert_same(vitca)
}

#[test]
fn losses_on_all_states_of_a_trajectory() -> Result<()> {
    let (transition, weights) = nafca(DType::F64)?;
    let shape = (1, 1, 3, LAYOUT.channels());
    let cells = Var::from_tensor(&normal(5, shape, DType::F64))?;
    let mut inputs = weights.vars();
    inputs.retain(|(name, _)| ["conv_attention.weight", "conv_out.bias", "gamma"].contains(&name.as_str()));
    inputs.push(("cells".to_string(), cells.clone()));
    for memory in [Memory::Everything, Memory::Every(1), Memory::Every(3)] {
        let rollout = Rollout::new(4).fire_rate(0.7).key(Key::new(3)).memory(memory);
        assert_gradients(&format!("trajectory {memory:?}"), &inputs, || {
            let mut sum = Tensor::zeros((), DType::F64, &device())?;
            for (step, state) in rollout.trajectory(&transition, &cells)?.iter().enumerate() {
                let direction = normal(20 + step as u64, shape, DType::F64);
                sum = (sum + (state * direction)?.sum_all()?)?;
            }
            Ok(sum)
        })?;
    }
    Ok(())
}

#[test]
fn the_last_state_of_a_trajectory_is_the_result() -> Result<()> {
    let (transition, _) = nafca(DType::F32)?;
    let cells = normal(6, (2, 3, 4, LAYOUT.channels()), DType::F32);
    for memory in [Memory::Everything, Memory::Every(3), Memory::Nothing] {
        let rollout = Rollout::new(5).fire_rate(0.5).memory(memory);
        let states = rollout.trajectory(&transition, &cells)?;
        assert_eq!(states.len(), 5);
        assert_eq!(values(&states[4]), values(&rollout.run(&transition, &cells)?));
    }
    Ok(())
}

#[test]
fn keeping_nothing_leaves_no_gradient() -> Result<()> {
    let (transition, weights) = nafca(DType::F32)?;
    let cells = Var::from_tensor(&normal(7, (1, 2, 2, LAYOUT.channels()), DType::F32))?;
    let rollout = Rollout::new(3).memory(Memory::Nothing);
    let last = rollout.run(&transition, &cells)?;
    let grads = last.sum_all()?.backward()?;
    assert!(grads.get(&cells).is_none());
    assert!(weights.vars().iter().all(|(_, var)| grads.get(var).is_none()));
    // The states in between have none either.
    for state in rollout.trajectory(&transition, &cells)? {
        assert!(state.sum_all()?.backward()?.get(&cells).is_none());
    }
    Ok(())
}
