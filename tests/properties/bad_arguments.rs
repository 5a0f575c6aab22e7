//! Wrong arguments give errors that name them, never a panic.

use std::ops::RangeInclusive;

use candle_core::{DType, Tensor};
use lnca::loss::{dist, mae, masked_mse, mse, psnr_loss, total, total_variation};
use lnca::metric::{psnr, ssim};
use lnca::model::autoencoder::Depth;
use lnca::random::Key;
use lnca::train::{PoolTrainer, PoolTrainerConfig};
use lnca::{
    Autoencoder, AutoencoderConfig, CellLayout, Error, Growing, GrowingConfig, LatentNca, Memory, Nafca,
    NafcaConfig, OutputStart, Padding, PlainNca, ProgramBuilder, Result, Rollout, Step, TransitionFn, Vitca,
    VitcaConfig, Weights, neighbourhood,
};

use crate::common::device::device;
use crate::restoring::models;
use crate::rollouts::{LAYOUT, growing, nafca, vitca};

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &device()).unwrap()
}

/// The name that a shape or config error carries.
#[track_caller]
fn named<T>(result: Result<T>) -> &'static str {
    match result.err() {
        Some(Error::Shape { argument, .. }) => argument,
        Some(Error::Config { name, .. }) => name,
        Some(other) => panic!("another error: {other}"),
        None => panic!("no error"),
    }
}

#[test]
fn cells_that_do_not_fit_a_transition() -> Result<()> {
    let (vitca, nafca, growing) = (vitca()?, nafca()?, growing()?);
    let wrong: [&[usize]; 5] = [
        &[2, 3, 3, 5],
        &[3, 3, 6],
        &[1, 0, 3, 6],
        &[0, 3, 3, 6],
        &[1, 3, 3, 3, 6],
    ];
    for shape in wrong {
        for memory in [Memory::Everything, Memory::Every(2), Memory::Nothing] {
            let (rollout, cells) = (Rollout::new(1).memory(memory), zeros(shape));
            assert_eq!(named(rollout.run(&vitca, &cells)), "cells");
            assert_eq!(named(rollout.run(&nafca, &cells)), "cells");
            assert_eq!(named(rollout.trajectory(&growing, &cells)), "cells");
        }
        assert_eq!(named(growing.perceive(&zeros(shape))), "cells");
        assert_eq!(named(LAYOUT.output(&zeros(shape))), "cells");
    }
    assert_eq!(
        named(LAYOUT.seed(&zeros(&[1, 2, 2, 3]), OutputStart::Half)),
        "input"
    );
    assert_eq!(named(LAYOUT.seed(&zeros(&[2, 2, 2]), OutputStart::Half)), "input");
    assert_eq!(
        named(LAYOUT.single_cell((1, 0, 2), DType::F32, &device())),
        "(batch, height, width)"
    );
    assert_eq!(named(neighbourhood(&zeros(&[1, 0, 2, 3]), Padding::Zero)), "x");
    Ok(())
}

#[test]
fn weights_that_do_not_fit_an_operation() -> Result<()> {
    let mut p = ProgramBuilder::new(LAYOUT);
    let (x, fits) = (p.cells(), zeros(&[6]));
    for shape in [&[5][..], &[7], &[6, 1], &[]] {
        let wrong = zeros(shape);
        assert_eq!(named(p.rms_norm(x, &wrong, 0.1)), "scale");
        assert_eq!(named(p.layer_norm(x, &wrong, &fits, 0.1)), "weight");
        assert_eq!(named(p.layer_norm(x, &fits, &wrong, 0.1)), "bias");
        assert_eq!(named(p.affine(x, Some(&wrong), None)), "scale");
        assert_eq!(named(p.affine(x, None, Some(&wrong))), "shift");
        assert_eq!(named(p.constant(&wrong)), "table");
        assert_eq!(named(p.stencil(x, &wrong, Padding::Zero)), "kernels");
        assert_eq!(named(p.convolution(x, &wrong, None, Padding::Zero)), "kernel");
    }
    assert_eq!(named(p.linear(x, &zeros(&[2, 5]), None)), "weight");
    assert_eq!(named(p.linear(x, &zeros(&[2, 6]), Some(&fits))), "bias");
    // A value of another program, as far as can be told.
    let mut other = ProgramBuilder::new(LAYOUT);
    let narrow = other.slice(other.cells(), 0, 1)?;
    assert_eq!(named(p.rms_norm(narrow, &zeros(&[1]), 0.1)), "value");
    Ok(())
}

