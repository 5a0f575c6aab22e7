//! Data: images to read, resize, split, corrupt and batch.
//!
//! A [`Dataset`] holds square 8-bit images in memory. They come from a folder ([`Dataset::open`]), from a
//! generator ([`Dataset::dead_leaves`]) or from your own code ([`Dataset::new`]). [`BinaryImages`] hold MNIST
//! and similar data, for variational autoencoders. A [`Corruption`] is applied to clean images; pairs of
//! photographs have real damage. Every draw is a function of a [`Key`](crate::random::Key), so any batch of
//! any epoch can be reproduced.
//!
//! ```
//! use candle_core::Device;
//! use lnca::data::{Corruption, Dataset};
//! use lnca::random::Key;
//!
//! # fn main() -> lnca::Result<()> {
//! let parts = Dataset::dead_leaves(50, 32, 7)?.split(7)?;
//! let noise = Corruption::NOISE;
//! let epochs = 20;
//! for epoch in 0..2 {
//!     let difficulty = noise.curriculum().difficulty(epoch, epochs);
//!     let batches = parts.train.training_batches(epoch, 8, Some((noise, difficulty)), Key::new(7))?;
//!     for batch in batches.iter(&Device::Cpu) {
//!         assert_eq!(batch?.corrupted.dims(), [8, 32, 32, 3]);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod corrupt;
mod generated;
mod images;
mod mnist;
mod sampling;

pub use corrupt::{Corruption, Curriculum, MotionKernel, Rotation, masked_noise, motion_blur, motion_kernel};
pub use generated::{Emblem, Swatch, dead_leaves, read_swatch, read_target};
pub use images::{
    Batch, Batches, Dataset, Kind, LoadReport, OpenOptions, Part, Progress, TileCounts, TilePairs, Tiles,
};
pub use mnist::{BinaryImages, BinaryParts};
pub use sampling::{Split, derangement, shuffled, split};
