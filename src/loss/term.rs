//! Terms of losses: a loss is their weighted sum.

use candle_core::Tensor;

use crate::error::{Error, Result};

/// One term of a loss: its name, its weight in the total, and its unweighted value.
#[derive(Clone, Debug)]
pub struct Term {
    /// Short name, such as `rec`.
    pub name: &'static str,
    /// Factor in the total.
    pub weight: f64,
    /// The unweighted scalar.
    pub value: Tensor,
}

impl Term {
    /// A term of a loss.
    pub fn new(name: &'static str, weight: f64, value: Tensor) -> Self {
        Self { name, weight, value }
    }
}

/// The weighted sum of `terms`, a scalar.
///
/// # Errors
/// [`Error::Config`] if there are none.
pub fn total(terms: &[Term]) -> Result<Tensor> {
    let Some((first, rest)) = terms.split_first() else {
        return Err(Error::config("terms", "at least one", 0));
    };
    let mut sum = (&first.value * first.weight)?;
    for term in rest {
        sum = (sum + (&term.value * term.weight)?)?;
    }
    Ok(sum)
}