#[test]
fn settings_of_a_rollout() -> Result<()> {
    let (transition, cells) = (nafca()?, zeros(&[2, 3, 3, 6]));
    let run = |rollout: Rollout| rollout.run(&transition, &cells);
    for rate in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert_eq!(named(run(Rollout::new(1).fire_rate(rate))), "fire_rate");
    }
    assert_eq!(named(run(Rollout::new(1).memory(Memory::Every(0)))), "memory");
    let mask = zeros(&[2, 3, 3, 1]);
    assert_eq!(named(run(Rollout::new(2).masks(vec![mask.clone()]))), "masks");
    assert_eq!(
        named(run(Rollout::new(1).masks(vec![zeros(&[1, 3, 3, 1])]))),
        "masks"
    );
    // Masks of another number type are allowed, and so are rollouts of no steps.
    run(Rollout::new(1).masks(vec![mask.to_dtype(DType::U8)?]))?;
    run(Rollout::new(0))?;
    assert_eq!(
        named(Rollout::sampled(RangeInclusive::new(5, 4), Key::new(0))),
        "steps"
    );
    Ok(())
}

#[test]
fn an_update_of_the_wrong_shape_and_a_failing_one() -> Result<()> {
    #[derive(Clone)]
    struct Wrong(bool);
    impl TransitionFn for Wrong {
        fn layout(&self) -> CellLayout {
            LAYOUT
        }
        fn update(&self, cells: &Tensor, step: &Step) -> Result<Tensor> {
            match self.0 {
                true => Ok(cells.clone()),
                false => step.dropout(cells, 1.5, 0),
            }
        }
    }
    for memory in [Memory::Everything, Memory::Every(1), Memory::Nothing] {
        let rollout = Rollout::new(1).memory(memory);
        assert_eq!(named(rollout.run(&Wrong(true), &zeros(&[1, 2, 2, 6]))), "update");
        assert_eq!(named(rollout.run(&Wrong(false), &zeros(&[1, 2, 2, 6]))), "rate");
    }
    Ok(())
}

#[test]
fn sizes_that_contradict_each_other() -> Result<()> {
    let weights = Weights::new(0, DType::F32, &device());
    let vb = || weights.builder();
    for heads in [0, 3, 256] {
        let config = VitcaConfig {
            heads,
            ..VitcaConfig::default()
        };
        assert_eq!(named(Vitca::new(config, vb())), "heads");
    }
    let nafca = |change: fn(&mut NafcaConfig)| {
        let mut config = NafcaConfig::default();
        change(&mut config);
        named(Nafca::new(config, vb()))
    };
    assert_eq!(nafca(|config| config.embed_dim = 0), "embed_dim");
    assert_eq!(nafca(|config| config.embed_dim = 7), "embed_dim");
    assert_eq!(nafca(|config| config.ffn_expand = 0), "ffn_expand");
    assert_eq!(nafca(|config| config.dropout = 1.0), "dropout");
    assert_eq!(nafca(|config| config.dropout = f64::NAN), "dropout");
    let mut config = GrowingConfig::default();
    config.layout.hidden = 0;
    config.layout.output = 3;
    assert_eq!(named(Growing::new(config, vb())), "alive.channel");
    for (depth, latent_channels) in [(Depth::Down2, 0), (Depth::Down2, 5), (Depth::Down3, 6)] {
        let config = AutoencoderConfig {
            depth,
            latent_channels,
            conv_bias: false,
        };
        assert_eq!(named(Autoencoder::new(config, vb())), "latent_channels");
    }
    let autoencoder = Autoencoder::new(AutoencoderConfig::default(), vb().pp("ae"))?;
    let transition = self::nafca()?;
    assert_eq!(
        named(LatentNca::new(&autoencoder, transition.clone())),
        "layout.input"
    );
    assert_eq!(named(PlainNca::new(transition)), "layout.input");
    Ok(())
}

