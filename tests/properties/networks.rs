//! The restoration networks: their sizes, and images of any size.

use candle_core::{DType, Device, Tensor};
use lnca::baseline::{NafNet, NafNetConfig, Network, Restormer, RestormerConfig};
use lnca::{Error, Result, Weights};

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
        let weights = Weights::new(0, DType::F32, &Device::Cpu);
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
    // Those of a block of c channels are 7 c^2 + 33 c, of the whole at width 64 the published number; a narrower
    // network has the same form.
    let count = |width: usize| -> Result<usize> {
        let weights = Weights::new(0, DType::F32, &Device::Cpu);
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
    let weights = [0, 1, 2].map(|seed| Weights::new(seed, DType::F32, &Device::Cpu));
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
        let wrong = Tensor::zeros((1, 8, 8, 4), DType::F32, &Device::Cpu)?;
        assert!(matches!(network.forward(&wrong), Err(Error::Shape { .. })));
    }
    Ok(())
}

#[test]
fn sizes_that_do_not_fit_together_are_errors() {
    let vb = || Weights::new(0, DType::F32, &Device::Cpu).builder();
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
