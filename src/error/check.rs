//! Checks of what a user gives: sizes, numbers, types of tensors, values. Each error names the argument, what
//! was expected and what was found.

use candle_core::{DType, Device, Tensor};

use super::{Error, Result};

/// The most elements of one tensor: 2^34, 64 GiB in f32. Larger ones are mistakes, such as a negative number
/// that became a size; up to here no product of a size with the few bytes and copies of an element leaves
/// 64 bits.
pub(crate) const MOST_ELEMENTS: usize = 1 << 34;

/// The most channels of a value, a hidden layer or a latent. A square matrix of fewer may still have too many
/// elements, which [`elements`] tells; but no sum or small multiple of such widths overflows.
pub(crate) const MOST_CHANNELS: usize = 1 << 20;

/// The most layers, blocks or levels of one kind.
pub(crate) const MOST_LAYERS: usize = 1 << 10;

/// Sizes of which the system is not asked whether it has the memory: it has.
const SMALL: usize = 1 << 20;

/// The number of elements of a tensor of these dimensions.
///
/// # Errors
/// [`Error::Shape`] if there are more than [`MOST_ELEMENTS`], or more than the system has memory for. Such
/// an allocation would end the process.
pub(crate) fn elements(argument: &'static str, dims: &[usize]) -> Result<usize> {
    let too_large =
        |most: usize, why: &str| Error::shape(argument, format!("at most {most} elements in all{why}"), dims);
    // A 0 among the dimensions hides no size that is too large by itself.
    let count = dims
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim.max(1)));
    match count {
        Some(count) if count <= SMALL => {}
        Some(count) if count <= MOST_ELEMENTS => {
            if !fits(count) {
                let (mut low, mut high) = (SMALL, count);
                while high - low > SMALL {
                    let middle = low + (high - low) / 2;
                    (low, high) = if fits(middle) {
                        (middle, high)
                    } else {
                        (low, middle)
                    };
                }
                return Err(too_large(low, ", for which there is memory"));
            }
        }
        _ => return Err(too_large(MOST_ELEMENTS, "")),
    }
    Ok(dims.iter().product())
}

/// Whether the system gives memory for two copies of this many numbers. The pages are not touched, so asking
/// costs next to nothing.
fn fits(count: usize) -> bool {
    Vec::<u64>::new().try_reserve_exact(count).is_ok()
}

/// An error unless the setting `name` is within `least..=most`.
pub(crate) fn count(name: &'static str, found: usize, (least, most): (usize, usize)) -> Result<()> {
    match (least..=most).contains(&found) {
        true => Ok(()),
        false => Err(Error::config(name, format!("{least} to {most}"), found)),
    }
}

/// An error unless `name` is a number of channels, 1 to [`MOST_CHANNELS`].
pub(crate) fn channels(name: &'static str, found: usize) -> Result<()> {
    count(name, found, (1, MOST_CHANNELS))
}

/// An error unless the setting `name` is finite.
pub(crate) fn finite(name: &'static str, found: f64) -> Result<()> {
    number(name, found, found.is_finite(), "a finite number")
}

/// An error unless the setting `name` is finite and 0 or more.
pub(crate) fn not_negative(name: &'static str, found: f64) -> Result<()> {
    number(
        name,
        found,
        found.is_finite() && found >= 0.0,
        "a finite number, 0 or more",
    )
}

/// An error unless the setting `name` is finite and above 0.
pub(crate) fn positive(name: &'static str, found: f64) -> Result<()> {
    number(
        name,
        found,
        found.is_finite() && found > 0.0,
        "a finite number above 0",
    )
}

/// An error unless the setting `name` is in `[0, 1)`.
pub(crate) fn below_one(name: &'static str, found: f64) -> Result<()> {
    number(name, found, (0.0..1.0).contains(&found), "in [0, 1)")
}

fn number(name: &'static str, found: f64, is_right: bool, expected: &str) -> Result<()> {
    match is_right {
        true => Ok(()),
        false => Err(Error::config(name, expected, found)),
    }
}

