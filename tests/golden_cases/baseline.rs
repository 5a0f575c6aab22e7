//! Cases of the restoration networks. They are channels-first, with weights under PyTorch's names.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use lnca::Weights;
use lnca::model::baseline::{NafNet, NafNetConfig, Network, Restormer, RestormerConfig};

use super::case::{Case, Result};
use super::check::{Check, Grade};
use super::growing::{channels_first, channels_last};
use super::weights::weighted;
use crate::device::device;

/// All weights of the case that the network has.
fn load(check: &Check, weights: &Weights) -> Result<()> {
    let mut values = BTreeMap::new();
    for (name, _) in weights.vars() {
        values.insert(name.clone(), check.input(&format!("w.{name}"))?);
    }
    Ok(weights.load(&values)?)
}

/// Output and gradients for the input and the fixed weights of its loss; expected results are under `prefix`.
fn network(
    check: &mut Check,
    weights: &Weights,
    (size, prefix): (&str, &str),
    forward: impl Fn(&Tensor) -> lnca::Result<Tensor>,
) -> Result<()> {
    let x = Var::from_tensor(&channels_last(&check.input(&format!("{size}/in.x"))?)?)?;
    let r = channels_last(&check.input(&format!("{size}/r.out"))?)?;
    let y = forward(x.as_tensor())?;
    check.output(&format!("{prefix}/out"), &channels_first(&y)?, Grade::Rollout)?;
    let grads = weighted(&[(&y, &r)])?.backward()?;
    let grad = grads.get(&x).ok_or("no gradient of the images")?;
    check.gradient(
        &format!("{prefix}/grad.in.x"),
        &channels_first(grad)?,
        Grade::Rollout,
    )?;
    for (name, var) in weights.vars() {
        let stored = format!("{prefix}/grad.w.{name}");
        if check.has(&stored) {
            let grad = grads
                .get(&var)
                .ok_or_else(|| format!("no gradient of `{name}`"))?;
            check.gradient(&stored, grad, Grade::Rollout)?;
        }
    }
    Ok(())
}

/// Sizes of the images of a case, by the names of their sub-cases.
fn sizes(case: &Case) -> Vec<String> {
    let names = case.tensors.keys().filter_map(|name| name.strip_suffix("/in.x"));
    let mut names: Vec<String> = names.map(str::to_string).collect();
    names.sort();
    names
}

fn counts(case: &Case, path: &str) -> Result<Vec<usize>> {
    let counts = case.list(path)?.iter().filter_map(|count| count.as_u64());
    Ok(counts.map(|count| count as usize).collect())
}

pub fn nafnet(check: &mut Check) -> Result<()> {
    let case = check.case;
    let config = NafNetConfig {
        width: case.count("config.width")?,
        encoder: counts(case, "config.enc_blk_nums")?,
        middle: case.count("config.middle_blk_num")?,
        decoder: counts(case, "config.dec_blk_nums")?,
    };
    let weights = Weights::new(0, check.dtype, &device());
    let nafnet = NafNet::new(&config, weights.builder())?;
    load(check, &weights)?;
    parameters(&weights, case.count("config.parameters")?)?;
    for size in sizes(case) {
        network(check, &weights, (&size, &size), |x| nafnet.forward(x))?;
    }
    Ok(())
}

pub fn restormer(check: &mut Check) -> Result<()> {
    let case = check.case;
    let four = |path: &str| -> Result<[usize; 4]> {
        let counts = counts(case, path)?;
        Ok(counts
            .try_into()
            .map_err(|_| format!("`{path}` are not four numbers"))?)
    };
    for (variant, norm_bias) in [("biasfree", false), ("withbias", true)] {
        let config = RestormerConfig {
            width: case.count("config.dim")?,
            blocks: four("config.num_blocks")?,
            refinement: case.count("config.num_refinement_blocks")?,
            heads: four("config.heads")?,
            expansion: case.number("config.ffn_expansion_factor")?,
            norm_bias,
        };
        let weights = Weights::new(0, check.dtype, &device());
        let restormer = Restormer::new(&config, weights.builder())?;
        load(check, &weights)?;
        parameters(&weights, case.count(&format!("config.parameters.{variant}"))?)?;
        for size in sizes(case) {
            let prefix = format!("{variant}/{size}");
            network(check, &weights, (&size, &prefix), |x| restormer.forward(x))?;
        }
    }
    Ok(())
}

fn parameters(weights: &Weights, expected: usize) -> Result<()> {
    let found: usize = weights.vars().iter().map(|(_, var)| var.elem_count()).sum();
    match found == expected {
        true => Ok(()),
        false => Err(format!("{found} weights, expected {expected}").into()),
    }
}
