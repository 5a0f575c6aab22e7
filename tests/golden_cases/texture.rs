//! Cases of texture NCA: perception, steps, the clipped and quantised rule, style losses, training.

use std::collections::BTreeMap;

use candle_core::{D, DType, Tensor, Var};
use lnca::loss::{OverflowNorm, compress, excess, gram_distance, overflow, sliced_transport, unit_columns};
use lnca::metric::gram;
use lnca::train::{Adam, AdamConfig};
use lnca::transition::{Lattice, Quantisation};
use lnca::{CellLayout, Function, Pattern, Rollout, Texture, TextureConfig, TransitionFn, Weights};

use super::case::Result;
use super::cells::memories;
use super::check::{Check, Limit, numbers};
use super::growing::{
    channels_first, channels_last, gradient, output, output_limit, steps, unpack, weights_file,
};
use super::weights::weighted;
use crate::device::device;

/// The names of the weights here and in the library.
const WEIGHTS: [(&str, &str); 4] = [
    ("w1", "hidden.weight"),
    ("b1", "hidden.bias"),
    ("w2", "output.weight"),
    ("b2", "output.bias"),
];

/// `config` for weights of these shapes, with values from `read` of those that it has.
fn rule(
    dtype: DType,
    config: TextureConfig,
    read: impl Fn(&str) -> Result<Tensor>,
) -> Result<(Texture, Weights)> {
    let (channels, hidden_dim) = read("w2")?.dims2()?;
    let weights = Weights::new(0, dtype, &device());
    let config = TextureConfig {
        layout: layout(channels),
        hidden_dim,
        ..config
    };
    let rule = Texture::new(config, weights.builder())?;
    let mut values = BTreeMap::new();
    for (name, library) in WEIGHTS {
        if weights.vars().iter().any(|(known, _)| known == library) {
            values.insert(library.to_string(), read(name)?);
        }
    }
    weights.load(&values)?;
    Ok((rule, weights))
}

fn layout(channels: usize) -> CellLayout {
    CellLayout {
        input: 0,
        output: 3,
        hidden: channels - 3,
    }
}

fn grad_of(grads: &candle_core::backprop::GradStore, weights: &Weights, library: &str) -> Result<Tensor> {
    let vars = weights.vars();
    let found = vars.iter().find(|(known, _)| known == library);
    let (_, var) = found.ok_or("a weight is missing")?;
    let grad = grads.get(var);
    Ok(grad.ok_or_else(|| format!("no gradient of `{library}`"))?.clone())
}

pub fn perceive(check: &mut Check) -> Result<()> {
    let x = channels_last(&check.input("x")?)?;
    let r = channels_last(&check.input("r")?)?;
    let turned = check.case.number("angle")?;
    let perceive = |x: &Tensor, lattice: Lattice, angle: f64, filter_scale: f64| -> Result<Tensor> {
        let weights = Weights::new(0, check.dtype, &device());
        let config = TextureConfig {
            layout: layout(x.dim(3)?),
            lattice,
            angle,
            filter_scale,
            ..TextureConfig::default()
        };
        Ok(Texture::new(config, weights.builder())?.perceive(x)?)
    };
    let start = Var::from_tensor(&x)?;
    let seen = perceive(start.as_tensor(), Lattice::Square, 0.0, 1.0)?;
    let grads = weighted(&[(&seen, &r)])?.backward()?;
    let eighth = perceive(&x, Lattice::Square, 0.0, 0.125)?;
    let rotated = perceive(&x, Lattice::Square, turned, 0.125)?;
    let hexagonal = perceive(&x, Lattice::Hexagonal, 0.0, 0.125)?;
    output(check, "y", &seen)?;
    let grad = grads.get(&start).ok_or("no gradient of the cells")?;
    gradient(check, "grad_x", &channels_first(grad)?)?;
    output(check, "y_div8", &eighth)?;
    output(check, "y_div8_rot", &rotated)?;
    output(check, "y_hex", &hexagonal)?;
    // A constant field of directions rotates as the angle does.
    turned_field(check, &x, turned)
}

