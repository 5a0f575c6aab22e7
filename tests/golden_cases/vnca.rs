//! Cases of the variational NCA. Files are channels-first and name their tensors in their own way.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{D, DType, Tensor, Var};
use lnca::loss::{Posterior, elbo, elbo_of_mean, iwelbo, log_bernoulli, log_prior};
use lnca::model::vae::{Broadcast, Deconvolution, Doubling, Encoder};
use lnca::train::{Adam, AdamConfig, VaeTrainerConfig};
use lnca::{Damage, Memory, Rollout, Vnca, VncaConfig, Weights};

use super::case::Result;
use super::cells::memories;
use super::check::{Check, Limit, numbers};
use super::growing::{channels_first, channels_last, gradient, output, output_limit, steps};
use super::weights::{value, weighted};
use crate::device::device;

/// The library's name of a weight, without the prefix that it has in a whole model.
fn library_name(name: &str) -> Option<String> {
    let (layer, kind) = name.split_once('.')?;
    let (letter, number) = layer.split_at(1);
    let kind = match kind.chars().next()? {
        'w' => "weight",
        _ => "bias",
    };
    Some(match (layer, letter) {
        ("c3", _) => format!("perception.{kind}"),
        ("out", _) => format!("output.{kind}"),
        // The linear layer of the encoder comes last, that of the baseline first.
        ("l", _) => format!("linear.{kind}"),
        (_, "r") => {
            let place = if name.ends_with('0') { "inner" } else { "outer" };
            format!("blocks.{number}.{place}.{kind}")
        }
        (_, "e" | "t") => format!("convolutions.{number}.{kind}"),
        _ => return None,
    })
}

/// Weights that the case holds, by their names there.
fn weight_names(check: &Check) -> Vec<String> {
    let names = check.names("").into_iter();
    names
        .filter(|name| {
            let parts = name.split_once('.').map(|(layer, kind)| (layer, kind.len()));
            parts.is_some_and(|(layer, length)| layer.len() <= 3 && length <= 2)
        })
        .collect()
}

/// Weights under the library's names; `linear` is what it calls the linear layer.
struct Named {
    weights: Weights,
    names: BTreeMap<String, String>,
}

impl Named {
    /// Sets all weights of a model to values from `read`.
    fn load(
        weights: Weights,
        names: &[String],
        linear: &str,
        read: impl Fn(&str) -> Result<Tensor>,
    ) -> Result<Self> {
        let known: BTreeMap<String, Var> = weights.vars().into_iter().collect();
        let (mut values, mut found) = (BTreeMap::new(), BTreeMap::new());
        for name in names {
            let library = library_name(name)
                .ok_or_else(|| format!("an unknown weight `{name}`"))?
                .replace("linear", linear);
            if let Some(var) = known.get(&library) {
                values.insert(library.clone(), read(name)?.reshape(var.shape())?);
                found.insert(name.clone(), library);
            }
        }
        weights.load(&values)?;
        Ok(Self {
            weights,
            names: found,
        })
    }

    fn var(&self, name: &str) -> Result<Var> {
        let vars = self.weights.vars();
        let found = vars.iter().find(|(known, _)| *known == self.names[name]);
        Ok(found.ok_or("a weight is missing")?.1.clone())
    }

    /// Checks `grad_NAME` and then `end` for every weight for which it is there.
    fn gradients(&self, check: &mut Check, grads: &GradStore, end: &str) -> Result<()> {
        for name in self.names.keys() {
            let stored = format!("grad_{name}{end}");
            if !check.has(&stored) && !check.has(&format!("{stored}_f64")) {
                continue;
            }
            let var = self.var(name)?;
            let grad = grads
                .get(&var)
                .ok_or_else(|| format!("no gradient of `{name}`"))?;
            let shape = check.expected(&stored)?.shape().clone();
            gradient(check, &stored, &grad.reshape(shape)?)?;
        }
        Ok(())
    }
}

/// The rule of a case and its weights.
fn rule(check: &Check) -> Result<(Vnca, Named)> {
    let names = weight_names(check);
    let channels = check.stored("c3.b")?.elem_count();
    let blocks = names.iter().filter(|name| name.ends_with(".w0")).count();
    let config = VncaConfig {
        blocks,
        output_bias: check.has("out.b"),
        ..VncaConfig::doubling(channels)
    };
    let weights = Weights::new(0, check.dtype, &device());
    let rule = Vnca::new(config, weights.builder())?;
    let named = Named::load(weights, &names, "none", |name| check.input(name))?;
    Ok((rule, named))
}

