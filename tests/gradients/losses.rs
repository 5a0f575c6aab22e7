//! Losses and metrics, with respect to each image or grid of cells that they compare.

use candle_core::{DType, Tensor, Var};
use lnca::loss::{self, OverflowNorm, Term};
use lnca::metric::{psnr, ssim};
use lnca::{CellLayout, Result};

use crate::assert_gradients;
use crate::common::device::device;
use crate::common::{normal, values};

/// Checks a scalar of two images of one shape.
fn assert_pair(
    what: &str,
    shape: (usize, usize, usize, usize),
    scalar: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
) -> Result<()> {
    let image = |seed| Var::from_tensor(&(normal(seed, shape, DType::F64) * 0.5)?);
    let (a, b) = (image(1)?, image(2)?);
    let inputs = [("a".to_string(), a.clone()), ("b".to_string(), b.clone())];
    assert_gradients(what, &inputs, || scalar(&a, &b))
}

const SHAPE: (usize, usize, usize, usize) = (2, 3, 5, 3);

#[test]
fn distances() -> Result<()> {
    assert_pair("mse", SHAPE, loss::mse)?;
    assert_pair("mae", SHAPE, loss::mae)?;
    assert_pair("psnr_loss", SHAPE, loss::psnr_loss)?;
    let mask = normal(3, SHAPE, DType::F64).gt(0f64)?.to_dtype(DType::F64)?;
    assert_pair("masked_mse", SHAPE, |a, b| loss::masked_mse(a, b, &mask))
}

#[test]
fn hinge_of_latents_open_and_closed() -> Result<()> {
    let anchor = normal(4, SHAPE, DType::F64);
    assert_pair("dist", SHAPE, |p, n| loss::dist(&anchor, p, n, 1.0))?;
    assert_pair("dist of the anchor", SHAPE, |a, n| loss::dist(a, &anchor, n, 5.0))?;
    assert_pair("closed", SHAPE, |p, n| loss::dist(&anchor, p, n, -50.0))
}

#[test]
fn overflow_and_total_variation() -> Result<()> {
    for norm in [OverflowNorm::Elements, OverflowNorm::Channels] {
        assert_pair("overflow", SHAPE, |a, b| {
            Ok((loss::overflow(a, -0.2, 0.3, norm)? + loss::overflow(b, 0.0, 1.0, norm)?)?)
        })?;
    }
    let layout = CellLayout {
        input: 1,
        output: 1,
        hidden: 1,
    };
    assert_pair("cell overflow", SHAPE, |a, b| {
        let (out, hidden) = loss::cell_overflow(&layout, &(a * b)?, OverflowNorm::Elements)?;
        loss::total(&[Term::new("out", 1.0, out), Term::new("hidden", 3.0, hidden)])
    })?;
    assert_pair("total variation", SHAPE, loss::total_variation)
}

#[test]
fn metrics() -> Result<()> {
    let sum = |x: Tensor| -> Result<Tensor> { Ok((x * &Tensor::new(&[1f64, -0.3], &device())?)?.sum_all()?) };
    assert_pair("ssim", (2, 11, 12, 1), |a, b| sum(ssim(a, b)?))?;
    assert_pair("psnr", SHAPE, |a, b| sum(psnr(a, b)?))
}

#[test]
fn equal_images_have_finite_gradients() -> Result<()> {
    let a = Var::from_tensor(&normal(1, (1, 11, 11, 3), DType::F32))?;
    let same = a.as_detached_tensor();
    let losses = [
        loss::mse(&a, &same)?,
        loss::mae(&a, &same)?,
        loss::psnr_loss(&a, &same)?,
        loss::total_variation(&a, &same)?,
        loss::dist(&a, &same, &same, 0.0)?,
        ssim(&a, &same)?.sum_all()?,
    ];
    for (i, loss) in losses.iter().enumerate() {
        let grads = loss.backward()?;
        let grad = grads.get(&a).expect("a gradient");
        assert!(values(grad).iter().all(|value| value.is_finite()), "loss {i}");
    }
    // The gradient is 0 where nothing differs; that of Candle's own absolute value is not.
    let grads = loss::mae(&a, &same)?.backward()?;
    assert!(
        values(grads.get(&a).expect("a gradient"))
            .iter()
            .all(|&value| value == 0.0)
    );
    Ok(())
}

#[test]
fn styles() -> Result<()> {
    let target = normal(5, (1, 7, 3), DType::F64);
    let directions = loss::directions((3, 4), lnca::random::Key::new(1), DType::F64, &device())?;
    assert_pair("transport", (1, 2, 6, 3), |a, b| {
        let set = |x: &Tensor| x.flatten(1, 2);
        let sum = (loss::sliced_transport(&set(a)?, &target, &directions)? * 0.3)?;
        Ok((sum + loss::sliced_transport(&set(b)?, &target, &directions)?)?)
    })?;
    assert_pair("gram", (2, 2, 3, 3), |a, b| {
        let grams = lnca::metric::gram(&loss::compress(&a.flatten(1, 2)?.sqr()?)?)?;
        loss::gram_distance(&grams, &lnca::metric::gram(&b.narrow(0, 0, 1)?.flatten(1, 2)?)?)
    })?;
    let style = loss::PatchTransport::new(&normal(6, (9, 8, 3), DType::F64), 2, 3)?;
    assert_pair("patches", (1, 6, 5, 3), |a, b| {
        use loss::StyleLoss;
        Ok(
            (style.distance(a, lnca::random::Key::new(2))?
                + style.distance(b, lnca::random::Key::new(3))?)?,
        )
    })
}
