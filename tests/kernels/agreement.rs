//! Kernels and plain operations agree: states and gradients, on grids of odd sizes.

use candle_core::{DType, Var};
use lnca::random::Key;
use lnca::{AliveMask, CellLayout, Function, Memory, Padding, ProgramBuilder, Rollout, TransitionFn};

use crate::compare::{GRADIENTS, STATES, difference, errors, run};
use crate::emulate;
use crate::programs::{Case, Draw, library, noise, spoil};
use crate::transitions::shipped;

/// Compares a rollout and its gradients with plain operations.
fn compare(case: &Case, size: (usize, usize, usize), rollout: &Rollout) {
    let (states, gradients) = errors(case, size, rollout);
    let what = format!(
        "{} on {size:?}: states differ by {states:e}, gradients by {gradients:e}",
        case.what
    );
    assert!(states < STATES && gradients < GRADIENTS, "{what}");
}

/// Two steps, by number in one of three ways.
fn rollout(number: u64) -> Rollout {
    let rollout = Rollout::new(2)
        .key(Key::new(number))
        .training(true)
        .first_image(3);
    match number % 3 {
        0 => rollout,
        1 => rollout.fire_rate(0.5),
        _ => rollout.fire_rate(0.7).memory(Memory::Every(2)),
    }
}

#[test]
fn transitions_of_the_library() {
    if !emulate() {
        return;
    }
    for (b, h, w) in [(1, 1, 1), (2, 1, 17), (1, 33, 31), (3, 4, 3)] {
        for (i, case) in library((h, w), DType::F32).iter().enumerate() {
            compare(case, (b, h, w), &rollout(i as u64));
        }
    }
}

#[test]
fn transitions_at_the_sizes_of_models() {
    if !emulate() {
        return;
    }
    for (i, case) in shipped().iter().enumerate() {
        // The engine keeps to its constants' grid.
        compare(case, (2, 4, 4), &rollout(i as u64 + 1));
    }
}

#[test]
fn random_programs() {
    if !emulate() {
        return;
    }
    let size = |seed: u64| [(1, 4, 5), (2, 3, 2), (1, 1, 4), (3, 5, 1)][seed as usize % 4];
    for seed in 0..20 {
        let (b, h, w) = size(seed);
        let case = Case::random(seed, (h, w), DType::F32);
        compare(&case, (b, h, w), &rollout(seed));
    }
}

#[test]
fn cells_that_die() {
    if !emulate() {
        return;
    }
    for (seed, padding) in [(1, Padding::Zero), (2, Padding::Circular)] {
        let mut case = Case::random(seed, (7, 5), DType::F32);
        let channel = case.program.layout().channels() - 1;
        // Of cells from -1 to 1: about half of the neighbourhoods have one above it.
        let rule = AliveMask {
            channel,
            threshold: 0.85,
            padding,
        };
        case.program = case.program.with_alive_mask(Some(rule)).unwrap();
        let rollout = Rollout::new(3).fire_rate(0.6).key(Key::new(seed));
        let (last, _) = run(&case, (2, 7, 5), &rollout);
        let dead = last.sqr().unwrap().sum_keepdim(3).unwrap().eq(0.0).unwrap();
        let dead = dead
            .to_dtype(DType::F32)
            .unwrap()
            .mean_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!(dead > 0.05 && dead < 0.95, "{dead} of the cells are dead");
        compare(&case, (2, 7, 5), &rollout);
        compare(&case, (2, 7, 5), &rollout.clone().memory(Memory::Every(2)));
    }
}

#[test]
fn given_masks_and_rates_of_each_cell() {
    if !emulate() {
        return;
    }
    let case = Case::random(4, (6, 3), DType::F32);
    let masks = |step: u64| {
        noise(&[2, 6, 3, 1], step)
            .ge(0.2)
            .unwrap()
            .to_dtype(DType::F32)
            .unwrap()
    };
    let given = Rollout::new(5).masks((0..5).map(masks).collect());
    let rates = noise(&[6, 3], 9).abs().unwrap();
    let each = Rollout::new(5).fire_rates(&rates).unwrap().key(Key::new(1));
    for rollout in [given, each] {
        for memory in [Memory::Every(1), Memory::Every(2), Memory::Budget(0)] {
            compare(&case, (2, 6, 3), &rollout.clone().memory(memory));
        }
    }
}

/// A trajectory runs step by step, and each step draws by its number.
#[test]
fn trajectories() {
    if !emulate() {
        return;
    }
    let case = Case::random(7, (4, 4), DType::F32);
    let cells = noise(&[1, 4, 4, case.program.layout().channels()], 1);
    let rollout = Rollout::new(4).fire_rate(0.5).key(Key::new(3));
    let found = rollout.trajectory(&case.program, &cells).unwrap();
    let expected = rollout.clone().plain().trajectory(&case.program, &cells).unwrap();
    assert_eq!(found.len(), expected.len());
    for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = difference(found, expected);
        assert!(error < 1e-5, "step {step} differs by {error:e}");
    }
}

/// Alive masks of random programs, and all that they draw.
#[test]
fn random_programs_whose_cells_die() {
    if !emulate() {
        return;
    }
    for seed in 100..104 {
        let mut draw = Draw::new(seed, DType::F32);
        let layout = lnca::CellLayout {
            input: 1,
            output: 2,
            hidden: 2,
        };
        let program = draw.program(layout, (5, 4), 6).unwrap();
        let rule = AliveMask {
            channel: 4,
            threshold: 0.5,
            padding: Padding::Circular,
        };
        let case = Case {
            what: format!("seed {seed}, dying"),
            program: program.with_alive_mask(Some(rule)).unwrap(),
            vars: draw.vars,
        };
        compare(&case, (2, 5, 4), &rollout(seed));
    }
}