fn grad_of<'a>(grads: &'a GradStore, var: &Var) -> Result<&'a Tensor> {
    Ok(grads.get(var).ok_or("no gradient of an input")?)
}

pub fn step(check: &mut Check) -> Result<()> {
    let x = channels_last(&check.input("x")?)?;
    let r = channels_last(&check.input("r")?)?;
    let (rule, named) = rule(check)?;
    for memory in memories(1) {
        let start = Var::from_tensor(&x)?;
        let y = Rollout::new(1).memory(memory).run(&rule, start.as_tensor())?;
        output(check, "y", &y)?;
        let grads = weighted(&[(&y, &r)])?.backward()?;
        gradient(check, "grad_x", &channels_first(grad_of(&grads, &start)?)?)?;
        named.gradients(check, &grads, "")?;
    }
    Ok(())
}

pub fn doubling(check: &mut Check) -> Result<()> {
    let (doublings, count) = (check.case.count("K")?, check.case.count("steps_per_doubling")?);
    let r = channels_last(&check.input("r")?)?;
    let (rule, named) = rule(check)?;
    let decoder = Doubling::new(rule, doublings);
    let latents = check.input("z")?;
    let growth = decoder.growth(&latents, &Rollout::new(count))?;
    let mut canvases = vec![];
    let side = 1 << doublings;
    for (stage, states) in growth.iter().enumerate() {
        let last = states.last().ok_or("no state")?;
        let name = match stage + 1 == doublings {
            true => "final".to_string(),
            false => format!("stage{stage}"),
        };
        output(check, &name, last)?;
        for state in states {
            let mut canvas = candle_nn::ops::sigmoid(&state.get(0)?.narrow(2, 0, 1)?.squeeze(2)?)?;
            let edge = (side - canvas.dim(0)?) / 2;
            for axis in [0, 1] {
                canvas = canvas.pad_with_zeros(axis, edge, edge)?;
            }
            canvases.push(canvas);
        }
    }
    let expected = check.expected("growth_probs0")?;
    let limit = output_limit(DType::F32);
    check.compare("growth_probs0", &Tensor::stack(&canvases, 0)?, &expected, limit)?;
    for memory in [Memory::Everything, Memory::Every(1), Memory::Every(3)] {
        let z = Var::from_tensor(&latents)?;
        let rollout = Rollout::new(count).memory(memory);
        let logits = decoder.decode(z.as_tensor(), &rollout)?;
        output(check, "logits", &logits)?;
        let grads = weighted(&[(&logits, &r)])?.backward()?;
        gradient(check, "grad_z", grad_of(&grads, &z)?)?;
        named.gradients(check, &grads, "")?;
    }
    Ok(())
}

pub fn broadcast(check: &mut Check) -> Result<()> {
    let count = check.case.count("T")?;
    let r = channels_last(&check.input("r")?)?;
    let size = r.dim(1)?;
    let (rule, named) = rule(check)?;
    let decoder = Broadcast::new(rule, size);
    let z = Var::from_tensor(&check.input("z")?)?;
    let seed = decoder.seed(z.as_tensor())?;
    output(check, "step1", &Rollout::new(1).run(decoder.rule(), &seed)?)?;
    let last = Rollout::new(count).run(decoder.rule(), &seed)?;
    output(check, "final", &last)?;
    let logits = decoder.decode(z.as_tensor(), &Rollout::new(count))?;
    output(check, "logits", &logits)?;
    let grads = weighted(&[(&logits, &r)])?.backward()?;
    gradient(check, "grad_z", grad_of(&grads, &z)?)?;
    named.gradients(check, &grads, "")?;

    let place = |key: &str| check.case.count(&format!("damage.{key}"));
    let (top, left, side) = (place("h0")?, place("w0")?, place("size")?);
    let damage = Damage::Rectangle {
        rows: (top, top + side),
        columns: (left, left + side),
    };
    let damaged = damage.apply(&last.detach())?;
    for (name, count) in counted(check, "recovered")? {
        output(check, &name, &Rollout::new(count).run(decoder.rule(), &damaged)?)?;
    }
    let masks = channels_last(&check.input("masks")?)?;
    for (name, count) in counted(check, "masked")? {
        let masks = steps(&masks)?;
        let masks = masks.get(..count).ok_or("fewer masks than steps")?.to_vec();
        output(
            check,
            &name,
            &Rollout::new(count).masks(masks).run(decoder.rule(), &seed)?,
        )?;
    }
    Ok(())
}

