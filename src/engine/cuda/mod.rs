//! The engine for NVIDIA GPUs: a program becomes CUDA C, forwards and backwards.
//!
//! Kernels are generated here without a GPU or a compiler (`kernel_plan` decides,
//! `kernels.rs` writes; what all programs share is in `library/`). A [`Driver`] compiles and runs them: a GPU
//! with the feature `cuda` (`device.rs`, `compiler.rs`; `cache.rs` keeps what was compiled in files), or, in
//! the tests, a CPU.

mod adam;
#[cfg(any(test, feature = "cuda"))]
mod cache;
mod compiled;
#[cfg(feature = "cuda")]
mod compiler;
mod cost;
#[cfg(feature = "cuda")]
mod device;
mod driver;
mod expression;
mod kernels;
mod layout;
mod memory;
mod rollout;
mod sums;

use std::sync::{Arc, PoisonError, RwLock};

use super::kernel_plan::Room;

pub use adam::adam_source;
pub(crate) use adam::{AdamNumbers, AdamTensors, adam, fault, no_fault, runs_adam};
pub use compiled::sources;
pub use cost::{Cost, costs};
#[cfg(feature = "cuda")]
pub(super) use device::{Device, too_old};
pub use driver::{Buffer, Driver, Kernels, PTX, Source};
pub use layout::Args;
pub use memory::{peak_memory, restart_peak_memory};
pub(super) use rollout::{Inputs, Saved, backward, forward};

/// Every input of a product is in shared memory. 16 rows with all that comes with them fit in 99 KiB, which
/// every device has on which these kernels run.
const ROOM: Room = Room {
    floats: 1240,
    streamed: 0,
};

static EMULATOR: RwLock<Option<Arc<dyn Driver>>> = RwLock::new(None);

/// Runs rollouts of cells on the CPU with these kernels, by `driver`, whose addresses are those of memory of
/// this process.
pub fn emulate(driver: Arc<dyn Driver>) {
    *EMULATOR.write().unwrap_or_else(PoisonError::into_inner) = Some(driver);
}

/// What [`emulate`] was called with last.
pub(super) fn emulator() -> Option<Arc<dyn Driver>> {
    EMULATOR.read().unwrap_or_else(PoisonError::into_inner).clone()
}
