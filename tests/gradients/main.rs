//! Gradients of everything that is trained, against central differences in f64.

mod autoencoder;
#[path = "../common/mod.rs"]
mod common;
mod layers;
mod losses;
mod memory;
mod networks;
mod transitions;
mod variational;

use candle_core::{Tensor, Var};
use common::device::device;
use common::values;
use lnca::Result;

/// Half the distance of the two points of a central difference.
const STEP: f64 = 1e-6;
/// Allowed error, relative to the largest gradient of the same input.
const TOLERANCE: f64 = 1e-6;
/// Smaller gradients count as this large: differences have no more digits.
const LEAST: f64 = 1e-2;

/// Asserts that autograd and central differences agree on the gradient of the scalar `loss` with
/// respect to every element of every input, all f64; says which element is worst if they do not.
fn assert_gradients(what: &str, inputs: &[(String, Var)], loss: impl Fn() -> Result<Tensor>) -> Result<()> {
    let grads = loss()?.backward()?;
    for (name, var) in inputs {
        let found = match grads.get(var) {
            Some(grad) => values(grad),
            None => vec![0.0; var.elem_count()],
        };
        let expected = central_differences(var, &loss)?;
        let scale = expected
            .iter()
            .fold(LEAST, |max: f64, value| max.max(value.abs()));
        let error = |i: usize| (found[i] - expected[i]).abs() / scale;
        // A NaN must count as the worst of all.
        let worst = (0..found.len()).max_by(|&a, &b| error(a).total_cmp(&error(b)));
        let Some(worst) = worst else { continue };
        assert!(
            error(worst) <= TOLERANCE,
            "{what}: gradient of `{name}` {:?}, element {worst}: autograd {}, differences {}, error {:.1e}",
            var.dims(),
            found[worst],
            expected[worst],
            error(worst),
        );
    }
    Ok(())
}

fn central_differences(var: &Var, loss: &impl Fn() -> Result<Tensor>) -> Result<Vec<f64>> {
    let start = values(var);
    let at = |i: usize, offset: f64| -> Result<f64> {
        let mut moved = start.clone();
        moved[i] += offset;
        var.set(&Tensor::from_vec(moved, var.shape(), var.device())?)?;
        Ok(loss()?.to_scalar::<f64>()?)
    };
    let differences = (0..start.len())
        .map(|i| Ok((at(i, STEP)? - at(i, -STEP)?) / (2.0 * STEP)))
        .collect();
    var.set(&Tensor::from_vec(start, var.shape(), var.device())?)?;
    differences
}

#[test]
#[should_panic(expected = "gradient of `x` [3], element 1")]
fn a_wrong_gradient_is_caught_and_named() {
    let x = Var::new(&[1.0f64, 2.0, 3.0], &device()).unwrap();
    // The second element takes part in the loss through a detached copy, which autograd cannot see.
    let loss = || Ok((x.sqr()?.sum_all()? + (x.detach().get(1)? * 0.01)?)?);
    assert_gradients("x", &[("x".to_string(), x.clone())], loss).unwrap();
}
