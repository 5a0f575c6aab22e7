//! Given values of a plan, on the whole grid: constants, hoisted and cached values; and their gradient
//! accumulators.

use std::ops::Range;

use crate::grid::Padding;

use super::buffers::Buffer;
use super::kernels::halo::Padded;
use super::kernels::{self, LANES, View};
use super::plan::Plan;

/// A hoisted or cached value on all lanes of the grid.
pub(super) enum OnGrid {
    /// Channel by channel.
    Plain(Buffer),
    /// Padded, as attention reads its keys and values.
    Padded(Padded, Padding),
}

/// The given values of a plan, numbered in this order: constants, hoisted values, cached values.
#[derive(Clone, Copy)]
pub(super) struct GivenValues<'a> {
    pub tables: &'a [Vec<f32>],
    pub hoisted: &'a [OnGrid],
    pub cached: &'a [OnGrid],
}

impl<'a> GivenValues<'a> {
    /// A value whose channels lie one after the other.
    pub fn plain(&self, slot: usize) -> Option<&'a [f32]> {
        match (self.tables.get(slot), self.on_grid(slot)) {
            (Some(table), _) => Some(table),
            (None, Some(OnGrid::Plain(value))) => Some(value),
            (None, Some(OnGrid::Padded(..)) | None) => None,
        }
    }

    /// A value that is padded.
    pub fn padded(&self, slot: usize) -> Option<&'a Padded> {
        match self.on_grid(slot)? {
            OnGrid::Padded(value, _) => Some(value),
            OnGrid::Plain(_) => None,
        }
    }

    fn on_grid(&self, slot: usize) -> Option<&'a OnGrid> {
        let slot = slot.checked_sub(self.tables.len())?;
        match slot.checked_sub(self.hoisted.len()) {
            None => self.hoisted.get(slot),
            Some(slot) => self.cached.get(slot),
        }
    }
}

/// Gradient accumulators of given values, on the whole grid, until the gradients are passed on.
#[derive(Default)]
pub(super) struct GivenGrads {
    pub tables: Vec<Buffer>,
    pub hoisted: Vec<Buffer>,
    pub cached: Vec<Buffer>,
}

impl GivenGrads {
    /// The accumulator of a given value, by its number.
    pub fn of(&mut self, slot: usize) -> &mut Buffer {
        let Some(slot) = slot.checked_sub(self.tables.len()) else {
            return &mut self.tables[slot];
        };
        match slot.checked_sub(self.hoisted.len()) {
            None => &mut self.hoisted[slot],
            Some(slot) => &mut self.cached[slot],
        }
    }

    /// Adds the gradient of a given value on a band and its halo.
    pub fn add(&mut self, plan: &Plan, of_band: &BandGrad<'_>) {
        let (stride, width) = (plan.stride(of_band.node), plan.nodes[of_band.node].width);
        for (lane, to, lanes) in plan.runs(of_band.node, of_band.rows) {
            let from = View {
                data: &of_band.grad[lane..],
                stride,
            };
            kernels::add_to(from, plan.on_grid(self.of(of_band.slot), to), (width, lanes));
        }
    }
}

/// The gradient of a given value on a band and its halo.
pub(super) struct BandGrad<'a> {
    pub rows: &'a Range<usize>,
    pub node: usize,
    pub slot: usize,
    pub grad: Buffer,
}

/// Zeros for a node of a plan on all lanes of the grid, channel by channel.
pub(super) fn on_grid(plan: &Plan, n: usize) -> Buffer {
    Buffer::zeros(plan.nodes[n].width * plan.grid_stride() + LANES)
}
