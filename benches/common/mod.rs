//! The device of all benchmarks, which the variable `LNCA_BENCH_DEVICE` names: `cpu`, `cuda` or `cuda:N`.

use std::sync::OnceLock;

use candle_core::Device;
use lnca::DeviceName;

/// The device: the CPU unless the variable says otherwise.
///
/// # Panics
/// If the variable names no device that can be had.
pub fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| {
        let name = std::env::var("LNCA_BENCH_DEVICE").unwrap_or("cpu".into());
        let opened = name.parse().and_then(DeviceName::open);
        opened.unwrap_or_else(|error| panic!("LNCA_BENCH_DEVICE: {error}"))
    })
}

/// What `work` returns, once the device has done it: a GPU works on after the call.
pub fn done<T>(work: lnca::Result<T>) -> T {
    let value = work.unwrap();
    device().synchronize().unwrap();
    value
}
