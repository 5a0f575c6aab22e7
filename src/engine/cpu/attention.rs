//! Local attention as a node of a plan, forwards and backwards.

use crate::program::Attention;

use super::kernels::attention::{Shape, Weights};
use super::kernels::halo::{Neighbours, Padded, Window};
use super::kernels::{LANES, View, ViewMut, attention};
use super::plan::Work;
use super::scratch::Scratch;
use super::step::{Band, StepContext};

impl StepContext<'_> {
    /// The values of node `n`; its shares (attention weights) are saved for the backward pass.
    pub fn attend(&self, scratch: &mut Scratch, n: usize, of: Attention, band: &Band<'_>, y: ViewMut<'_>) {
        let Attention { q, k, v, heads, .. } = of;
        let ((lanes, halo), stride) = (self.lanes(n, band), self.plan.stride(n));
        let (window, shape) = (self.window(n, band, of.padding), self.shape_of(n, heads));
        self.pad_values(scratch, [k, v], halo, &window, band);
        let mut shares = scratch.take(9 * heads * stride + LANES);
        let data = &mut shares[..];
        let q = self.view(scratch, q, self.start(q, halo, band));
        let [keys, values] = self.neighbour_values(scratch, [k, v], &window);
        attention::correlate(q, &keys, ViewMut { data, stride }, shape);
        attention::softmax(ViewMut { data, stride }, heads, lanes);
        attention::mix(&Weights::Own(View { data, stride }), &values, (y, false), shape);
        scratch.saved[n] = Some(shares);
    }

    /// The gradients of queries, keys and values, given `dy`, that of node `n`.
    pub fn attend_back(&self, scratch: &mut Scratch, n: usize, of: Attention, band: &Band<'_>, dy: View<'_>) {
        let Attention { q, k, v, heads, .. } = of;
        let (width, stride, row) = (self.plan.nodes[n].width, self.plan.stride(n), self.plan.row());
        let (_, halo) = self.lanes(n, band);
        let (window, shape) = (self.window(n, band, of.padding), self.shape_of(n, heads));
        self.pad_values(scratch, [k, v], halo, &window, band);
        let shares = scratch.saved[n].take().unwrap_or_default();
        let mut scores = std::mem::take(&mut scratch.product);
        let weights = |data| View { data, stride };
        let (start, lanes) = (self.start(q, halo, band), window.computed.1 * row);
        let data = scores.at_least(9 * heads * stride + LANES);
        let [_, values] = self.neighbour_values(scratch, [k, v], &window);
        attention::correlate(dy, &values, ViewMut { data, stride }, shape);
        attention::softmax_back(weights(&shares), ViewMut { data, stride }, heads, lanes);
        self.give(scratch, q, (start, lanes), band, |scratch, dq, add| {
            let [keys, _] = self.neighbour_values(scratch, [k, v], &window);
            attention::mix(&Weights::Own(weights(&scores)), &keys, (dq, add), shape);
        });
        let (mut near, mut far) = (
            std::mem::take(&mut scratch.padded),
            std::mem::take(&mut scratch.padded_other),
        );
        // A key gathers the queries that read it, weighted by the gradients of their scores. A value gathers
        // the gradients of the cells that read it, weighted by their shares.
        let (rows, back) = ((window.computed.1, row, self.plan.images), window.reversed());
        for (x, by, sent) in [(k, &scores, None), (v, &shares, Some(dy))] {
            let sent = sent.unwrap_or_else(|| self.view(scratch, q, start));
            near.fill(sent, width, rows, of.padding);
            far.fill(weights(by), 9 * heads, rows, of.padding);
            let all = (self.start(x, halo + 1, band), window.read.1 * row);
            self.give(scratch, x, all, band, |_, dx, add| {
                let by = Weights::Others(far.neighbours(&back, 0));
                attention::mix(&by, &near.neighbours(&back, 0), (dx, add), shape);
            });
        }
        (scratch.padded, scratch.padded_other, scratch.product) = (near, far, scores);
        scratch.give_back(shares);
    }

    fn shape_of(&self, n: usize, heads: usize) -> Shape {
        Shape {
            heads,
            depth: self.plan.nodes[n].width / heads,
            width: self.plan.row(),
        }
    }

    /// The value `x`, if it is given and padded.
    fn padded_given(&self, x: usize) -> Option<&Padded> {
        match self.plan.nodes[self.plan.nodes[x].root].work {
            Work::Given { slot } => self.given.padded(slot),
            Work::Op(_) | Work::Compress { .. } | Work::Expand { .. } => None,
        }
    }

    /// Pads keys and values that are not padded yet.
    fn pad_values(
        &self,
        scratch: &mut Scratch,
        [k, v]: [usize; 2],
        halo: usize,
        window: &Window,
        band: &Band<'_>,
    ) {
        let rows = (window.read.1, self.plan.row(), self.plan.images);
        let (mut near, mut far) = (
            std::mem::take(&mut scratch.padded),
            std::mem::take(&mut scratch.padded_other),
        );
        for (x, padded) in [(k, &mut near), (v, &mut far)] {
            if self.padded_given(x).is_none() {
                let all = self.view(scratch, x, self.start(x, halo + 1, band));
                padded.fill(all, self.plan.nodes[x].width, rows, window.padding);
            }
        }
        (scratch.padded, scratch.padded_other) = (near, far);
    }

    /// The keys and values that the rows of `window` read, after [`Self::pad_values`].
    fn neighbour_values<'b>(
        &'b self,
        scratch: &'b Scratch,
        [k, v]: [usize; 2],
        window: &Window,
    ) -> [Neighbours<'b>; 2] {
        [(k, &scratch.padded), (v, &scratch.padded_other)].map(|(x, padded)| match self.padded_given(x) {
            Some(kept) => kept.neighbours(&window.on_grid(), self.plan.nodes[x].channel),
            None => padded.neighbours(window, 0),
        })
    }
}
