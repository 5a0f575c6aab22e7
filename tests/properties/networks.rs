//! The restoration networks: their sizes, and images of any size.

use candle_core::{DType, Tensor, Var};
use lnca::model::baseline::{NafNet, NafNetConfig, Network, Restormer, RestormerConfig};
use lnca::random::Key;
use lnca::{Error, Model, ModelConfig, Result, Weights};

use crate::common::device::device;
use crate::common::{normal, randomise, values};

fn small_nafnet(weights: &Weights) -> Result<NafNet> {
    let config = NafNetConfig {
        width: 4,
        encoder: vec![1, 1],
        middle: 1,
        decoder: vec![1, 1],
    };
    NafNet::new(&config, weights.builder())
}

fn small_restormer(weights: &Weights, norm_bias: bool) -> Result<Restormer> {
    let config = RestormerConfig {
        width: 4,
        blocks: [1; 4],
        refinement: 1,
        heads: [1, 2, 2, 4],
        norm_bias,
        ..RestormerConfig::default()
    };
    Restormer::new(&config, weights.builder())
}

#[test]
fn restormer_has_the_published_number_of_weights() -> Result<()> {
    for (norm_bias, expected) in [(true, 26_126_644), (false, 26_111_668)] {
        let weights = Weights::new(0, DType::F32, &device());
        let config = RestormerConfig {
            norm_bias,
            ..RestormerConfig::default()
        };
        Restormer::new(&config, weights.builder())?;
        let count: usize = weights.vars().iter().map(|(_, var)| var.elem_count()).sum();
        assert_eq!(count, expected);
    }
    Ok(())
}

#[test]
fn nafnet_has_the_published_number_of_weights() -> Result<()> {
    // A block of c channels has 7 c^2 + 33 c weights, the whole network at width 64 the published number;
    // narrower networks follow the same polynomial.
    let count = |width: usize| -> Result<usize> {
        let weights = Weights::new(0, DType::F32, &device());
        let config = NafNetConfig {
            width,
            ..NafNetConfig::default()
        };
        NafNet::new(&config, weights.builder())?;
        Ok(weights.vars().iter().map(|(_, var)| var.elem_count()).sum())
    };
    // A polynomial of degree 2 in the width, which three narrow networks determine.
    let [a, b, c] = [count(2)? as f64, count(4)? as f64, count(6)? as f64];
    let at = |w: f64| {
        a * (w - 4.0) * (w - 6.0) / 8.0 - b * (w - 2.0) * (w - 6.0) / 4.0 + c * (w - 2.0) * (w - 4.0) / 8.0
    };
    assert_eq!(at(64.0).round() as usize, 115_982_915);
    Ok(())
}

#[test]
fn images_of_any_size_keep_it() -> Result<()> {
    let weights = [0, 1, 2].map(|seed| Weights::new(seed, DType::F32, &device()));
    let networks: [Box<dyn Network>; 3] = [
        Box::new(small_nafnet(&weights[0])?),
        Box::new(small_restormer(&weights[1], true)?),
        Box::new(small_restormer(&weights[2], false)?),
    ];
    for (network, weights) in networks.iter().zip(&weights) {
        randomise(weights, 5, 0.05)?;
        for shape in [(1, 1, 1, 3), (2, 5, 17, 3), (1, 16, 8, 3)] {
            let restored = network.forward(&normal(1, shape, DType::F32))?;
            assert_eq!(restored.dims4()?, shape);
            assert!(
                values(&restored).iter().all(|value| value.is_finite()),
                "{shape:?}"
            );
        }
        let wrong = Tensor::zeros((1, 8, 8, 4), DType::F32, &device())?;
        assert!(matches!(network.forward(&wrong), Err(Error::Shape { .. })));
    }
    Ok(())
}

#[test]
fn sizes_that_do_not_fit_together_are_errors() {
    let vb = || Weights::new(0, DType::F32, &device()).builder();
    let uneven = NafNetConfig {
        decoder: vec![1],
        ..NafNetConfig::default()
    };
    assert!(matches!(NafNet::new(&uneven, vb()), Err(Error::Config { .. })));
    let heads = RestormerConfig {
        heads: [5, 2, 4, 8],
        ..RestormerConfig::default()
    };
    assert!(matches!(Restormer::new(&heads, vb()), Err(Error::Config { .. })));
}

#[test]
fn f32_agrees_with_f64() -> Result<()> {
    // Layers have their own kernels for f32, and others or Candle's for f64.
    let output = |dtype| -> Result<(Vec<f64>, Vec<f64>)> {
        let weights = Weights::new(3, dtype, &device());
        let network = small_restormer(&weights, true)?;
        randomise(&weights, 8, 0.2)?;
        let image = Var::from_tensor(&normal(9, (2, 9, 8, 3), DType::F64).to_dtype(dtype)?)?;
        let restored = network.forward(&image)?;
        let grads = restored.sqr()?.sum_all()?.backward()?;
        let grad = grads.get(&image).expect("a gradient");
        Ok((values(&restored), values(grad)))
    };
    let ((a, a_grad), (b, b_grad)) = (output(DType::F32)?, output(DType::F64)?);
    for (single, double) in [(a, b), (a_grad, b_grad)] {
        let largest = double.iter().fold(0f64, |max, value| max.max(value.abs()));
        for (single, double) in single.into_iter().zip(double) {
            assert!((single - double).abs() < 1e-5 * largest, "{single}, {double}");
        }
    }
    Ok(())
}

#[test]
fn a_network_is_a_model_that_can_be_saved_and_loaded() -> Result<()> {
    let config = ModelConfig::NafNet {
        network: NafNetConfig {
            width: 4,
            encoder: vec![1],
            middle: 1,
            decoder: vec![1],
        },
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let model = Model::new(config, 5, &device())?;
    randomise(model.weights(), 6, 0.2)?;
    let images = normal(7, (2, 7, 9, 3), DType::F32);
    let restored = model.restore(&images, Key::new(0))?;
    assert_eq!(restored.dims(), images.dims());
    model.save(&path)?;
    let loaded = Model::load(&path, &device())?;
    assert_eq!(loaded.card(), model.card());
    assert_eq!(values(&loaded.restore(&images, Key::new(1))?), values(&restored));
    assert!(matches!(model.restorer(), Err(Error::Config { .. })));
    Ok(())
}
