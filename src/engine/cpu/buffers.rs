//! Memory that values are computed in.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use aligned_vec::AVec;

use super::given::GivenGrads;
use super::kernels::halo::Spread;

/// Floats that begin with a line of the cache, so that no vector lies in two.
pub(super) struct Buffer(AVec<f32>);

impl Buffer {
    /// Zeros.
    pub fn zeros(len: usize) -> Self {
        let mut buffer = Self::default();
        buffer.at_least(len);
        buffer
    }

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

/// Free buffers kept for reuse: fresh pages cost as much as filling them.
static SPARE: Mutex<Vec<Buffer>> = Mutex::new(vec![]);

/// Most floats that free buffers may hold.
const SPARE_FLOATS: usize = 1 << 24;

/// Keeps buffers for reuse, as many as fit.
fn spare(buffers: impl Iterator<Item = Buffer>) {
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

/// Takes out the last of the buffers that is at least `len` floats long, and at most `most`.
fn take_from(buffers: &mut Vec<Buffer>, len: usize, most: usize) -> Option<Buffer> {
    let fits = |buffer: &Buffer| (len..=most).contains(&buffer.len());
    Some(buffers.remove(buffers.iter().rposition(fits)?))
}

/// Values of a band that are stored for the backward pass: those of its nodes, and what these saved beside them.
#[derive(Default)]
pub(super) struct Trace {
    values: Vec<Option<Buffer>>,
    saved: Vec<Option<Buffer>>,
}

impl Drop for Trace {
    fn drop(&mut self) {
        spare(self.values.drain(..).chain(self.saved.drain(..)).flatten());
    }
}

/// Working memory of a thread.
#[derive(Default)]
pub(super) struct Scratch {
    pub values: Vec<Option<Buffer>>,
    pub grads: Vec<Option<Buffer>>,
    /// For each given value that is read in place, the lane of the grid at which the band's rows begin.
    pub origins: Vec<usize>,
    /// Gradient accumulators of given values, held here while one thread runs all strips.
    pub given_grads: Option<GivenGrads>,
    /// Which gradients accumulate in place, where the value lies on the grid.
    pub in_place: Vec<bool>,
    /// What nodes save for the backward pass beside their values: of attention nine shares a head, of dropout its factors.
    pub saved: Vec<Option<Buffer>>,
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
        let spared = || {
            let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
            take_from(&mut spare, len, len + len / 8)
        };
        take_from(&mut self.free, len, 2 * len)
            .or_else(spared)
            .unwrap_or_else(|| Buffer::zeros(len))
    }

    /// Gives all buffers of the last band back.
    pub fn clear(&mut self, nodes: usize) {
        let used = self.values.drain(..).chain(self.grads.drain(..));
        self.free.extend(used.chain(self.saved.drain(..)).flatten());
        self.values.resize_with(nodes, || None);
        self.grads.resize_with(nodes, || None);
        self.saved.resize_with(nodes, || None);
        self.origins.resize(nodes, 0);
        self.in_place.clear();
        self.in_place.resize(nodes, false);
    }

    /// Takes out what is stored of the last band.
    pub fn take_trace(&mut self, traced: impl Fn(usize) -> bool) -> Trace {
        let keep = |all: &mut Vec<Option<Buffer>>| {
            let kept = all.iter_mut().enumerate();
            let kept = kept.map(|(n, buffer)| if traced(n) { buffer.take() } else { None });
            kept.collect()
        };
        Trace {
            values: keep(&mut self.values),
            saved: keep(&mut self.saved),
        }
    }

    /// Puts back what was stored of a band, after [`Self::clear`].
    pub fn restore(&mut self, mut trace: Trace) {
        let pairs = [
            (&mut self.values, &mut trace.values),
            (&mut self.saved, &mut trace.saved),
        ];
        for (to, from) in pairs {
            to.iter_mut()
                .zip(from.drain(..))
                .for_each(|(to, from)| *to = from);
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.clear(0);
        spare(self.free.drain(..));
    }
}
