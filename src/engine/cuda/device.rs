//! An NVIDIA GPU as a driver: Candle's device has the memory and the stream, and kernels run in its order.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Display;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute_enum};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, DriverError,
    LaunchConfig, PushKernelArg, SyncOnDrop, result,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::{CudaDevice, CudaStorage, Layout};

use super::compiler::Code;
use super::driver::{Buffer, Driver, Kernels, Source};
use super::layout::Args;
use crate::error::{Error, Result};

/// Threads of a block.
const THREADS: u32 = 256;
/// The shared memory that a block can have without being allowed more.
const SHARED: usize = 48 << 10;
/// The first compute capability with matrix products of TF32 and bf16.
const LEAST: (i32, i32) = (8, 0);

/// A GPU, and the stream on which everything happens in order.
pub(in crate::engine) struct Device {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    shared_memory: usize,
}

/// Where values of a tensor begin. They may be read as long as this lives.
pub(in crate::engine) struct Values<'a> {
    pub address: u64,
    pub count: usize,
    /// Tells other streams, when dropped, that the values have been read.
    _read: SyncOnDrop<'a>,
}

// SAFETY: it has the layout of its counterpart in C, and no padding.
unsafe impl DeviceRepr for Args {}

/// The compute capability of a GPU that has less than the kernels need: 8.0.
pub(in crate::engine) fn too_old(device: &CudaDevice) -> Option<(i32, i32)> {
    // What is wrong with a device that does not tell, the rollout says better.
    capability(device.cuda_stream().context())
        .ok()
        .filter(|found| *found < LEAST)
}

fn capability(context: &CudaContext) -> Result<(i32, i32), DriverError> {
    let major = attribute(
        context,
        CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
    )?;
    let minor = attribute(
        context,
        CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    )?;
    Ok((major, minor))
}

/// As `CudaContext::attribute`, which in passing forgets errors that are still to be told.
fn attribute(context: &CudaContext, attribute: CUdevice_attribute) -> Result<i32, DriverError> {
    // SAFETY: the device belongs to a context that is alive.
    unsafe { result::device::get_attribute(context.cu_device(), attribute) }
}

fn failed(what: impl Display) -> impl FnOnce(DriverError) -> Error {
    let what = what.to_string();
    move |error| candle_core::Error::msg(format!("CUDA, {what}: {error}")).into()
}

impl Device {
    pub fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let shared_memory = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let shared_memory = attribute(stream.context(), shared_memory).map_err(failed("a question"))?;
        Ok(Self {
            device: device.clone(),
            shared_memory: usize::try_from(shared_memory).unwrap_or(SHARED),
            stream,
        })
    }

    /// The values of a contiguous f32 storage.
    pub fn values<'a>(
        &'a self,
        storage: &'a CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<Values<'a>> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("a rollout on a GPU needs contiguous input");
        };
        let values = storage.as_cuda_slice::<f32>()?.slice(start..end);
        let (address, read) = values.view_ptr(&self.stream);
        Ok(Values {
            address,
            count: end - start,
            _read: read,
        })
    }

    /// `count` values that `write` has written to the address that it is given, and what it returns.
    pub fn written<T>(
        &self,
        count: usize,
        write: impl FnOnce(u64) -> Result<T>,
    ) -> candle_core::Result<(CudaStorage, T)> {
        // SAFETY: kernels write all of it before anything else on the stream reads it.
        let mut values = unsafe { self.device.alloc::<f32>(count) }?;
        let (address, written) = values.device_ptr_mut(&self.stream);
        let made = write(address)?;
        drop(written);
        Ok((CudaStorage::wrap_cuda_slice(values, self.device.clone()), made))
    }

    /// Makes the device the one that the calls of this thread are for.
    fn bind(&self) -> Result<()> {
        self.stream
            .context()
            .bind_to_thread()
            .map_err(failed("an earlier call"))
    }
}

