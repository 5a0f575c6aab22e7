//! The gradients of one step: the engine's backward pass against the program's adjoint.

use std::sync::{Arc, Mutex};

use candle_core::{D, DType, Tensor, Var};
use lnca::random::Key;
use lnca::{CellLayout, Memory, Result, Rollout, Step, TransitionFn};

use crate::agreement::{distance, largest};
use crate::programs::{Case, library, noise};

/// Stores the `Step` that its update is called with, which is step 0.
#[derive(Clone)]
struct Watching(CellLayout, Arc<Mutex<Option<Step>>>);

impl TransitionFn for Watching {
    fn layout(&self) -> CellLayout {
        self.0
    }

    fn update(&self, cells: &Tensor, step: &Step) -> Result<Tensor> {
        *self.1.lock().unwrap() = Some(*step);
        Ok(cells
            .narrow(D::Minus1, self.0.input, self.0.update_channels())?
            .zeros_like()?)
    }
}

/// The gradients of the cells before a step and of all variables, where `grad` is that of the cells after it.
fn by_engine(case: &Case, cells: &Tensor, rollout: &Rollout, grad: &Tensor) -> Result<Vec<Tensor>> {
    let cells = Var::from_tensor(cells)?;
    let next = rollout.run(&case.program, cells.as_tensor())?;
    let grads = (next * grad)?.sum_all()?.backward()?;
    let all = [cells.as_tensor()].into_iter().chain(&case.vars);
    all.map(|x| Ok(grads.get(x).cloned().map_or_else(|| x.zeros_like(), Ok)?))
        .collect()
}

/// The same by the adjoint: `next = cells + update`, so the gradient through the update is added to `grad`.
fn by_adjoint(case: &Case, cells: &Tensor, step: &Step, grad: &Tensor) -> Result<Vec<Tensor>> {
    let layout = case.program.layout();
    let of_update = grad.narrow(D::Minus1, layout.input, layout.update_channels())?;
    let pullback = case.program.pullback(cells, step, &of_update.contiguous()?)?;
    // The weights of operations are functions of the variables; Candle differentiates these.
    let mut loss = Tensor::zeros((), DType::F32, cells.device())?;
    for (weight, gradient) in case.program.weights().iter().zip(&pullback.weights) {
        loss = (loss + (weight * gradient)?.sum_all()?.to_dtype(DType::F32)?)?;
    }
    let grads = loss.backward()?;
    let mut all = vec![(grad + pullback.cells)?];
    for var in &case.vars {
        all.push(grads.get(var).cloned().map_or_else(|| var.zeros_like(), Ok)?);
    }
    Ok(all)
}

/// Asserts that both agree; returns the largest difference.
fn assert_alike(case: &Case, (b, h, w): (usize, usize, usize)) -> f64 {
    let layout = case.program.layout();
    let [cells, grad] = [1, 2].map(|seed| noise(&[b, h, w, layout.channels()], seed));
    let rollout = Rollout::new(1).training(true).key(Key::new(7)).first_image(3);
    let watching = Watching(layout, Arc::default());
    rollout
        .clone()
        .memory(Memory::Nothing)
        .run(&watching, &cells)
        .unwrap();
    let step = watching.1.lock().unwrap().unwrap();
    let engine = by_engine(case, &cells, &rollout, &grad).unwrap();
    let adjoint = by_adjoint(case, &cells, &step, &grad).unwrap();
    // A gradient that nearly cancels is only rounding.
    let least = 1e-3 * engine.iter().map(largest).fold(1e-3, f64::max);
    let mut worst = 0.0;
    for (n, (adjoint, engine)) in adjoint.iter().zip(&engine).enumerate() {
        let distance = distance(adjoint, engine, least);
        let (what, shape) = (&case.what, engine.dims());
        assert!(
            distance < 1e-4,
            "{what} {:?}, tensor {n} {shape:?}: {distance:e}",
            (b, h, w)
        );
        worst = f64::max(worst, distance);
    }
    worst
}

#[test]
fn random_programs() {
    let sizes = [(1, 1, 1), (2, 1, 2), (3, 2, 2), (2, 5, 3), (1, 9, 13)];
    let mut worst: f64 = 0.0;
    for (seed, size) in (1000..1200).zip(sizes.into_iter().cycle()) {
        let case = Case::random(seed, (size.1, size.2), DType::F32);
        worst = worst.max(assert_alike(&case, size));
    }
    println!("largest difference: {worst:e}");
}

#[test]
fn transitions() {
    let mut worst: f64 = 0.0;
    for size in [(1, 1, 1), (3, 2, 1), (2, 5, 6), (1, 17, 8)] {
        for case in library((size.1, size.2), DType::F32) {
            worst = worst.max(assert_alike(&case, size));
        }
    }
    println!("largest difference: {worst:e}");
}