/// Compares a step with a field of directions with one with the perception rotated.
fn turned_field(check: &mut Check, x: &Tensor, angle: f64) -> Result<()> {
    let weights = Weights::new(1, check.dtype, &device());
    let config = TextureConfig {
        layout: layout(x.dim(3)?),
        ..TextureConfig::default()
    };
    let rule = Texture::new(config.clone(), weights.builder())?;
    for (name, var) in weights.vars() {
        if name == "output.weight" {
            var.set(&Tensor::rand(-0.1, 0.1, var.shape(), &device())?.to_dtype(check.dtype)?)?;
        }
    }
    let (h, w) = (x.dim(1)?, x.dim(2)?);
    let one = Tensor::new(&[angle.sin(), angle.cos()], &device())?;
    let field = one.reshape((1, 1, 2))?.broadcast_as((h, w, 2))?;
    let angled = Texture::new(TextureConfig { angle, ..config }, weights.builder())?;
    let directed = Rollout::new(1).run(&rule.directed(&field)?, x)?;
    let angled = Rollout::new(1).run(&angled, x)?;
    check.compare("directed", &directed, &angled, output_limit(check.dtype))
}

pub fn rollout(check: &mut Check) -> Result<()> {
    let x = channels_last(&check.input("x0")?)?;
    let masks = steps(&channels_last(&check.input("masks")?)?)?;
    let r = channels_last(&check.input("r")?)?;
    let (rule, weights) = rule(check.dtype, TextureConfig::default(), |name| check.input(name))?;
    let rollout = Rollout::new(masks.len()).masks(masks);
    let states = rollout.trajectory(&rule, &x)?;
    output(check, "states", &Tensor::stack(&states, 0)?)?;
    for memory in memories(rollout.steps()) {
        let start = Var::from_tensor(&x)?;
        let state = rollout.clone().memory(memory).run(&rule, start.as_tensor())?;
        if check.has("final_f64") {
            output(check, "final", &state)?;
        }
        let grads = weighted(&[(&state, &r)])?.backward()?;
        let grad = grads.get(&start).ok_or("no gradient of the cells")?;
        gradient(check, "grad_x0", &channels_first(grad)?)?;
        for (name, library) in &WEIGHTS[..3] {
            gradient(
                check,
                &format!("grad_{name}"),
                &grad_of(&grads, &weights, library)?,
            )?;
        }
    }
    Ok(())
}

/// The rule of the released models as it was trained: weights rounded, values clipped or rounded.
pub fn quantised(check: &mut Check) -> Result<()> {
    let x = channels_last(&check.input("x0")?)?;
    let masks = steps(&channels_last(&check.input("masks")?)?)?;
    let r = channels_last(&check.input("r")?)?;
    // The last row of each is the bias.
    let read = |name: &str| -> Result<Tensor> {
        let layer = check.input(&name.replace('b', "w"))?;
        let inputs = layer.dim(0)? - 1;
        Ok(match name.starts_with('w') {
            true => layer.narrow(0, 0, inputs)?.t()?.contiguous()?,
            false => layer.narrow(0, inputs, 1)?.squeeze(0)?,
        })
    };
    let config = |quantisation| -> Result<TextureConfig> {
        Ok(TextureConfig {
            angle: check.case.number("angle")?,
            clip: Some(check.case.number("q")? as f32),
            quantisation,
            ..TextureConfig::released()
        })
    };
    let (clipped, weights) = rule(check.dtype, config(Quantisation::Weights)?, read)?;
    let (rounded, _) = rule(check.dtype, config(Quantisation::Everything)?, read)?;
    let rollout = Rollout::new(masks.len()).masks(masks.clone());
    let states = rollout.trajectory(&clipped, &x)?;
    output(check, "clip_states", &Tensor::stack(&states, 0)?)?;
    let start = Var::from_tensor(&x)?;
    let state = rollout.run(&clipped, start.as_tensor())?;
    output(check, "clip_final", &state)?;
    output(check, "rgb", &clipped.rgb(&state)?)?;
    let grads = weighted(&[(&state, &r)])?.backward()?;
    let grad = grads.get(&start).ok_or("no gradient of the cells")?;
    gradient(check, "clip_grad_x0", &channels_first(grad)?)?;
    for (layer, weight, bias) in [
        ("w1", "hidden.weight", "hidden.bias"),
        ("w2", "output.weight", "output.bias"),
    ] {
        let weight = grad_of(&grads, &weights, weight)?.t()?;
        let bias = grad_of(&grads, &weights, bias)?.unsqueeze(0)?;
        let both = Tensor::cat(&[&weight.contiguous()?, &bias], 0)?;
        gradient(check, &format!("clip_grad_{layer}"), &both)?;
    }
    // The case starts from values that are not quantised and rounds cells that do not fire too. The library
    // leaves those as they are, which for quantised values is the same.
    let state = Rollout::new(1).masks(masks[..1].to_vec()).run(&rounded, &x)?;
    let q = check.case.number("q")? as f32;
    let found = channels_first(&Function::quantise(-q, q).of(&state)?)?;
    // The order of a sum may move a few values by one quantisation step, as the case allows.
    let expected = check.expected("fq_state")?;
    let (found_values, expected_values) = (numbers(&found)?, numbers(&expected)?);
    let apart = |(a, b): (&f64, &f64)| (a - b).abs() > 1e-4;
    let moved = found_values
        .iter()
        .zip(&expected_values)
        .filter(|pair| apart(*pair));
    let (moved, of) = (moved.count(), found_values.len());
    if moved * 500 > of {
        check.failures.push(format!(
            "fq_state: {moved} of {of} values differ, more than 0.2 %"
        ));
    }
    check.compare("fq_state", &found, &expected, Limit::absolute(2.0 * 4.0 / 255.0))
}

