//! Files: pictures, animations, pages for a browser, and tensors with a description. Every file is written
//! whole or not at all.

mod animation;
mod atomic;
pub(crate) mod card;
mod litter;
pub(crate) mod page;
mod photograph;
mod picture;
mod render;
mod resize;
pub mod safetensors;
mod whole;

pub use animation::Animation;
pub use atomic::write_atomic;
pub(crate) use litter::is_litter;
pub use page::{Page, Start, View};
pub use photograph::Photograph;
pub(crate) use picture::decode;
#[cfg(test)]
pub(crate) use picture::tests as picture_tests;
pub use picture::{Picture, ResizeMode, write_png};
pub use render::{Background, enlarged, pictures, sheet, unskewed};
pub use resize::lanczos_resize;
pub(crate) use whole::read_whole;
