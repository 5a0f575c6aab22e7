//! Cases of the losses: every term, the totals, their gradients.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use lnca::loss::{self, OverflowNorm, Term};

use super::case::Result;
use super::cells::layout;
use super::check::{Check, Grade};
use super::weights::value;

/// Inputs as variables, by name.
struct Inputs(BTreeMap<String, Var>);

impl Inputs {
    fn read(check: &Check) -> Result<Self> {
        let one = |name: String| {
            let var = Var::from_tensor(&check.input(&format!("in.{name}"))?)?;
            Ok((name, var))
        };
        check
            .names("in.")
            .into_iter()
            .map(one)
            .collect::<Result<_>>()
            .map(Self)
    }

    fn get(&self, name: &str) -> Result<&Tensor> {
        let var = self.0.get(name).ok_or_else(|| format!("no tensor `in.{name}`"))?;
        Ok(var.as_tensor())
    }

    /// Every gradient of `loss` stored under `start`, such as `grad_step1.in.`.
    fn gradients(&self, check: &mut Check, start: &str, loss: &Tensor) -> Result<()> {
        let grads = loss.backward()?;
        for name in check.names(start) {
            // The far negatives replace the near ones.
            let far = start.contains("far_negative") && name == "lat_negative";
            let input = self.get(if far { "lat_negative_far" } else { &name })?;
            let found = match grads.get(input) {
                Some(grad) => grad.clone(),
                None => input.zeros_like()?,
            };
            check.gradient(&format!("{start}{name}"), &found, Grade::Step)?;
        }
        Ok(())
    }
}

fn scalar(check: &mut Check, name: &str, found: &Tensor) -> Result<()> {
    let limit = Grade::Step.output(check.dtype);
    check.scalar(&format!("out.{name}"), value(found)?, limit)
}

/// A term with the weight that the case gives it, after its value was checked.
fn term(check: &mut Check, name: &'static str, key: &str, found: Tensor) -> Result<Term> {
    scalar(check, name, &found)?;
    Ok(Term::new(
        name,
        check.case.number(&format!("config.{key}"))?,
        found,
    ))
}

pub fn autoencoder(check: &mut Check) -> Result<()> {
    let inputs = Inputs::read(check)?;
    let [anchor, positive, negative] = ["anchor", "positive", "negative"].map(|name| inputs.get(name));
    let (anchor, positive, negative) = (anchor?, positive?, negative?);
    let prediction = inputs.get("pred")?;
    let batch = anchor.dim(0)?;
    let mask = loss::corruption_mask(anchor, positive)?;
    check.output("out.mask", &mask, Grade::Step)?;

    let images = Tensor::cat(&[anchor, positive, negative], 0)?;
    let rec = loss::mse(&images, prediction)?;
    let task = loss::masked_mse(positive, &prediction.narrow(0, batch, batch)?, &mask)?;
    let tv = loss::total_variation(&prediction.narrow(0, 0, batch)?, anchor)?;
    let mut terms = vec![
        term(check, "rec_loss", "weights.rec", rec)?,
        term(check, "task_loss", "weights.task", task)?,
        term(check, "tv_loss", "weights.tv", tv)?,
    ];
    let margin = check.case.number("config.margin")?;
    for (negative, dist, suffix) in [
        ("lat_negative", "dist_loss", ""),
        ("lat_negative_far", "dist_loss_far_negative", "_far_negative"),
    ] {
        let (a, p) = (inputs.get("lat_anchor")?, inputs.get("lat_positive")?);
        let hinge = loss::dist(a, p, inputs.get(negative)?, margin)?;
        terms.push(term(check, dist, "weights.dist", hinge)?);
        let total = loss::total(&terms)?;
        terms.pop();
        scalar(check, &format!("total_step1{suffix}"), &total)?;
        inputs.gradients(check, &format!("grad_step1{suffix}.in."), &total)?;
    }

    let (clean, corrupted) = (inputs.get("cond_clean")?, inputs.get("cond_corrupt")?);
    let masked = (loss::masked_mse(clean, anchor, &mask)? + loss::masked_mse(corrupted, positive, &mask)?)?;
    let unmasked = (loss::mse(clean, anchor)? + loss::mse(corrupted, positive)?)?;
    let skips = loss::mse(inputs.get("skip_anchor")?, inputs.get("skip_positive")?)?;
    scalar(check, "equiv_loss_alt_PureMSE", &unmasked)?;
    scalar(check, "equiv_loss_alt_NormalNoise", &(&masked + &skips)?)?;
    scalar(check, "equiv_loss_alt_other", &(unmasked + skips)?)?;
    let total = loss::total(&[term(check, "equiv_loss", "weights.eq", masked)?])?;
    scalar(check, "total_step2", &total)?;
    inputs.gradients(check, "grad_step2.in.", &total)
}

pub fn latent_nca(check: &mut Check) -> Result<()> {
    let inputs = Inputs::read(check)?;
    let layout = layout(check.case)?;
    let state = inputs.get("state")?;
    let (prediction, target) = (inputs.get("pred")?, inputs.get("target")?);
    for (norm, suffix) in [(OverflowNorm::Elements, ""), (OverflowNorm::Channels, "_paper")] {
        let (out, hid) = loss::cell_overflow(&layout, state, norm)?;
        scalar(check, &format!("out_loss{suffix}"), &out)?;
        scalar(check, &format!("hid_loss{suffix}"), &hid)?;
    }
    let (out, hid) = loss::cell_overflow(&layout, state, OverflowNorm::Elements)?;
    let latent = loss::mse(&layout.output(state)?, inputs.get("lat_target")?)?;
    let terms = [
        term(check, "rec_loss", "weights.rec", loss::mse(prediction, target)?)?,
        term(check, "latent_loss", "weights.lat", latent)?,
        term(check, "out_loss", "weights.out", out)?,
        term(check, "hid_loss", "weights.hid", hid)?,
        term(
            check,
            "tv_loss",
            "weights.tv",
            loss::total_variation(prediction, target)?,
        )?,
    ];
    let total = loss::total(&terms)?;
    scalar(check, "total", &total)?;
    inputs.gradients(check, "grad.in.", &total)
}

pub fn rgb_models(check: &mut Check) -> Result<()> {
    let inputs = Inputs::read(check)?;
    let layout = layout(check.case)?;
    let (prediction, target) = (inputs.get("pred")?, inputs.get("target")?);
    let state = inputs.get("state")?;
    let (out, hid) = loss::cell_overflow(&layout, state, OverflowNorm::Elements)?;
    let rec = loss::mae(&layout.output(state)?, target)?;
    let terms = [
        term(check, "vitca_rec_loss", "vitca_factors.rec", rec)?,
        term(check, "vitca_out_loss", "vitca_factors.overflow", out)?,
        term(check, "vitca_hid_loss", "vitca_factors.overflow", hid)?,
    ];
    let total = loss::total(&terms)?;
    scalar(check, "vitca_total", &total)?;
    inputs.gradients(check, "grad.vitca.in.", &total)?;
    let psnr = lnca::metric::psnr(prediction, target)?.mean_all()?.neg()?;
    for (name, loss) in [
        ("l1", loss::mae(prediction, target)?),
        ("minus_psnr", psnr),
        ("psnr_loss_original", loss::psnr_loss(prediction, target)?),
    ] {
        scalar(check, name, &loss)?;
        inputs.gradients(check, &format!("grad.{name}.in."), &loss)?;
    }
    Ok(())
}
