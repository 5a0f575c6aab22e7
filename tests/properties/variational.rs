//! Variational autoencoders: sizes, files, estimates, wrong arguments.

use candle_core::{DType, Tensor};
use lnca::data::BinaryImages;
use lnca::loss::{Posterior, elbo, iwelbo, log_bernoulli, log_mean_exp};
use lnca::model::vae::{Decoder, Deconvolution, Encoder};
use lnca::random::Key;
use lnca::train::{AdamConfig, Learner, VaeTrainer, VaeTrainerConfig};
use lnca::{DecoderConfig, Error, Result, Rollout, Vae, VaeCard, VaeConfig, Vnca, VncaConfig, Weights};

use crate::common::device::device;
use crate::common::{normal, randomise, values};

/// A small model of each kind, with no weight at its initial value.
fn models() -> Result<Vec<Vae>> {
    let decoders = [
        DecoderConfig::Doubling { steps: 2, blocks: 1 },
        DecoderConfig::Broadcast {
            steps: 3,
            fire_rate: 0.5,
            output_bias: false,
        },
        DecoderConfig::Baseline { width: 16 },
    ];
    let model = |decoder| -> Result<Vae> {
        let config = VaeConfig {
            latent: 6,
            encoder: 2,
            decoder,
            ..VaeConfig::default()
        };
        let vae = Vae::new(VaeCard::new(config), 3, &device())?;
        randomise(vae.weights(), 4, 0.05)?;
        Ok(vae)
    };
    decoders.into_iter().map(model).collect()
}

fn digits(count: usize) -> Result<Tensor> {
    let all: Vec<usize> = (0..count).collect();
    BinaryImages::digits(count, 1)?.padded(2)?.batch(&all, &device())
}

#[test]
fn published_sizes_have_the_published_number_of_weights() -> Result<()> {
    let count = |config: VaeConfig| -> Result<(usize, usize)> {
        let vae = Vae::new(VaeCard::new(config), 0, &device())?;
        let of = |prefix: &str| {
            let vars = vae.weights().vars().into_iter();
            vars.filter(|(name, _)| name.starts_with(prefix))
                .map(|(_, var)| var.elem_count())
                .sum()
        };
        Ok((of("encoder."), of("decoder.")))
    };
    assert_eq!(count(VaeConfig::default())?, (5_402_880, 1_182_208));
    let baseline = VaeConfig {
        decoder: DecoderConfig::baseline(),
        ..VaeConfig::default()
    };
    assert_eq!(count(baseline)?, (5_402_880, 4_879_617));
    let broadcast = VaeConfig {
        latent: 128,
        decoder: DecoderConfig::broadcast(),
        ..VaeConfig::default()
    };
    assert_eq!(count(broadcast)?, (5_042_432 - 164_096, 164_096));
    Ok(())
}

#[test]
fn an_untrained_automaton_changes_nothing() -> Result<()> {
    let weights = Weights::new(1, DType::F32, &device());
    let rule = Vnca::new(VncaConfig::doubling(5), weights.builder())?;
    let cells = normal(1, (2, 3, 4, 5), DType::F32);
    let after = Rollout::new(4).run(&rule, &cells)?;
    assert_eq!(values(&after), values(&cells));
    Ok(())
}

#[test]
fn a_file_is_the_model() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let images = digits(3)?;
    for mut vae in models()? {
        vae.card_mut().data = "digits".into();
        vae.save(&path)?;
        let loaded = Vae::load(&path, &device())?;
        assert_eq!(loaded.card(), vae.card());
        let key = Key::new(5);
        assert_eq!(
            vae.estimate(&images, 2, key, 0)?,
            loaded.estimate(&images, 2, key, 0)?
        );
        let z = vae.prior(2, key)?;
        assert_eq!(values(&vae.decode(&z, key)?), values(&loaded.decode(&z, key)?));

        // A card that asks for more weights than the file has, and more than memory holds.
        vae.card_mut().config.latent = 1 << 16;
        vae.save(&path)?;
        match Vae::load(&path, &device()) {
            Err(Error::File { .. }) => {}
            other => panic!("{:?}", other.map(|vae| vae.card().clone())),
        }
        vae.card_mut().vae = 2;
        vae.save(&path)?;
        assert!(matches!(Vae::load(&path, &device()), Err(Error::File { .. })));
    }
    std::fs::write(&path, "no tensors").unwrap();
    assert!(matches!(Vae::load(&path, &device()), Err(Error::File { .. })));
    let missing = folder.path().join("none");
    assert!(matches!(Vae::load(missing, &device()), Err(Error::Io { .. })));
    Ok(())
}

