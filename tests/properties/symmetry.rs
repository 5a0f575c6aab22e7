//! Symmetries: translation on a torus, quarter turns of Growing's perception.

use std::f64::consts::FRAC_PI_2;

use candle_core::{DType, Tensor};
use lnca::{
    AliveMask, Growing, GrowingConfig, Nafca, NafcaConfig, Padding, Result, Rollout, TransitionFn, Weights,
};
use proptest::prelude::*;

use crate::common::device::device;
use crate::common::{normal, randomise, values};
use crate::rollouts::LAYOUT;

fn assert_close(what: &str, a: &Tensor, b: &Tensor) {
    assert_eq!(a.dims(), b.dims(), "{what}");
    for (i, (a, b)) in values(a).iter().zip(values(b)).enumerate() {
        assert!(
            (a - b).abs() < 1e-9 * b.abs().max(1.0),
            "{what}: element {i}: {a} and {b}"
        );
    }
}

fn alive(padding: Padding) -> AliveMask {
    AliveMask {
        channel: 3,
        threshold: 0.1,
        padding,
    }
}

fn growing(padding: Padding) -> Result<Growing> {
    let weights = Weights::new(1, DType::F64, &device());
    let config = GrowingConfig {
        layout: LAYOUT,
        hidden_dim: 8,
        padding,
        alive: Some(alive(padding)),
        ..GrowingConfig::default()
    };
    let transition = Growing::new(config, weights.builder())?;
    randomise(&weights, 5, 0.3)?;
    Ok(transition)
}

fn nafca() -> Result<Nafca> {
    let weights = Weights::new(2, DType::F64, &device());
    let config = NafcaConfig {
        layout: LAYOUT,
        embed_dim: 8,
        padding: Padding::Circular,
        ..NafcaConfig::default()
    };
    let transition = Nafca::new(config, weights.builder())?;
    randomise(&weights, 6, 0.2)?;
    Ok(transition)
}

/// If all cells fire, shifting commutes with the rollout.
fn assert_translates<T>(transition: &T, cells: &Tensor, (dy, dx): (i32, i32)) -> Result<()>
where
    T: TransitionFn + Clone + 'static,
{
    let shift = |x: &Tensor| x.roll(dy, 1)?.roll(dx, 2);
    let rollout = Rollout::new(3);
    let after = shift(&rollout.run(transition, cells)?)?;
    let before = rollout.run(transition, &shift(cells)?)?;
    assert_close("translation", &before, &after);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) })]

    #[test]
    fn translation_on_a_torus(h in 1usize..8, w in 1usize..8, dy in -9i32..9, dx in -9i32..9, seed in any::<u64>()) {
        let cells = normal(seed, (2, h, w, LAYOUT.channels()), DType::F64);
        assert_translates(&nafca().unwrap(), &cells, (dy, dx)).unwrap();
        assert_translates(&growing(Padding::Circular).unwrap(), &cells, (dy, dx)).unwrap();
    }
}

/// A quarter turn counter-clockwise, with the first row on top.
fn turn(x: &Tensor) -> Result<Tensor> {
    Ok(x.transpose(1, 2)?.contiguous()?.flip(&[1])?)
}

#[test]
fn a_quarter_turn_of_the_cells_turns_their_gradients() -> Result<()> {
    let growing = growing(Padding::Zero)?;
    let cells = normal(3, (1, 5, 7, LAYOUT.channels()), DType::F64);
    let filter = |seen: &Tensor, k: usize| -> Result<Tensor> {
        let seen = seen.reshape((1, seen.dim(1)?, seen.dim(2)?, LAYOUT.channels(), 3))?;
        Ok(seen.narrow(4, k, 1)?.squeeze(4)?)
    };
    let (seen, turned) = (growing.perceive(&cells)?, growing.perceive(&turn(&cells)?)?);
    assert_close("identity", &filter(&turned, 0)?, &turn(&filter(&seen, 0)?)?);
    // The derivative to the right becomes the one upwards, the one downwards becomes the one to the right.
    assert_close("x from y", &filter(&turned, 1)?, &turn(&filter(&seen, 2)?)?);
    assert_close(
        "y from -x",
        &filter(&turned, 2)?,
        &turn(&filter(&seen, 1)?.neg()?)?,
    );
    Ok(())
}

#[test]
fn a_turned_rule_on_turned_cells_is_the_turned_rollout() -> Result<()> {
    let growing = growing(Padding::Zero)?;
    let cells = normal(4, (2, 5, 7, LAYOUT.channels()), DType::F64);
    let rollout = Rollout::new(4);
    let mut turned = cells.clone();
    for quarter in 1..=4 {
        turned = turn(&turned)?;
        let rule = growing.rotated(f64::from(quarter) * FRAC_PI_2);
        let mut expected = rollout.run(&growing, &cells)?;
        for _ in 0..quarter {
            expected = turn(&expected)?;
        }
        assert_close("turned rollout", &rollout.run(&rule, &turned)?, &expected);
    }
    Ok(())
}