/// An error unless `x` is of a type for computing: f32, f64, f16 or bf16.
pub(crate) fn float(argument: &'static str, x: &Tensor) -> Result<()> {
    match x.dtype() {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => Ok(()),
        found => Err(Error::DType {
            argument,
            expected: "F32, or another type of floating-point numbers".into(),
            found,
        }),
    }
}

/// An error unless `x` is of type `dtype`.
pub(crate) fn of_type(argument: &'static str, x: &Tensor, dtype: DType) -> Result<()> {
    match x.dtype() == dtype {
        true => Ok(()),
        false => Err(Error::DType {
            argument,
            expected: format!("{dtype:?}"),
            found: x.dtype(),
        }),
    }
}

/// An error unless `x` is of the type of `other`, of floating-point numbers, and on its device.
pub(crate) fn as_other(argument: &'static str, x: &Tensor, what: &str, other: &Tensor) -> Result<()> {
    float(argument, x)?;
    if x.dtype() != other.dtype() {
        return Err(Error::DType {
            argument,
            expected: format!("{:?}, as {what}", other.dtype()),
            found: x.dtype(),
        });
    }
    on_device(argument, x, what, other.device())
}

/// An error unless `x` is on `device`, where `what` is.
pub(crate) fn on_device(argument: &'static str, x: &Tensor, what: &str, device: &Device) -> Result<()> {
    match x.device().same_device(device) {
        true => Ok(()),
        false => Err(Error::Device {
            argument,
            expected: format!("{:?}, as {what}", device.location()),
            found: format!("{:?}", x.device().location()),
        }),
    }
}

/// An error with the position of the first value of `x` that is NaN or infinite, if there is one.
pub(crate) fn finite_values(argument: &'static str, x: &Tensor) -> Result<()> {
    match not_finite(x)? {
        None => Ok(()),
        Some(found) => Err(Error::config(argument, "finite numbers", found)),
    }
}

/// The first value that is NaN or infinite, and where it is; in one pass if there is none.
pub(crate) fn not_finite(x: &Tensor) -> Result<Option<String>> {
    if x.elem_count() == 0 || !x.dtype().is_float() {
        return Ok(None);
    }
    let x = x.detach();
    // 0 times a finite number is 0; times any other it is NaN.
    let sum = (&x * 0.0)?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    if !sum.is_nan() {
        return Ok(None);
    }
    let values = x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let Some(mut at) = values.iter().position(|value| !value.is_finite()) else {
        return Ok(None);
    };
    let value = values[at];
    let mut position = vec![0; x.rank()];
    for (place, &dim) in position.iter_mut().zip(x.dims()).rev() {
        *place = at % dim;
        at /= dim;
    }
    Ok(Some(format!("{value} at {position:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked_before_anything_is_allocated() {
        assert_eq!(elements("size", &[2, 3, 4]).ok(), Some(24));
        assert_eq!(elements("size", &[2, 0, 4]).ok(), Some(0));
        for dims in [
            &[1 << 31, 1 << 31, 16][..],
            &[usize::MAX],
            &[usize::MAX, 0],
            &[usize::MAX, usize::MAX],
            &[MOST_ELEMENTS + 1],
        ] {
            let error = elements("size", dims).unwrap_err().to_string();
            assert!(
                error.contains("`size`") && error.contains("17179869184"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_found() -> Result<()> {
        let mut values = vec![1f32; 24];
        let of = |values: &[f32]| not_finite(&Tensor::from_slice(values, (2, 3, 4), &Device::Cpu)?);
        assert_eq!(of(&values)?, None);
        values[23] = f32::INFINITY;
        assert_eq!(of(&values)?.as_deref(), Some("inf at [1, 2, 3]"));
        values[5] = f32::NAN;
        assert_eq!(of(&values)?.as_deref(), Some("NaN at [0, 1, 1]"));
        assert_eq!(
            not_finite(&Tensor::zeros((2, 0), DType::F32, &Device::Cpu)?)?,
            None
        );
        assert_eq!(not_finite(&Tensor::zeros(2, DType::U8, &Device::Cpu)?)?, None);
        Ok(())
    }
}