/// Results whose names are `stem` and a number of steps.
fn counted(check: &Check, stem: &str) -> Result<Vec<(String, usize)>> {
    let names = check.names(stem).into_iter();
    let names = names.map(|end| end.trim_end_matches("_f64").to_string());
    let mut counted: Vec<(String, usize)> = names
        .map(|end| Ok((format!("{stem}{end}"), end.parse()?)))
        .collect::<Result<_>>()?;
    counted.dedup();
    match counted.is_empty() {
        true => Err(format!("no result `{stem}..`").into()),
        false => Ok(counted),
    }
}

pub fn encoder(check: &mut Check) -> Result<()> {
    let x = channels_last(&check.input("x")?)?;
    let weights = Weights::new(0, check.dtype, &device());
    let (latent, base) = (check.case.count("Z")?, check.case.count("base")?);
    let encoder = Encoder::new(x.dim(1)?, latent, base, weights.builder())?;
    let names = weight_names(check);
    let named = Named::load(weights, &names, "output", |name| check.input(name))?;
    let start = Var::from_tensor(&x)?;
    let posterior = encoder.forward(start.as_tensor())?;
    plain(check, "mean", &posterior.mean)?;
    plain(check, "logvar", &posterior.log_variance)?;
    let both = Tensor::cat(&[&posterior.mean, &posterior.log_variance], 1)?;
    let grads = weighted(&[(&both, &check.input("r")?)])?.backward()?;
    gradient(check, "grad_x", &channels_first(grad_of(&grads, &start)?)?)?;
    named.gradients(check, &grads, "")
}

/// A result without a grid.
fn plain(check: &mut Check, name: &str, found: &Tensor) -> Result<()> {
    let expected = check.expected(name)?;
    let exact = check.dtype == DType::F64 && expected.dtype() == DType::F64;
    let limit = output_limit(if exact { DType::F64 } else { DType::F32 });
    check.compare(name, found, &expected, limit)
}

/// Bounds and their terms, in nats.
fn bound(check: &mut Check, name: &str, found: &Tensor) -> Result<()> {
    let expected = check.expected(name)?;
    let limit = match (check.dtype, expected.dtype()) {
        (DType::F64, DType::F64) => Limit::relative(1e-10, 1.0),
        _ => Limit::relative(1e-6, 1.0),
    };
    check.compare(name, &found.reshape(expected.shape())?, &expected, limit)
}

pub fn baseline(check: &mut Check) -> Result<()> {
    let images = channels_last(&check.input("x")?)?;
    let (latent, width) = (check.case.count("Z")?, check.case.count("C0")?);
    let weights = Weights::new(0, check.dtype, &device());
    let decoder = Deconvolution::new(images.dim(1)?, latent, width, weights.builder())?;
    let names = weight_names(check);
    let named = Named::load(weights, &names, "input", |name| check.input(name))?;
    let z = Var::from_tensor(&check.input("z")?)?;
    let logits = decoder.inner(z.as_tensor())?;
    output(check, "logits28", &logits)?;
    let grads = weighted(&[(&logits, &channels_last(&check.input("r")?)?)])?.backward()?;
    gradient(check, "grad_z", grad_of(&grads, &z)?)?;
    named.gradients(check, &grads, "")?;
    let likelihood = log_bernoulli(&images, &decoder.decode(z.as_tensor())?)?;
    bound(check, "log_px", &likelihood)?;
    let grads = likelihood.sum_all()?.backward()?;
    match numbers(grad_of(&grads, &z)?)?
        .iter()
        .all(|value| value.is_finite())
    {
        true => Ok(()),
        false => Err("the gradient through the frame is not finite".into()),
    }
}

/// Logits or images `[.., 1, H, W]` with their channel last.
fn pixels(x: &Tensor) -> Result<Tensor> {
    Ok(x.squeeze(x.rank() - 3)?.unsqueeze(D::Minus1)?.contiguous()?)
}

