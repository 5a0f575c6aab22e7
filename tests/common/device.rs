//! The device that tests run on, which the variable `LNCA_TEST_DEVICE` names.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use candle_core::Device;
use lnca::DeviceName;

#[path = "emulator.rs"]
pub mod emulator;

/// Where tensors lie and what runs rollouts.
#[derive(Clone)]
struct Chosen {
    device: Device,
    is_emulated: bool,
}

/// The device of all tensors: the CPU unless `LNCA_TEST_DEVICE` says otherwise. With `emulated`, rollouts of
/// f32 cells run on the kernels for GPUs, emulated on the CPU.
///
/// # Panics
/// If [`check`] fails.
pub fn device() -> Device {
    chosen().unwrap_or_else(|error| panic!("{error}")).device
}

/// The folder of the repository: that of the build, or, elsewhere, what the variable `LNCA_ROOT` names.
#[allow(dead_code)]
pub fn root() -> PathBuf {
    std::env::var_os("LNCA_ROOT").map_or(PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// Whether the engine for CPUs runs rollouts: for tests of what it alone has.
#[allow(dead_code)]
pub fn is_cpu() -> bool {
    let chosen = chosen().unwrap_or_else(|error| panic!("{error}"));
    chosen.device.is_cpu() && !chosen.is_emulated
}

/// Whether `LNCA_TEST_DEVICE` names a device that can be had, or why not.
#[allow(dead_code)]
pub fn check() -> Result<(), String> {
    chosen().map(|_| ())
}

fn chosen() -> Result<Chosen, String> {
    static CHOSEN: OnceLock<Result<Chosen, String>> = OnceLock::new();
    let named = || match std::env::var("LNCA_TEST_DEVICE") {
        Ok(name) => choose(&name),
        Err(std::env::VarError::NotPresent) => choose("cpu"),
        Err(error) => Err(format!("LNCA_TEST_DEVICE: {error}")),
    };
    CHOSEN.get_or_init(named).clone()
}

fn choose(name: &str) -> Result<Chosen, String> {
    if name == "emulated" {
        emulator::compiler().map_err(|why| format!("LNCA_TEST_DEVICE is `{name}`: {why}"))?;
        lnca::cuda::emulate(Arc::new(emulator::Emulator::default()));
        return Ok(Chosen {
            device: Device::Cpu,
            is_emulated: true,
        });
    }
    let device = name.parse().and_then(DeviceName::open);
    Ok(Chosen {
        device: device.map_err(|error| format!("LNCA_TEST_DEVICE is `{name}`, or `emulated`: {error}"))?,
        is_emulated: false,
    })
}
