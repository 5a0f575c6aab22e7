//! The restoration networks, small: weights of every kind of layer, and the image.

use candle_core::{DType, Tensor, Var};
use lnca::model::baseline::{NafNet, NafNetConfig, Network, Restormer, RestormerConfig};
use lnca::{Result, Weights};

use crate::assert_gradients;
use crate::common::device::device;
use crate::common::{normal, randomise};

/// An image of 3x5 pixels, so that there is something to pad.
fn assert_network(what: &str, weights: &Weights, network: &dyn Network) -> Result<()> {
    randomise(weights, 4, 0.3)?;
    let shape = (2, 3, 5, 3);
    let image = Var::from_tensor(&normal(5, shape, DType::F64))?;
    let direction = normal(6, shape, DType::F64);
    // Of equal kinds of layers the smaller ones are enough.
    let mut inputs = weights.vars();
    inputs.retain(|(_, var)| var.elem_count() <= 150);
    inputs.push(("image".into(), image.clone()));
    assert_gradients(what, &inputs, || {
        let restored: Tensor = network.forward(&image)?;
        Ok((restored * &direction)?.mean_all()?)
    })
}

#[test]
fn nafnet() -> Result<()> {
    let weights = Weights::new(1, DType::F64, &device());
    let config = NafNetConfig {
        width: 2,
        encoder: vec![1],
        middle: 1,
        decoder: vec![1],
    };
    assert_network("NAFNet", &weights, &NafNet::new(&config, weights.builder())?)
}

#[test]
fn restormer() -> Result<()> {
    for norm_bias in [true, false] {
        let weights = Weights::new(2, DType::F64, &device());
        let config = RestormerConfig {
            width: 2,
            blocks: [1, 0, 0, 1],
            refinement: 0,
            heads: [1, 1, 2, 4],
            norm_bias,
            ..RestormerConfig::default()
        };
        assert_network(
            "Restormer",
            &weights,
            &Restormer::new(&config, weights.builder())?,
        )?;
    }
    Ok(())
}
