//! How much memory of a GPU is in use.

use candle_core::Device;
#[cfg(feature = "cuda")]
use candle_core::cuda_backend::cudarc::driver::{result, sys};

/// The most bytes of a GPU that tensors took at once since [`restart_peak_memory`]; `None` for other devices,
/// and where the driver does not say.
pub fn peak_memory(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            let mut peak = 0u64;
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
            let to = std::ptr::from_mut(&mut peak).cast();
            // SAFETY: the pool lives as long as its device, and this attribute is 64 bits, which `peak` has.
            unsafe { sys::cuMemPoolGetAttribute(pool(device)?, attribute, to) }
                .result()
                .ok()?;
            Some(peak)
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => None,
        Device::Cpu | Device::Metal(_) => None,
    }
}

/// Makes the peak that of the time from now on.
pub fn restart_peak_memory(device: &Device) {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            let mut none = 0u64;
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
            let Some(pool) = pool(device) else { return };
            // SAFETY: as above. Where it fails, the peak is one of a longer time.
            let _ =
                unsafe { sys::cuMemPoolSetAttribute(pool, attribute, std::ptr::from_mut(&mut none).cast()) };
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => {}
        Device::Cpu | Device::Metal(_) => {}
    }
}

/// The pool from which Candle takes memory.
#[cfg(feature = "cuda")]
fn pool(device: &candle_core::CudaDevice) -> Option<sys::CUmemoryPool> {
    let stream = device.cuda_stream();
    // SAFETY: the device is one that Candle has opened.
    unsafe { result::device::get_mem_pool(stream.context().cu_device()) }.ok()
}
