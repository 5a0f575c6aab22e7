//! Binary images, and the reader of MNIST's files.

mod binary_images;
mod matching;
mod reader;

pub use binary_images::{BinaryImages, BinaryParts};
