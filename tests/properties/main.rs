//! Properties that must hold for all weights, images and seeds.

mod bad_arguments;
#[path = "../common/mod.rs"]
mod common;
mod files;
mod networks;
mod patterns;
mod refusals;
mod restoring;
mod rollouts;
mod settings;
mod sizes;
mod symmetry;
mod threads;
mod values;
mod variational;
mod weights;
