//! What must be right to the last bit: draws, the order of sums, and products of numbers that need no
//! rounding.

use candle_core::{DType, Device, Tensor};
use lnca::random::Key;
use lnca::{CellLayout, Precision, ProgramBuilder, Rollout};

use crate::compare::{difference, run};
use crate::emulate;
use crate::programs::noise;
use crate::transitions::shipped;

fn bits(x: &Tensor) -> Vec<u32> {
    let values = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// A program whose update is dropout of ones: each channel tells what was drawn for it, and whether its cell
/// fired.
#[test]
fn masks_and_dropout() {
    if !emulate() {
        return;
    }
    let layout = CellLayout {
        input: 0,
        output: 3,
        hidden: 4,
    };
    let mut p = ProgramBuilder::new(layout);
    let ones = p
        .constant(&Tensor::ones((5, 7, 7), DType::F32, &Device::Cpu).unwrap())
        .unwrap();
    let once = p.dropout(ones, 0.3).unwrap();
    let update = p.dropout(once, 0.1).unwrap();
    let program = p.finish(update).unwrap();
    let cells = Tensor::zeros((3, 5, 7, 7), DType::F32, &Device::Cpu).unwrap();
    let rollout = Rollout::new(1)
        .fire_rate(0.5)
        .key(Key::new(u64::MAX - 5))
        .training(true)
        .first_image(1000);
    let found = rollout.run(&program, &cells).unwrap();
    let expected = rollout.clone().plain().run(&program, &cells).unwrap();
    assert_eq!(bits(&found), bits(&expected));
    let idle = bits(&found).iter().filter(|&&bits| bits == 0).count() as f64 / found.elem_count() as f64;
    assert!((0.55..0.8).contains(&idle), "{idle} of the channels are 0");
}

/// Warps and blocks take turns in another order in every run.
#[test]
fn same_bits_in_every_run() {
    if !emulate() {
        return;
    }
    for case in shipped()
        .iter()
        .filter(|case| ["growing", "nafca"].contains(&&*case.what))
    {
        let rollout = Rollout::new(2).fire_rate(0.5).key(Key::new(1));
        let (first, first_grads) = run(case, (5, 4, 4), &rollout);
        let (second, second_grads) = run(case, (5, 4, 4), &rollout);
        assert_eq!(bits(&first), bits(&second), "{}", case.what);
        for (first, second) in first_grads.iter().zip(&second_grads) {
            assert_eq!(bits(first), bits(second), "{}", case.what);
        }
    }
}

fn rounded(x: &Tensor) -> Tensor {
    x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap()
}

/// With operands that bf16 holds, products in any precision are those of f32: forwards, and of both
/// gradients.
#[test]
fn operands_that_need_no_rounding() {
    if !emulate() {
        return;
    }
    let layout = CellLayout {
        input: 0,
        output: 20,
        hidden: 17,
    };
    let weight = rounded(&noise(&[37, 37], 1));
    let mut p = ProgramBuilder::new(layout);
    let cells = p.cells();
    let update = p.linear(cells, &weight, None).unwrap();
    let program = p.finish(update).unwrap();
    let state = rounded(&noise(&[2, 5, 7, 37], 2));
    let plain = Rollout::new(1).plain().run(&program, &state).unwrap();
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        let found = Rollout::new(1)
            .precision(precision)
            .run(&program, &state)
            .unwrap();
        let error = difference(&found, &plain);
        assert!(error < 1e-6, "{precision:?}: {error:e}");
    }
}

/// The norm of the difference, as a part of the norm, of all tensors together.
fn distance(found: &[Tensor], expected: &[Tensor]) -> f64 {
    let square = |x: &Tensor| f64::from(x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap());
    let pairs = found.iter().zip(expected);
    let apart: f64 = pairs
        .map(|(found, expected)| square(&(found - expected).unwrap()))
        .sum();
    (apart / expected.iter().map(square).sum::<f64>()).sqrt()
}

/// How far rounded operands move states and gradients of whole transitions. A rounding of 2^-12 (TF32) or
/// 2^-9 (bf16) a product grows by less than 16 in two steps; a gradient also jumps where it turns a ReLU.
#[test]
fn lower_precisions_stay_within_bounds() {
    if !emulate() {
        return;
    }
    for case in shipped()
        .iter()
        .filter(|case| ["growing", "nafca", "latent vitca"].contains(&&*case.what))
    {
        let rollout = Rollout::new(2).fire_rate(0.5).key(Key::new(4));
        let (expected, expected_grads) = run(case, (1, 4, 4), &rollout.clone().plain());
        for (precision, bound) in [(Precision::Tf32, 16.0 / 4096.0), (Precision::Bf16, 16.0 / 512.0)] {
            let (found, grads) = run(case, (1, 4, 4), &rollout.clone().precision(precision));
            let of_states = distance(&[found], std::slice::from_ref(&expected));
            let of_grads = distance(&grads, &expected_grads);
            let what = format!(
                "{} {precision:?}: states {of_states:e}, gradients {of_grads:e}",
                case.what
            );
            assert!(of_states < bound && of_grads < 4.0 * bound, "{what}");
            assert!(of_states > 1e-7, "{what}: nothing was rounded");
            eprintln!("{what}");
        }
    }
}
