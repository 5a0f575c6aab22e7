//! Operations over cells that Candle lacks, or whose gradients it drops or computes slowly.
//!
//! Each has a gradient and works on any device and number type; where it pays there is a fast path for CPUs.

mod activation;
mod channels;
pub(crate) mod convolution;
mod depthwise;
mod function;
mod gather_sums;
mod neighbours;
mod product;
pub(crate) mod rows;
pub(crate) mod simd;

pub(crate) use activation::{activate, replace};
pub(crate) use channels::{add_channels, gelu, last_axis, scale_channels, scale_parts};
pub(crate) use depthwise::depthwise;
pub use function::Function;
pub(crate) use gather_sums::{gather, gather_sums};
pub use neighbours::neighbourhood;
pub(crate) use neighbours::{neighbours, stencil, sum_taps};
pub(crate) use product::matmul;
