//! The kernels for GPUs, run on a CPU: they compute what plain operations do.

#[path = "../common/device.rs"]
mod device;
#[path = "../common/programs.rs"]
mod programs;

mod adam;
mod agreement;
mod compare;
mod costs;
mod exactness;
mod nvrtc;
mod transitions;

use std::sync::{Arc, OnceLock};

use device::emulator;

/// Makes rollouts run on emulated kernels; false, and says why, if that is not possible.
fn emulate() -> bool {
    static READY: OnceLock<bool> = OnceLock::new();
    *READY.get_or_init(|| match emulator::compiler() {
        Ok(()) => {
            lnca::cuda::emulate(Arc::new(emulator::Emulator::default()));
            true
        }
        Err(why) => {
            eprintln!("skipped: {why}");
            false
        }
    })
}
