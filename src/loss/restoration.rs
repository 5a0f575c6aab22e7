//! Losses of restored images, and of the autoencoder around a latent NCA.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::overflow::{OverflowNorm, cell_overflow};
use super::term::Term;
use crate::error::{Error, Result, check};
use crate::grid::CellLayout;
use crate::metric::similarity;
use crate::ops::replace;

/// The distance between restored and clean images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distance {
    /// The mean of squared differences.
    #[default]
    Mse,
    /// The mean of absolute differences.
    Mae,
    /// The mean over images of `ln(MSE + 1e-5)`: a gain of one decibel counts the same in an image with
    /// little damage and in one with much. Up to a factor, minus the PSNR, flat above 50 dB.
    LogMse,
}

/// The loss of an NCA that restores images: the weights of its terms. The defaults are published for the
/// latent models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestorationLoss {
    /// REC, the distance of restored and clean images: 100.
    pub rec: f64,
    /// The distance of REC: squared.
    pub distance: Distance,
    /// LAT, the MSE of the output channels and the latent of the clean image: 100.
    pub lat: f64,
    /// OVER of the output channels: 1.
    pub over_out: f64,
    /// OVER of the hidden channels: 1.
    pub over_hid: f64,
    /// One minus the SSIM of the restored images: 0.
    pub ssim: f64,
    /// Total variation of the restored images: 0.
    pub tv: f64,
    /// What divides OVER: all elements.
    pub overflow_norm: OverflowNorm,
}

impl Default for RestorationLoss {
    fn default() -> Self {
        Self {
            rec: 100.0,
            distance: Distance::Mse,
            lat: 100.0,
            over_out: 1.0,
            over_hid: 1.0,
            ssim: 0.0,
            tv: 0.0,
            overflow_norm: OverflowNorm::Elements,
        }
    }
}

impl RestorationLoss {
    /// The weights published for ViTCA on pixels: 100 for REC (absolute) and for both OVER.
    pub fn vitca() -> Self {
        Self {
            distance: Distance::Mae,
            lat: 0.0,
            over_out: 100.0,
            over_hid: 100.0,
            ..Self::default()
        }
    }

    /// An error unless all weights are finite, 0 or more, and not all of them 0.
    pub(crate) fn check(&self) -> Result<()> {
        let weights = [
            ("rec", self.rec),
            ("lat", self.lat),
            ("over_out", self.over_out),
            ("over_hid", self.over_hid),
            ("ssim", self.ssim),
            ("tv", self.tv),
        ];
        for (name, weight) in weights {
            check::not_negative(name, weight)?;
        }
        match weights.iter().any(|(_, weight)| *weight > 0.0) {
            true => Ok(()),
            false => Err(Error::config("loss", "a term with a weight above 0", "none")),
        }
    }

