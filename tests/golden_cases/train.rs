//! Cases of training: the optimiser, the autoencoder, the pool, Growing NCA.

use std::sync::Arc;

use candle_core::{D, DType, Tensor, Var};
use lnca::data::Batch;
use lnca::loss::RestorationLoss;
use lnca::train::{
    Adam, AdamConfig, AutoencoderTrainer, AutoencoderTrainerConfig, PoolTrainer, PoolTrainerConfig, Reading,
    Triplet,
};
use lnca::{GrowingConfig, LatentNca, PlainNca, Restorer, Rollout, Weights};

use super::case::{Case, Result};
use super::cells::{masks, nafca, vitca};
use super::check::{Check, Grade, Limit};
use super::weights::{self, value, weighted};
use super::{autoencoder, growing};
use crate::device::device;

fn adam_config(case: &Case, prefix: &str) -> Result<AdamConfig> {
    let default = AdamConfig::default();
    let number = |key: &str| case.number(&format!("{prefix}{key}"));
    Ok(AdamConfig {
        learning_rate: number("lr")?,
        cosine_updates: case.count(&format!("{prefix}decay_steps")).ok(),
        beta1: number("beta1").unwrap_or(default.beta1),
        beta2: number("beta2").unwrap_or(default.beta2),
        eps: number("epsilon").unwrap_or(default.eps),
        normalise: true,
        ..AdamConfig::default()
    })
}

pub fn adam(check: &mut Check) -> Result<()> {
    let vars = check.names("in.w.").into_iter();
    let vars = vars.map(|name| {
        let var = Var::from_tensor(&check.input(&format!("in.w.{name}"))?)?;
        Ok((name, var))
    });
    let vars: Vec<(String, Var)> = vars.collect::<Result<_>>()?;
    let mut adam = Adam::new(vars.clone(), adam_config(check.case, "config.")?)?;
    let mut rates = Vec::new();
    let mut trace = vec![Vec::new(); vars.len()];
    for step in 0..check.case.count("config.steps")? {
        rates.push(adam.learning_rate());
        // A loss with the given gradients.
        let mut loss = Tensor::zeros((), check.dtype, &device())?;
        for (name, var) in &vars {
            let grad = check.input(&format!("in.grad.{name}"))?.get(step)?;
            loss = (loss + weighted(&[(var.as_tensor(), &grad)])?)?;
        }
        adam.step(&loss.backward()?)?;
        for ((_, var), values) in vars.iter().zip(&mut trace) {
            values.push(var.as_detached_tensor().copy()?);
        }
    }
    check.output("out.lr", &Tensor::new(rates, &device())?, Grade::Step)?;
    for ((name, _), values) in vars.iter().zip(&trace) {
        check.output(&format!("out.w.{name}"), &Tensor::stack(values, 0)?, Grade::Step)?;
    }
    Ok(())
}

/// Element `index` of a list of losses.
fn loss(check: &mut Check, name: &str, index: usize, found: f64) -> Result<()> {
    let expected = check.expected(name)?.get(index)?;
    let limit = match check.dtype {
        DType::F64 => Grade::Training.output(check.dtype),
        _ => Limit::relative(1e-4, 0.0).or_absolute(1e-7),
    };
    let found = Tensor::full(found, (), expected.device())?;
    check.compare(&format!("{name}[{index}]"), &found, &expected, limit)
}

fn reading(readings: &[Reading], name: &str) -> Result<f64> {
    let reading = readings.iter().find(|reading| reading.name == name);
    reading
        .map(|reading| reading.value)
        .ok_or_else(|| format!("no reading `{name}`").into())
}

pub fn train_autoencoder(check: &mut Check) -> Result<()> {
    let (model, weights) = autoencoder::build(check, "w.")?;
    let case = check.case;
    let number = |key: &str| case.number(&format!("config.{key}"));
    let config = AutoencoderTrainerConfig {
        adam: adam_config(case, "config.")?,
        rec: number("weights.rec")?,
        dist: number("weights.dist")?,
        task: number("weights.task")?,
        eq: number("weights.eq")?,
        tv: number("weights.tv").unwrap_or(0.0),
        margin: number("margin")?,
        perturbation: number("perturbation")?,
    };
    let mut trainer = AutoencoderTrainer::new(&model, &weights, config)?;
    let [anchor, positive, negative, noise] =
        ["in.anchor", "in.positive", "in.negative", "in.eps"].map(|name| check.input(name));
    let (anchor, positive, negative, noise) = (anchor?, positive?, negative?, noise?);
    for batch in 0..anchor.dim(0)? {
        let images = Triplet {
            anchor: anchor.get(batch)?,
            positive: positive.get(batch)?,
            negative: negative.get(batch)?,
        };
        let readings = trainer.update(&images, &noise.get(batch)?)?;
        for (name, term) in [
            ("rec", "rec"),
            ("dist", "dist"),
            ("task", "task"),
            ("equiv", "eq"),
        ] {
            loss(
                check,
                &format!("out.{name}_loss"),
                batch,
                reading(&readings, term)?,
            )?;
        }
        let limit = Grade::Training.output(check.dtype);
        weights::values(check, &weights, &format!("out.after{batch}."), |_| limit)?;
    }
    Ok(())
}

