//! Cases of Growing NCA. These files are channels-first and name their tensors in their own way.

use candle_core::{DType, Tensor, Var};
use lnca::loss::{ImageLoss, PatternLoss};
use lnca::train::{PatternTrainer, PatternTrainerConfig};
use lnca::{AliveMask, CellLayout, Damage, Growing, GrowingConfig, Rollout, TransitionFn, Weights};

use super::case::{Case, Result};
use super::cells::memories;
use super::check::{Check, Limit, numbers};
use super::weights::weighted;
use crate::device::device;

/// The stated tolerances of these cases; a reference computed in float32 is no more exact.
pub fn output_limit(dtype: DType) -> Limit {
    match dtype {
        DType::F64 => Limit::relative(1e-10, 1.0),
        _ => Limit::relative(1e-5, 1.0),
    }
}

pub fn gradient_limit(dtype: DType) -> Limit {
    match dtype {
        DType::F64 => Limit::relative(1e-10, 1.0),
        _ => Limit::relative(1e-4, 1.0),
    }
}

/// `[.., C, H, W]` to `[.., H, W, C]`.
pub fn channels_last(x: &Tensor) -> Result<Tensor> {
    let rank = x.rank();
    Ok(x.transpose(rank - 3, rank - 2)?
        .transpose(rank - 2, rank - 1)?
        .contiguous()?)
}

/// `[.., H, W, C]` to `[.., C, H, W]`.
pub fn channels_first(x: &Tensor) -> Result<Tensor> {
    let rank = x.rank();
    Ok(x.transpose(rank - 2, rank - 1)?
        .transpose(rank - 3, rank - 2)?
        .contiguous()?)
}

/// Checks `found`, channels last, against `name`.
pub fn output(check: &mut Check, name: &str, found: &Tensor) -> Result<()> {
    let expected = check.expected(name)?;
    let limit = output_limit(least(check.dtype, expected.dtype()));
    check.compare(name, &channels_first(found)?, &expected, limit)
}

pub fn gradient(check: &mut Check, name: &str, found: &Tensor) -> Result<()> {
    let expected = check.expected(name)?;
    let limit = gradient_limit(least(check.dtype, expected.dtype()));
    check.compare(name, found, &expected, limit)
}

fn least(a: DType, b: DType) -> DType {
    if a == DType::F64 && b == DType::F64 {
        a
    } else {
        DType::F32
    }
}

/// The published rule for cells of `channels` channels, with perception turned by `angle`.
fn config(channels: usize, hidden_dim: usize, angle: f64) -> GrowingConfig {
    GrowingConfig {
        layout: CellLayout {
            input: 0,
            output: 4,
            hidden: channels - 4,
        },
        hidden_dim,
        angle,
        ..GrowingConfig::default()
    }
}

/// The names of the weights here and in the library.
pub const WEIGHTS: [(&str, &str); 4] = [
    ("w1", "hidden.weight"),
    ("b1", "hidden.bias"),
    ("w2", "output.weight"),
    ("b2", "output.bias"),
];

/// A rule with weights from `read`, and those weights.
pub fn rule(
    dtype: DType,
    angle: f64,
    alive: Option<AliveMask>,
    read: impl Fn(&str) -> Result<Tensor>,
) -> Result<(Growing, Weights)> {
    let (channels, hidden_dim) = read("w2")?.dims2()?;
    let weights = Weights::new(0, dtype, &device());
    let config = GrowingConfig {
        alive,
        ..config(channels, hidden_dim, angle)
    };
    let rule = Growing::new(config, weights.builder())?;
    let values = WEIGHTS
        .iter()
        .map(|(name, library)| Ok((library.to_string(), read(name)?)));
    weights.load(&values.collect::<Result<_>>()?)?;
    Ok((rule, weights))
}

fn published_alive() -> Option<AliveMask> {
    GrowingConfig::default().alive
}