    /// The terms with non-zero weights, for `cells` that show `restored` images, given `clean` ones. `target`
    /// returns the target of the output channels; it is called only if LAT is in use.
    pub fn terms(
        &self,
        layout: &CellLayout,
        cells: &Tensor,
        (restored, clean): (&Tensor, &Tensor),
        target: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Vec<Term>> {
        let mut terms = Vec::new();
        if self.rec != 0.0 {
            let rec = match self.distance {
                Distance::Mse => mse(restored, clean)?,
                Distance::Mae => mae(restored, clean)?,
                Distance::LogMse => log_mse(restored, clean, 1e-5)?,
            };
            terms.push(Term::new("rec", self.rec, rec));
        }
        if self.lat != 0.0 {
            terms.push(Term::new(
                "lat",
                self.lat,
                mse(&layout.output(cells)?, &target()?)?,
            ));
        }
        if self.over_out != 0.0 || self.over_hid != 0.0 {
            let (output, hidden) = cell_overflow(layout, cells, self.overflow_norm)?;
            terms.push(Term::new("over_out", self.over_out, output));
            terms.push(Term::new("over_hid", self.over_hid, hidden));
        }
        if self.ssim != 0.0 {
            let likeness = similarity(restored, clean)?
                .mean_all()?
                .to_dtype(restored.dtype())?;
            terms.push(Term::new("ssim", self.ssim, (1.0 - likeness)?));
        }
        if self.tv != 0.0 {
            terms.push(Term::new("tv", self.tv, total_variation(restored, clean)?));
        }
        Ok(terms)
    }
}

/// The mean of squared differences over all elements: REC, LAT.
pub fn mse(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    same_shape(a, b)?;
    Ok((a - b)?.sqr()?.mean_all()?)
}

/// The mean of absolute differences over all elements: REC of ViTCA and Restormer.
pub fn mae(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    same_shape(a, b)?;
    Ok(magnitude(&(a - b)?)?.mean_all()?)
}

/// DIST: `max(0, MSE(anchor, positive) - MSE(anchor, negative) + margin)`, one hinge for the whole batch.
pub fn dist(anchor: &Tensor, positive: &Tensor, negative: &Tensor, margin: f64) -> Result<Tensor> {
    let gap = ((mse(anchor, positive)? - mse(anchor, negative)?)? + margin)?;
    // Not Candle's ReLU, which makes 0 of NaN.
    Ok(replace(&gap, &gap.lt(0.0)?, 0.0)?)
}

/// The mask m of TASK and EQ: 1 where clean and corrupted values differ, element by element.
pub fn corruption_mask(clean: &Tensor, corrupted: &Tensor) -> Result<Tensor> {
    same_shape(clean, corrupted)?;
    Ok(clean.ne(corrupted)?.to_dtype(clean.dtype())?)
}

/// TASK, and each half of EQ: the MSE of `a` and `b` where `mask` is 1, divided by all elements.
pub fn masked_mse(a: &Tensor, b: &Tensor, mask: &Tensor) -> Result<Tensor> {
    same_shape(a, mask)?;
    mse(&(a * mask)?, &(b * mask)?)
}

/// Edge-aware total variation of `image`, with edges from `clean` (both `[B, H, W, C]`).
///
/// With s the sum over channels, zero-padded by one on both sides of an axis, and g its differences:
/// the mean over the batch of `sum exp(-|g(clean)|) |g(image)|`, added over both axes.
pub fn total_variation(image: &Tensor, clean: &Tensor) -> Result<Tensor> {
    same_shape(image, clean)?;
    let gradient = |x: &Tensor, axis: usize| -> Result<Tensor> {
        let x = x.sum(3)?.pad_with_zeros(axis, 1, 1)?;
        let len = x.dim(axis)? - 1;
        magnitude(&(x.narrow(axis, 1, len)? - x.narrow(axis, 0, len)?)?)
    };
    let along = |axis: usize| -> Result<Tensor> {
        let edges = gradient(clean, axis)?.neg()?.exp()?;
        Ok((edges * gradient(image, axis)?)?.sum_all()?)
    };
    Ok(((along(1)? + along(2)?)? / image.dim(0)? as f64)?)
}

/// The loss of NAFNet: the mean over images of `10 / ln 10 * ln(mse + 1e-8)`, a negative PSNR that stays
/// finite.
pub fn psnr_loss(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok((log_mse(a, b, 1e-8)? * (10.0 / std::f64::consts::LN_10))?)
}

/// The mean over images of `ln(MSE + least)`.
fn log_mse(a: &Tensor, b: &Tensor, least: f64) -> Result<Tensor> {
    same_shape(a, b)?;
    let each = (a - b)?.sqr()?.flatten_from(1)?.mean(1)?;
    Ok((each + least)?.log()?.mean_all()?)
}

/// `|x|` with gradient 0 at 0, where Candle's own has 1.
fn magnitude(x: &Tensor) -> Result<Tensor> {
    Ok((x * x.sign()?)?)
}

fn same_shape(a: &Tensor, b: &Tensor) -> Result<()> {
    check::float("a", a)?;
    check::as_other("b", b, "`a`", a)?;
    match a.dims() == b.dims() {
        true => Ok(()),
        false => Err(Error::shape("b", format!("{:?}, as `a`", a.dims()), b.dims())),
    }
}
