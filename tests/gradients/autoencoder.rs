//! The autoencoder, with respect to images, latents, skip-connections and every weight.

use candle_core::{DType, Var};
use lnca::loss::{RestorationLoss, total};
use lnca::model::autoencoder::{Activation, AdjustedConv, Depth, Direction};
use lnca::{
    Autoencoder, AutoencoderConfig, LatentNca, Nafca, NafcaConfig, Restorer, Result, Rollout, Weights,
};

use crate::assert_gradients;
use crate::common::device::device;
use crate::common::{normal, randomise};

/// Everything but the running statistics, which are not learned by gradients.
fn learned(weights: &Weights) -> Vec<(String, Var)> {
    let mut vars = weights.vars();
    vars.retain(|(name, _)| !name.contains("running"));
    vars
}

fn assert_autoencoder(config: AutoencoderConfig, size: [usize; 2], training: bool) -> Result<()> {
    let weights = Weights::new(3, DType::F64, &device());
    let autoencoder = Autoencoder::new(config, weights.builder())?;
    randomise(&weights, 50, 0.3)?;
    let shape = (2, size[0], size[1], 3);
    let images = Var::from_tensor(&normal(1, shape, DType::F64))?;
    let direction = normal(2, shape, DType::F64);
    let mut inputs = learned(&weights);
    inputs.push(("images".to_string(), images.clone()));
    let what = format!("{:?} {size:?} training {training}", autoencoder.config());
    assert_gradients(&what, &inputs, || {
        let encoded = autoencoder.encode(&images, training)?;
        let decoded = autoencoder.decode(&encoded.latent, &encoded.skip, training)?;
        Ok(((decoded * &direction)?.sum_all()? + encoded.latent.sqr()?.mean_all()?)?)
    })
}

#[test]
fn down2_with_odd_latents() -> Result<()> {
    let config = AutoencoderConfig {
        latent_channels: 2,
        conv_bias: true,
        ..AutoencoderConfig::default()
    };
    assert_autoencoder(config.clone(), [4, 12], true)?;
    assert_autoencoder(config, [4, 12], false)
}

#[test]
fn down3_with_odd_latents() -> Result<()> {
    let config = AutoencoderConfig {
        depth: Depth::Down3,
        latent_channels: 4,
        conv_bias: false,
    };
    assert_autoencoder(config.clone(), [8, 8], false)?;
    // Two images of one latent cell each: the least that batch norm can be trained on.
    assert_autoencoder(config, [8, 8], true)
}

#[test]
fn layers_of_odd_sizes_and_any_stride() -> Result<()> {
    for (direction, stride) in [
        (Direction::Down, 1),
        (Direction::Down, 2),
        (Direction::Down, 3),
        (Direction::Up, 1),
        (Direction::Up, 2),
        (Direction::Up, 3),
    ] {
        for (h, w) in [(1, 5), (4, 3)] {
            let weights = Weights::new(4, DType::F64, &device());
            let resize = (direction, stride);
            let layer = AdjustedConv::new((2, 3), resize, Activation::Swish, true, weights.builder())?;
            randomise(&weights, 30, 0.3)?;
            let x = Var::from_tensor(&normal(5, (2, h, w, 2), DType::F64))?;
            let (rows, columns) = match direction {
                Direction::Down => (h.div_ceil(stride), w.div_ceil(stride)),
                Direction::Up => (h * stride, w * stride),
            };
            let shape = (2, rows, columns, 3);
            let direction = normal(6, shape, DType::F64);
            let mut inputs = learned(&weights);
            inputs.push(("x".to_string(), x.clone()));
            for training in [false, true] {
                let what = format!("{resize:?} of {h}x{w}, training {training}");
                assert_eq!(layer.forward(&x, training)?.dims4()?, shape, "{what}");
                assert_gradients(&what, &inputs, || {
                    Ok((layer.forward(&x, training)? * &direction)?.sum_all()?)
                })?;
            }
        }
    }
    Ok(())
}

/// The loss of a latent NCA has a gradient for the transition, through the decoder, but none for the
/// autoencoder.
#[test]
fn a_frozen_autoencoder_passes_gradients_on_and_takes_none() -> Result<()> {
    let encoder_weights = Weights::new(1, DType::F64, &device());
    let config = AutoencoderConfig {
        latent_channels: 2,
        ..AutoencoderConfig::default()
    };
    let autoencoder = Autoencoder::new(config, encoder_weights.builder())?;
    let weights = Weights::new(2, DType::F64, &device());
    let config = NafcaConfig {
        layout: lnca::CellLayout {
            input: 2,
            output: 2,
            hidden: 1,
        },
        embed_dim: 2,
        ffn_expand: 2,
        eps: 1e-2,
        ..NafcaConfig::default()
    };
    let nca = LatentNca::new(&autoencoder, Nafca::new(config, weights.builder())?)?;
    randomise(&encoder_weights, 70, 0.2)?;
    randomise(&weights, 90, 0.3)?;
    let (clean, corrupted) = (
        normal(1, (1, 4, 8, 3), DType::F64),
        normal(2, (1, 4, 8, 3), DType::F64),
    );
    let seed = nca.seed(&corrupted)?;
    let loss = || {
        let cells = nca.evolve(&seed, &Rollout::new(2))?;
        let restored = nca.readout(&cells, &corrupted)?;
        let loss = RestorationLoss {
            tv: 0.1,
            ..RestorationLoss::default()
        };
        total(&loss.terms(&nca.layout(), &cells, (&restored, &clean), || nca.target(&clean))?)
    };
    assert_gradients("latent loss", &weights.vars(), loss)?;
    let grads = loss()?.backward()?;
    for (name, var) in encoder_weights.vars() {
        assert!(grads.get(&var).is_none(), "{name}");
    }
    Ok(())
}