pub fn perceive(check: &mut Check) -> Result<()> {
    let x = channels_last(&check.input("x")?)?;
    let r = channels_last(&check.input("r")?)?;
    let angles = check.case.list("angles")?.to_vec();
    for (index, angle) in angles.iter().enumerate() {
        let angle = angle.as_f64().ok_or("an angle that is no number")?;
        let weights = Weights::new(0, check.dtype, &device());
        let channels = x.dim(3)?;
        let rule = Growing::new(config(channels, 1, angle), weights.builder())?;
        let start = Var::from_tensor(&x)?;
        let seen = rule.perceive(start.as_tensor())?;
        output(check, &format!("y_a{index}"), &seen)?;
        let turned = Growing::new(config(channels, 1, 0.0), weights.builder())?.rotated(angle);
        output(check, &format!("y_a{index}"), &turned.perceive(&x)?)?;
        let band = format!("y_a{index}_band");
        if check.has(&band) {
            // The same features, filter by filter.
            let (b, h, w, _) = seen.dims4()?;
            let seen = seen
                .reshape((b, h, w, channels, 3))?
                .transpose(3, 4)?
                .flatten_from(3)?;
            output(check, &band, &seen)?;
        }
        let grads = weighted(&[(&seen, &r)])?.backward()?;
        let grad = grads.get(&start).ok_or("no gradient of the cells")?;
        gradient(check, &format!("grad_x_a{index}"), &channels_first(grad)?)?;
    }
    Ok(())
}

pub fn step(check: &mut Check) -> Result<()> {
    let angle = check.case.number("angle")?;
    let x = channels_last(&check.input("x")?)?;
    let mask = channels_last(&check.input("mask")?)?;
    let (immortal, _) = rule(check.dtype, angle, None, |name| check.input(name))?;
    let unmasked = (Rollout::new(1).run(&immortal, &x)? - &x)?;
    output(check, "dx", &unmasked)?;
    let before_death = Rollout::new(1).masks(vec![mask.clone()]).run(&immortal, &x)?;
    for (name, cells) in [("pre_life", &x), ("post_life", &before_death)] {
        let expected = check.expected(name)?;
        let found = channels_first(&life(check.dtype, cells)?)?;
        check.compare(name, &found, &expected, Limit::EXACT)?;
    }
    rollout(check, &x, vec![mask], "y", "grad_x")
}

/// 1 where the rule lets a cell live, `[B, H, W, 1]`: cells that are 1 in every channel but alpha, after a
/// step that only applies the alive mask.
fn life(dtype: DType, cells: &Tensor) -> Result<Tensor> {
    let channels = cells.dim(3)?;
    let weights = Weights::new(0, dtype, &device());
    let still = Growing::new(config(channels, 1, 0.0), weights.builder())?;
    let ones = cells.narrow(3, 0, 3)?.ones_like()?;
    let cells = Tensor::cat(&[&ones, &cells.narrow(3, 3, channels - 3)?], 3)?;
    Ok(Rollout::new(1).run(&still, &cells)?.narrow(3, 0, 1)?)
}

pub fn rollout_case(check: &mut Check) -> Result<()> {
    let x = channels_last(&check.input("x0")?)?;
    let masks = steps(&channels_last(&check.input("masks")?)?)?;
    let (rule, _) = rule(
        check.dtype,
        check.case.number("angle")?,
        published_alive(),
        |name| check.input(name),
    )?;
    let rollout_states = Rollout::new(masks.len())
        .masks(masks.clone())
        .trajectory(&rule, &x)?;
    output(check, "states", &Tensor::stack(&rollout_states, 0)?)?;
    rollout(check, &x, masks, "final", "grad_x0")
}

/// One tensor for each element of the first axis.
pub fn steps(masks: &Tensor) -> Result<Vec<Tensor>> {
    (0..masks.dim(0)?).map(|step| Ok(masks.get(step)?)).collect()
}

