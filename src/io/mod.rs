//! Files: pictures and animations, tensors with a card; written whole or not at all.

mod picture;
mod render;
mod resize;
pub mod safetensors;

pub(crate) use picture::decode;
#[cfg(test)]
pub(crate) use picture::tests as picture_tests;
pub use picture::{Picture, ResizeMode};
pub use render::{Animation, Background, enlarged, pictures, sheet, unskewed, write_png};
pub use resize::lanczos_resize;
