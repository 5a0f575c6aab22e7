//! Synthetic corruptions and the curricula of their difficulty.

mod corruption;
mod curriculum;
mod motion_blur;

pub use corruption::{Corruption, masked_noise};
pub use curriculum::Curriculum;
pub use motion_blur::{MotionKernel, Rotation, motion_blur, motion_kernel};
