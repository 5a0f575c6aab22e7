//! Rollouts of every transition, with respect to the first state and every weight.

use candle_core::{DType, Tensor, Var};
use lnca::random::Key;
use lnca::transition::{Lattice, Perception, PositionalOrder, bipolar_directions};
use lnca::{
    AliveMask, CellLayout, Gated, GatedConfig, Growing, GrowingConfig, Memory, Nafca, NafcaConfig, Padding,
    Result, Rollout, Texture, TextureConfig, TransitionFn, Vitca, VitcaConfig, Weights,
};

use crate::assert_gradients;
use crate::common::device::device;
use crate::common::{normal, randomise};

const LAYOUT: CellLayout = CellLayout {
    input: 2,
    output: 1,
    hidden: 3,
};

fn f64_weights(seed: u64) -> Weights {
    Weights::new(seed, DType::F64, &device())
}

/// Checks a scalar in which every element of the last state has its own weight.
fn assert_rollout<T>(
    what: &str,
    transition: &T,
    weights: &Weights,
    size: [usize; 3],
    rollout: Rollout,
) -> Result<()>
where
    T: TransitionFn + Clone + 'static,
{
    randomise(weights, 100, 0.3)?;
    let [b, h, w] = size;
    let shape = (b, h, w, transition.layout().channels());
    let cells = Var::from_tensor(&normal(1, shape, DType::F64))?;
    let direction = normal(2, shape, DType::F64);
    let mut inputs = weights.vars();
    inputs.push(("cells".to_string(), cells.clone()));
    // With a shorter last stretch; `memory.rs` checks that all memory policies agree.
    let rollout = rollout.memory(Memory::Every(2));
    assert_gradients(&format!("{what} {size:?}"), &inputs, || {
        let last = rollout.run(transition, cells.as_tensor())?;
        Ok((last * &direction)?.sum_all()?)
    })
}

/// Three steps in which some cells fire.
fn masked(seed: u64) -> Rollout {
    Rollout::new(3).fire_rate(0.6).key(Key::new(seed))
}

fn vitca() -> VitcaConfig {
    VitcaConfig {
        layout: LAYOUT,
        embed_dim: 4,
        heads: 2,
        mlp_dim: 3,
        ..VitcaConfig::default()
    }
}

#[test]
fn vitca_in_all_its_forms() -> Result<()> {
    let forms = [
        ("vitca", vitca()),
        (
            "one head, block table",
            VitcaConfig {
                heads: 1,
                positional_order: PositionalOrder::Block,
                ..vitca()
            },
        ),
        ("two blocks", VitcaConfig { depth: 2, ..vitca() }),
        (
            "circular",
            VitcaConfig {
                padding: Padding::Circular,
                ..vitca()
            },
        ),
    ];
    for (i, (what, config)) in forms.into_iter().enumerate() {
        let weights = f64_weights(i as u64);
        let transition = Vitca::new(config, weights.builder())?;
        assert_rollout(what, &transition, &weights, [1, 1, 1], masked(1))?;
        assert_rollout(what, &transition, &weights, [2, 3, 2], masked(2))?;
    }
    Ok(())
}

fn nafca() -> NafcaConfig {
    NafcaConfig {
        layout: LAYOUT,
        embed_dim: 4,
        ffn_expand: 2,
        // Large, because on flat cells layer norm is so curved that differences lose their digits.
        eps: 1e-2,
        ..NafcaConfig::default()
    }
}

#[test]
fn nafca_in_all_its_forms() -> Result<()> {
    let forms = [
        ("nafca", nafca()),
        (
            "plain perception",
            NafcaConfig {
                perception: Perception::Plain,
                ..nafca()
            },
        ),
        (
            "circular",
            NafcaConfig {
                padding: Padding::Circular,
                ..nafca()
            },
        ),
    ];
    for (i, (what, config)) in forms.into_iter().enumerate() {
        let weights = f64_weights(i as u64);
        let transition = Nafca::new(config, weights.builder())?;
        assert_rollout(what, &transition, &weights, [1, 1, 1], masked(3))?;
        assert_rollout(what, &transition, &weights, [2, 3, 2], masked(4))?;
    }
    Ok(())
}

#[test]
fn nafca_under_dropout() -> Result<()> {
    let weights = f64_weights(5);
    let config = NafcaConfig {
        dropout: 0.4,
        ..nafca()
    };
    let transition = Nafca::new(config, weights.builder())?;
    // Differences work because the same key drops the same elements every time.
    let rollout = masked(5).training(true);
    assert_rollout("dropout", &transition, &weights, [2, 1, 3], rollout)
}

#[test]
fn gated() -> Result<()> {
    for (i, padding) in [Padding::Zero, Padding::Circular].into_iter().enumerate() {
        let weights = f64_weights(i as u64);
        let config = GatedConfig {
            layout: CellLayout {
                input: 1,
                output: 1,
                hidden: 2,
            },
            gate_dim: 3,
            // As for NAFCA.
            eps: 1e-2,
            padding,
        };
        let transition = Gated::new(config, weights.builder())?;
        assert_rollout("gated", &transition, &weights, [1, 1, 1], masked(3))?;
        assert_rollout("gated", &transition, &weights, [2, 3, 2], masked(4))?;
    }
    Ok(())
}

#[test]
fn growing_with_and_without_death() -> Result<()> {
    let alive = AliveMask {
        channel: 3,
        threshold: 0.1,
        padding: Padding::Zero,
    };
    let config = GrowingConfig {
        layout: CellLayout {
            input: 0,
            output: 4,
            hidden: 1,
        },
        hidden_dim: 5,
        alive: None,
        ..GrowingConfig::default()
    };
    let forms = [
        ("growing", config.clone()),
        (
            "turned, circular, with inputs",
            GrowingConfig {
                layout: LAYOUT,
                angle: 0.7,
                padding: Padding::Circular,
                ..config.clone()
            },
        ),
        (
            "alive mask",
            GrowingConfig {
                alive: Some(alive),
                ..config
            },
        ),
    ];
    for (i, (what, config)) in forms.into_iter().enumerate() {
        let weights = f64_weights(i as u64);
        let transition = Growing::new(config, weights.builder())?;
        assert_rollout(what, &transition, &weights, [1, 1, 1], masked(6))?;
        assert_rollout(what, &transition, &weights, [2, 3, 5], masked(7))?;
    }
    Ok(())
}

#[test]
fn textures_bounded_and_not() -> Result<()> {
    let config = TextureConfig {
        layout: CellLayout {
            input: 0,
            output: 3,
            hidden: 1,
        },
        hidden_dim: 5,
        ..TextureConfig::default()
    };
    let forms = [
        ("texture", config.clone()),
        (
            "clipped, turned, with inputs",
            TextureConfig {
                layout: LAYOUT,
                angle: 0.7,
                clip: Some(1.0),
                output_bias: true,
                filter_scale: 0.125,
                ..config.clone()
            },
        ),
        (
            "hexagonal",
            TextureConfig {
                lattice: Lattice::Hexagonal,
                padding: Padding::Zero,
                ..config
            },
        ),
    ];
    for (i, (what, config)) in forms.into_iter().enumerate() {
        let weights = f64_weights(i as u64);
        let transition = Texture::new(config, weights.builder())?;
        assert_rollout(what, &transition, &weights, [2, 3, 4], masked(8))?;
        let field = bipolar_directions(3, 4, &Tensor::zeros(1, DType::F64, &device())?)?;
        assert_rollout(
            what,
            &transition.directed(&field)?,
            &weights,
            [1, 3, 4],
            masked(9),
        )?;
    }
    Ok(())
}
