//! Tensors of the wrong type, and values that are not finite, give errors that name them.

use candle_core::{DType, Tensor};
use lnca::data::{Corruption, Dataset};
use lnca::loss::{ImageLoss, mse};
use lnca::metric::{psnr, ssim};
use lnca::model::baseline::{NafNet, NafNetConfig, Network};
use lnca::nn::{LayerNorm, Linear};
use lnca::random::Key;
use lnca::{
    AliveMask, CellLayout, Error, Function, Growing, GrowingConfig, Memory, Model, ModelConfig, OutputStart,
    Padding, Program, ProgramBuilder, Result, Rollout, TransitionFn, Vae, VaeCard, VaeConfig, evaluate,
};

use crate::common::device::device;
use crate::refusals::{all_name, nothing, refused, weights, zeros};
use crate::restoring::models;

#[test]
fn tensors_of_another_type() -> Result<()> {
    let layout = CellLayout {
        input: 0,
        output: 4,
        hidden: 12,
    };
    let growing = Growing::new(GrowingConfig::default(), weights().builder())?;
    let model = Model::new(ModelConfig::latent_nafca(), 1, &device())?;
    let (autoencoder, _) = model.autoencoder().unwrap();
    let linear = Linear::glorot(4, 4, weights().builder())?;
    let norm = LayerNorm::new(4, 1e-3, weights().builder())?;
    let vae = Vae::new(VaeCard::new(VaeConfig::small()), 1, &device())?;
    let nafnet = NafNet::new(
        &NafNetConfig {
            width: 4,
            encoder: vec![1],
            middle: 1,
            decoder: vec![1],
        },
        weights().builder(),
    )?;
    let kernel = zeros(&[3, 16]);
    for dtype in [DType::F64, DType::F16, DType::BF16, DType::U8] {
        let of = |shape: &[usize]| zeros(shape).to_dtype(dtype).unwrap();
        let (cells, images) = (of(&[1, 4, 4, 16]), of(&[1, 16, 16, 3]));
        let found = format!("{dtype:?}");
        let mut p = ProgramBuilder::new(layout);
        let x = p.cells();
        p.linear(x, &kernel, None)?;
        let cases = vec![
            ("cells", nothing(Rollout::new(1).run(&growing, &cells))),
            ("cells", nothing(Rollout::new(1).plain().run(&growing, &cells))),
            ("cells", nothing(Rollout::new(2).trajectory(&growing, &cells))),
            ("weight", nothing(p.linear(x, &of(&[3, 16]), None))),
            ("bias", nothing(p.linear(x, &kernel, Some(&of(&[3]))))),
            ("kernels", nothing(p.stencil(x, &of(&[1, 3, 3]), Padding::Zero))),
            (
                "kernel",
                nothing(p.convolution(x, &of(&[2, 16, 3, 3]), None, Padding::Zero)),
            ),
            ("scale", nothing(p.affine(x, Some(&of(&[16])), None))),
            ("scale", nothing(p.rms_norm(x, &of(&[16]), 0.1))),
            ("x", nothing(linear.forward(&of(&[2, 4])))),
            ("x", nothing(norm.forward(&of(&[2, 4])))),
            ("images", nothing(model.restore(&images, Key::new(1)))),
            ("images", nothing(autoencoder.encode(&images, false))),
            (
                "latent",
                nothing(autoencoder.decode(&of(&[1, 4, 4, 16]), &of(&[1, 8, 8, 8]), false)),
            ),
            ("images", nothing(nafnet.forward(&images))),
            ("images", nothing(vae.encode(&of(&[1, 32, 32, 1])))),
            ("b", nothing(mse(&zeros(&[2]), &of(&[2])))),
        ];
        for (name, result) in cases {
            let error = result.unwrap_err();
            assert!(
                matches!(error, Error::DType { .. }),
                "{name} of {dtype:?}: {error}"
            );
            let message = error.to_string();
            let parts = [name, &found, "F32"];
            assert!(
                parts.iter().all(|part| message.contains(part)),
                "{name} of {dtype:?}: {message}"
            );
        }
    }
    let bytes = |shape: &[usize]| zeros(shape).to_dtype(DType::U8).unwrap();
    let images = bytes(&[1, 16, 16, 3]);
    all_name(vec![
        ("x", nothing(Function::Relu.of(&bytes(&[2])))),
        ("a", nothing(ssim(&images, &images))),
        ("a", nothing(psnr(&images, &images))),
        (
            "clean",
            nothing(Corruption::NOISE.apply(&images, 0.5, &[Key::new(1)])),
        ),
        (
            "input",
            nothing(layout.seed(&bytes(&[1, 2, 2, 0]), OutputStart::Half)),
        ),
        ("target", nothing(ImageLoss::new(bytes(&[2, 2, 4])))),
        ("cells", nothing(growing.perceive(&bytes(&[1, 4, 4, 16])))),
        ("rates", nothing(Rollout::new(1).fire_rates(&bytes(&[4, 4])))),
    ]);
    Ok(())
}

