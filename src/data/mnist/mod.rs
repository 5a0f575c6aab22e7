//! Binary images, and the files of MNIST.

mod binary_images;
mod reader;

pub use binary_images::{BinaryImages, BinaryParts};
