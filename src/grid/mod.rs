//! The grid and its cells: their channels, the padding at the border, which cells are alive, and random draws
//! for cells.
//!
//! Nothing here depends on transitions; programs, engines and rollouts build on it.

mod alive;
mod cells;
mod damage;
pub(crate) mod draws;
mod padding;
mod step;

pub use alive::AliveMask;
pub(crate) use cells::sizes;
pub use cells::{CellLayout, OutputStart, doubled};
pub use damage::Damage;
pub use padding::Padding;
pub(crate) use padding::grid_dims;
pub use step::Step;