pub fn train_latent_vitca(check: &mut Check) -> Result<()> {
    let (core, weights) = vitca(check, "w.core.")?;
    let (model, loss) = (autoencoder::build(check, "w.ae.")?.0, latent_loss(check.case)?);
    pool(check, Arc::new(LatentNca::new(&model, core)?), loss, &weights)
}

pub fn train_latent_nafca(check: &mut Check) -> Result<()> {
    let (core, weights) = nafca(check, "w.core.")?;
    let (model, loss) = (autoencoder::build(check, "w.ae.")?.0, latent_loss(check.case)?);
    pool(check, Arc::new(LatentNca::new(&model, core)?), loss, &weights)
}

fn latent_loss(case: &Case) -> Result<RestorationLoss> {
    let weight = |key: &str| case.number(&format!("config.weights.{key}"));
    Ok(RestorationLoss {
        rec: weight("rec")?,
        lat: weight("lat")?,
        over_out: weight("out")?,
        over_hid: weight("hid")?,
        tv: weight("tv").unwrap_or(0.0),
        ..RestorationLoss::default()
    })
}

pub fn train_vitca(check: &mut Check) -> Result<()> {
    let (core, weights) = vitca(check, "w.")?;
    let overflow = check.case.number("config.factors.overflow")?;
    let loss = RestorationLoss {
        rec: check.case.number("config.factors.rec_L1")?,
        over_out: overflow,
        over_hid: overflow,
        ..RestorationLoss::vitca()
    };
    pool(check, Arc::new(PlainNca::new(core)?), loss, &weights)
}

/// For each update, its fresh batch, or `None` if it is from the pool.
fn updates(case: &Case) -> Result<Vec<Option<usize>>> {
    let Ok(updates) = case.list("config.updates") else {
        // The latent models: a fresh batch, then the pool.
        let count = case.list("config.steps_per_update")?.len();
        return Ok((0..count)
            .map(|update| (update % 2 == 0).then_some(update / 2))
            .collect());
    };
    let source = |update: &serde_json::Value| match (update["kind"].as_str(), update["batch"].as_u64()) {
        (Some("fresh"), Some(batch)) => Ok(Some(batch as usize)),
        (Some("pool"), _) => Ok(None),
        _ => Err(format!("unknown update {update}").into()),
    };
    updates.iter().map(source).collect()
}

/// Training with a pool: losses, states and weights after updates, what is left in the pool.
fn pool(
    check: &mut Check,
    restorer: Arc<dyn Restorer>,
    terms: RestorationLoss,
    weights: &Weights,
) -> Result<()> {
    let config = PoolTrainerConfig {
        adam: adam_config(check.case, "config.")?,
        loss: terms,
        pool: check.case.count("config.pool_length")?,
        ..PoolTrainerConfig::default()
    };
    let mut trainer = PoolTrainer::new(restorer, weights, config)?;
    let (corrupted, clean) = (check.input("in.x")?, check.input("in.y")?);
    let size = clean.dim(1)?;
    let limit = Grade::Training.output(check.dtype);
    for (update, source) in updates(check.case)?.into_iter().enumerate() {
        let masks = masks(check, &format!("in.mask.{update}"))?;
        let rollout = Rollout::new(masks.len()).masks(masks).training(true);
        let readings = match source {
            Some(batch) => {
                let (clean, corrupted) = (clean.get(batch)?, corrupted.get(batch)?);
                trainer.fresh_update(&Batch { clean, corrupted }, &rollout)?
            }
            None => trainer.pool_update(size, &rollout)?,
        };
        for (name, term) in [
            ("rec", "rec"),
            ("latent", "lat"),
            ("out", "over_out"),
            ("hid", "over_hid"),
            ("tv", "tv"),
        ] {
            let name = format!("out.{name}_loss");
            if check.has(&format!("{name}.f64")) {
                loss(check, &name, update, reading(&readings, term)?)?;
            }
        }
        // Fresh states are appended; those taken from the pool return to its front.
        let entries = trainer.pool().entries();
        let states = match source {
            Some(_) => &entries[entries.len() - size..],
            None => &entries[..size],
        };
        let states = states.iter().map(|entry| &entry.cells).collect::<Vec<_>>();
        check.output(
            &format!("out.state.{update}"),
            &Tensor::stack(&states, 0)?,
            Grade::Training,
        )?;
        let order = check.integers(&format!("in.perm.{update}"))?;
        trainer.pool_mut().permute(&order)?;
        if update == 0 {
            weights::values(check, weights, "out.after_first.", |_| limit)?;
        }
    }
    weights::values(check, weights, "out.after_last.", |_| limit)?;
    let (clean, corrupted, cells) = trainer.pool().first(trainer.pool().len())?;
    check.output("out.pool.state", &cells, Grade::Training)?;
    for (name, images) in [("out.pool.x", &corrupted), ("out.pool.y", &clean)] {
        if check.has(name) {
            let expected = check.expected(name)?;
            check.compare(name, images, &expected, Limit::EXACT)?;
        }
    }
    Ok(())
}