#[test]
fn estimates_do_not_depend_on_batches_and_rise_with_samples() -> Result<()> {
    let images = digits(4)?;
    for vae in models()? {
        if matches!(vae.decoder(), Decoder::Broadcast(_)) {
            // Its masks depend on where an image is in a batch.
            continue;
        }
        let key = Key::new(2);
        let all = vae.estimate(&images, 70, key, 0)?;
        let last = vae.estimate(&images.narrow(0, 3, 1)?, 70, key, 3)?;
        assert!((all[3].iwelbo - last[0].iwelbo).abs() < 1e-3, "{all:?} {last:?}");
        let few = vae.estimate(&images, 2, key, 0)?;
        for (few, many) in few.iter().zip(&all) {
            // The border is black: without it an image can only be likelier.
            assert!(many.inner >= many.iwelbo - 1e-3, "{many:?}");
            assert!(many.kl > 0.0 && many.elbo < 0.0 && few.kl == many.kl);
            assert!(many.iwelbo >= many.elbo - 1e-3, "{many:?}");
        }
    }
    Ok(())
}

#[test]
fn bounds_agree_where_the_posterior_is_exact() -> Result<()> {
    // If the posterior is the prior and the likelihood does not depend on the latent, every bound is that
    // likelihood.
    let zeros = Tensor::zeros((2, 3), DType::F64, &device())?;
    let posterior = Posterior {
        mean: zeros.clone(),
        log_variance: zeros,
    };
    let z = posterior.sample(&normal(1, (2, 5, 3), DType::F64))?;
    let likelihood = Tensor::new(&[[-3.0f64; 5], [-800.0; 5]], &device())?;
    let prior = lnca::loss::log_prior(&z)?;
    let tight = iwelbo(&likelihood, &prior, &posterior.log_density(&z)?)?;
    let loose = elbo(&likelihood, &posterior.kl()?, 1.0)?;
    for bound in [tight, loose] {
        for (found, expected) in values(&bound).iter().zip([-3.0, -800.0]) {
            assert!((found - expected).abs() < 1e-12, "{found}");
        }
    }
    Ok(())
}

/// The argument or setting that an error names.
#[track_caller]
fn named<T>(result: Result<T>) -> &'static str {
    match result.err() {
        Some(Error::Shape { argument, .. }) => argument,
        Some(Error::Config { name, .. }) => name,
        Some(other) => panic!("another error: {other}"),
        None => panic!("no error"),
    }
}

fn zeros(shape: &[usize]) -> candle_core::Result<Tensor> {
    Tensor::zeros(shape, DType::F32, &device())
}

#[test]
fn what_does_not_fit_is_an_error_with_a_name() -> Result<()> {
    let with = |change: &dyn Fn(&mut VaeConfig)| {
        let mut config = VaeConfig::small();
        change(&mut config);
        named(Vae::new(VaeCard::new(config), 0, &device()))
    };
    assert_eq!(with(&|config| config.size = 28), "size");
    assert_eq!(with(&|config| config.size = 0), "size");
    assert_eq!(with(&|config| config.border = 16), "border");
    assert_eq!(with(&|config| config.latent = 0), "latent");
    assert_eq!(with(&|config| config.encoder = 0), "encoder");
    assert_eq!(with(&|config| config.encoder = usize::MAX), "encoder");
    assert_eq!(with(&|config| config.border = usize::MAX), "border");
    let blocks = DecoderConfig::Doubling { steps: 1, blocks: 0 };
    assert_eq!(with(&|config| config.decoder = blocks.clone()), "blocks");
    let rate = DecoderConfig::Broadcast {
        steps: 1,
        fire_rate: f64::NAN,
        output_bias: true,
    };
    assert_eq!(with(&|config| config.decoder = rate.clone()), "fire_rate");
    let width = DecoderConfig::Baseline { width: 24 };
    assert_eq!(with(&|config| config.decoder = width.clone()), "width");
    let builder = || Weights::new(0, DType::F32, &device()).builder();
    assert_eq!(named(Encoder::new(0, 1, 1, builder())), "encoder");
    assert_eq!(named(Deconvolution::new(20, 1, 16, builder())), "size");
    assert_eq!(named(Deconvolution::new(16, 0, 16, builder())), "channels");
    assert_eq!(
        named(Deconvolution::new(usize::MAX - 15, 1, 16, builder())),
        "size"
    );
    let nothing = VncaConfig {
        layout: lnca::CellLayout {
            input: 3,
            output: 0,
            hidden: 0,
        },
        ..VncaConfig::default()
    };
    assert_eq!(named(Vnca::new(nothing, builder())), "layout");

    for vae in models()? {
        let key = Key::new(0);
        for shape in [
            &[2, 28, 28, 1][..],
            &[2, 32, 32, 3],
            &[32, 32, 1],
            &[0, 32, 32, 1],
        ] {
            assert_eq!(named(vae.encode(&zeros(shape)?)), "images");
        }
        for shape in [&[2, 5][..], &[6], &[0, 6], &[1, 1, 6]] {
            assert_eq!(named(vae.decode(&zeros(shape)?, key)), "z");
        }
        assert_eq!(named(vae.estimate(&digits(1)?, 0, key, 0)), "samples");

        let images = BinaryImages::digits(4, 0)?;
        let trainer = |images: BinaryImages, change: &dyn Fn(&mut VaeTrainerConfig)| {
            let mut config = VaeTrainerConfig::default();
            change(&mut config);
            named(VaeTrainer::new(&vae, images, config))
        };
        let padded = images.padded(2)?;
        assert_eq!(trainer(images.clone(), &|_| ()), "images");
        assert_eq!(trainer(padded.take(0), &|_| ()), "images");
        assert_eq!(trainer(padded.clone(), &|config| config.batch = 0), "batch");
        #[allow(clippy::reversed_empty_ranges)]
        let empty = |config: &mut VaeTrainerConfig| config.steps = 9..=8;
        assert_eq!(trainer(padded.clone(), &empty), "steps");
        for clip in [0.0, -1.0, f64::NAN] {
            let clipped = |config: &mut VaeTrainerConfig| {
                config.adam = AdamConfig {
                    clip: Some(clip),
                    ..config.adam.clone()
                };
            };
            assert_eq!(trainer(padded.clone(), &clipped), "clip");
        }
        if matches!(vae.decoder(), Decoder::Broadcast(_)) {
            assert_eq!(trainer(padded.clone(), &|config| config.pool = 3), "pool");
        }
    }
    Ok(())
}

