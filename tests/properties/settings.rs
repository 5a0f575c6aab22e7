//! Settings out of range are refused where training starts.

use std::ops::RangeInclusive;

use candle_core::DType;
use lnca::TransitionFn;
use lnca::data::{BinaryImages, Corruption, Curriculum, Dataset};
use lnca::loss::{ImageLoss, OverflowNorm, PatchTransport, RestorationLoss, TextureLoss};
use lnca::model::baseline::{NafNet, NafNetConfig};
use lnca::train::{
    Adam, AdamConfig, AutoencoderTrainerConfig, NetworkTrainer, NetworkTrainerConfig, PatternTrainer,
    PatternTrainerConfig, PoolTrainerConfig, VaeTrainer, VaeTrainerConfig,
};
use lnca::{
    AutoencoderTrainer, Fit, Growing, GrowingConfig, Model, ModelConfig, PoolTrainer, Result, TrainingData,
    Vae, VaeCard, VaeConfig,
};

use crate::common::device::device;
use crate::refusals::{HUGE, all_name, nothing, weights, zeros};
use crate::restoring::models;

#[test]
fn settings_of_the_optimiser() -> Result<()> {
    let adam = |change: &dyn Fn(&mut AdamConfig)| {
        let mut config = AdamConfig::default();
        change(&mut config);
        config
    };
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let mut cases: Vec<(&str, AdamConfig)> = vec![];
    for wrong in [nan, inf, -0.01] {
        cases.push(("learning_rate", adam(&|config| config.learning_rate = wrong)));
        cases.push(("drops", adam(&|config| config.drops = vec![(2, 0.1), (3, wrong)])));
    }
    for wrong in [nan, inf, -0.1, 1.0, 2.0] {
        cases.push(("beta1", adam(&|config| config.beta1 = wrong)));
        cases.push(("beta2", adam(&|config| config.beta2 = wrong)));
    }
    for wrong in [nan, inf, -1.0, 0.0] {
        cases.push(("eps", adam(&|config| config.eps = wrong)));
        cases.push(("clip", adam(&|config| config.clip = Some(wrong))));
    }
    cases.push(("cosine_updates", adam(&|config| config.cosine_updates = Some(0))));
    let model = Model::new(ModelConfig::latent_nafca(), 1, &device())?;
    let (autoencoder, autoencoder_weights) = model.autoencoder().unwrap();
    let growing = Growing::new(GrowingConfig::default(), weights().builder())?;
    let seed = growing.layout().single_cell((1, 8, 8), DType::F32, &device())?;
    let vae = Vae::new(VaeCard::new(VaeConfig::small()), 1, &device())?;
    let digits = BinaryImages::digits(4, 1)?.padded(2)?;
    let vb = weights();
    let nafnet = NafNet::new(
        &NafNetConfig {
            width: 4,
            encoder: vec![1],
            middle: 1,
            decoder: vec![1],
        },
        vb.builder(),
    )?;
    for (name, adam) in cases {
        let pool = PoolTrainerConfig {
            adam: adam.clone(),
            ..Default::default()
        };
        let of_autoencoder = AutoencoderTrainerConfig {
            adam: adam.clone(),
            ..Default::default()
        };
        let network = NetworkTrainerConfig {
            adam: adam.clone(),
            ..NetworkTrainerConfig::nafnet()
        };
        let pattern = PatternTrainerConfig {
            adam: adam.clone(),
            ..Default::default()
        };
        let of_vae = VaeTrainerConfig {
            adam: adam.clone(),
            ..Default::default()
        };
        let loss = ImageLoss::new(zeros(&[8, 8, 4]))?;
        all_name(vec![
            (name, nothing(Adam::new(vec![], adam))),
            (
                name,
                nothing(PoolTrainer::new(model.restorer()?, model.weights(), pool)),
            ),
            (
                name,
                nothing(AutoencoderTrainer::new(
                    autoencoder,
                    autoencoder_weights,
                    of_autoencoder,
                )),
            ),
            (name, nothing(NetworkTrainer::new(nafnet.clone(), &vb, network))),
            (
                name,
                nothing(PatternTrainer::new(growing.clone(), &vb, loss, &seed, pattern)),
            ),
            (name, nothing(VaeTrainer::new(&vae, digits.clone(), of_vae))),
        ]);
    }
    // A learning rate of 0 measures a loss.
    Adam::new(vec![], adam(&|config| config.learning_rate = 0.0))?;
    Ok(())
}

