//! Programs of random operations, weights, grids and masks.

use candle_core::{DType, Tensor, Var};
use lnca::random::Key;
use lnca::{CellLayout, Function, Memory, Padding, Program, ProgramBuilder, Result, Rollout, TransitionFn};
use proptest::prelude::*;

use crate::agreement::agree;
use crate::device::device;
use crate::programs::{Draw, noise};

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn run_alike(
        seed in any::<u64>(),
        (input, output, hidden) in (0usize..3, 1usize..5, 0usize..6),
        (batch, height, width) in (1usize..6, 1usize..14, 1usize..14),
        operations in 1usize..12,
        (steps, every) in (1usize..5, 1usize..4),
        rate in prop_oneof![Just(1.0), 0.0..1.0],
    ) {
        let layout = CellLayout { input, output, hidden };
        let mut draw = Draw::new(seed, DType::F32);
        let program = draw.program(layout, (height, width), operations).unwrap();
        let rollout = Rollout::new(steps)
            .fire_rate(rate)
            .key(Key::new(seed))
            .training(true)
            .memory(Memory::Every(every));
        agree(&program, &draw.vars, (batch, height, width), &rollout);
    }
}

/// Grids large enough for many bands.
#[test]
fn tall_grids_run_alike() {
    for seed in 0..12 {
        let layout = CellLayout {
            input: 1,
            output: 3,
            hidden: 4,
        };
        let mut draw = Draw::new(seed, DType::F32);
        let program = draw.program(layout, (151, 40), 10).unwrap();
        let rollout = Rollout::new(2).fire_rate(0.6).key(Key::new(seed)).training(true);
        agree(&program, &draw.vars, (1, 151, 40), &rollout);
    }
}

/// Keys or values of an attention that other operations read from further away, on grids of several bands.
#[test]
fn keys_and_values_are_needed_on_different_rows() {
    let layout = CellLayout {
        input: 0,
        output: 3,
        hidden: 1,
    };
    let width = 32;
    for (further, rate) in [(1, 1.0), (2, 1.0), (1, 0.6), (2, 0.6)] {
        let mut draw = Draw::new(7, DType::F32);
        let mut p = ProgramBuilder::new(layout);
        let weights = [(); 3].map(|()| draw.weight(&[width, 4]));
        let qkv = weights.map(|weight| p.linear(p.cells(), &weight, None).unwrap());
        let attended = p.attention(qkv[0], qkv[1], qkv[2], 2, Padding::Zero).unwrap();
        let mut x = qkv[further];
        for _ in 0..2 {
            let kernel = draw.weight(&[1, 3, 3]);
            x = p.stencil(x, &kernel, Padding::Zero).unwrap();
            x = p.map(x, Function::Tanh).unwrap();
        }
        let both = p.concat(&[attended, x]).unwrap();
        let weight = draw.weight(&[4, 2 * width]);
        let update = p.linear(both, &weight, None).unwrap();
        let program = p.finish(update).unwrap();
        let rollout = Rollout::new(2).fire_rate(rate).key(Key::new(3));
        agree(&program, &draw.vars, (1, 300, 60), &rollout);
    }
}

/// Hoisted values, functions of input channels alone: read whole, in slices, in sums, by attention, and by
/// cached values.
#[test]
fn hoisted_values_run_alike() {
    let layout = CellLayout {
        input: 2,
        output: 3,
        hidden: 1,
    };
    for (case, (size, rate)) in [((3, 8, 8), 1.0), ((3, 8, 8), 0.5), ((1, 300, 60), 0.6)]
        .into_iter()
        .enumerate()
    {
        let mut draw = Draw::new(case as u64, DType::F32);
        let mut p = ProgramBuilder::new(layout);
        let inputs = p.slice(p.cells(), 0, 2).unwrap();
        let others = p.slice(p.cells(), 2, 4).unwrap();
        let table = p.constant(&draw.weight(&[size.1, size.2, 32])).unwrap();
        let seen = p.linear(inputs, &draw.weight(&[32, 2]), None).unwrap();
        let seen = p.add(seen, table).unwrap();
        let seen = p.map(seen, Function::Gelu).unwrap();
        let (k, v) = (p.slice(seen, 0, 16).unwrap(), p.slice(seen, 16, 16).unwrap());
        let own = p.linear(others, &draw.weight(&[16, 4]), None).unwrap();
        let own = p.add(own, k).unwrap();
        // Hoisted keys and cached values.
        let first = p.attention(own, k, own, 2, Padding::Zero).unwrap();
        let second = p.attention(first, own, v, 2, Padding::Zero).unwrap();
        let kernel = draw.weight(&[1, 3, 3]);
        let near = p.stencil(v, &kernel, Padding::Zero).unwrap();
        let all = p.concat(&[second, near, seen]).unwrap();
        let update = p.linear(all, &draw.weight(&[4, 64]), None).unwrap();
        let program = p.finish(update).unwrap();
        for every in [1, 2] {
            let rollout = Rollout::new(3).fire_rate(rate).key(Key::new(5));
            agree(&program, &draw.vars, size, &rollout.memory(Memory::Every(every)));
        }
    }
}

#[test]
fn a_table_of_another_grid_is_an_error() {
    let layout = CellLayout {
        input: 0,
        output: 2,
        hidden: 0,
    };
    let mut p = ProgramBuilder::new(layout);
    let table = Tensor::zeros((4, 4, 2), DType::F32, &device()).unwrap();
    let table = p.constant(&table).unwrap();
    let update = p.add(p.cells(), table).unwrap();
    let program = p.finish(update).unwrap();
    let error = Rollout::new(1)
        .run(&program, &noise(&[1, 5, 4, 2], 0))
        .unwrap_err();
    assert!(error.to_string().contains("[4, 4]"), "{error}");
}

#[test]
fn weights_that_touch_constants_alone_learn_too() {
    let layout = CellLayout {
        input: 0,
        output: 3,
        hidden: 0,
    };
    let mut draw = Draw::new(1, DType::F32);
    let mut p = ProgramBuilder::new(layout);
    let table = p.constant(&noise(&[4, 4, 3], 1)).unwrap();
    let var = |seed| Var::from_tensor(&noise(&[3], seed)).unwrap().as_tensor().clone();
    draw.vars = vec![var(1), var(2), var(3), var(4)];
    let normal = p.layer_norm(table, &draw.vars[0], &draw.vars[1], 0.1).unwrap();
    let scaled = p.affine(normal, Some(&draw.vars[2]), None).unwrap();
    let other = p.rms_norm(table, &draw.vars[3], 0.1).unwrap();
    let sum = p.add(scaled, other).unwrap();
    let update = p.mul(sum, p.cells()).unwrap();
    let program = p.finish(update).unwrap();
    agree(&program, &draw.vars, (2, 4, 4), &Rollout::new(3).fire_rate(0.5));
}

#[test]
fn a_program_on_other_cells_than_its_transition_is_an_error() {
    #[derive(Clone)]
    struct Confused;
    impl TransitionFn for Confused {
        fn layout(&self) -> CellLayout {
            CellLayout {
                input: 0,
                output: 2,
                hidden: 0,
            }
        }

        fn program(&self, _: &Tensor) -> Result<Option<Program>> {
            let p = ProgramBuilder::new(CellLayout {
                input: 0,
                output: 3,
                hidden: 0,
            });
            let update = p.cells();
            p.finish(update).map(Some)
        }
    }
    let error = Rollout::new(1)
        .run(&Confused, &noise(&[1, 5, 4, 2], 0))
        .unwrap_err();
    assert!(error.to_string().contains("output: 3"), "{error}");
}
