//! Data sets of RGB images: loading, pairing, tiling and batches.

mod cifar;
mod dataset;
mod files;
#[cfg(feature = "datasets")]
mod hub;
mod loader;
mod pairs;
mod tiles;

pub use dataset::{Batch, Batches, Dataset};
pub use loader::{Kind, LoadReport, OpenOptions, Part, Progress};
pub use tiles::{TileCounts, TilePairs, Tiles};
