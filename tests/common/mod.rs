//! Helpers for all test files: tensors and weights from a seed, and tensors as numbers.

pub mod device;

use candle_core::{DType, Shape, Tensor};
use lnca::random::Key;
use lnca::{Result, Weights};
use rand::Rng;
use rand_distr::StandardNormal;

use device::device;

/// A tensor of standard normal draws.
pub fn normal(seed: u64, shape: impl Into<Shape>, dtype: DType) -> Tensor {
    let shape = shape.into();
    let mut rng = Key::new(seed).fold_in_name("test").rng();
    let values: Vec<f64> = (0..shape.elem_count())
        .map(|_| rng.sample(StandardNormal))
        .collect();
    let tensor = Tensor::from_vec(values, shape, &device()).unwrap();
    tensor.to_dtype(dtype).unwrap()
}

/// Adds noise to every weight, so that none has its starting value of 0 or 1; running variances of batch
/// norms stay positive.
pub fn randomise(weights: &Weights, seed: u64, deviation: f64) -> Result<()> {
    for (i, (name, var)) in weights.vars().into_iter().enumerate() {
        let noise = (normal(seed + i as u64, var.shape(), var.dtype()) * deviation)?;
        let value = match name.ends_with("running_var") {
            true => noise.exp()?,
            false => (var.as_detached_tensor() + noise)?,
        };
        var.set(&value)?;
    }
    Ok(())
}

/// All values of a tensor, in row-major order.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    flat.to_vec1().unwrap()
}
