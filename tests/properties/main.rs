//! Properties that must hold for all weights, images and seeds.

mod bad_arguments;
#[path = "../common/mod.rs"]
mod common;
mod files;
mod networks;
mod patterns;
mod restoring;
mod rollouts;
mod symmetry;
mod threads;
mod variational;
mod weights;