#[test]
fn alive_masks_of_a_transition_and_of_its_program() -> Result<()> {
    #[derive(Clone)]
    struct Mortal([Option<AliveMask>; 2]);
    impl TransitionFn for Mortal {
        fn layout(&self) -> CellLayout {
            CellLayout {
                input: 0,
                output: 1,
                hidden: 0,
            }
        }

        fn program(&self, _: &Tensor) -> Result<Option<Program>> {
            let mut p = ProgramBuilder::new(self.layout());
            let shift = Tensor::full(-0.5f32, 1, &device())?;
            let y = p.affine(p.cells(), Some(&shift), None)?;
            p.finish(y)?.with_alive_mask(self.0[1]).map(Some)
        }

        fn alive_mask(&self) -> Option<AliveMask> {
            self.0[0]
        }
    }
    let rule = |threshold| {
        Some(AliveMask {
            channel: 0,
            threshold,
            padding: Padding::Zero,
        })
    };
    let cells = Tensor::full(0.5f32, (1, 2, 2, 1), &device())?;
    let ways = [
        Rollout::new(1),
        Rollout::new(1).plain(),
        Rollout::new(1).memory(Memory::Everything),
    ];
    for rollout in ways {
        let last = |rules| -> Result<Vec<f32>> {
            Ok(rollout.run(&Mortal(rules), &cells)?.flatten_all()?.to_vec1()?)
        };
        assert_eq!(last([None, None])?, [0.25; 4]);
        assert_eq!(last([rule(0.8), None])?, [0.0; 4]);
        assert_eq!(last([rule(0.8), rule(0.8)])?, [0.0; 4]);
        for rules in [[None, rule(0.8)], [rule(0.8), rule(0.7)]] {
            let message = refused("program", last(rules));
            assert!(message.contains("alive mask"), "{message}");
        }
        let nan = refused("threshold", last([rule(f64::NAN), None]));
        assert!(nan.contains("alive.threshold"), "{nan}");
        let channel = AliveMask {
            channel: 1,
            ..rule(0.8).unwrap()
        };
        let message = refused("channel", last([Some(channel), None]));
        assert!(message.contains("alive.channel"), "{message}");
    }
    Ok(())
}

#[test]
fn values_that_are_not_finite() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    for (n, model) in models()?.into_iter().enumerate() {
        let path = folder.path().join(format!("{n}.safetensors"));
        let images = Tensor::full(0.5f32, (2, 16, 16, 3), &device())?;
        let mut values = images.flatten_all()?.to_vec1::<f32>()?;
        values[2 * 16 * 3 + 7] = f32::NAN;
        let bad = Tensor::from_vec(values, (2, 16, 16, 3), &device())?;
        let message = refused("images", model.restore(&bad, Key::new(1)));
        assert!(
            message.contains("`images`") && message.contains("[0, 2, 2, 1]"),
            "{message}"
        );
        model.save(&path)?;
        Model::load(&path, &device())?;
        let (name, var) = model.weights().vars().swap_remove(0);
        var.set(&(var.as_detached_tensor() * f64::NAN)?)?;
        for result in [model.save(&path), nothing(model.restore(&images, Key::new(1)))] {
            let error = result.unwrap_err();
            assert!(matches!(&error, Error::Weight { .. }), "{error}");
            let message = error.to_string();
            assert!(message.contains(&name) && message.contains("finite"), "{message}");
        }
        // The file is as it was.
        Model::load(&path, &device())?;
    }
    Ok(())
}

#[test]
fn files_of_weights_that_are_not_finite() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let model = models()?.swap_remove(0);
    model.save(&path)?;
    let whole = std::fs::read(&path).unwrap();
    for value in [f32::NAN, f32::INFINITY] {
        let mut bytes = whole.clone();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let error = nothing(Model::load(&path, &device())).unwrap_err();
        assert!(matches!(error, Error::Weight { .. }), "{error}");
        assert!(error.to_string().contains("finite numbers"), "{error}");
    }
    Ok(())
}

#[test]
fn scores_of_images_that_are_not_finite() -> Result<()> {
    let images = Dataset::dead_leaves(4, 12, 7)?;
    let noise = Some((Corruption::NOISE, 0.5));
    let batches = images.evaluation_batches(2, noise, Key::new(1))?;
    for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let spoil = |images: &Tensor, _| -> Result<Tensor> { Ok(((images * 0.0)? + odd)?) };
        let message = refused("restored", evaluate(&batches, &device(), spoil));
        assert!(
            message.contains("`restored`") && message.contains("[0, 0, 0, 0]"),
            "{message}"
        );
        let (fine, bad) = (zeros(&[1, 12, 12, 3]), (zeros(&[1, 12, 12, 3]) + odd)?);
        all_name(vec![
            ("a", nothing(ssim(&bad, &fine))),
            ("b", nothing(ssim(&fine, &bad))),
            ("a", nothing(psnr(&bad, &fine))),
            ("b", nothing(psnr(&fine, &bad))),
        ]);
    }
    Ok(())
}
