//! Engine and plain operations agree: states and gradients of programs on grids of odd sizes.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Tensor, Var};
use lnca::random::Key;
use lnca::{Memory, Rollout, TransitionFn};

use crate::emulator::{Emulator, compiler};
use crate::programs::{Case, library, noise};

/// Makes rollouts run on emulated kernels; false, and says why, if that is not possible.
pub fn emulate() -> bool {
    static READY: OnceLock<bool> = OnceLock::new();
    *READY.get_or_init(|| match compiler() {
        Ok(()) => {
            lnca::cuda::emulate(Arc::new(Emulator::default()));
            true
        }
        Err(why) => {
            eprintln!("skipped: {why}");
            false
        }
    })
}

/// The largest difference, as a part of the largest value.
fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    let of = |x: &Tensor| x.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
    let (found, expected) = (of(found), of(expected));
    let largest = expected.iter().fold(1e-3f64, |most, x| most.max(x.abs()));
    let pairs = found.iter().zip(&expected);
    pairs.map(|(x, y)| if x.is_finite() { (x - y).abs() } else { f64::INFINITY }).fold(0.0, f64::max) / largest
}

/// Compares a rollout and its gradients with plain operations.
pub fn compare(case: &Case, (b, h, w): (usize, usize, usize), rollout: &Rollout) {
    let what = format!("{} on {b}x{h}x{w}", case.what);
    let transition = case.program.clone();
    let channels = transition.layout().channels();
    let cells = Var::from_tensor(&noise(&[b, h, w, channels], 5)).unwrap();
    let weight = noise(&[b, h, w, channels], 6);
    let run = |rollout: &Rollout| {
        let last = rollout.run(&transition, cells.as_tensor()).unwrap();
        let grads = (&last * &weight).unwrap().sum_all().unwrap().backward().unwrap();
        let of = |x: &Tensor| grads.get(x).cloned().unwrap_or_else(|| x.zeros_like().unwrap());
        let grads: Vec<Tensor> = case.vars.iter().chain([cells.as_tensor()]).map(of).collect();
        (last, grads)
    };
    let (found, found_grads) = run(rollout);
    let (expected, expected_grads) = run(&rollout.clone().plain());
    let error = difference(&found, &expected);
    assert!(error < 1e-5, "{what}: states differ by {error:e}");
    for (i, (found, expected)) in found_grads.iter().zip(&expected_grads).enumerate() {
        let error = difference(found, expected);
        assert!(error < 1e-4, "{what}: gradient {i} of {:?} differs by {error:e}", expected.dims());
    }
}

const SIZES: [(usize, usize, usize); 4] = [(1, 1, 1), (2, 1, 17), (1, 33, 31), (3, 4, 3)];

fn rollout(seed: u64) -> Rollout {
    let rollout = Rollout::new(2).key(Key::new(seed)).training(true).first_image(3);
    match seed % 3 {
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
    for (b, h, w) in SIZES {
        for (i, case) in library((h, w), DType::F32).iter().enumerate() {
            compare(case, (b, h, w), &rollout(i as u64));
        }
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