#[test]
fn likelihoods_of_other_shapes_are_errors_with_a_name() -> Result<()> {
    let (images, logits) = (zeros(&[2, 4, 4, 1])?, zeros(&[2, 4, 5, 1])?);
    assert_eq!(named(log_bernoulli(&images, &logits)), "logits");
    assert_eq!(named(log_bernoulli(&images, &zeros(&[2, 4])?)), "logits");
    assert_eq!(named(log_mean_exp(&zeros(&[2, 0])?)), "x");
    let (likelihood, one) = (zeros(&[2, 3])?, zeros(&[2, 1])?);
    assert_eq!(named(iwelbo(&likelihood, &one, &likelihood)), "log_prior");
    assert_eq!(named(elbo(&likelihood, &zeros(&[3])?, 1.0)), "log_likelihood");
    let posterior = Posterior {
        mean: likelihood.clone(),
        log_variance: likelihood,
    };
    assert_eq!(named(posterior.sample(&zeros(&[2, 4])?)), "noise");
    assert_eq!(named(posterior.log_density(&zeros(&[2, 5, 4])?)), "z");
    Ok(())
}

#[test]
fn binarised_mnist_from_a_folder() -> Result<()> {
    let folder = std::env::var_os("LNCA_BINARISED_MNIST").map(std::path::PathBuf::from);
    let default = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/binarized_mnist");
    let folder = folder.unwrap_or(default);
    if !folder.is_dir() {
        eprintln!("skipped: no folder {}", folder.display());
        return Ok(());
    }
    let parts = BinaryImages::open(&folder, 0)?;
    assert_eq!(parts.name, "binarised MNIST");
    assert_eq!(
        (parts.train.len(), parts.test.len(), parts.train.side()),
        (60_000, 10_000, 28)
    );
    let ink = |images: &BinaryImages| {
        let all = (0..images.len()).filter_map(|n| images.image(n)).flatten();
        all.map(|&pixel| f64::from(pixel)).sum::<f64>() / (images.len() * 784) as f64
    };
    assert!((ink(&parts.test) - 0.1325).abs() < 1e-3);
    // A few updates make test images likelier.
    let config = VaeConfig {
        latent: 16,
        encoder: 4,
        decoder: DecoderConfig::Baseline { width: 32 },
        ..VaeConfig::default()
    };
    let vae = Vae::new(VaeCard::new(config), 0, &device())?;
    let test = parts
        .test
        .padded(2)?
        .batch(&[0, 1, 2, 3, 4, 5, 6, 7], &device())?;
    let bound = |vae: &Vae| -> Result<f64> {
        let estimates = vae.estimate(&test, 4, Key::new(1), 0)?;
        Ok(lnca::model::vae::Estimate::mean(&estimates).iwelbo)
    };
    let before = bound(&vae)?;
    let mut trainer = VaeTrainer::new(
        &vae,
        parts.train.padded(2)?,
        VaeTrainerConfig {
            adam: AdamConfig {
                learning_rate: 3e-3,
                ..VaeTrainerConfig::default().adam
            },
            batch: 16,
            ..VaeTrainerConfig::default()
        },
    )?;
    for _ in 0..150 {
        trainer.update()?;
    }
    let after = bound(&vae)?;
    assert!(before < -500.0 && after > -260.0, "{before} {after}");
    Ok(())
}
