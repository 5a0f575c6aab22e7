//! Loops over the channels and lanes of a band, each compiled for every kind of processor.
//!
//! Kernels know neither programs nor plans: they read views and write views.

pub(super) mod attention;
pub(super) mod compact;
pub(super) mod gemm;
pub(super) mod gemm_bf16;
pub(super) mod halo;
mod norm;
mod pointwise;
pub(super) mod stencil;

pub(super) use crate::ops::simd::{LANES, Size, View, ViewMut, arch, exp, map, map_back};
pub(super) use norm::{
    Norm, RmsNorm, inverse_rms, inverse_rms_back, norm, norm_back, rms_norm, rms_norm_back,
};
pub(super) use pointwise::{
    add_to, affine, copy, cut_off, dot_channels, dot_lanes, pass, product, sum, sum_lanes,
};
