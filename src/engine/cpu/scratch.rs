//! Working memory of a thread.

use super::buffers::{Buffer, Trace, spare, spared, take_from};
use super::given::GivenGrads;
use super::kernels::halo::Padded;

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
    /// What nodes save for the backward pass besides their values: attention its nine shares a head, dropout
    /// its factors.
    pub saved: Vec<Option<Buffer>>,
    free: Vec<Buffer>,
    pub padded: Padded,
    pub padded_other: Padded,
    pub transposed: Buffer,
    pub product: Buffer,
}

impl Scratch {
    /// A buffer of zeros, to be returned with [`Self::give_back`].
    pub fn zeros(&mut self, len: usize) -> Buffer {
        let mut buffer = self.take(len);
        buffer[..len].fill(0.0);
        buffer
    }

    /// Takes a buffer back.
    pub fn give_back(&mut self, buffer: Buffer) {
        self.free.push(buffer);
    }

    /// A buffer of at least `len` floats, not cleared: the last one given back that is about as long.
    pub fn take(&mut self, len: usize) -> Buffer {
        take_from(&mut self.free, len, 2 * len)
            .or_else(|| spared(len))
            .unwrap_or_else(|| Buffer::zeros(len))
    }

    /// Takes back all buffers of the last band.
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
