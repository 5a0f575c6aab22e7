//! Peak memory, of this process or of the GPU.

use candle_core::Device;

use lnca::cuda;

/// Free memory of the system in MiB, where Linux tells it.
pub fn available() -> Option<f64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes / 1024.0)
}

/// Peak memory of this process in MiB, as Linux tells it; 0 elsewhere.
fn of_process() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1024.0
}

/// Measures the peak memory since it was started.
pub struct Meter(Device);

impl Meter {
    /// A meter of this process, or of what tensors take of a GPU.
    pub fn start(device: &Device) -> Self {
        cuda::restart_peak_memory(device);
        Self(device.clone())
    }

    /// The peak in MiB.
    pub fn peak_mb(self) -> f64 {
        match cuda::peak_memory(&self.0) {
            Some(bytes) => bytes as f64 / (1 << 20) as f64,
            None => of_process(),
        }
    }
}