/// `[B, C, H, W]` or `[B, C, N]` as sets of vectors, `[B, N, C]`.
fn sets(features: &Tensor) -> Result<Tensor> {
    Ok(features.flatten_from(2)?.transpose(1, 2)?.contiguous()?)
}

pub fn gram_loss(check: &mut Check) -> Result<()> {
    for (compressed, suffix) in [(false, ""), (true, "_c")] {
        let name = |stem: &str, layer: usize| match compressed {
            false => format!("{stem}{layer}"),
            true => format!(
                "{}_c{}{layer}",
                stem.trim_end_matches("_x"),
                if stem.ends_with("_x") { "_x" } else { "" }
            ),
        };
        let mut losses = vec![];
        let mut starts = vec![];
        for layer in 0.. {
            if !check.has(&format!("x{layer}")) {
                break;
            }
            let start = Var::from_tensor(&check.input(&format!("x{layer}"))?)?;
            let target = check.input(&format!("t{layer}"))?;
            let statistics = |features: &Tensor| -> Result<Tensor> {
                let sets = sets(features)?;
                Ok(gram(&if compressed { compress(&sets)? } else { sets })?)
            };
            let grams = statistics(start.as_tensor())?;
            let expected = check.expected(&name("gram", layer))?;
            check.compare(
                &name("gram", layer),
                &grams,
                &expected,
                limit(check, &expected, 1e-5),
            )?;
            losses.push(gram_distance(&grams, &statistics(&target)?)?);
            starts.push(start);
        }
        let total = Tensor::stack(&losses, 0)?.sum_all()?;
        let stored = format!("loss{suffix}");
        check.scalar(&stored, value(&total)?, output_limit(check.dtype))?;
        let grads = total.backward()?;
        for (layer, start) in starts.iter().enumerate() {
            let grad = grads.get(start).ok_or("no gradient of the features")?;
            let stored = name("grad_x", layer);
            let expected = check.expected(&stored)?;
            // These gradients are small, so the stated tolerance is taken relative to them.
            check.compare(&stored, grad, &expected, limit(check, &expected, 1e-4))?;
        }
    }
    Ok(())
}

/// A tolerance relative to the largest magnitude, whatever that is.
fn limit(check: &Check, expected: &Tensor, relative: f64) -> Limit {
    match (check.dtype, expected.dtype()) {
        (DType::F64, DType::F64) => Limit::relative(1e-9, 0.0),
        _ => Limit::relative(relative, 0.0),
    }
}

fn value(x: &Tensor) -> Result<f64> {
    Ok(x.to_dtype(DType::F64)?.to_scalar()?)
}

