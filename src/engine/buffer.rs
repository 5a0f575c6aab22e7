//! Memory that values are computed in.

use std::ops::{Deref, DerefMut};

use aligned_vec::AVec;

use super::near::Spread;

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

/// Gradients of what lies on the whole grid, as far as they have not been passed on: of constants, of fixed and of standing
/// values.
#[derive(Default)]
pub(super) struct Owed {
    pub tables: Vec<Buffer>,
    pub fixed: Vec<Buffer>,
    pub standing: Vec<Buffer>,
}

impl Owed {
    /// That of a given node, by its number.
    pub fn of(&mut self, slot: usize) -> &mut Buffer {
        let Some(slot) = slot.checked_sub(self.tables.len()) else {
            return &mut self.tables[slot];
        };
        match slot.checked_sub(self.fixed.len()) {
            None => &mut self.fixed[slot],
            Some(standing) => &mut self.standing[standing],
        }
    }
}

/// Working memory of a thread, allocated once a rollout.
#[derive(Default)]
pub(super) struct Scratch {
    pub values: Vec<Option<Buffer>>,
    pub grads: Vec<Option<Buffer>>,
    /// For each given value that is read where it lies, the lane at which the band's rows begin.
    pub origins: Vec<usize>,
    /// Gradients of what is given, lent for a step to a thread that has all strips.
    pub owed: Option<Owed>,
    /// Which gradients are such, at the place on the grid that `origins` tells.
    pub lent: Vec<bool>,
    /// Nine shares a head of each attention, for the way back.
    pub shares: Vec<Buffer>,
    free: Vec<Buffer>,
    pub near: Spread,
    pub far: Spread,
    pub turned: Buffer,
    pub wide: Buffer,
}

impl Scratch {
    /// A buffer of zeros, to be given back when done.
    pub fn zeros(&mut self, len: usize) -> Buffer {
        let mut buffer = self.take(len);
        buffer[..len].fill(0.0);
        buffer
    }

    /// Takes a buffer back.
    pub fn give_back(&mut self, buffer: Buffer) {
        self.free.push(buffer);
    }

    /// A buffer of at least `len` floats of any value: the last one given back that is about as long.
    pub fn take(&mut self, len: usize) -> Buffer {
        let fits = |buffer: &Buffer| (len..=2 * len).contains(&buffer.len());
        match self.free.iter().rposition(fits) {
            Some(at) => self.free.remove(at),
            None => {
                let mut buffer = Buffer::default();
                buffer.at_least(len);
                buffer
            }
        }
    }

    /// Gives all buffers of the last band back.
    pub fn clear(&mut self, nodes: usize) {
        let used = self.values.drain(..).chain(self.grads.drain(..));
        self.free.extend(used.flatten());
        self.values.resize_with(nodes, || None);
        self.grads.resize_with(nodes, || None);
        // Two plans take turns here.
        let nodes = nodes.max(self.shares.len());
        self.shares.resize_with(nodes, Buffer::default);
        self.origins.resize(nodes, 0);
        self.lent.clear();
        self.lent.resize(nodes, false);
    }
}
