//! Restoring images: any size, any batch, any memory layout.

use candle_core::{DType, Tensor};
use lnca::model::autoencoder::Depth;
use lnca::model::{Model, ModelConfig};
use lnca::random::Key;
use lnca::{AutoencoderConfig, CellLayout, NafcaConfig, OutputStart, Result, VitcaConfig};
use proptest::prelude::*;

use crate::common::device::device;
use crate::common::{normal, randomise, values};

const LATENT: CellLayout = CellLayout {
    input: 4,
    output: 4,
    hidden: 4,
};

/// Small models of every kind; their multiples are 4, 8 and 1.
pub fn models() -> Result<Vec<Model>> {
    let autoencoder = |depth| AutoencoderConfig {
        depth,
        latent_channels: 4,
        ..AutoencoderConfig::default()
    };
    let vitca = |layout| VitcaConfig {
        layout,
        embed_dim: 8,
        heads: 2,
        mlp_dim: 8,
        ..VitcaConfig::default()
    };
    let configs = [
        ModelConfig::LatentNafca {
            autoencoder: autoencoder(Depth::Down2),
            transition: NafcaConfig {
                layout: LATENT,
                embed_dim: 8,
                ..NafcaConfig::default()
            },
            start: OutputStart::Half,
        },
        ModelConfig::LatentVitca {
            autoencoder: autoencoder(Depth::Down3),
            transition: vitca(LATENT),
            start: OutputStart::Input,
        },
        ModelConfig::Vitca {
            transition: vitca(CellLayout {
                input: 3,
                output: 3,
                hidden: 4,
            }),
            start: OutputStart::Half,
        },
    ];
    let mut models = Vec::new();
    for (seed, config) in configs.into_iter().enumerate() {
        let mut model = Model::new(config, seed as u64, &device())?;
        randomise(model.weights(), 60, 0.2)?;
        if let Some((_, weights)) = model.autoencoder() {
            randomise(weights, 80, 0.2)?;
        }
        model.card_mut().steps = 4;
        model.card_mut().fire_rate = 0.7;
        models.push(model);
    }
    Ok(models)
}

fn images(seed: u64, shape: (usize, usize, usize, usize)) -> Tensor {
    let images = normal(seed, shape, DType::F32);
    (images * 0.3).and_then(|x| x + 0.5).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(6) })]

    #[test]
    fn images_of_any_size(b in 1usize..3, h in 1usize..20, w in 1usize..20, seed in any::<u64>()) {
        let images = images(seed, (b, h, w, 3));
        for model in models().unwrap() {
            let restored = model.restore(&images, Key::new(seed)).unwrap();
            prop_assert_eq!(restored.dims(), images.dims());
            prop_assert!(values(&restored).iter().all(|value| value.is_finite()));
        }
    }
}

#[test]
fn the_smallest_and_odd_images() -> Result<()> {
    for (h, w) in [(1, 1), (5, 7), (1, 9), (3, 4), (8, 8)] {
        for model in models()? {
            let restored = model.restore(&images(1, (1, h, w, 3)), Key::new(0))?;
            assert_eq!(restored.dims(), [1, h, w, 3], "{}", model.card().config.name());
        }
    }
    Ok(())
}

#[test]
fn an_image_is_restored_alike_in_any_batch() -> Result<()> {
    let images = images(2, (3, 6, 9, 3));
    for model in models()? {
        let rollout = model.rollout(Key::new(5));
        let together = model.restore_by(&images, &rollout)?;
        for i in 0..3 {
            let alone = images.narrow(0, i, 1)?;
            let alone = model.restore_by(&alone, &rollout.clone().first_image(i))?;
            for (a, b) in values(&alone).iter().zip(values(&together.narrow(0, i, 1)?)) {
                assert!((a - b).abs() < 1e-5, "image {i}: {a} and {b}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_view_is_restored_like_its_copy() -> Result<()> {
    // Channels first and transposed: every axis has an odd stride.
    let view = images(3, (2, 3, 7, 6)).permute((0, 3, 2, 1))?;
    for model in models()? {
        let of_view = model.restore(&view, Key::new(1))?;
        let of_copy = model.restore(&view.contiguous()?, Key::new(1))?;
        assert_eq!(
            values(&of_view),
            values(&of_copy),
            "{}",
            model.card().config.name()
        );
    }
    Ok(())
}

#[test]
fn padding_repeats_the_edge() -> Result<()> {
    // Restoring a padded image and cropping is what `restore` does for odd sizes.
    let images = images(4, (1, 5, 6, 3));
    let model = &models()?[0];
    let padded = images.pad_with_same(1, 0, 3)?.pad_with_same(2, 0, 2)?;
    let expected = model
        .restore(&padded, Key::new(2))?
        .narrow(1, 0, 5)?
        .narrow(2, 0, 6)?;
    assert_eq!(values(&model.restore(&images, Key::new(2))?), values(&expected));
    Ok(())
}
