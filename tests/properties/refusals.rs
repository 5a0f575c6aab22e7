//! Helpers of tests of what is refused.

use candle_core::{DType, Tensor};
use lnca::{Result, Weights};

use crate::common::device::device;

pub const HUGE: usize = usize::MAX;

pub fn weights() -> Weights {
    Weights::new(0, DType::F32, &device())
}

pub fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &device()).unwrap()
}

/// The message of an error.
#[track_caller]
pub fn refused<T>(what: &str, result: Result<T>) -> String {
    match result.err() {
        None => panic!("{what}: no error"),
        Some(error) => error.to_string(),
    }
}

/// The error of each case names the argument.
#[track_caller]
pub fn all_name<T>(cases: Vec<(&str, Result<T>)>) {
    for (name, result) in cases {
        let message = refused(name, result);
        assert!(message.contains(name), "{name}: {message}");
    }
}

pub fn nothing<T>(result: Result<T>) -> Result<()> {
    result.map(|_| ())
}
