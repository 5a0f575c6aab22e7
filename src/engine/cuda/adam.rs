//! An update by Adam as three kernels, for any number of weights, without a copy to the host.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Tensor};

use super::driver::{Driver, Source};
use super::emulator;
use super::layout::Args;
use crate::error::Result;

/// Numbers of a weight that a block takes.
const PIECE: usize = 1 << 14;
/// Bytes of shared memory of `squares`: a double of each thread.
const SHARED: usize = 256 * size_of::<f64>();

/// A weight and its moments, which change in place, and its gradient.
pub(crate) struct AdamTensors<'a> {
    pub values: &'a Tensor,
    pub mean: &'a Tensor,
    pub square: &'a Tensor,
    pub gradient: &'a Tensor,
}

/// The numbers of an update. The names are those of [`AdamConfig`](crate::train::AdamConfig).
pub(crate) struct AdamNumbers {
    pub beta1: f64,
    pub beta2: f64,
    /// Learning rate and eps, corrected for the bias of the moments.
    pub rate: f64,
    pub eps: f64,
    pub normalise: bool,
    pub clip: Option<f64>,
    pub update: usize,
}

/// The first gradient whose norm was not finite.
pub(crate) struct AdamFault {
    /// The place of its weight in the update.
    pub weight: usize,
    pub norm: f64,
    pub update: usize,
}

/// The kernels as CUDA C.
pub fn adam_source() -> Source {
    Source::new(include_str!("library/adam.cu").into())
}

/// Whether an update of `tensors` runs on these kernels.
pub(crate) fn runs_adam<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> bool {
    let mut tensors = tensors.into_iter();
    tensors.all(|x| x.dtype() == DType::F32 && x.is_contiguous() && has_kernels(x.device()))
}

fn has_kernels(device: &Device) -> bool {
    match device {
        Device::Cpu => emulator().is_some(),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => super::too_old(device).is_none(),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => false,
        Device::Metal(_) => false,
    }
}

fn driver(device: &Device) -> Result<Arc<dyn Driver>> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return Ok(Arc::new(super::Device::new(device)?));
    }
    let none = || candle_core::Error::msg(format!("no kernels run on {:?}", device.location()));
    Ok(emulator().ok_or_else(none)?)
}

/// A place for the first fault, which says that there is none.
pub(crate) fn no_fault(device: &Device) -> Result<Tensor> {
    Ok(Tensor::zeros(4, DType::U32, device)?)
}

/// Reads the first fault, which makes a GPU wait.
pub(crate) fn fault(place: &Tensor) -> Result<Option<AdamFault>> {
    let [found, weight, is_nan, update] = place.to_vec1::<u32>()?[..] else {
        return Ok(None);
    };
    Ok((found != 0).then_some(AdamFault {
        weight: weight as usize,
        norm: if is_nan == 0 { f64::INFINITY } else { f64::NAN },
        update: update as usize,
    }))
}

/// One update. Where the norm of a gradient is not finite, that is noted in `fault`, and nothing changes, now
/// and in later updates.
pub(crate) fn adam(weights: &[AdamTensors], fault: &Tensor, numbers: &AdamNumbers) -> Result<()> {
    let driver = driver(fault.device())?;
    let blocks_of = |weight: &AdamTensors| weight.values.elem_count().div_ceil(PIECE);
    let mut table = header(numbers, weights.len());
    let first_weight = table.len();
    let mut blocks = 0;
    for weight in weights {
        for tensor in [weight.values, weight.mean, weight.square, weight.gradient] {
            table.extend(address(tensor)?.to_ne_bytes());
        }
        table.extend((weight.values.elem_count() as u64).to_ne_bytes());
        let own = blocks_of(weight);
        table.extend([blocks as i32, own as i32].into_iter().flat_map(i32::to_ne_bytes));
        blocks += own;
    }
    let place = driver.alloc(table.len())?;
    driver.upload(&table, &place)?;
    let norms = driver.alloc((weights.len() + 1) * size_of::<f64>())?;
    let partial = driver.alloc(blocks.max(1) * size_of::<f64>())?;
    let args = Args {
        draw: place.address,
        weights: place.address + first_weight as u64,
        alive: address(fault)?,
        scratch: norms.address,
        partial: partial.address,
        ..Args::default()
    };
    let kernels = driver.load(&adam_source())?;
    kernels.launch("squares", blocks, SHARED, &args)?;
    kernels.launch("norms", 1, 0, &args)?;
    kernels.launch("change", blocks, 0, &args)
}

/// The counterpart of `Update`.
fn header(numbers: &AdamNumbers, weights: usize) -> Vec<u8> {
    let AdamNumbers { beta1, beta2, .. } = *numbers;
    let clip = numbers.clip.filter(|_| !numbers.normalise).unwrap_or(0.0);
    let floats = [
        beta1,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        numbers.rate,
        numbers.eps,
        clip,
    ];
    let mut bytes: Vec<u8> = floats.iter().flat_map(|&x| (x as f32).to_ne_bytes()).collect();
    let words = [i32::from(numbers.normalise), weights as i32];
    bytes.extend(words.into_iter().flat_map(i32::to_ne_bytes));
    bytes.extend((numbers.update as u32).to_ne_bytes());
    bytes
}

/// Where the values of a tensor begin.
fn address(x: &Tensor) -> Result<u64> {
    let place = Place(AtomicU64::new(0));
    x.inplace_op1(&place)?;
    Ok(place.0.into_inner())
}

/// Looks up an address, and changes nothing: an operation in place is how Candle gives access to write.
struct Place(AtomicU64);

impl Place {
    fn note(&self, start: u64, layout: &Layout) {
        // Of f32 and u32 alike.
        let address = start + (layout.start_offset() * size_of::<f32>()) as u64;
        self.0.store(address, Ordering::Relaxed);
    }
}

impl InplaceOp1 for Place {
    fn name(&self) -> &'static str {
        "address"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let start = if let CpuStorage::F32(values) = storage {
            values.as_mut_ptr() as u64
        } else if let CpuStorage::U32(values) = storage {
            values.as_mut_ptr() as u64
        } else {
            candle_core::bail!("kernels of Adam are for f32")
        };
        self.note(start, layout);
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        use candle_core::backend::BackendStorage;
        use candle_core::cuda_backend::cudarc::driver::DevicePtrMut;

        let stream = storage.device().cuda_stream();
        // No other stream has to be told of the writes: everything happens on this one.
        let start = if storage.dtype() == DType::U32 {
            storage.as_cuda_slice_mut::<u32>()?.device_ptr_mut(&stream).0
        } else {
            storage.as_cuda_slice_mut::<f32>()?.device_ptr_mut(&stream).0
        };
        self.note(start, layout);
        Ok(())
    }
}