pub fn bounds(check: &mut Check) -> Result<()> {
    let images = pixels(&check.input("x")?)?;
    let logits = Var::from_tensor(&pixels(&check.input("logits")?)?)?;
    let mean = Var::from_tensor(&check.input("mean")?)?;
    let log_variance = Var::from_tensor(&check.input("logvar")?)?;
    let posterior = Posterior {
        mean: mean.as_tensor().clone(),
        log_variance: log_variance.as_tensor().clone(),
    };
    let z = posterior.sample(&check.input("eps")?)?;
    let likelihood = log_bernoulli(&images, logits.as_tensor())?;
    let (prior, density, kl) = (log_prior(&z)?, posterior.log_density(&z)?, posterior.kl()?);
    plain(check, "z", &z)?;
    bound(check, "log_px", &likelihood)?;
    bound(check, "log_pz", &prior)?;
    bound(check, "log_qz", &density)?;
    bound(check, "log_w", &((&likelihood + &prior)? - &density)?)?;
    bound(check, "kl", &kl)?;
    let beta = check.case.number("beta")?;
    let (weighted_bound, mean_bound) = (
        iwelbo(&likelihood, &prior, &density)?,
        elbo(&likelihood, &kl, 1.0)?,
    );
    bound(check, "iwelbo", &weighted_bound)?;
    bound(check, "elbo_S", &mean_bound)?;
    let first = likelihood.narrow(1, 0, 1)?;
    for (name, beta) in [("b1", 1.0), ("beta", beta)] {
        let loss = |bound: Tensor| -> Result<Tensor> { Ok(bound.mean_all()?.neg()?) };
        let single = loss(elbo(&first, &kl, beta)?)?;
        bound(check, &format!("loss_s0_{name}"), &single)?;
        let several = loss(elbo_of_mean(&likelihood, &kl, beta)?)?;
        bound(check, &format!("loss_M_{name}"), &several)?;
    }
    for (name, bound) in [("iw", &weighted_bound), ("elboS", &mean_bound)] {
        let grads = bound.mean_all()?.neg()?.backward()?;
        for (end, var) in [("logits", &logits), ("mean", &mean), ("logvar", &log_variance)] {
            let name = format!("grad_{name}_{end}");
            let expected = check.expected(&name)?;
            let limit = match (check.dtype, expected.dtype()) {
                (DType::F64, DType::F64) => Limit::relative(1e-10, 1.0),
                _ => Limit::relative(1e-5, 1.0),
            };
            let found = grad_of(&grads, var)?.reshape(expected.shape())?;
            check.compare(&name, &found, &expected, limit)?;
        }
    }
    Ok(())
}

/// Updates of a doubling automaton behind a linear encoder.
pub fn train(check: &mut Check) -> Result<()> {
    let case = check.case;
    let count = case.count("steps_per_doubling")?;
    let images = channels_last(&check.input("x")?)?;
    let flat = check.input("x")?.flatten_from(1)?;
    let (rule, named) = rule(check)?;
    let decoder = Doubling::new(rule, case.count("K")?);
    let weight = Var::from_tensor(&check.input("l.w")?)?;
    let bias = Var::from_tensor(&check.input("l.b")?)?;
    let mut vars = named.weights.vars();
    vars.extend([("weight".into(), weight.clone()), ("bias".into(), bias.clone())]);
    let config = AdamConfig {
        learning_rate: case.number("lr")?,
        clip: Some(case.number("clip")?),
        ..VaeTrainerConfig::default().adam
    };
    let beta1 = config.beta1;
    let mut adam = Adam::new(vars.clone(), config)?;
    let noise = check.input("eps")?;
    for update in 0..noise.dim(0)? {
        let posterior = linear_posterior(&flat, &weight, &bias)?;
        let z = posterior.sample(&noise.get(update)?.unsqueeze(1)?)?.squeeze(1)?;
        let logits = decoder.decode(&z, &Rollout::new(count))?;
        let (likelihood, kl) = (log_bernoulli(&images, &logits)?, posterior.kl()?);
        bound(check, &format!("log_px_u{update}"), &likelihood)?;
        bound(check, &format!("kl_u{update}"), &kl)?;
        let loss = elbo(&likelihood.unsqueeze(1)?, &kl, 1.0)?.mean_all()?.neg()?;
        let grads = loss.backward()?;
        named.gradients(check, &grads, &format!("_u{update}"))?;
        for (name, var) in [("l.w", &weight), ("l.b", &bias)] {
            let stored = format!("grad_{name}_u{update}");
            if check.has(&format!("{stored}_f64")) {
                gradient(check, &stored, grad_of(&grads, var)?)?;
            }
        }
        let before = adam.state()?;
        adam.step(&grads)?;
        let (first, raw) = (&vars[0].0, grad_of(&grads, &vars[0].1)?);
        let factor = clip_factor(first, raw, [&before, &adam.state()?], beta1)?;
        one_of_list(check, "losses", update, value(&loss)?)?;
        one_of_list(check, "grad_norms", update, norm(&grads, &vars)?)?;
        one_of_list(check, "clip_factors", update, factor)?;
        let of_rule = named.names.keys();
        let of_rule = of_rule.map(|name| Ok((name.clone(), named.var(name)?)));
        let mut after = of_rule.collect::<Result<Vec<_>>>()?;
        after.extend([("l.w".into(), weight.clone()), ("l.b".into(), bias.clone())]);
        weights_after(check, update, &after)?;
    }
    Ok(())
}

