//! What the engine needs of a device: memory, and kernels that are compiled and launched. A GPU is one; the
//! tests bring another, which runs the same kernels on a CPU.

use std::sync::Arc;

use super::layout::Args;
use crate::error::Result;
use crate::program::fnv1a;

/// The source of the kernels of a program, and what it is called.
#[derive(Clone, Debug)]
pub struct Source {
    /// Unique for the text: names of files are made of it.
    pub name: String,
    /// CUDA C, without what stands for the device (`PTX` on a GPU).
    pub text: String,
}

impl Source {
    pub(super) fn new(text: String) -> Self {
        Self {
            name: format!("{:016x}", fnv1a(text.as_bytes())),
            text,
        }
    }
}

/// The functions by which kernels use a GPU. They come before the text of a [`Source`].
pub const PTX: &str = include_str!("library/ptx.cu");

/// A device that runs kernels. Operations run in the order in which they are called.
pub trait Driver: Send + Sync {
    /// Memory of `bytes`, of which nothing is known.
    ///
    /// # Errors
    /// If there is not enough of it.
    fn alloc(&self, bytes: usize) -> Result<Buffer>;

    /// Fills memory with zeros.
    ///
    /// # Errors
    /// If the device fails.
    fn zero(&self, buffer: &Buffer) -> Result<()>;

    /// Copies from the host.
    ///
    /// # Errors
    /// If the device fails.
    fn upload(&self, bytes: &[u8], to: &Buffer) -> Result<()>;

    /// What lies in this memory will not be read again before it is written. Devices need not know; a test
    /// makes sure.
    fn forget(&self, _buffer: &Buffer) {}

    /// The shared memory that a block can have, in bytes.
    fn shared_memory(&self) -> usize;

    /// The kernels of `source`, compiled once.
    ///
    /// # Errors
    /// If they do not compile.
    fn load(&self, source: &Source) -> Result<Arc<dyn Kernels>>;
}

/// Memory of a device.
pub struct Buffer {
    /// Where it begins.
    pub address: u64,
    /// Its size.
    pub bytes: usize,
    /// What frees it when dropped.
    pub owner: Box<dyn std::any::Any + Send + Sync>,
}

/// Compiled kernels.
pub trait Kernels: Send + Sync {
    /// Runs a kernel in `blocks` blocks of 256 threads, each with `shared` bytes of shared memory.
    ///
    /// # Errors
    /// If the kernel is unknown or the device fails.
    fn launch(&self, kernel: &str, blocks: usize, shared: usize, args: &Args) -> Result<()>;
}
