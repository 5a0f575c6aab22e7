//! Weights of the cases under the library's names and in its layouts.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use lnca::Weights;

use super::case::Result;
use super::check::{Check, Limit};
use crate::device::device;

/// The library's name of a weight: `norm.gamma` is `norm.weight`, `bn.moving_mean` is
/// `bn.running_mean`, and so on. Parts of an attention block are `blocks.0`.
pub fn library_name(name: &str) -> String {
    let Some((parents, last)) = name.rsplit_once('.') else {
        // The residual scales of NAFCA.
        return name.to_string();
    };
    let last = match last {
        "kernel" | "gamma" => "weight",
        "beta" => "bias",
        "moving_mean" => "running_mean",
        "moving_variance" => "running_var",
        other => other,
    };
    let in_block = matches!(
        parents,
        "attn_norm" | "qkv" | "proj" | "mlp_norm" | "mlp1" | "mlp2"
    );
    format!("{}{parents}.{last}", if in_block { "blocks.0." } else { "" })
}

/// A weight, or its gradient, in the library's layout: `[in, out]` becomes `[out, in]`, HWIO becomes
/// OIHW (for a transposed convolution `[kh, kw, out, in]` becomes `[in, out, kh, kw]`, the same
/// permutation), and axes of length 1 go where the library has a vector or a matrix.
pub fn library_layout(name: &str, value: &Tensor) -> Result<Tensor> {
    let value = match (name.rsplit('.').next(), value.dims()) {
        (Some("kernel"), [_, _]) => value.t()?,
        (Some("kernel"), [..]) if name == "conv2.kernel" => value.flatten_all()?,
        (Some("kernel"), &[1, 1, input, output]) => value.reshape((input, output))?.t()?,
        (Some("kernel"), [_, _, _, _]) => value.permute((3, 2, 0, 1))?,
        _ => value.flatten_all()?,
    };
    Ok(value.contiguous()?)
}

/// The weights named `prefix..` of a case, ready for [`Weights::load`].
pub fn read(check: &Check, prefix: &str) -> Result<BTreeMap<String, Tensor>> {
    let one = |name: String| {
        let value = library_layout(&name, &check.stored(&format!("{prefix}{name}"))?)?;
        Ok((library_name(&name), value))
    };
    check.names(prefix).into_iter().map(one).collect()
}

/// A model built by `build` with the weights named `prefix..` of a case, and those weights.
pub fn model<M>(
    check: &Check,
    prefix: &str,
    build: impl FnOnce(&Weights) -> lnca::Result<M>,
) -> Result<(M, Weights)> {
    let weights = Weights::new(0, check.dtype, &device());
    let model = build(&weights)?;
    weights.load(&read(check, prefix)?)?;
    Ok((model, weights))
}

/// Every gradient of a weight that the case holds under `grad.w.`; `limit` may depend on its name.
pub fn gradients(
    check: &mut Check,
    weights: &Weights,
    grads: &GradStore,
    limit: impl Fn(&str) -> Limit,
) -> Result<()> {
    let vars: BTreeMap<_, _> = weights.vars().into_iter().collect();
    for name in check.names("grad.w.") {
        let label = format!("grad.w.{name}");
        let expected = library_layout(&name, &check.expected(&label)?)?;
        let library = library_name(&name);
        let var = vars
            .get(&library)
            .ok_or_else(|| format!("the model has no weight `{library}`"))?;
        let found = match grads.get(var) {
            Some(grad) => grad.clone(),
            None => var.zeros_like()?,
        };
        check.compare(&label, &found, &expected, limit(&name))?;
    }
    Ok(())
}

/// Every weight that the case holds under `start`, as the model has it now.
pub fn values(
    check: &mut Check,
    weights: &Weights,
    start: &str,
    limit: impl Fn(&str) -> Limit,
) -> Result<()> {
    let found = weights.snapshot()?;
    for name in check.results(start) {
        let label = format!("{start}{name}");
        let expected = library_layout(&name, &check.expected(&label)?)?;
        let library = library_name(&name);
        let value = found
            .get(&library)
            .ok_or_else(|| format!("the model has no weight `{library}`"))?;
        check.compare(&label, value, &expected, limit(&name))?;
    }
    Ok(())
}

/// The loss `sum(output * r)`, added over pairs.
pub fn weighted(outputs: &[(&Tensor, &Tensor)]) -> Result<Tensor> {
    let mut sum = None;
    for (output, r) in outputs {
        let part = (*output * *r)?.sum_all()?;
        sum = Some(match sum {
            None => part,
            Some(sum) => (sum + part)?,
        });
    }
    sum.ok_or_else(|| "a loss of nothing".into())
}

/// The value of a scalar tensor.
pub fn value(scalar: &Tensor) -> Result<f64> {
    Ok(scalar.to_dtype(DType::F64)?.to_scalar()?)
}