/// The posterior that a linear layer makes of flat images.
fn linear_posterior(images: &Tensor, weight: &Var, bias: &Var) -> Result<Posterior> {
    #[expect(
        clippy::disallowed_methods,
        reason = "both operands are contiguous or transposed"
    )]
    let both = images.matmul(&weight.t()?)?.broadcast_add(bias.as_tensor())?;
    let latent = both.dim(1)? / 2;
    Ok(Posterior {
        mean: both.narrow(1, 0, latent)?,
        log_variance: both.narrow(1, latent, latent)?,
    })
}

/// The norm of all gradients together.
fn norm(grads: &GradStore, vars: &[(String, Var)]) -> Result<f64> {
    let mut square = 0.0;
    for (_, var) in vars {
        let values = numbers(grad_of(grads, var)?)?;
        square += values.iter().map(|value| value * value).sum::<f64>();
    }
    Ok(square.sqrt())
}

/// The factor by which an update scaled the gradient `raw` of a weight, read off Adam's mean of gradients.
fn clip_factor(
    weight: &str,
    raw: &Tensor,
    [before, after]: [&BTreeMap<String, Tensor>; 2],
    beta1: f64,
) -> Result<f64> {
    let name = format!("m.{weight}");
    let decayed = match before.get(&name) {
        Some(m) => (m * beta1)?,
        None => after[&name].zeros_like()?,
    };
    let gained = numbers(&(&after[&name] - decayed)?)?;
    let raw = numbers(raw)?;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    Ok(dot(&gained, &raw) / dot(&raw, &raw) / (1.0 - beta1))
}

/// Checks a number of one update against a list in the case with one entry for each update.
fn one_of_list(check: &mut Check, list: &str, update: usize, found: f64) -> Result<()> {
    let expected = check.case.list(list)?.get(update).and_then(|x| x.as_f64());
    let expected = Tensor::new(expected.ok_or("fewer numbers than updates")?, &device())?;
    let limit = match check.dtype {
        DType::F64 => Limit::relative(1e-9, 0.0),
        _ => Limit::relative(2e-5, 0.0),
    };
    let found = Tensor::new(found, &device())?;
    check.compare(&format!("{list}[{update}]"), &found, &expected, limit)
}

/// Checks those weights after an update that the case holds.
fn weights_after(check: &mut Check, update: usize, vars: &[(String, Var)]) -> Result<()> {
    let limit = match check.dtype {
        DType::F64 => Limit::relative(1e-9, 1.0),
        _ => Limit::absolute(5e-6),
    };
    for (name, var) in vars {
        let stored = format!("after_{name}_u{update}");
        if check.has(&format!("{stored}_f64")) {
            let expected = check.expected(&stored)?;
            let found = var.as_detached_tensor().reshape(expected.shape())?;
            check.compare(&stored, &found, &expected, limit)?;
        }
    }
    Ok(())
}