/// What lies in pieces: a stencil's channels in another order, which makes its gradient slices of the
/// update's.
#[test]
fn updates_in_pieces() {
    if !emulate() {
        return;
    }
    for (filters, cuts) in [
        (1, [(2, 2), (0, 2)]),
        (3, [(5, 7), (0, 5)]),
        (2, [(3, 1), (0, 3)]),
    ] {
        let width = cuts.iter().map(|&(_, width)| width).sum::<usize>();
        let inputs = width / filters;
        let layout = CellLayout {
            input: 0,
            output: width,
            hidden: 0,
        };
        let mut p = ProgramBuilder::new(layout);
        let kernels = Var::from_tensor(&noise(&[filters, 3, 3], 1)).unwrap();
        let x = p.slice(p.cells(), 0, inputs).unwrap();
        let seen = p.stencil(x, kernels.as_tensor(), Padding::Zero).unwrap();
        let parts = cuts.map(|(start, width)| p.slice(seen, start, width).unwrap());
        let update = p.concat(&parts).unwrap();
        let case = Case {
            what: format!("{filters} filters in pieces"),
            program: p.finish(update).unwrap(),
            vars: vec![kernels.as_tensor().clone()],
        };
        compare(&case, (2, 4, 3), &rollout(1));
    }
}

/// Cells, a slice of them or a table as the update, and bounds without an end.
#[test]
fn updates_that_compute_little() {
    if !emulate() {
        return;
    }
    let layout = CellLayout {
        input: 1,
        output: 2,
        hidden: 1,
    };
    for number in 0..3 {
        let mut p = ProgramBuilder::new(layout);
        let table = Var::from_tensor(&noise(&[3, 5, 3], 1)).unwrap();
        let slice = p.slice(p.cells(), 0, 3).unwrap();
        let update = match number {
            0 => Ok(slice),
            1 => p.constant(table.as_tensor()),
            _ => p.map(
                slice,
                Function::Clamp {
                    min: 0.0,
                    max: f32::INFINITY,
                },
            ),
        };
        let case = Case {
            what: format!("little, {number}"),
            program: p.finish(update.unwrap()).unwrap(),
            vars: vec![table.as_tensor().clone()],
        };
        compare(&case, (2, 3, 5), &rollout(1));
    }
}

/// The same infinity, both NaN, or close.
fn alike(a: f64, b: f64) -> bool {
    a.is_nan() && b.is_nan() || a == b || (a - b).abs() < 1e-3 * (1.0 + b.abs())
}

#[test]
fn functions_of_nan_and_infinities() {
    if !emulate() {
        return;
    }
    let functions = [
        Function::Relu,
        Function::Elu,
        Function::Gelu,
        Function::Silu,
        Function::Sigmoid,
        Function::Tanh,
        Function::Clamp { min: -1.0, max: 0.5 },
        Function::quantise(-1.0, 1.0),
    ];
    let layout = CellLayout {
        input: 1,
        output: 1,
        hidden: 0,
    };
    let odd = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        1e38,
        -1e38,
        200.0,
        -200.0,
    ];
    let x = candle_core::Tensor::new(&[[odd]], &crate::device::device()).unwrap();
    let x = x.unsqueeze(3).unwrap();
    let cells = candle_core::Tensor::cat(&[&x, &x.zeros_like().unwrap()], 3).unwrap();
    for function in functions {
        let mut p = ProgramBuilder::new(layout);
        let first = p.slice(p.cells(), 0, 1).unwrap();
        let update = p.map(first, function).unwrap();
        let program = p.finish(update).unwrap();
        let both = |rollout: Rollout| {
            let cells = Var::from_tensor(&cells).unwrap();
            let next = rollout.run(&program, &cells).unwrap().narrow(3, 1, 1).unwrap();
            let grads = next.sum_all().unwrap().backward().unwrap();
            let slopes = grads.get(&cells).unwrap().narrow(3, 0, 1).unwrap();
            [next, slopes].map(|x| {
                let x = x.flatten_all().unwrap().to_dtype(DType::F64).unwrap();
                x.to_vec1::<f64>().unwrap()
            })
        };
        let (kernels, plain) = (both(Rollout::new(1)), both(Rollout::new(1).plain()));
        for (kernels, plain) in kernels.iter().zip(&plain) {
            for ((&a, &b), x) in kernels.iter().zip(plain).zip(odd) {
                assert!(alike(a, b), "{function:?} of {x}: {a} and {b}");
            }
        }
    }
}

#[test]
fn random_programs_hide_nothing() {
    if !emulate() {
        return;
    }
    for seed in 0..24u64 {
        let (b, h, w) = [(1, 4, 5), (2, 3, 2), (1, 1, 4), (3, 5, 1)][seed as usize % 4];
        let layout = CellLayout {
            input: seed as usize % 2,
            output: 2,
            hidden: seed as usize % 3,
        };
        let mut draw = Draw::new(seed, DType::F32);
        draw.spoiled = seed as u32 / 2 % 2 * 8;
        let program = draw.program(layout, (h, w), 1 + seed as usize % 8).unwrap();
        let cells = noise(&[b, h, w, layout.channels()], seed);
        let cells = if seed % 4 != 2 { spoil(&cells, seed) } else { cells };
        let last = |rollout: Rollout| {
            let last = rollout.run(&program, &cells).unwrap();
            let last = last.flatten_all().unwrap().to_dtype(DType::F64).unwrap();
            last.to_vec1::<f64>().unwrap()
        };
        let (kernels, plain) = (last(rollout(seed)), last(rollout(seed).plain()));
        for (i, (&a, &b)) in kernels.iter().zip(&plain).enumerate() {
            assert!(alike(a, b), "seed {seed} at {i}: {a} and {b}");
        }
    }
}
