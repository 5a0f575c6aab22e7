//! States and gradients of a rollout, on kernels and by plain operations.

use candle_core::{Tensor, Var};
use lnca::{Rollout, TransitionFn};

use crate::programs::{Case, noise};

/// How far states and gradients may be apart, as a part of the largest.
pub const STATES: f64 = 1e-5;
pub const GRADIENTS: f64 = 1e-4;

/// The largest difference, as a part of the largest value.
pub fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    let of = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (found, expected) = (of(found), of(expected));
    let largest = expected
        .iter()
        .fold(1e-3f64, |most, x| most.max(f64::from(x.abs())));
    let of_pair = |(x, y): (&f32, &f32)| match x.is_finite() {
        true => f64::from((x - y).abs()),
        false => f64::INFINITY,
    };
    found.iter().zip(&expected).map(of_pair).fold(0.0, f64::max) / largest
}

/// The last cells of a rollout, and the gradients of all variables and of the first cells.
pub fn run(case: &Case, size: (usize, usize, usize), rollout: &Rollout) -> (Tensor, Vec<Tensor>) {
    let (b, h, w) = size;
    let channels = case.program.layout().channels();
    let cells = Var::from_tensor(&noise(&[b, h, w, channels], 5)).unwrap();
    let weight = noise(&[b, h, w, channels], 6);
    let last = rollout.run(&case.program, cells.as_tensor()).unwrap();
    let grads = (&last * &weight).unwrap().sum_all().unwrap().backward().unwrap();
    let of = |x: &Tensor| grads.get(x).cloned().unwrap_or_else(|| x.zeros_like().unwrap());
    let grads = case.vars.iter().chain([cells.as_tensor()]).map(of).collect();
    (last, grads)
}

/// How far states and gradients are from those of plain operations, as a part of the largest.
pub fn errors(case: &Case, size: (usize, usize, usize), rollout: &Rollout) -> (f64, f64) {
    let (found, found_grads) = run(case, size, rollout);
    let (expected, expected_grads) = run(case, size, &rollout.clone().plain());
    let pairs = found_grads.iter().zip(&expected_grads);
    let gradients = pairs
        .map(|(found, expected)| difference(found, expected))
        .fold(0.0, f64::max);
    (difference(&found, &expected), gradients)
}
