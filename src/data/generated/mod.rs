//! Images drawn by code, which need no files, and targets of patterns.

mod dead_leaves;
mod digits;
mod growing_target;
mod texture_target;

pub use dead_leaves::dead_leaves;
pub(super) use digits::{DIGIT_SIDE, digit};
pub use growing_target::{Emblem, read_target};
pub use texture_target::{Swatch, read_swatch};
