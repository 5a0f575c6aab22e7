//! Programs as WGSL: the text is valid on any machine; where there is a GPU, or what stands for one, kernels
//! compute what the engine for CPUs computes.
//!
//! The second needs the feature `wgpu`, and a driver: Mesa's lavapipe is one that runs on a CPU. Tests say so
//! where they found none; with `LNCA_WGPU=required` they fail.

#[cfg(feature = "wgpu")]
mod agreement;
#[cfg(feature = "wgpu")]
mod cases;
#[path = "../common/device.rs"]
mod device;
#[cfg(feature = "wgpu")]
mod golden;
#[cfg(feature = "wgpu")]
mod gpu;
mod page;
#[allow(dead_code)]
#[path = "../common/programs.rs"]
mod programs;
mod text;