impl Driver for Device {
    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        // SAFETY: kernels read only what was written.
        let memory = unsafe { self.stream.alloc::<u8>(bytes.max(1)) };
        let memory = memory.map_err(failed(format!("{bytes} bytes of memory")))?;
        // No other stream has to be told of reads and writes: the memory is freed on this one, too.
        let (address, _) = memory.device_ptr(&self.stream);
        Ok(Buffer {
            address,
            bytes,
            owner: Box::new(memory),
        })
    }

    fn zero(&self, buffer: &Buffer) -> Result<()> {
        self.bind()?;
        // SAFETY: the memory is as large as that, and alive.
        unsafe { result::memset_d8_async(buffer.address, 0, buffer.bytes, self.stream.cu_stream()) }
            .map_err(failed("zeros"))
    }

    fn upload(&self, bytes: &[u8], to: &Buffer) -> Result<()> {
        if bytes.len() > to.bytes {
            let (found, room) = (bytes.len(), to.bytes);
            return Err(candle_core::Error::msg(format!("{found} bytes for memory of {room}")).into());
        }
        self.bind()?;
        // SAFETY: the memory is large enough, and alive. CUDA has a copy of `bytes`, which are not
        // page-locked, before it returns.
        unsafe { result::memcpy_htod_async(to.address, bytes, self.stream.cu_stream()) }
            .map_err(failed("a copy from the host"))
    }

    fn shared_memory(&self) -> usize {
        self.shared_memory
    }

    fn load(&self, source: &Source) -> Result<Arc<dyn Kernels>> {
        Ok(Arc::new(Loaded {
            module: module(source, self.stream.context())?,
            stream: self.stream.clone(),
        }))
    }
}

/// The kernels of a source on a device.
struct Module {
    module: Arc<CudaModule>,
    /// By name, each with the shared memory that it is allowed.
    functions: Mutex<HashMap<String, (CudaFunction, usize)>>,
}

/// A module that is loaded once; the lock is that of whoever loads it.
type Slot = Arc<Mutex<Option<Arc<Module>>>>;

/// The kernels of `source` on a device: from memory, from a file of an earlier run, or compiled.
fn module(source: &Source, context: &Arc<CudaContext>) -> Result<Arc<Module>> {
    // All contexts of Candle's on a device are its primary one.
    static MODULES: LazyLock<Mutex<HashMap<(usize, String), Slot>>> = LazyLock::new(Mutex::default);
    let key = (context.ordinal(), source.name.clone());
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    let slot = modules.entry(key).or_default().clone();
    drop(modules);
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = &*slot {
        return Ok(module.clone());
    }
    let (major, minor) = capability(context).map_err(failed("a question"))?;
    let chip = format!("sm_{major}{minor}");
    let code = Code::new(source, &chip);
    let load = |code: Vec<u8>| context.load_module(Ptx::from_binary(code));
    let module = match code.stored().map(load) {
        Some(Ok(module)) => module,
        // A file that no longer fits the driver.
        Some(Err(_)) | None => load(code.compile()?).map_err(failed(format!("kernels {}", source.name)))?,
    };
    let module = Arc::new(Module {
        module,
        functions: Mutex::default(),
    });
    *slot = Some(module.clone());
    Ok(module)
}

impl Module {
    /// A kernel, allowed `shared` bytes of shared memory.
    fn function(&self, kernel: &str, shared: usize) -> Result<CudaFunction, DriverError> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let (function, allowed) = match functions.entry(kernel.into()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert((self.module.load_function(kernel)?, SHARED)),
        };
        if shared > *allowed {
            let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, i32::try_from(shared).unwrap_or(i32::MAX))?;
            *allowed = shared;
        }
        Ok(function.clone())
    }
}

/// Kernels, and the stream on which they are launched.
struct Loaded {
    module: Arc<Module>,
    stream: Arc<CudaStream>,
}

impl Kernels for Loaded {
    fn launch(&self, kernel: &str, blocks: usize, shared: usize, args: &Args) -> Result<()> {
        if blocks == 0 {
            return Ok(());
        }
        // Too many are an error of the device.
        let [count, bytes] = [blocks, shared].map(|size| u32::try_from(size).unwrap_or(u32::MAX));
        let launch = || -> Result<(), DriverError> {
            self.stream.context().bind_to_thread()?;
            let function = self.module.function(kernel, shared)?;
            let config = LaunchConfig {
                grid_dim: (count, 1, 1),
                block_dim: (THREADS, 1, 1),
                shared_mem_bytes: bytes,
            };
            // SAFETY: the kernel's only parameter is `Args`, and the engine's plan keeps it within its
            // memory.
            unsafe { self.stream.launch_builder(&function).arg(args).launch(config) }?;
            Ok(())
        };
        launch().map_err(|error| {
            let what = format!("kernel `{kernel}` in {blocks} blocks with {shared} bytes of shared memory");
            failed(what)(error)
        })
    }
}
