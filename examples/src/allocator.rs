//! The allocator of the examples.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, Ordering};

use mimalloc::MiMalloc;

use crate::note;

/// Training allocates and frees the same large tensors over and over. The C library's allocator returns such
/// memory to the system and requests it again, which costs about a quarter of the time.
///
/// Where there is not enough memory, the program ends with an error in place of an abort.
pub(crate) struct Allocator;

/// `memory`, unless it is null.
fn found(memory: *mut u8, bytes: usize) -> *mut u8 {
    // The message needs memory, too.
    static FAILED: AtomicBool = AtomicBool::new(false);
    if memory.is_null() && !FAILED.swap(true, Ordering::Relaxed) {
        let advice = "choose smaller numbers, such as those of --size, --batch or --images";
        note!("error: out of memory: {bytes} bytes are not there; {advice}");
        std::process::exit(1);
    }
    memory
}

// SAFETY: All calls go to mimalloc as they are, and what it returns is returned.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        found(unsafe { MiMalloc.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        found(unsafe { MiMalloc.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        found(unsafe { MiMalloc.realloc(memory, layout, bytes) }, bytes)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { MiMalloc.dealloc(memory, layout) }
    }
}
