//! Tensors packed into one.

use candle_core::{DType, Device, Tensor};

use crate::error::Result;

/// All elements of `tensors`, concatenated into one tensor of `dtype`; a single 0 if there are none. A custom
/// operation has few inputs, so all weights are passed as one, and gradients flow back to each through this.
pub(crate) fn pack<'a>(
    tensors: impl IntoIterator<Item = &'a Tensor>,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let flat = tensors
        .into_iter()
        .map(|tensor| tensor.flatten_all()?.to_dtype(dtype));
    let flat = flat.collect::<candle_core::Result<Vec<_>>>()?;
    Ok(match flat.is_empty() {
        true => Tensor::zeros(1, dtype, device)?,
        false => Tensor::cat(&flat, 0)?,
    })
}
