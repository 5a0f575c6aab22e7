//! Metrics: SSIM and PSNR of restored images, their means over a test set, and a distance of textures.

mod evaluate;
mod similarity;
mod texture;

pub use evaluate::{Scores, evaluate};
pub(crate) use similarity::similarity;
pub use similarity::{SSIM_WINDOW, psnr, relative, ssim};
pub use texture::{FilterBank, gram};
