//! Rollouts: fire rates, input channels, untrained automata, batches, sizes.

use candle_core::{DType, Tensor};
use lnca::random::Key;
use lnca::{
    CellLayout, Growing, GrowingConfig, Nafca, NafcaConfig, Result, Rollout, TransitionFn, Vitca,
    VitcaConfig, Weights,
};
use proptest::prelude::*;

use crate::common::device::device;
use crate::common::{normal, randomise, values};

pub const LAYOUT: CellLayout = CellLayout {
    input: 2,
    output: 1,
    hidden: 3,
};

pub fn vitca() -> Result<Vitca> {
    let weights = Weights::new(1, DType::F32, &device());
    let config = VitcaConfig {
        layout: LAYOUT,
        embed_dim: 8,
        heads: 2,
        mlp_dim: 6,
        ..VitcaConfig::default()
    };
    let transition = Vitca::new(config, weights.builder())?;
    randomise(&weights, 10, 0.2)?;
    Ok(transition)
}

pub fn nafca() -> Result<Nafca> {
    let weights = Weights::new(2, DType::F32, &device());
    let config = NafcaConfig {
        layout: LAYOUT,
        embed_dim: 8,
        dropout: 0.3,
        ..NafcaConfig::default()
    };
    let transition = Nafca::new(config, weights.builder())?;
    randomise(&weights, 20, 0.2)?;
    Ok(transition)
}

pub fn growing() -> Result<Growing> {
    let weights = Weights::new(3, DType::F32, &device());
    let config = GrowingConfig {
        layout: LAYOUT,
        hidden_dim: 8,
        alive: None,
        ..GrowingConfig::default()
    };
    let transition = Growing::new(config, weights.builder())?;
    randomise(&weights, 30, 0.2)?;
    Ok(transition)
}

/// Asserts all properties for one transition on one grid with one seed.
fn assert_rollout<T>(transition: &T, (b, h, w): (usize, usize, usize), seed: u64) -> Result<()>
where
    T: TransitionFn + Clone + 'static,
{
    let cells = normal(seed, (b, h, w, LAYOUT.channels()), DType::F32);
    let start = values(&cells);
    let rollout = Rollout::new(3).key(Key::new(seed)).training(true);
    let run = |rollout: &Rollout, cells: &Tensor| rollout.run(transition, cells);

    let asleep = run(&rollout.clone().fire_rate(0.0), &cells)?;
    assert_eq!(values(&asleep), start, "fire rate 0");

    let ones = Tensor::ones((b, h, w, 1), DType::F32, &device())?;
    let unmasked = run(&rollout.clone().masks(vec![ones; 3]), &cells)?;
    let awake = run(&rollout, &cells)?;
    assert_eq!(values(&awake), values(&unmasked), "fire rate 1");

    let half = rollout.fire_rate(0.5);
    let evolved = run(&half, &cells)?;
    assert_eq!(evolved.dims(), cells.dims());
    assert!(values(&evolved).iter().all(|value| value.is_finite()));
    assert_eq!(
        values(&LAYOUT.input(&evolved)?),
        values(&LAYOUT.input(&cells)?),
        "input channels"
    );

    // One image at a time, with its index, gives the same as in the batch, masks and dropout included.
    for image in 0..b {
        let alone = run(&half.clone().first_image(image), &cells.narrow(0, image, 1)?)?;
        let together = evolved.narrow(0, image, 1)?;
        for (a, b) in values(&alone).iter().zip(values(&together)) {
            assert!(
                (a - b).abs() <= 1e-5 * b.abs().max(1.0),
                "image {image}: {a} and {b}"
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(8) })]

    #[test]
    fn any_grid_and_seed(b in 1usize..4, h in 1usize..8, w in 1usize..8, seed in any::<u64>()) {
        assert_rollout(&vitca().unwrap(), (b, h, w), seed).unwrap();
        assert_rollout(&nafca().unwrap(), (b, h, w), seed).unwrap();
        assert_rollout(&growing().unwrap(), (b, h, w), seed).unwrap();
    }
}

#[test]
fn the_smallest_and_thinnest_grids() -> Result<()> {
    for size in [(1, 1, 1), (2, 1, 7), (1, 7, 1), (1, 2, 2)] {
        assert_rollout(&vitca()?, size, 1)?;
        assert_rollout(&nafca()?, size, 2)?;
        assert_rollout(&growing()?, size, 3)?;
    }
    Ok(())
}

