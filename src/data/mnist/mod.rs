//! Binary images, and the reader of MNIST's files.

mod binary_images;
mod reader;

pub use binary_images::{BinaryImages, BinaryParts};
