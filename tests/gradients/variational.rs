//! Encoder, decoders and bounds of variational autoencoders.

use candle_core::{DType, Tensor, Var};
use lnca::loss::{Posterior, elbo, elbo_of_mean, iwelbo, log_bernoulli, log_prior, softplus};
use lnca::model::vae::{Broadcast, Deconvolution, Doubling, Encoder};
use lnca::random::Key;
use lnca::{Memory, Result, Rollout, Vnca, VncaConfig, Weights};

use crate::assert_gradients;
use crate::common::device::device;
use crate::common::{normal, randomise, values};

fn weights(seed: u64) -> Weights {
    Weights::new(seed, DType::F64, &device())
}

/// Zeros and ones.
fn images(shape: (usize, usize, usize, usize)) -> Result<Tensor> {
    Ok(normal(9, shape, DType::F64).gt(0.0)?.to_dtype(DType::F64)?)
}

#[test]
fn encoders_of_any_size() -> Result<()> {
    for size in [5, 8] {
        let weights = weights(1);
        let encoder = Encoder::new(size, 2, 1, weights.builder())?;
        let x = Var::from_tensor(&normal(2, (2, size, size, 1), DType::F64))?;
        let mut inputs = weights.vars();
        inputs.push(("images".into(), x.clone()));
        let r = normal(3, (2, 2), DType::F64);
        assert_gradients("encoder", &inputs, || {
            let posterior = encoder.forward(x.as_tensor())?;
            let sum = (posterior.mean + (posterior.log_variance * 2.0)?)?;
            Ok((sum * &r)?.sum_all()?)
        })?;
    }
    Ok(())
}

#[test]
fn automata_that_double_and_that_do_not() -> Result<()> {
    let z = Var::from_tensor(&normal(4, (2, 3), DType::F64))?;
    let r = normal(5, (2, 4, 4, 1), DType::F64);
    for blocks in [0, 1, 2] {
        for output_bias in [true, false] {
            let weights = weights(2);
            let config = VncaConfig {
                blocks,
                output_bias,
                ..VncaConfig::doubling(3)
            };
            let rule = Vnca::new(config, weights.builder())?;
            randomise(&weights, 50, 0.3)?;
            let mut inputs = weights.vars();
            inputs.push(("z".into(), z.clone()));
            let doubling = Doubling::new(rule.clone(), 2);
            let broadcast = Broadcast::new(rule, 4);
            let rollout = Rollout::new(2).memory(Memory::Every(1));
            assert_gradients("doubling", &inputs, || {
                Ok((doubling.decode(z.as_tensor(), &rollout)? * &r)?.sum_all()?)
            })?;
            let rollout = rollout.fire_rate(0.6).key(Key::new(3));
            assert_gradients("broadcast", &inputs, || {
                Ok((broadcast.decode(z.as_tensor(), &rollout)? * &r)?.sum_all()?)
            })?;
        }
    }
    Ok(())
}

#[test]
fn transposed_convolutions_with_a_frame() -> Result<()> {
    let weights = weights(3);
    let decoder = Deconvolution::new(16, 2, 16, weights.builder())?;
    let z = Var::from_tensor(&normal(4, (2, 2), DType::F64))?;
    let drawn = images((2, 12, 12, 1))?;
    let framed = drawn.pad_with_zeros(1, 2, 2)?.pad_with_zeros(2, 2, 2)?;
    // The largest tensors are not needed element by element.
    let few = |(name, var): &(String, Var)| var.elem_count() <= 600 && !name.is_empty();
    let mut inputs: Vec<(String, Var)> = weights.vars().into_iter().filter(few).collect();
    inputs.push(("z".into(), z.clone()));
    // Divided by 100: the sum is so large that differences lose their digits.
    let loss = || Ok((log_bernoulli(&framed, &decoder.decode(z.as_tensor())?)?.sum_all()? / 100.0)?);
    assert_gradients("deconvolution", &inputs, loss)?;
    // The frame adds exactly nothing.
    let inner = log_bernoulli(&drawn, &decoder.inner(z.as_tensor())?)?;
    let all = log_bernoulli(&framed, &decoder.decode(z.as_tensor())?)?;
    for (inner, all) in values(&inner).iter().zip(values(&all)) {
        assert!((inner - all).abs() < 1e-12 * inner.abs(), "{inner} {all}");
    }
    Ok(())
}

#[test]
fn bounds_of_every_kind() -> Result<()> {
    let logits = Var::from_tensor(&normal(5, (2, 3, 4, 4, 1), DType::F64))?;
    let mean = Var::from_tensor(&normal(6, (2, 3), DType::F64))?;
    let log_variance = Var::from_tensor(&normal(7, (2, 3), DType::F64))?;
    let noise = normal(8, (2, 3, 3), DType::F64);
    let images = images((2, 4, 4, 1))?;
    let inputs = [
        ("logits".to_string(), logits.clone()),
        ("mean".to_string(), mean.clone()),
        ("log_variance".to_string(), log_variance.clone()),
    ];
    let posterior = || Posterior {
        mean: mean.as_tensor().clone(),
        log_variance: log_variance.as_tensor().clone(),
    };
    let r = normal(9, 2, DType::F64);
    let parts = || -> Result<(Tensor, Tensor, Tensor, Tensor)> {
        let z = posterior().sample(&noise)?;
        let likelihood = log_bernoulli(&images, logits.as_tensor())?;
        Ok((
            likelihood,
            log_prior(&z)?,
            posterior().log_density(&z)?,
            posterior().kl()?,
        ))
    };
    assert_gradients("iwelbo", &inputs, || {
        let (likelihood, prior, density, _) = parts()?;
        Ok((iwelbo(&likelihood, &prior, &density)? * &r)?.sum_all()?)
    })?;
    assert_gradients("elbo", &inputs, || {
        let (likelihood, .., kl) = parts()?;
        Ok((elbo(&likelihood, &kl, 0.7)? * &r)?.sum_all()?)
    })?;
    assert_gradients("elbo of the mean", &inputs, || {
        let (likelihood, .., kl) = parts()?;
        Ok((elbo_of_mean(&likelihood, &kl, 0.7)? * &r)?.sum_all()?)
    })
}

#[test]
fn softplus_has_the_slope_of_a_sigmoid_everywhere() -> Result<()> {
    let at: [f64; 9] = [-200.0, -60.0, -1.0, -0.0, 0.0, 1e-9, 1.0, 60.0, 200.0];
    for dtype in [DType::F64, DType::F32] {
        let x = Var::from_tensor(&Tensor::new(&at, &device())?.to_dtype(dtype)?)?;
        let y = softplus(x.as_tensor())?;
        let grads = y.sum_all()?.backward()?;
        let slopes = values(grads.get(&x).expect("a gradient"));
        let tolerance = if dtype == DType::F64 { 1e-15 } else { 1e-6 };
        for ((x, y), slope) in at.iter().zip(values(&y)).zip(slopes) {
            let expected: f64 = x.max(0.0) + (-x.abs()).exp().ln_1p();
            let sigmoid = 1.0 / (1.0 + (-x).exp());
            assert!((y - expected).abs() <= tolerance * (1.0 + expected), "{x}: {y}");
            assert!((slope - sigmoid).abs() <= tolerance, "{x}: {slope}");
            assert!(*x != 0.0 || slope == 0.5);
        }
    }
    Ok(())
}