pub fn growing_train(check: &mut Check) -> Result<()> {
    let case = check.case;
    let x = growing::channels_last(&check.input("x0")?)?;
    let target = growing::channels_last(&check.input("target")?)?;
    let masks = growing::channels_last(&check.input("masks")?)?;
    let alive = GrowingConfig::default().alive;
    let angle = case.number("angle").unwrap_or(0.0);
    let (rule, weights) = growing::rule(check.dtype, angle, alive, |name| check.input(name))?;
    let betas = case
        .list("betas")?
        .iter()
        .filter_map(|beta| beta.as_f64())
        .collect::<Vec<_>>();
    let &[beta1, beta2] = betas.as_slice() else {
        return Err("`betas` are not two numbers".into());
    };
    let config = AdamConfig {
        beta1,
        beta2,
        ..adam_config(case, "")?
    };
    let vars = weights.vars();
    let mut adam = Adam::new(vars.clone(), config)?;
    for update in 0..masks.dim(0)? {
        let masks = growing::steps(&masks.get(update)?)?;
        let state = Rollout::new(masks.len()).masks(masks).run(&rule, &x)?;
        let error = state
            .narrow(3, 0, target.dim(2)?)?
            .broadcast_sub(&target)?
            .sqr()?;
        let losses = error.flatten_from(1)?.mean(D::Minus1)?;
        let loss = losses.mean_all()?;
        growing_output(check, &format!("per_sample_u{update}"), &losses)?;
        let (name, limit) = (format!("loss_u{update}"), growing::output_limit(check.dtype));
        check.scalar(&name, value(&loss)?, limit)?;
        let grads = loss.backward()?;
        adam.step(&grads)?;
        let moments = adam.state()?;
        for (name, library) in growing::WEIGHTS {
            let (_, var) = vars
                .iter()
                .find(|(known, _)| known == library)
                .ok_or("a weight is missing")?;
            let stored = format!("grad_{name}_u{update}");
            if check.has(&stored) {
                let grad = grads
                    .get(var)
                    .ok_or_else(|| format!("no gradient of `{library}`"))?;
                growing::gradient(check, &stored, grad)?;
            }
            // Adam's first mean of gradients is a fixed fraction of the normalised gradient.
            let stored = format!("ngrad_{name}_u{update}");
            if check.has(&stored) && update == 0 {
                let normalised = (&moments[&format!("m.{library}")] / (1.0 - beta1))?;
                growing::gradient(check, &stored, &normalised)?;
            }
            let stored = format!("after_{name}_u{update}");
            if check.has(&stored) || check.has(&format!("{stored}_f64")) {
                let expected = check.expected(&stored)?;
                let limit = match (check.dtype, expected.dtype()) {
                    (DType::F64, DType::F64) => growing::output_limit(check.dtype),
                    _ => Limit::absolute(1e-4),
                };
                check.compare(&stored, &var.as_detached_tensor(), &expected, limit)?;
            }
        }
    }
    Ok(())
}

fn growing_output(check: &mut Check, name: &str, found: &Tensor) -> Result<()> {
    let expected = check.expected(name)?;
    check.compare(name, found, &expected, growing::output_limit(check.dtype))
}
