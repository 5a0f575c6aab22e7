//! Adam on kernels computes what it does on plain operations, in three launches and with no copy to the host.

use candle_core::{DType, Device, Tensor, Var};
use lnca::Result;
use lnca::train::{Adam, AdamConfig};

use crate::device::emulator::launches;
use crate::emulate;

/// Numbers of weights: less than a warp, and more than the pieces of one or two blocks.
const SIZES: [usize; 4] = [1, 17, 16_384 + 5, 40_000];

/// Values that differ from place to place.
fn values(size: usize, seed: usize) -> Vec<f64> {
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 2003) as f64 / 1001.0 - 1.0;
    (0..size).map(value).collect()
}

/// Weights of a type, and one that no loss depends on.
fn weights(dtype: DType) -> Result<Vec<(String, Var)>> {
    let var = |(n, &size): (usize, &usize)| -> Result<(String, Var)> {
        let values = Tensor::from_vec(values(size, n), size, &Device::Cpu)?;
        Ok((format!("w{n}"), Var::from_tensor(&values.to_dtype(dtype)?)?))
    };
    let mut weights = SIZES.iter().enumerate().map(var).collect::<Result<Vec<_>>>()?;
    weights.push(("unused".into(), Var::ones(3, dtype, &Device::Cpu)?));
    Ok(weights)
}

/// A loss whose gradients are given numbers.
fn loss(weights: &[(String, Var)], update: usize, factor: f64) -> Result<Tensor> {
    let mut sum = Tensor::zeros((), weights[0].1.dtype(), &Device::Cpu)?;
    for (n, size) in SIZES.iter().enumerate() {
        let gradient = Tensor::from_vec(values(*size, 31 * update + n + 5), *size, &Device::Cpu)?;
        let gradient = (gradient.to_dtype(sum.dtype())? * factor)?;
        sum = (sum + (weights[n].1.as_tensor() * gradient)?.sum_all()?)?;
    }
    Ok(sum)
}

fn numbers(weights: &[(String, Var)]) -> Result<Vec<f64>> {
    let all = weights
        .iter()
        .map(|(_, var)| var.as_tensor().to_dtype(DType::F64)?.to_vec1::<f64>());
    Ok(all.collect::<candle_core::Result<Vec<_>>>()?.concat())
}

#[test]
fn updates_agree_with_plain_operations() -> Result<()> {
    if !emulate() {
        return Ok(());
    }
    let settings = |normalise, clip, eps_after_correction| AdamConfig {
        normalise,
        clip,
        eps_after_correction,
        drops: vec![(3, 0.1)],
        ..AdamConfig::default()
    };
    for config in [
        settings(true, None, false),
        settings(false, Some(0.5), true),
        settings(false, Some(1e9), false),
        settings(false, None, true),
    ] {
        let (fused, plain) = (weights(DType::F32)?, weights(DType::F64)?);
        let mut adams = [
            Adam::new(fused.clone(), config.clone())?,
            Adam::new(plain.clone(), config.clone())?,
        ];
        for update in 0..6 {
            let before = launches();
            adams[0].step(&loss(&fused, update, 1.0)?.backward()?)?;
            assert_eq!(launches() - before, 3, "launches of an update");
            adams[1].step(&loss(&plain, update, 1.0)?.backward()?)?;
            let apart = numbers(&fused)?.into_iter().zip(numbers(&plain)?);
            let apart = apart.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(apart < 1e-6, "{config:?}, update {update}: {apart}");
        }
        let plain = adams[1].state()?;
        for (name, moment) in adams[0].state()? {
            let gap = (moment.to_dtype(DType::F64)? - &plain[&name])?.abs()?;
            let gap = gap.max_all()?.to_scalar::<f64>()?;
            assert!(gap < 1e-6, "{name}: {gap}");
        }
    }
    Ok(())
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() -> Result<()> {
    if !emulate() {
        return Ok(());
    }
    for (factor, found) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
        let weights = weights(DType::F32)?;
        let mut adam = Adam::new(weights.clone(), AdamConfig::default())?;
        adam.step(&loss(&weights, 0, 1.0)?.backward()?)?;
        let before = numbers(&weights)?;

        let error = adam.step(&loss(&weights, 1, factor)?.backward()?).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("the gradient of `w0`") && error.contains("at update 1"),
            "{error}"
        );
        assert!(error.contains(found) || error.contains("NaN"), "{error}");
        assert_eq!(numbers(&weights)?, before);

        adam.defer(true);
        adam.step(&loss(&weights, 1, factor)?.backward()?)?;
        adam.step(&loss(&weights, 2, 1.0)?.backward()?)?;
        assert_eq!(numbers(&weights)?, before, "from the fault on");
        let error = adam.settle().unwrap_err().to_string();
        assert!(error.contains("at update 1"), "{error}");

        adam.step(&loss(&weights, 3, 1.0)?.backward()?)?;
        adam.settle()?;
        assert_ne!(numbers(&weights)?, before);
    }
    Ok(())
}
