//! Golden cases: reference inputs, weights, results and gradients that the library must reproduce.

mod autoencoder;
mod baseline;
mod case;
mod cells;
mod check;
mod data;
mod growing;
mod losses;
mod metrics;
mod texture;
mod train;
mod vnca;
mod weights;

use std::path::PathBuf;

use candle_core::DType::{self, F32, F64};

pub use case::{Case, Result, names};
pub use check::{Check, Worst};

/// Where the larger set of cases lies unless `LNCA_GOLDEN` says otherwise.
pub fn default_folder() -> PathBuf {
    crate::device::root().join("../shared/golden")
}

type Checker = fn(&mut Check) -> Result<()>;

/// What to do with a case, by its name.
pub enum Plan {
    /// Check it in each of these precisions.
    Check(Checker, &'static [DType]),
    /// There is no checker for such a case.
    Unknown,
}

/// Computed in the precision of its inputs.
const BOTH: &[DType] = &[F64, F32];
/// Computed in one precision whatever the inputs.
const ONE: &[DType] = &[F64];

pub fn plan(name: &str) -> Plan {
    let (checker, dtypes): (Checker, _) = match name {
        "positional_tables" => (cells::positional_tables, ONE),
        "vitca_step_block_pe"
        | "vitca_step_interleaved_pe"
        | "vitca_rollout5_block_pe"
        | "vitca_rollout5_interleaved_pe"
        | "vitca_paper_rgb"
        | "vitca_paper_latent" => (cells::vitca_case, BOTH),
        "nafca_step" | "nafca_rollout5" | "nafca_paper_latent" => (cells::nafca_case, BOTH),
        "adj_conv" => (autoencoder::adj_conv, BOTH),
        "adj_conv_transpose" => (autoencoder::adj_conv_transpose, BOTH),
        "ae_down2_eval" | "ae_down2_train" | "ae_down3_eval" => (autoencoder::autoencoder, BOTH),
        "lnca_forward_vitca" => (autoencoder::lnca_forward_vitca, BOTH),
        "lnca_forward_nafca" => (autoencoder::lnca_forward_nafca, BOTH),
        "losses_autoencoder" => (losses::autoencoder, BOTH),
        "losses_latent_nca" => (losses::latent_nca, BOTH),
        "losses_rgb_models" => (losses::rgb_models, BOTH),
        "ssim_psnr" => (metrics::ssim_psnr, BOTH),
        "noise_corruption" => (data::noise_corruption, BOTH),
        "motion_blur" => (data::motion, BOTH),
        "lanczos_resize" => (data::lanczos, ONE),
        "curriculum" => (data::curriculum, ONE),
        "adam_cosine_normalised" => (train::adam, BOTH),
        "train_autoencoder" => (train::train_autoencoder, BOTH),
        "train_latent_vitca" => (train::train_latent_vitca, BOTH),
        "train_latent_nafca" => (train::train_latent_nafca, BOTH),
        "train_vitca" => (train::train_vitca, BOTH),
        "growing_perceive" => (growing::perceive, BOTH),
        "growing_train" => (train::growing_train, BOTH),
        "growing_batch_prep" => (growing::batch_prep, BOTH),
        _ if name.starts_with("nafnet") => (baseline::nafnet, BOTH),
        _ if name.starts_with("restormer") => (baseline::restormer, BOTH),
        _ if name.starts_with("growing_step_") => (growing::step, BOTH),
        _ if name.starts_with("growing_rollout") => (growing::rollout_case, BOTH),
        _ if name.starts_with("growing_trained_") => (growing::trained, BOTH),
        "texture_perceive" => (texture::perceive, BOTH),
        "texture_tf_qat" => (texture::quantised, BOTH),
        "texture_gram_loss" => (texture::gram_loss, BOTH),
        "texture_sliced_ot" => (texture::transport, BOTH),
        "texture_train" => (texture::train, BOTH),
        "texture_trained_masks" => (texture::masks, ONE),
        _ if name.starts_with("texture_step") => (texture::rollout, BOTH),
        _ if name.starts_with("texture_rollout") => (texture::rollout, BOTH),
        _ if name.starts_with("texture_trained_") => (texture::trained, BOTH),
        "vnca_elbo" => (vnca::bounds, BOTH),
        "vnca_train" => (vnca::train, BOTH),
        _ if name.starts_with("vnca_step") => (vnca::step, BOTH),
        _ if name.starts_with("vnca_doubling") => (vnca::doubling, BOTH),
        _ if name.starts_with("vnca_nondoubling") => (vnca::broadcast, BOTH),
        _ if name.starts_with("vnca_encoder") => (vnca::encoder, BOTH),
        _ if name.starts_with("vnca_baseline") => (vnca::baseline, BOTH),
        _ if name.starts_with("vnca_full") => (vnca::full, BOTH),
        _ => return Plan::Unknown,
    };
    Plan::Check(checker, dtypes)
}
