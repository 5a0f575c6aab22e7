//! Peak memory, of this process or of the GPU.

use candle_core::Device;

use lnca_examples::Result;

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
pub enum Meter {
    /// Of this process.
    Process,
    /// Of the GPU, as its driver tells it.
    #[cfg(feature = "cuda")]
    Gpu(gpu::Meter),
}

impl Meter {
    pub fn start(device: &Device) -> Result<Self> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => Ok(Self::Gpu(gpu::Meter::start(device)?)),
            _ => Ok(Self::Process),
        }
    }

    /// The peak in MiB.
    pub fn peak_mb(self) -> f64 {
        match self {
            Self::Process => of_process(),
            #[cfg(feature = "cuda")]
            Self::Gpu(meter) => meter.peak_mb(),
        }
    }
}

#[cfg(feature = "cuda")]
mod gpu {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread::{self, JoinHandle};
    use std::time::Duration;

    use candle_core::CudaDevice;
    use candle_core::cuda_backend::cudarc::driver::CudaContext;

    use super::Result;

    /// A thread that asks the driver every millisecond how much memory is in use.
    pub struct Meter {
        peak: Arc<AtomicUsize>,
        done: Arc<AtomicBool>,
        thread: JoinHandle<()>,
    }

    fn used(context: &CudaContext) -> Option<usize> {
        let (free, total) = context.mem_get_info().ok()?;
        Some(total - free)
    }

    impl Meter {
        pub fn start(device: &CudaDevice) -> Result<Self> {
            let context = device.cuda_stream().context().clone();
            context.bind_to_thread().map_err(|error| error.to_string())?;
            let before = used(&context).ok_or("the driver does not say how much memory is free")?;
            let (peak, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
            let (highest, stop) = (peak.clone(), done.clone());
            let thread = thread::spawn(move || {
                if context.bind_to_thread().is_err() {
                    return;
                }
                while !stop.load(Ordering::Relaxed) {
                    let now = used(&context).unwrap_or(before).saturating_sub(before);
                    highest.fetch_max(now, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                }
            });
            Ok(Self { peak, done, thread })
        }

        pub fn peak_mb(self) -> f64 {
            self.done.store(true, Ordering::Relaxed);
            // If the thread failed, the peak so far is still there.
            let _ = self.thread.join();
            self.peak.load(Ordering::Relaxed) as f64 / (1 << 20) as f64
        }
    }
}
