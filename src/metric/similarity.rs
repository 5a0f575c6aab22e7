//! SSIM and PSNR, per image and differentiable.

use candle_core::{D, DType, Tensor};

use crate::error::{Error, Result, check};
use crate::ops::matmul;

/// Side of the Gaussian window of SSIM, and of the smallest image it accepts.
pub const SSIM_WINDOW: usize = 11;
const SSIM_SIGMA: f64 = 1.5;
const C1: f64 = 0.01 * 0.01;
const C2: f64 = 0.03 * 0.03;

/// The structural similarity (SSIM) of each pair of images: two `[B, H, W, C]` to `[B]`, f64.
///
/// Images are in `[0, 1]`, at least 11x11, and not clamped. Windows are Gaussian (sigma 1.5, 11x11) and lie
/// inside the image; the value is the mean over windows, then channels. It is computed in f64, since its
/// differences of squares cancel in f32. Source: Wang et al. 2004, as in TensorFlow's `tf.image.ssim`.
///
/// # Errors
/// [`Error::Shape`] if the images differ in shape or are smaller than the window; [`Error::DType`] unless
/// they hold floating-point numbers, [`Error::Config`] if they hold NaN or infinities.
pub fn ssim(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    pair(a, b)?;
    check::finite_values("a", a)?;
    check::finite_values("b", b)?;
    similarity(a, b)
}

/// [`ssim`] of images that may hold NaN: what is not finite is for the caller to tell.
pub(crate) fn similarity(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (_, h, w, _) = pair(a, b)?;
    if h < SSIM_WINDOW || w < SSIM_WINDOW {
        return Err(Error::shape(
            "a",
            "[B, H, W, C] with sides of 11 or more",
            a.dims(),
        ));
    }
    let planes =
        |x: &Tensor| -> Result<Tensor> { Ok(x.to_dtype(DType::F64)?.permute((0, 3, 1, 2))?.contiguous()?) };
    let (a, b) = (planes(a)?, planes(b)?);
    // All four moments in one filter pass.
    let squares = (a.sqr()? + b.sqr()?)?;
    let moments = window_means(&Tensor::stack(&[&a, &b, &squares, &(&a * &b)?], 0)?)?;
    let [a, b, squares, product] = [0, 1, 2, 3].map(|moment| moments.get(moment));
    let (a, b) = (a?, b?);
    let (means, mean_squares) = ((&a * &b)?, (a.sqr()? + b.sqr()?)?);
    let luminance = ((&means * 2.0)? + C1)?.div(&(&mean_squares + C1)?)?;
    let covariance = (((product? - means)? * 2.0)? + C2)?;
    let variance = ((squares? - mean_squares)? + C2)?;
    let similarity = (luminance * covariance.div(&variance)?)?;
    Ok(similarity.flatten_from(1)?.mean(D::Minus1)?)
}

/// The peak signal-to-noise ratio (PSNR) of each pair of images in dB: two `[B, H, W, C]` to `[B]`, f64.
///
/// `-10 log10(mse)` for images in `[0, 1]`, not clamped; plus infinity for identical images.
///
/// # Errors
/// [`Error::Shape`] if the images differ in shape; [`Error::DType`] unless they hold floating-point numbers,
/// [`Error::Config`] if they hold NaN or infinities.
pub fn psnr(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    pair(a, b)?;
    check::finite_values("a", a)?;
    check::finite_values("b", b)?;
    let difference = (a.to_dtype(DType::F64)? - b.to_dtype(DType::F64)?)?;
    let mse = difference.sqr()?.flatten_from(1)?.mean(D::Minus1)?;
    Ok((mse.log()? * (-10.0 / std::f64::consts::LN_10))?)
}

/// The gain of a metric over its value for the corrupted input, in percent: `100 (metric - base + 1e-8) /
/// (base + 1e-8)`.
pub fn relative(metric: f64, base: f64) -> f64 {
    100.0 * (metric - base + 1e-8) / (base + 1e-8)
}

/// The weights of the SSIM window along one axis. The window is their outer product and sums to 1.
fn window() -> [f64; SSIM_WINDOW] {
    let centre = (SSIM_WINDOW / 2) as f64;
    let mut weights =
        std::array::from_fn(|i| (-(i as f64 - centre).powi(2) / (2.0 * SSIM_SIGMA.powi(2))).exp());
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
    weights
}

/// Means of planes `x` (`[.., H, W]`, f64) over the window at every position inside: `[.., W - 10, H - 10]`.
fn window_means(x: &Tensor) -> Result<Tensor> {
    // The window is separable: for each axis one product with a banded matrix, then a transposition.
    let mut means = x.clone();
    for _ in 0..2 {
        let side = means.dim(D::Minus1)?;
        let (mut shape, places) = (means.dims().to_vec(), side + 1 - SSIM_WINDOW);
        let mut slide = vec![0.0; side * places];
        for place in 0..places {
            for (i, weight) in window().into_iter().enumerate() {
                slide[(place + i) * places + place] = weight;
            }
        }
        let slide = Tensor::from_vec(slide, (side, places), x.device())?;
        shape[means.rank() - 1] = places;
        let flat = means.reshape((means.elem_count() / side, side))?;
        means = matmul(&flat, &slide)?
            .reshape(shape)?
            .transpose(D::Minus1, D::Minus2)?
            .contiguous()?;
    }
    Ok(means)
}

fn pair(a: &Tensor, b: &Tensor) -> Result<(usize, usize, usize, usize)> {
    check::float("a", a)?;
    check::float("b", b)?;
    check::on_device("b", b, "`a`", a.device())?;
    match *a.dims() {
        [n, h, w, c] if a.elem_count() > 0 && a.dims() == b.dims() => Ok((n, h, w, c)),
        [_, _, _, _] if a.elem_count() > 0 => {
            Err(Error::shape("b", format!("{:?}, as `a`", a.dims()), b.dims()))
        }
        _ => Err(Error::shape("a", "[B, H, W, C] with no empty axis", a.dims())),
    }
}