pub fn transport(check: &mut Check) -> Result<()> {
    for layer in 0.. {
        let name = |stem: &str| format!("{stem}{layer}");
        if !check.has(&name("src")) {
            break;
        }
        let source = Var::from_tensor(&check.input(&name("src"))?)?;
        let target = sets(&check.input(&name("tgt"))?)?;
        let directions = unit_columns(&check.input(&name("raw_proj"))?)?;
        let expected = check.expected(&name("proj"))?;
        check.compare(&name("proj"), &directions, &expected, Limit::relative(1e-6, 1.0))?;
        let vectors = sets(source.as_tensor())?;
        // Sorted here as it is inside.
        let (b, n, c) = vectors.dims3()?;
        #[expect(clippy::disallowed_methods, reason = "both operands are contiguous")]
        let flat = vectors.reshape((b * n, c))?.matmul(&directions)?;
        let projected = flat.reshape((b, n, ()))?.transpose(1, 2)?.contiguous()?;
        let (sorted, _) = projected.sort_last_dim(true)?;
        let expected = check.expected(&name("src_sorted"))?;
        check.compare(
            &name("src_sorted"),
            &sorted,
            &expected,
            Limit::relative(1e-5, 1.0),
        )?;
        let loss = sliced_transport(&vectors, &target, &directions)?;
        check.scalar(&name("loss"), value(&loss)?, output_limit(check.dtype))?;
        let grads = loss.backward()?;
        let grad = grads.get(&source).ok_or("no gradient of the source")?;
        gradient(check, &name("grad_src"), grad)?;
    }
    let cells = Var::from_tensor(&channels_last(&check.input("ov_x")?)?)?;
    let sum = overflow(cells.as_tensor(), -1.0, 1.0, OverflowNorm::One)?;
    check.scalar("ov_l1", value(&sum)?, output_limit(check.dtype))?;
    let grads = sum.backward()?;
    let grad = grads.get(&cells).ok_or("no gradient of the cells")?;
    gradient(check, "ov_l1_grad", &channels_first(grad)?)?;
    let squares = excess(cells.as_tensor(), -1.0, 1.0)?.sqr()?.sum_all()?;
    check.scalar("ov_sq", value(&squares)?, output_limit(check.dtype))?;
    let colours = (excess(cells.as_tensor(), 0.0, 1.0)?.sqr()?.mean_all()? * 1e4)?;
    check.scalar("ov_incep", value(&colours)?, output_limit(check.dtype))
}

/// Updates with sliced transport of raw pixels.
pub fn train(check: &mut Check) -> Result<()> {
    let x = channels_last(&check.input("x0")?)?;
    let target = check.input("target_img")?;
    let target = sets(&target)?;
    let directions = unit_columns(&check.input("raw_proj")?)?;
    let masks = channels_last(&check.input("masks")?)?;
    let (rule, weights) = rule(check.dtype, TextureConfig::default(), |name| check.input(name))?;
    let config = AdamConfig {
        learning_rate: check.case.number("lr")?,
        eps: 1e-8,
        eps_after_correction: true,
        ..AdamConfig::default()
    };
    let vars = weights.vars();
    let mut adam = Adam::new(vars.clone(), config)?;
    for update in 0..masks.dim(0)? {
        let masks = steps(&masks.get(update)?)?;
        let state = Rollout::new(masks.len()).masks(masks).run(&rule, &x)?;
        let pixels = rule.rgb(&state)?.flatten(1, 2)?;
        let transport = sliced_transport(&pixels, &target, &directions)?;
        let over = overflow(&state, -1.0, 1.0, OverflowNorm::One)?;
        let limit = output_limit(check.dtype);
        check.scalar(&format!("loss_u{update}"), value(&transport)?, limit)?;
        check.scalar(&format!("overflow_u{update}"), value(&over)?, limit)?;
        let grads = (transport + over)?.backward()?;
        for (name, library) in &WEIGHTS[..3] {
            let stored = format!("grad_{name}_u{update}");
            if check.has(&stored) {
                gradient(check, &stored, &grad_of(&grads, &weights, library)?)?;
            }
        }
        adam.step(&grads)?;
        for (name, library) in &WEIGHTS[..3] {
            let stored = format!("after_{name}_u{update}");
            if check.has(&stored) {
                let (_, var) = vars
                    .iter()
                    .find(|(known, _)| known == library)
                    .ok_or("a weight is missing")?;
                let expected = check.expected(&stored)?;
                let limit = match (check.dtype, expected.dtype()) {
                    (DType::F64, DType::F64) => output_limit(check.dtype),
                    // A gradient that is only rounding becomes as large as any other when it is normalised.
                    _ => Limit::absolute(1e-4),
                };
                check.compare(&stored, &var.as_detached_tensor(), &expected, limit)?;
            }
        }
    }
    Ok(())
}

/// The masks that the trained models share.
fn trained_masks(check: &Check, side: usize) -> Result<Vec<Tensor>> {
    let folders = [check.case.folder.clone(), super::default_folder().join("gtv")];
    let mut files = folders
        .iter()
        .map(|folder| folder.join("texture_trained_masks.safetensors"));
    let file = files
        .find(|file| file.exists())
        .ok_or("no file texture_trained_masks")?;
    let packed = candle_core::safetensors::load(file, &device())?;
    unpack(packed.get("masks_packed").ok_or("no masks")?, side, check.dtype)
}

