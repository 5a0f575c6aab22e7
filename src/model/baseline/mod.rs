//! Baselines to compare cellular automata with: classical filters, and restoration networks.

mod classical;
mod layers;
mod nafnet;
mod network;
mod restormer;

pub use classical::ClassicalFilter;
pub use nafnet::{NafNet, NafNetConfig};
pub use network::Network;
pub use restormer::{Restormer, RestormerConfig};
