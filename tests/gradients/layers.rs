//! Layers over rows, with more rows than one piece holds and channels that fill no vector.

use candle_core::{DType, Tensor, Var};
use lnca::nn::{LayerNorm, Linear};
use lnca::{Result, Weights};

use crate::assert_gradients;
use crate::common::device::device;
use crate::common::{normal, randomise};

const ROWS: usize = 520;
const CHANNELS: usize = 11;

fn assert_layer(
    what: &str,
    layer: impl Fn(&Tensor) -> Result<Tensor>,
    weights: &Weights,
    outputs: usize,
) -> Result<()> {
    randomise(weights, 1, 0.3)?;
    // The gradient comes in as a transposed view, and the input goes in as one.
    let x = Var::from_tensor(&normal(2, (CHANNELS, ROWS / 4, 4), DType::F64))?;
    let direction = normal(3, (outputs, 4, ROWS / 4), DType::F64);
    let mut inputs = weights.vars();
    // A few cells of the input are enough: cells do not mix.
    let few = Var::from_tensor(&normal(4, (1, 3, CHANNELS), DType::F64))?;
    inputs.push(("x".to_string(), few.clone()));
    assert_gradients(what, &inputs, || {
        let all = layer(&x.permute((1, 2, 0))?)?.permute((2, 1, 0))?;
        let few = layer(&few)?;
        Ok(((all * &direction)?.sum_all()? + (few.sqr()?.sum_all()? * 0.1)?)?)
    })
}

#[test]
fn layer_norm() -> Result<()> {
    let weights = Weights::new(1, DType::F64, &device());
    let layer = LayerNorm::new(CHANNELS, 1e-3, weights.builder())?;
    assert_layer("layer norm", |x| layer.forward(x), &weights, CHANNELS)
}

#[test]
fn linear() -> Result<()> {
    let weights = Weights::new(2, DType::F64, &device());
    let layer = Linear::glorot(CHANNELS, 3, weights.builder())?;
    assert_layer("linear", |x| layer.forward(x), &weights, 3)
}