/// The last state of a rollout and the gradients of `sum(state * r)`, under every memory policy.
fn rollout(check: &mut Check, x: &Tensor, masks: Vec<Tensor>, last: &str, grad_x: &str) -> Result<()> {
    let angle = check.case.number("angle")?;
    let r = channels_last(&check.input("r")?)?;
    let (rule, weights) = rule(check.dtype, angle, published_alive(), |name| check.input(name))?;
    let rollout = Rollout::new(masks.len()).masks(masks);
    for memory in memories(rollout.steps()) {
        let start = Var::from_tensor(x)?;
        let state = rollout.clone().memory(memory).run(&rule, start.as_tensor())?;
        output(check, last, &state)?;
        let grads = weighted(&[(&state, &r)])?.backward()?;
        let grad = grads.get(&start).ok_or("no gradient of the cells")?;
        gradient(check, grad_x, &channels_first(grad)?)?;
        for (name, library) in WEIGHTS {
            let vars = weights.vars();
            let found = vars.iter().find(|(known, _)| known == library);
            let (_, var) = found.ok_or("a weight is missing")?;
            let grad = grads
                .get(var)
                .ok_or_else(|| format!("no gradient of `{library}`"))?;
            gradient(check, &format!("grad_{name}"), grad)?;
        }
    }
    Ok(())
}

/// A batch prepared for an update of the regenerating regime.
pub fn batch_prep(check: &mut Check) -> Result<()> {
    let states = channels_last(&check.input("x")?)?;
    let target = channels_last(&check.input("target")?)?;
    let (_, h, w, channels) = states.dims4()?;
    let (centres, radii) = (
        numbers(&check.stored("centers")?)?,
        numbers(&check.stored("radii")?)?,
    );
    let damage: Vec<Damage> = centres
        .chunks_exact(2)
        .zip(&radii)
        .map(|(centre, &radius)| Damage::Circle {
            centre: (centre[0], centre[1]),
            radius,
        })
        .collect();
    let weights = Weights::new(0, check.dtype, &device());
    let rule = Growing::new(config(channels, 8, 0.0), weights.builder())?;
    let seed = rule.layout().single_cell((1, h, w), check.dtype, &device())?;
    let loss = ImageLoss::new(target)?;
    let losses = Tensor::new(loss.each(&states)?, &device())?;
    let settings = PatternTrainerConfig {
        damaged: check.case.count("damage_n")?,
        ..PatternTrainerConfig::regenerating()
    };
    let trainer = PatternTrainer::new(rule, &weights, loss, &seed, settings)?;
    let (order, prepared) = trainer.prepare(&states, &damage)?;
    let expected = check.expected("loss")?;
    check.compare("loss", &losses, &expected, output_limit(check.dtype))?;
    if order != check.integers("order")? {
        check.failures.push(format!("order is {order:?}"));
    }
    let masks = damage
        .iter()
        .map(|damage| damage.mask((h, w), DType::F64, &device()));
    let masks = masks.collect::<lnca::Result<Vec<_>>>()?;
    let circles = (1.0 - Tensor::stack(&masks, 0)?.squeeze(3)?)?;
    let expected = check.expected("circles")?;
    check.compare("circles", &circles, &expected, Limit::EXACT)?;
    let expected = check.expected("x_prepared")?;
    check.compare("x_prepared", &channels_first(&prepared)?, &expected, Limit::EXACT)
}

