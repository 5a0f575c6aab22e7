//! The tests of kernels notice a mistake: with one changed place in the kernels, states or gradients no
//! longer agree with plain operations.
//!
//! A test of its own, since all rollouts of a process run on the same kernels.

#[path = "../kernels/compare.rs"]
mod compare;
#[path = "../common/device.rs"]
mod device;
#[path = "../common/programs.rs"]
#[expect(dead_code, reason = "random programs are for other tests")]
mod programs;

use std::sync::Arc;

use candle_core::DType;
use lnca::random::Key;
use lnca::{AliveMask, Padding, Rollout};

use compare::{GRADIENTS, STATES, errors};
use device::emulator::{Emulator, compiler};
use programs::{Case, library};

/// A mistake: the program that shows it, what is wrong, and the text that is replaced by another.
struct Mutant(&'static str, &'static str, &'static str, &'static str);

const MUTANTS: [Mutant; 16] = [
    Mutant(
        "vitca 1",
        "a sign in the gradient of attention",
        "(of_shares[n] - mean)",
        "(of_shares[n] + mean)",
    ),
    Mutant(
        "growing",
        "a sign in a slope",
        "x > 0.0f ? 1.0f : x <= 0.0f",
        "x > 0.0f ? -1.0f : x <= 0.0f",
    ),
    Mutant(
        "growing",
        "the counter of masks",
        "draw(args, at, args.",
        "draw(args, at + 1, args.",
    ),
    Mutant(
        "growing",
        "the image of masks",
        "args.first_image + image, 0)",
        "image, 0)",
    ),
    Mutant(
        "nafca Grouped",
        "the stream of dropout",
        "image, 1 + site)",
        "image, 2 + site)",
    ),
    Mutant(
        "texture on a torus",
        "a neighbour on a torus",
        "y = y < 0 ? height - 1",
        "y = y < 0 ? 0",
    ),
    Mutant(
        "growing",
        "a neighbour beyond the border",
        "|| y == height || x",
        "|| x",
    ),
    Mutant(
        "growing",
        "gradients from the wrong side",
        "sum += f(near[8 - n], n)",
        "sum += f(near[n], n)",
    ),
    Mutant(
        "growing",
        "what is published where no cell fires",
        "c] = 0.0f; }",
        "c]; }",
    ),
    Mutant(
        "growing",
        "cells that do not fire",
        "(size_t)cell * CHANNELS + c; args.after[at] = args.state[at];",
        "(size_t)cell * CHANNELS + c;",
    ),
    Mutant(
        "growing",
        "gradients of cells that do not fire",
        "fact & 2 ? gradient",
        "fact & 1 ? gradient",
    ),
    Mutant(
        "growing",
        "gradients of cells that die",
        "fact & 1 ? gradient : 0.0f",
        "gradient",
    ),
    Mutant(
        "growing",
        "cells that were dead before",
        "is_alive(args, args.state, cell) &&",
        "",
    ),
    Mutant(
        "growing",
        "sums of one step alone",
        "] += sum[i / 4][i % 4]",
        "] = sum[i / 4][i % 4]",
    ),
    Mutant(
        "growing",
        "lower parts of operands",
        "multiply_half(part, left.low, right.high, half);",
        "",
    ),
    Mutant(
        "growing",
        "barriers between loops",
        "    block_sync();\n    //",
        "    //",
    ),
];

/// Small programs with all that the mutants change.
fn cases() -> Vec<(Case, (usize, usize, usize))> {
    let size = (2, 5, 6);
    let wanted = ["growing", "nafca Grouped", "vitca 1", "texture on a torus"];
    let mut cases = library((size.1, size.2), DType::F32);
    // Those of a torus come second.
    let half = cases.len() / 2;
    cases[half..]
        .iter_mut()
        .for_each(|case| case.what += " on a torus");
    cases.retain(|case| wanted.contains(&&*case.what));
    for case in cases.iter_mut().filter(|case| case.what == "growing") {
        let rule = AliveMask {
            channel: 13,
            threshold: 0.8,
            padding: Padding::Zero,
        };
        case.program = case.program.clone().with_alive_mask(Some(rule)).unwrap();
    }
    cases.into_iter().map(|case| (case, size)).collect()
}

/// The largest error of states and gradients, as a part of what is allowed.
fn error((case, size): &(Case, (usize, usize, usize))) -> f64 {
    let rollout = Rollout::new(3)
        .key(Key::new(3))
        .first_image(2)
        .training(true)
        .fire_rate(0.6);
    let (states, gradients) = errors(case, *size, &rollout);
    (states / STATES).max(gradients / GRADIENTS)
}

#[test]
fn every_mutant_is_noticed() {
    if let Err(why) = compiler() {
        eprintln!("skipped: {why}");
        return;
    }
    let cases = cases();
    lnca::cuda::emulate(Arc::new(Emulator::default()));
    for case in &cases {
        let sound = error(case);
        assert!(
            sound < 1.0,
            "{}, unchanged, is {sound} times as far off as is allowed",
            case.0.what
        );
    }
    let mut unnoticed = vec![];
    for Mutant(program, what, from, to) in MUTANTS {
        lnca::cuda::emulate(Arc::new(Emulator::with_change(from, to)));
        let error = error(cases.iter().find(|(case, _)| case.what == program).unwrap());
        eprintln!("{what}: {error:.1} times what is allowed");
        if error < 1.0 {
            unnoticed.push(what);
        }
    }
    assert!(unnoticed.is_empty(), "nobody notices {unnoticed:?}");
}
