//! Evaluation: mean SSIM and PSNR of any function that restores batches of images.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::similarity::{psnr, relative, ssim};
use crate::data::Batches;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, check};

/// Mean metrics over test images, of the restored and of the corrupted images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Number of images.
    pub images: usize,
    /// SSIM of the restored images.
    pub ssim: f64,
    /// PSNR of the restored images in dB.
    pub psnr: f64,
    /// SSIM of the corrupted images.
    pub ssim_corrupted: f64,
    /// PSNR of the corrupted images in dB.
    pub psnr_corrupted: f64,
}

impl Scores {
    /// The gain in SSIM over the corrupted images, in percent.
    pub fn relative_ssim(&self) -> f64 {
        relative(self.ssim, self.ssim_corrupted)
    }

    /// The gain in PSNR over the corrupted images, in percent.
    pub fn relative_psnr(&self) -> f64 {
        relative(self.psnr, self.psnr_corrupted)
    }
}

/// Evaluates `restore` on all `batches`.
///
/// `restore` gets corrupted images (`[B, H, W, 3]`) and the number of the first of them, and returns the
/// restored images, which are not clamped.
///
/// # Errors
/// The errors of `restore`, [`Error::Shape`] for images smaller than the SSIM window, and [`Error::Config`]
/// if restored images hold NaN or infinities.
pub fn evaluate(
    batches: &Batches,
    device: &Device,
    mut restore: impl FnMut(&Tensor, usize) -> Result<Tensor>,
) -> Result<Scores> {
    let mut sums = [0.0; 4];
    let mut images = 0;
    for batch in batches.iter(device) {
        let batch = batch?;
        let restored = restore(&batch.corrupted, images)?;
        images += batch.clean.dim(0)?;
        check::finite_values("restored", &restored)?;
        let values = [
            ssim(&restored, &batch.clean)?,
            psnr(&restored, &batch.clean)?,
            ssim(&batch.corrupted, &batch.clean)?,
            psnr(&batch.corrupted, &batch.clean)?,
        ];
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value.sum_all()?.to_scalar::<f64>()?;
        }
    }
    let [ssim, psnr, ssim_corrupted, psnr_corrupted] = sums.map(|sum| sum / images.max(1) as f64);
    Ok(Scores {
        images,
        ssim,
        psnr,
        ssim_corrupted,
        psnr_corrupted,
    })
}