#[test]
fn layers_without_channels() -> Result<()> {
    let weights = Weights::new(0, DType::F32, &device());
    let vb = || weights.builder();
    let none = CellLayout {
        input: 3,
        output: 0,
        hidden: 0,
    };
    let config = VitcaConfig {
        mlp_dim: 0,
        ..VitcaConfig::default()
    };
    named(Vitca::new(config, vb().pp("a")));
    let config = VitcaConfig {
        layout: none,
        ..VitcaConfig::default()
    };
    named(Vitca::new(config, vb().pp("b")));
    let config = NafcaConfig {
        layout: none,
        ..NafcaConfig::default()
    };
    named(Nafca::new(config, vb().pp("c")));
    let config = GrowingConfig {
        hidden_dim: 0,
        ..GrowingConfig::default()
    };
    named(Growing::new(config, vb().pp("d")));
    let config = GrowingConfig {
        layout: none,
        alive: None,
        ..GrowingConfig::default()
    };
    named(Growing::new(config, vb().pp("e")));
    Ok(())
}

#[test]
fn tensors_that_are_no_images() -> Result<()> {
    for model in models()? {
        for shape in [
            &[1, 8, 8, 4][..],
            &[8, 8, 3],
            &[1, 0, 8, 3],
            &[0, 8, 8, 3],
            &[1, 1, 8, 8, 3],
        ] {
            assert_eq!(named(model.restore(&zeros(shape), Key::new(0))), "images");
        }
        let Some((autoencoder, _)) = model.autoencoder() else {
            continue;
        };
        assert_eq!(named(autoencoder.encode(&zeros(&[1, 9, 8, 3]), false)), "images");
        let encoded = autoencoder.encode(&zeros(&[1, 8, 8, 3]), false)?;
        let other = autoencoder.encode(&zeros(&[1, 16, 8, 3]), false)?;
        assert_eq!(
            named(autoencoder.decode(&encoded.latent, &other.skip, false)),
            "skip"
        );
        assert_eq!(
            named(autoencoder.decode(&encoded.skip, &encoded.skip, false)),
            "latent"
        );
        // A single value has no batch statistics.
        let multiple = autoencoder.multiple();
        let single = zeros(&[1, multiple, multiple, 3]);
        assert_eq!(named(autoencoder.encode(&single, true)), "x");
        autoencoder.encode(&single, false)?;
    }
    Ok(())
}

#[test]
fn pairs_of_images_that_do_not_match() {
    let (a, b) = (zeros(&[1, 12, 12, 3]), zeros(&[1, 12, 13, 3]));
    for result in [
        mse(&a, &b),
        mae(&a, &b),
        psnr_loss(&a, &b),
        total_variation(&a, &b),
        dist(&a, &a, &b, 1.0),
        ssim(&a, &b),
        psnr(&a, &b),
    ] {
        assert_eq!(named(result), "b");
    }
    assert_eq!(named(masked_mse(&a, &a, &b)), "b");
    assert_eq!(named(total(&[])), "terms");
    let small = zeros(&[1, 12, 10, 3]);
    assert_eq!(named(ssim(&small, &small)), "a");
    assert_eq!(named(psnr(&zeros(&[1, 0, 2, 3]), &zeros(&[1, 0, 2, 3]))), "a");
}

#[test]
fn settings_of_a_pool_trainer() -> Result<()> {
    let model = &models()?[0];
    let trainer =
        |config| named(PoolTrainer::new(model.restorer().unwrap(), model.weights(), config).map(|_| ()));
    let config = PoolTrainerConfig::default;
    assert_eq!(
        trainer(PoolTrainerConfig {
            steps: RangeInclusive::new(9, 8),
            ..config()
        }),
        "steps"
    );
    assert_eq!(
        trainer(PoolTrainerConfig {
            fire_rate: 1.5,
            ..config()
        }),
        "fire_rate"
    );
    Ok(())
}
