//! Buffers for values, and their reuse.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use aligned_vec::AVec;

/// Floats aligned to a cache line, so that no vector straddles two.
pub(super) struct Buffer(AVec<f32>);

impl Buffer {
    /// Zeros.
    pub fn zeros(len: usize) -> Self {
        let mut buffer = Self::default();
        buffer.at_least(len);
        buffer
    }

    /// At least `len` floats; new ones are 0.
    pub fn at_least(&mut self, len: usize) -> &mut [f32] {
        if self.0.len() < len {
            self.0.resize(len, 0.0);
        }
        &mut self.0
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self(AVec::new(0))
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

/// Free buffers kept for reuse: fresh pages cost as much as filling them.
static SPARE: Mutex<Vec<Buffer>> = Mutex::new(vec![]);

/// Most floats that free buffers may hold.
const SPARE_FLOATS: usize = 1 << 24;

/// Keeps buffers for reuse, as many as fit.
pub(super) fn spare(buffers: impl Iterator<Item = Buffer>) {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut floats: usize = spare.iter().map(|buffer| buffer.len()).sum();
    for buffer in buffers {
        floats += buffer.len();
        if floats > SPARE_FLOATS {
            break;
        }
        spare.push(buffer);
    }
}

/// Removes the last buffer of at least `len` and at most `most` floats.
pub(super) fn take_from(buffers: &mut Vec<Buffer>, len: usize, most: usize) -> Option<Buffer> {
    let fits = |buffer: &Buffer| (len..=most).contains(&buffer.len());
    Some(buffers.remove(buffers.iter().rposition(fits)?))
}

/// Values of a band that are stored for the backward pass: those of its nodes, and what the nodes save
/// besides.
#[derive(Default)]
pub(super) struct Trace {
    pub values: Vec<Option<Buffer>>,
    pub saved: Vec<Option<Buffer>>,
}

impl Drop for Trace {
    fn drop(&mut self) {
        spare(self.values.drain(..).chain(self.saved.drain(..)).flatten());
    }
}

/// A free buffer of at least `len` floats, and not much longer.
pub(super) fn spared(len: usize) -> Option<Buffer> {
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    take_from(&mut spare, len, len + len / 8)
}
