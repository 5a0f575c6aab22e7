//! The peers a cellular automaton is measured against.

mod classical;

pub use classical::ClassicalFilter;