/// The masks themselves: half of the cells fire.
pub fn masks(check: &mut Check) -> Result<()> {
    let packed = check.stored("masks_packed")?;
    let (_, _, bytes) = packed.dims3()?;
    let mut sum = 0.0;
    let masks = unpack(&packed, 8 * bytes, DType::F64)?;
    for mask in &masks {
        sum += value(&mask.mean_all()?)?;
    }
    let mean = Tensor::new(sum / masks.len() as f64, &device())?;
    check.compare(
        "mean",
        &mean,
        &Tensor::new(0.5, &device())?,
        Limit::absolute(0.01),
    )
}

/// A released model run from zeros.
pub fn trained(check: &mut Check) -> Result<()> {
    let case = check.case;
    let prefix = case.text("weights.prefix")?.to_string();
    let file = weights_file(case)?;
    let models = candle_core::safetensors::load(&file, &device())?;
    let read = |name: &str| -> Result<Tensor> {
        let key = format!("{prefix}{name}");
        let weight = models.get(&key).ok_or_else(|| format!("no weight `{key}`"))?;
        Ok(weight.to_dtype(check.dtype)?)
    };
    // The first layer's columns come filter by filter.
    let read = |name: &str| -> Result<Tensor> {
        let weight = read(name)?;
        Ok(match name {
            "w1" => {
                let (hidden, inputs) = weight.dims2()?;
                let weight = weight.reshape((hidden, 4, inputs / 4))?;
                weight.transpose(1, 2)?.flatten_from(1)?
            }
            _ => weight,
        })
    };
    let (rule, weights) = rule(check.dtype, TextureConfig::released(), read)?;
    let released = file.with_file_name("texture_models.json");
    if released.exists() {
        // The library decodes the file that its authors released to the same weights.
        let pattern = Pattern::released_texture(released, prefix.trim_end_matches('.'))?;
        for ((name, found), (_, expected)) in pattern.weights().vars().iter().zip(weights.vars()) {
            let found = found.as_detached_tensor();
            let expected = expected.as_detached_tensor();
            check.compare(name, &found, &expected, Limit::absolute(1e-7))?;
        }
    }
    let (channels, h, w) = check.stored("state_final")?.dims3()?;
    let masks = trained_masks(check, w)?;
    let count = case.count("steps")?;
    if masks.len() < count || rule.layout().channels() != channels {
        return Err(format!("{} masks for {count} steps", masks.len()).into());
    }
    let start = Tensor::zeros((1, h, w, channels), check.dtype, &device())?;
    let states = Rollout::new(count)
        .masks(masks[..count].to_vec())
        .trajectory(&rule, &start)?;
    for (name, step) in [("state1_crop", 1), ("state8_crop", 8)] {
        if check.has(name) {
            let (_, rows, columns) = check.stored(name)?.dims3()?;
            let crop = states[step - 1].narrow(1, 0, rows)?.narrow(2, 0, columns)?;
            output(check, name, &crop.squeeze(0)?)?;
        }
    }
    let last = states[count - 1].clone();
    // A tolerance for the float32 reference, as the case states it.
    let limit = Limit::relative(1e-4, 1.0);
    let expected = check.expected("state_final")?;
    check.compare(
        "state_final",
        &channels_first(&last.squeeze(0)?)?,
        &expected,
        limit,
    )?;
    let flat = last.flatten_to(2)?;
    let mean = flat.mean(0)?;
    check.compare(
        "channel_mean",
        &mean,
        &check.expected("channel_mean")?,
        Limit::absolute(1e-4),
    )?;
    let centred = flat.broadcast_sub(&mean)?;
    let deviation = centred.sqr()?.mean(0)?.sqrt()?;
    check.compare(
        "channel_std",
        &deviation,
        &check.expected("channel_std")?,
        Limit::absolute(1e-4),
    )?;
    let rgb = (rule.rgb(&last.narrow(D::Minus1, 0, channels)?)?.clamp(0.0, 1.0)? * 255.0)?.round()?;
    let expected = check.expected("rgb8")?;
    check.compare("rgb8", &rgb.squeeze(0)?, &expected, Limit::absolute(1.0))
}