#[test]
fn settings_of_trainers() -> Result<()> {
    let model = Model::new(ModelConfig::latent_nafca(), 1, &device())?;
    let pool = |change: &dyn Fn(&mut PoolTrainerConfig)| {
        let mut config = PoolTrainerConfig::default();
        change(&mut config);
        nothing(PoolTrainer::new(model.restorer()?, model.weights(), config))
    };
    let (autoencoder, of_autoencoder) = model.autoencoder().unwrap();
    let encoder = |change: &dyn Fn(&mut AutoencoderTrainerConfig)| {
        let mut config = AutoencoderTrainerConfig::default();
        change(&mut config);
        nothing(AutoencoderTrainer::new(autoencoder, of_autoencoder, config))
    };
    let growing = Growing::new(GrowingConfig::default(), weights().builder())?;
    let seed = growing.layout().single_cell((1, 8, 8), DType::F32, &device())?;
    let pattern = |change: &dyn Fn(&mut PatternTrainerConfig)| {
        let mut config = PatternTrainerConfig::default();
        change(&mut config);
        let loss = ImageLoss::new(zeros(&[8, 8, 4]))?;
        nothing(PatternTrainer::new(
            growing.clone(),
            &weights(),
            loss,
            &seed,
            config,
        ))
    };
    let texture = |scale: f64, overflow: f64| {
        let style = PatchTransport::new(&zeros(&[8, 8, 3]), 1, 4)?;
        let loss = TextureLoss::new(style, scale, overflow, OverflowNorm::One);
        let config = PatternTrainerConfig::default();
        nothing(PatternTrainer::new(
            growing.clone(),
            &weights(),
            loss,
            &seed,
            config,
        ))
    };
    let vae = Vae::new(VaeCard::new(VaeConfig::small()), 1, &device())?;
    let variational = |change: &dyn Fn(&mut VaeTrainerConfig)| {
        let mut config = VaeTrainerConfig::default();
        change(&mut config);
        let digits = BinaryImages::digits(4, 1)?.padded(2)?;
        nothing(VaeTrainer::new(&vae, digits, config))
    };
    for wrong in [f64::NAN, f64::INFINITY, -1.0] {
        all_name(vec![
            ("rec", pool(&|config| config.loss.rec = wrong)),
            ("lat", pool(&|config| config.loss.lat = wrong)),
            ("over_out", pool(&|config| config.loss.over_out = wrong)),
            ("over_hid", pool(&|config| config.loss.over_hid = wrong)),
            ("ssim", pool(&|config| config.loss.ssim = wrong)),
            ("tv", pool(&|config| config.loss.tv = wrong)),
            ("average", pool(&|config| config.average = Some(wrong))),
            ("fire_rate", pool(&|config| config.fire_rate = wrong)),
            ("rec", encoder(&|config| config.rec = wrong)),
            ("dist", encoder(&|config| config.dist = wrong)),
            ("task", encoder(&|config| config.task = wrong)),
            ("eq", encoder(&|config| config.eq = wrong)),
            ("tv", encoder(&|config| config.tv = wrong)),
            ("perturbation", encoder(&|config| config.perturbation = wrong)),
            ("bound", pattern(&|config| config.bound = Some(wrong))),
            ("fire_rate", pattern(&|config| config.fire_rate = wrong)),
            ("overflow", texture(1.0, wrong)),
            ("beta", variational(&|config| config.beta = wrong)),
        ]);
    }
    let none = RestorationLoss {
        rec: 0.0,
        lat: 0.0,
        over_out: 0.0,
        over_hid: 0.0,
        ..Default::default()
    };
    all_name(vec![
        ("loss", pool(&|config| config.loss = none.clone())),
        ("margin", encoder(&|config| config.margin = f64::NAN)),
        ("scale", texture(f64::NAN, 1.0)),
        (
            "batch",
            pattern(&|config| (config.pool, config.batch) = (0, HUGE)),
        ),
        ("pool", pattern(&|config| config.pool = HUGE)),
        ("batch", variational(&|config| config.batch = HUGE)),
        ("validation_steps", pool(&|config| config.validation_steps = HUGE)),
    ]);
    // An update of no step cannot train.
    // A restorer without its automaton has none in all updates.
    assert!(pool(&|config| config.steps = 0..=0).is_ok());
    for steps in [0..=1, RangeInclusive::new(5, 4), 1..=HUGE] {
        all_name(vec![("steps", pool(&|config| config.steps = steps.clone()))]);
    }
    for steps in [0..=0, 0..=1, RangeInclusive::new(5, 4), 1..=HUGE] {
        all_name(vec![
            ("steps", pattern(&|config| config.steps = steps.clone())),
            ("steps", variational(&|config| config.steps = steps.clone())),
        ]);
    }
    Ok(())
}

#[test]
fn settings_of_a_fit() -> Result<()> {
    let images = Dataset::dead_leaves(12, 12, 7)?.split(7)?;
    let data = TrainingData {
        train: images.train,
        validation: images.validation,
        corruption: Some(Corruption::NOISE),
        curriculum: None,
    };
    let curriculum = |range, min, max| TrainingData {
        curriculum: Some(Curriculum { range, min, max }),
        ..data.clone()
    };
    let noise = |sigma| TrainingData {
        corruption: Some(Corruption::Noise { sigma }),
        ..data.clone()
    };
    let run = |fit: Fit, data: &TrainingData| {
        let model = models()?.swap_remove(0);
        let mut trainer = PoolTrainer::new(model.restorer()?, model.weights(), Default::default())?;
        fit.run(&mut trainer, data, &mut |_| ())
    };
    let fit = || Fit {
        epochs: 1,
        batch_size: 2,
        ..Fit::default()
    };
    let nan = f64::NAN;
    all_name(vec![
        ("epochs", run(Fit { epochs: 0, ..fit() }, &data)),
        (
            "epochs",
            run(
                Fit {
                    epochs: HUGE,
                    ..fit()
                },
                &data,
            ),
        ),
        (
            "batch_size",
            run(
                Fit {
                    batch_size: 0,
                    ..fit()
                },
                &data,
            ),
        ),
        (
            "batch_size",
            run(
                Fit {
                    batch_size: HUGE,
                    ..fit()
                },
                &data,
            ),
        ),
        ("range", run(fit(), &curriculum(nan, 0.1, 0.2))),
        ("min", run(fit(), &curriculum(1.0, nan, 0.2))),
        ("min", run(fit(), &curriculum(1.0, 0.3, 0.2))),
        ("max", run(fit(), &curriculum(1.0, 0.1, nan))),
        ("difficulty", run(fit(), &curriculum(1.0, 0.1, 1.5))),
        ("difficulty", run(fit(), &curriculum(1.0, -0.1, 0.5))),
        ("sigma", run(fit(), &noise(nan))),
        ("sigma", run(fit(), &noise(-0.1))),
    ]);
    Ok(())
}