/// The value of element `k` of a tensor that a formula fills.
fn filled(seed: u64, bound: f32, k: u64) -> f32 {
    let mut s = seed.wrapping_add((k + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    s = (s ^ (s >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    s = (s ^ (s >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    s ^= s >> 31;
    let u = (s >> 40) as f32 * (1.0 / (1u32 << 24) as f32);
    (2.0 * u - 1.0) * bound
}

/// A model whose weights follow from a formula: encoder, decoder, bounds.
pub fn full(check: &mut Check) -> Result<()> {
    let case = check.case;
    let mut values = BTreeMap::new();
    for weight in case.list("weights")? {
        let wrong = || format!("`weights` holds {weight}");
        let name = weight["name"].as_str().ok_or_else(wrong)?;
        let shape = weight["shape"].as_array().ok_or_else(wrong)?.iter();
        let shape: Vec<usize> = shape.filter_map(|n| n.as_u64()).map(|n| n as usize).collect();
        let seed = weight["seed"].as_u64().ok_or_else(wrong)?;
        let bound = weight["bound"].as_f64().ok_or_else(wrong)? as f32;
        let count = shape.iter().product::<usize>() as u64;
        let elements: Vec<f32> = (0..count).map(|k| filled(seed, bound, k)).collect();
        let head = format!("head_{name}");
        if check.has(&head) {
            let expected = check.stored(&head)?;
            let found = Tensor::new(&elements[..expected.elem_count()], &device())?;
            check.compare(&head, &found, &expected, Limit::EXACT)?;
        }
        let tensor = Tensor::from_vec(elements, shape, &device())?;
        values.insert(name.to_string(), tensor.to_dtype(check.dtype)?);
    }
    let read = |name: &str| -> Result<Tensor> {
        let value = values.get(name).ok_or_else(|| format!("no weight `{name}`"))?;
        Ok(value.clone())
    };
    let names: Vec<String> = values.keys().cloned().collect();
    let images = channels_last(&check.input("x")?)?;
    let (latent, width) = (case.count("Z")?, read("e0.b")?.elem_count());
    let encoder_weights = Weights::new(0, check.dtype, &device());
    let encoder = Encoder::new(images.dim(1)?, latent, width, encoder_weights.builder())?;
    // Both parts have a last layer of the same name.
    let (of_encoder, of_rule): (Vec<String>, Vec<String>) = names
        .iter()
        .cloned()
        .partition(|name| name.starts_with(['e', 'l']));
    let mut loaded = Named::load(encoder_weights, &of_encoder, "output", read)?.names;
    let config = VncaConfig {
        blocks: names.iter().filter(|name| name.ends_with(".w0")).count(),
        output_bias: values.contains_key("out.b"),
        ..VncaConfig::doubling(latent)
    };
    let rule_weights = Weights::new(0, check.dtype, &device());
    let rule = Vnca::new(config, rule_weights.builder())?;
    loaded.extend(Named::load(rule_weights, &of_rule, "none", read)?.names);
    if loaded.len() != names.len() {
        return Err("the model has not all of the weights".into());
    }
    let posterior = encoder.forward(&images)?.detach();
    plain(check, "mean", &posterior.mean)?;
    plain(check, "logvar", &posterior.log_variance)?;
    let z = posterior.sample(&check.input("eps")?)?;
    let (b, s, _) = z.dims3()?;
    let decoder = Doubling::new(rule, case.count("K")?);
    let rollout = Rollout::new(case.count("steps_per_doubling")?).memory(Memory::Nothing);
    let logits = decoder.decode(&z.reshape((b * s, latent))?, &rollout)?;
    let (_, h, w, _) = logits.dims4()?;
    let logits = logits.reshape((b, s, h, w, 1))?;
    let expected = check.expected("logits")?;
    let limit = Limit::relative(2e-4, 1.0);
    check.compare("logits", &logits.reshape(expected.shape())?, &expected, limit)?;
    let (likelihood, kl) = (log_bernoulli(&images, &logits)?, posterior.kl()?);
    let (prior, density) = (log_prior(&z)?, posterior.log_density(&z)?);
    bound(check, "log_px", &likelihood)?;
    bound(check, "log_pz", &prior)?;
    bound(check, "log_qz", &density)?;
    bound(check, "log_w", &((&likelihood + &prior)? - &density)?)?;
    bound(check, "kl", &kl)?;
    let importance = iwelbo(&likelihood, &prior, &density)?;
    bound(check, "iwelbo", &importance)?;
    bound(check, "iw_loss", &importance.mean_all()?.neg()?)?;
    let single = elbo(&likelihood.narrow(1, 0, 1)?, &kl, 1.0)?;
    bound(check, "elbo_s0", &single)?;
    bound(check, "elbo_loss", &single.mean_all()?.neg()?)
}
