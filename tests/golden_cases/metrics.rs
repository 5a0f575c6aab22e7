//! The case of the image metrics.

use candle_core::{DType, Tensor, Var};
use lnca::metric::{psnr, relative, ssim};

use super::case::Result;
use super::check::{Check, Grade, Limit, numbers};
use super::weights::value;
use crate::device::device;

pub fn ssim_psnr(check: &mut Check) -> Result<()> {
    window(check)?;
    for subcase in check.case.subcases() {
        check.enter(&subcase);
        let limit = match check.dtype {
            DType::F64 => Limit::relative(1e-9, 1.0),
            // The formula is ill-conditioned on flat images.
            _ if subcase.starts_with("constant") => Limit::relative(2e-3, 1.0),
            _ => Limit::relative(1e-4, 1.0),
        };
        match check.has("in.pred") {
            true => relative_metrics(check, limit)?,
            false => metrics(check, limit)?,
        }
    }
    Ok(())
}

fn metrics(check: &mut Check, limit: Limit) -> Result<()> {
    let (a, b) = (check.input("in.a")?, Var::from_tensor(&check.input("in.b")?)?);
    let similarity = ssim(&a, b.as_tensor())?;
    for (name, found) in [("out.ssim", &similarity), ("out.psnr", &psnr(&a, b.as_tensor())?)] {
        let expected = check.expected(name)?;
        check.compare(name, found, &expected, limit)?;
    }
    if check.has("grad.in.b") {
        let grads = similarity.mean_all()?.backward()?;
        let grad = grads.get(&b).ok_or("no gradient of the second image")?;
        check.gradient("grad.in.b", grad, Grade::Step)?;
    }
    Ok(())
}

fn relative_metrics(check: &mut Check, limit: Limit) -> Result<()> {
    let target = check.input("in.target")?;
    let (restored, corrupted) = (check.input("in.pred")?, check.input("in.corrupted")?);
    for (name, metric) in [("SSIM", ssim as fn(&_, &_) -> _), ("PSNR", psnr)] {
        let mean = |image: &Tensor| -> Result<f64> { value(&metric(image, &target)?.mean_all()?) };
        let (found, base) = (mean(&restored)?, mean(&corrupted)?);
        check.scalar(&format!("out.{name}"), found, limit)?;
        check.scalar(&format!("out.REL_{name}"), relative(found, base), limit)?;
    }
    Ok(())
}

/// The Gaussian window, which no function returns: the SSIM of a black image and one with a single
/// white pixel, each as large as the window, depends on the weight of that pixel alone.
fn window(check: &mut Check) -> Result<()> {
    let expected = check.expected("out.window")?;
    let (h, w) = expected.dims2()?;
    let pixels = Tensor::eye(h * w, DType::F64, &device())?.reshape((h * w, h, w, 1))?;
    let found = ssim(
        &pixels.to_dtype(check.dtype)?,
        &pixels.zeros_like()?.to_dtype(check.dtype)?,
    )?;
    let (c1, c2) = (constant(check, "k1")?, constant(check, "k2")?);
    let similarity = |w: f64| c1 / (w * w + c1) * c2 / (w - w * w + c2);
    let similarities: Vec<f64> = numbers(&expected)?.into_iter().map(similarity).collect();
    let similarities = Tensor::new(similarities, &device())?;
    check.compare(
        "out.window",
        &found,
        &similarities,
        Grade::Step.output(check.dtype),
    )
}

fn constant(check: &Check, name: &str) -> Result<f64> {
    let range = check.case.number("config.max_val")?;
    Ok((check.case.number(&format!("config.{name}"))? * range).powi(2))
}