/// A released model grown from one cell, and where the case says so, cut in half and grown again.
pub fn trained(check: &mut Check) -> Result<()> {
    let case = check.case;
    let models = candle_core::safetensors::load(weights_file(case)?, &device())?;
    let prefix = case.text("weights.prefix")?;
    let read = |name: &str| -> Result<Tensor> {
        let key = format!("{prefix}{name}");
        let weight = models.get(&key).ok_or_else(|| format!("no weight `{key}`"))?;
        Ok(weight.to_dtype(check.dtype)?)
    };
    let (rule, _) = rule(check.dtype, case.number("angle")?, published_alive(), read)?;
    let (before, after) = (case.count("steps_before")?, case.count("steps_after")?);
    let (channels, h, w) = check.stored("state_grown")?.dims3()?;
    let masks = unpack(&check.stored("masks_packed")?, w, check.dtype)?;
    if masks.len() != before + after {
        return Err(format!("{} masks for {} steps", masks.len(), before + after).into());
    }
    let seed = rule.layout().single_cell((1, h, w), check.dtype, &device())?;
    let grow = |cells: &Tensor, masks: &[Tensor]| -> Result<Vec<Tensor>> {
        Ok(Rollout::new(masks.len())
            .masks(masks.to_vec())
            .trajectory(&rule, cells)?)
    };
    let states = grow(&seed, &masks[..before])?;
    if check.has("state8_crop") {
        let (_, rows, columns) = check.stored("state8_crop")?.dims3()?;
        let crop = states.get(7).ok_or("fewer than 8 steps")?;
        let crop = crop
            .narrow(1, h / 2 - rows / 2, rows)?
            .narrow(2, w / 2 - columns / 2, columns)?;
        output(check, "state8_crop", &crop.squeeze(0)?)?;
    }
    let grown = states[before - 1].squeeze(0)?;
    output(check, "state_grown", &grown)?;
    let mature = check.expected("mature")?;
    let alpha = grown.narrow(2, 3, 1)?.squeeze(2)?;
    check.compare("mature", &alpha.gt(0.1)?, &mature, Limit::EXACT)?;
    picture(check, "rgb8_grown", &grown)?;
    if after > 0 {
        let top = grown.narrow(0, 0, h / 2)?;
        let bottom = Tensor::zeros((h - h / 2, w, channels), check.dtype, &device())?;
        let cut = Tensor::cat(&[top, bottom], 0)?.unsqueeze(0)?;
        let recovered = grow(&cut, &masks[before..])?[after - 1].squeeze(0)?;
        output(check, "state_recovered", &recovered)?;
        picture(check, "rgb8_recovered", &recovered)?;
    }
    Ok(())
}

/// The file of the released weights: beside the case, or where the first set of cases has it.
pub fn weights_file(case: &Case) -> Result<std::path::PathBuf> {
    let name = case.text("weights.file")?.rsplit('/').next().unwrap_or_default();
    let folders = [case.folder.clone(), super::default_folder().join("gtv")];
    let files = folders.iter().map(|folder| folder.join("models").join(name));
    let mut files = files.filter(|file| file.exists());
    files
        .next()
        .ok_or_else(|| format!("no file models/{name}").into())
}

/// Masks `[steps, H, W / 8]` with eight cells a byte, the first in the highest bit.
pub fn unpack(packed: &Tensor, width: usize, dtype: DType) -> Result<Vec<Tensor>> {
    let (count, h, bytes) = packed.dims3()?;
    let packed = packed.flatten_all()?.to_vec1::<u8>()?;
    let bit = |row: usize, x: usize| packed[row * bytes + x / 8] >> (7 - x % 8) & 1;
    let mask: Vec<u8> = (0..count * h)
        .flat_map(|row| (0..width).map(move |x| (row, x)))
        .map(|(row, x)| bit(row, x))
        .collect();
    steps(&Tensor::from_vec(mask, (count, 1, h, width, 1), &device())?.to_dtype(dtype)?)
}

/// Cells `[H, W, C]` over white, in 8 bits; rounding may go either way.
fn picture(check: &mut Check, name: &str, cells: &Tensor) -> Result<()> {
    let channels = cells.dim(2)?;
    let white = |cell: &[f64]| -> Vec<f64> {
        let behind = 1.0 - cell[3].clamp(0.0, 1.0);
        cell[..3]
            .iter()
            .map(|colour| ((behind + colour).clamp(0.0, 1.0) * 255.0).round())
            .collect()
    };
    let pixels: Vec<f64> = numbers(cells)?.chunks(channels).flat_map(white).collect();
    let found = Tensor::from_vec(pixels, (cells.dim(0)?, cells.dim(1)?, 3), &device())?;
    let expected = check.expected(name)?;
    check.compare(name, &found, &expected, Limit::absolute(1.0))
}