#[test]
fn untrained_automata_change_nothing() -> Result<()> {
    let weights = Weights::new(4, DType::F32, &device());
    let vb = weights.builder();
    let vitca = Vitca::new(VitcaConfig::default(), vb.pp("vitca"))?;
    let growing = Growing::new(GrowingConfig::default(), vb.pp("growing"))?;
    let zero_head = NafcaConfig {
        zero_head: true,
        ..NafcaConfig::default()
    };
    let nafca = Nafca::new(zero_head, vb.pp("nafca"))?;
    let rollout = Rollout::new(4).fire_rate(0.5);
    let cells = |layout: CellLayout| normal(1, (1, 4, 5, layout.channels()), DType::F32);
    let (a, b) = (cells(vitca.layout()), cells(nafca.layout()));
    assert_eq!(values(&rollout.run(&vitca, &a)?), values(&a));
    assert_eq!(values(&rollout.run(&nafca, &b)?), values(&b));
    let seed = growing.layout().single_cell((1, 9, 8), DType::F32, &device())?;
    assert_eq!(values(&rollout.run(&growing, &seed)?), values(&seed));
    // The published NAFCA does not: its head starts with random weights.
    let nafca = Nafca::new(NafcaConfig::default(), vb.pp("moving"))?;
    assert_ne!(values(&rollout.run(&nafca, &b)?), values(&b));
    Ok(())
}

#[test]
fn dead_cells_are_empty_and_neighbours_of_living_ones_are_not() -> Result<()> {
    let weights = Weights::new(5, DType::F32, &device());
    let growing = Growing::new(GrowingConfig::default(), weights.builder())?;
    randomise(&weights, 40, 0.3)?;
    let seed = growing.layout().single_cell((1, 9, 9), DType::F32, &device())?;
    for steps in 1..4 {
        let grown = Rollout::new(steps).run(&growing, &seed)?;
        for (cell, channels) in values(&grown).chunks(16).enumerate() {
            let distance = (cell / 9).abs_diff(4).max((cell % 9).abs_diff(4));
            // Life spreads by one cell a step.
            if distance > steps {
                assert!(
                    channels.iter().all(|&value| value == 0.0),
                    "step {steps}, cell {cell}"
                );
            }
        }
    }
    // A seed too weak to be alive dies at once, update or not.
    let grown = Rollout::new(1).run(&growing, &(seed * 0.05)?)?;
    assert!(values(&grown).iter().all(|&value| value == 0.0));
    Ok(())
}

#[test]
fn masks_follow_the_fire_rate_and_differ_by_step_image_and_key() -> Result<()> {
    // A transition that counts: each cell's output is the number of its updates.
    #[derive(Clone)]
    struct Count;
    impl TransitionFn for Count {
        fn layout(&self) -> CellLayout {
            CellLayout {
                input: 0,
                output: 1,
                hidden: 0,
            }
        }
        fn update(&self, cells: &Tensor, _: &lnca::Step) -> Result<Tensor> {
            Ok(cells.ones_like()?)
        }
    }
    let cells = Tensor::zeros((4, 50, 50, 1), DType::F32, &device())?;
    let counts = |key, image| -> Result<Vec<Vec<f64>>> {
        let rollout = Rollout::new(2)
            .fire_rate(0.3)
            .key(Key::new(key))
            .first_image(image);
        Ok(rollout.trajectory(&Count, &cells)?.iter().map(values).collect())
    };
    let states = counts(1, 0)?;
    let second: Vec<f64> = states[1].iter().zip(&states[0]).map(|(b, a)| b - a).collect();
    for mask in [&states[0], &second] {
        let mean = mask.iter().sum::<f64>() / mask.len() as f64;
        // Ten thousand draws: five standard deviations are 0.023.
        assert!((mean - 0.3).abs() < 0.023, "{mean}");
    }
    assert_ne!(states[0], second);
    assert_ne!(states[0][..2500], states[0][2500..5000]);
    assert_ne!(states[0], counts(2, 0)?[0]);
    assert_eq!(states[0][2500..], counts(1, 1)?[0][..7500]);
    Ok(())
}
