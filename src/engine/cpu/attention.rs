//! Local attention as a node of a plan, forwards and backwards.

use crate::program::Attention;

use super::kernels::attention::{Shape, Weights};
use super::kernels::halo::{Around, Hop, Spread};
use super::kernels::{LANES, View, ViewMut, attention};
use super::plan::Work;
use super::scratch::Scratch;
use super::step::{Band, StepContext};

impl StepContext<'_> {
    /// The values of node `n`; its shares are saved for the backward pass.
    pub fn attend(&self, scratch: &mut Scratch, n: usize, of: Attention, band: &Band<'_>, y: ViewMut<'_>) {
        let Attention { q, k, v, heads, .. } = of;
        let ((lanes, halo), stride) = (self.lanes(n, band), self.plan.stride(n));
        let (hop, shape) = (self.hop(n, band, of.padding), self.shape_of(n, heads));
        self.spread_values(scratch, [k, v], halo, &hop, band);
        let mut shares = scratch.take(9 * heads * stride + LANES);
        let data = &mut shares[..];
        let q = self.view(scratch, q, self.start(q, halo, band));
        let [keys, values] = self.values_around(scratch, [k, v], &hop);
        attention::correlate(q, &keys, ViewMut { data, stride }, shape);
        attention::softmax(ViewMut { data, stride }, heads, lanes);
        attention::mix(&Weights::Own(View { data, stride }), &values, (y, false), shape);
        scratch.saved[n] = Some(shares);
    }

    /// Gives the gradients of queries, keys and values, where that of node `n` is `dy`.
    pub fn attend_back(&self, scratch: &mut Scratch, n: usize, of: Attention, band: &Band<'_>, dy: View<'_>) {
        let Attention { q, k, v, heads, .. } = of;
        let (width, stride, row) = (self.plan.nodes[n].width, self.plan.stride(n), self.plan.row());
        let (_, halo) = self.lanes(n, band);
        let (hop, shape) = (self.hop(n, band, of.padding), self.shape_of(n, heads));
        self.spread_values(scratch, [k, v], halo, &hop, band);
        let shares = scratch.saved[n].take().unwrap_or_default();
        let mut scores = std::mem::take(&mut scratch.wide);
        let weights = |data| View { data, stride };
        let (start, lanes) = (self.start(q, halo, band), hop.to.1 * row);
        let data = scores.at_least(9 * heads * stride + LANES);
        let [_, values] = self.values_around(scratch, [k, v], &hop);
        attention::correlate(dy, &values, ViewMut { data, stride }, shape);
        attention::softmax_back(weights(&shares), ViewMut { data, stride }, heads, lanes);
        self.give(scratch, q, (start, lanes), band, |scratch, dq, add| {
            let [keys, _] = self.values_around(scratch, [k, v], &hop);
            attention::mix(&Weights::Own(weights(&scores)), &keys, (dq, add), shape);
        });
        let (mut near, mut far) = (
            std::mem::take(&mut scratch.near),
            std::mem::take(&mut scratch.far),
        );
        // Keys get the queries of those that look at them, by the gradients of their scores; values get
        // the gradients of those, by their shares.
        let (rows, back) = ((hop.to.1, row, self.plan.images), hop.back());
        for (x, by, sent) in [(k, &scores, None), (v, &shares, Some(dy))] {
            let sent = sent.unwrap_or_else(|| self.view(scratch, q, start));
            near.fill(sent, width, rows, of.padding);
            far.fill(weights(by), 9 * heads, rows, of.padding);
            let all = (self.start(x, halo + 1, band), hop.from.1 * row);
            self.give(scratch, x, all, band, |_, dx, add| {
                let by = Weights::Others(far.around(&back, 0));
                attention::mix(&by, &near.around(&back, 0), (dx, add), shape);
            });
        }
        (scratch.near, scratch.far, scratch.wide) = (near, far, scores);
        scratch.give_back(shares);
    }

    fn shape_of(&self, n: usize, heads: usize) -> Shape {
        Shape {
            heads,
            depth: self.plan.nodes[n].width / heads,
            width: self.plan.row(),
        }
    }

    /// The value `x`, if it is kept spread out.
    fn padded_given(&self, x: usize) -> Option<&Spread> {
        match self.plan.nodes[self.plan.nodes[x].root].work {
            Work::Given { slot } => self.given.padded(slot),
            Work::Op(_) | Work::Compress { .. } | Work::Expand { .. } => None,
        }
    }

    /// Spreads keys and values out, those that are not kept so.
    fn spread_values(
        &self,
        scratch: &mut Scratch,
        [k, v]: [usize; 2],
        halo: usize,
        hop: &Hop,
        band: &Band<'_>,
    ) {
        let rows = (hop.from.1, self.plan.row(), self.plan.images);
        let (mut near, mut far) = (
            std::mem::take(&mut scratch.near),
            std::mem::take(&mut scratch.far),
        );
        for (x, spread) in [(k, &mut near), (v, &mut far)] {
            if self.padded_given(x).is_none() {
                let all = self.view(scratch, x, self.start(x, halo + 1, band));
                spread.fill(all, self.plan.nodes[x].width, rows, hop.padding);
            }
        }
        (scratch.near, scratch.far) = (near, far);
    }

    /// What the rows of `hop` see of keys and values, after [`Self::spread_values`].
    fn values_around<'b>(&'b self, scratch: &'b Scratch, [k, v]: [usize; 2], hop: &Hop) -> [Around<'b>; 2] {
        [(k, &scratch.near), (v, &scratch.far)].map(|(x, spread)| match self.padded_given(x) {
            Some(kept) => kept.around(&hop.on_grid(), self.plan.nodes[x].channel),
            None => spread.around(hop, 0),
        })
    }
}
