//! The grid and its cells: which channels they have, what lies beyond the border, which cells live, and what
//! is drawn at random for them.
//!
//! Nothing here knows a transition: this is the ground that programs, engines and rollouts stand on.

mod alive;
mod cells;
mod damage;
pub(crate) mod draws;
mod padding;
mod step;

pub use alive::AliveMask;
pub use cells::{CellLayout, OutputStart, doubled};
pub use damage::Damage;
pub use padding::Padding;
pub(crate) use padding::grid_dims;
pub use step::Step;
