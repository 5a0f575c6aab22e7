//! Memory that values are computed in.

use std::ops::{Deref, DerefMut};

use aligned_vec::AVec;

/// Floats that begin with a line of the cache, so that no vector lies in two.
pub(super) struct Buffer(AVec<f32>);

impl Buffer {
    /// At least `len` floats; those that are new are 0.
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
