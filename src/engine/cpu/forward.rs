//! A step of a group of images, forwards: a plan at work, band by band.

use std::ops::Range;

use crate::grid::AliveMask;
use crate::program::{Op, Program};

use super::buffers::{Buffer, Scratch, Trace};
use super::cached::Kept;
use super::draws::{dropout, fired};
use super::kernels::compact::Picked;
use super::kernels::gemm::{End, Gemm, Plus};
use super::kernels::halo::{Hop, Spread};
use super::kernels::{LANES, Norm, View, ViewMut, arch, compact, halo};
use super::plan::{Domain, Plan, Work};
use super::taps::Prepared;
use super::{Task, kernels};
use crate::grid::draws::{Draws, Stream};

/// Everything that all groups of a rollout share.
pub(super) struct Shared<'a> {
    pub program: &'a Program,
    pub task: &'a Task,
    /// All weights, one after the other, and where each begins.
    pub params: &'a [f32],
    pub offsets: &'a [usize],
    /// Which weights get a gradient.
    pub trained: &'a [bool],
    /// Matrices of linear maps and their transposes, as the product in bf16 takes them; none in f32.
    pub packed: &'a [[Vec<u32>; 2]],
}

impl<'a> Shared<'a> {
    pub fn range(&self, param: usize) -> Range<usize> {
        let start = self.offsets[param];
        start..start + self.program.params[param].elem_count()
    }

    pub fn param(&self, param: usize) -> &'a [f32] {
        &self.params[self.range(param)]
    }

    /// A matrix, or its transpose, for the product in bf16.
    pub fn packed(&self, param: usize, transposed: bool) -> Option<&'a [u32]> {
        Some(self.packed.get(param)?[usize::from(transposed)].as_slice())
    }
}

/// One step of a group.
pub(super) struct StepOf<'a> {
    pub shared: &'a Shared<'a>,
    pub plan: &'a Plan,
    /// What the nodes of the plan need beside their inputs.
    pub prepared: &'a [Prepared],
    /// Number of the group's first image in the batch.
    pub first: usize,
    pub step: usize,
    /// What lies on all lanes of the grid.
    pub given: Given<'a>,
}

/// What nodes are given, by their numbers: constants, fixed values and standing values.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub tables: &'a [Vec<f32>],
    pub fixed: &'a [Kept],
    pub standing: &'a [Kept],
}

impl<'a> Given<'a> {
    /// A value whose channels lie one after the other.
    fn plain(&self, slot: usize) -> Option<&'a [f32]> {
        match (self.tables.get(slot), self.kept(slot)) {
            (Some(table), _) => Some(table),
            (None, Some(Kept::Plain(value))) => Some(value),
            _ => None,
        }
    }

    /// A value that is spread out.
    pub fn spread(&self, slot: usize) -> Option<&'a Spread> {
        match self.kept(slot)? {
            Kept::Spread(value, _) => Some(value),
            Kept::Plain(_) => None,
        }
    }

    fn kept(&self, slot: usize) -> Option<&'a Kept> {
        let slot = slot.checked_sub(self.tables.len())?;
        match slot.checked_sub(self.fixed.len()) {
            None => self.fixed.get(slot),
            Some(slot) => self.standing.get(slot),
        }
    }
}

/// Which lanes take their update in a step, and which are alive before it; `None` where all are.
pub(super) struct Firing {
    pub fires: Option<Vec<bool>>,
    pub alive: Option<Vec<bool>>,
}

/// The state before a step, and which lanes fire in it.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    pub state: &'a [f32],
    pub firing: &'a Firing,
}

/// Which values of a band are still there after all are computed, beside the last ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Nothing,
    /// Those that are worth keeping for the way back.
    Trace,
    /// All that the way back needs.
    All,
}

/// A band and its lanes that fire, counted from the band's first.
pub(super) struct Band<'a> {
    pub rows: &'a Range<usize>,
    pub picked: Option<Picked>,
}

impl StepOf<'_> {
    /// Which lanes take their update.
    pub fn firing(&self, state: &[f32]) -> Firing {
        let plan = self.plan;
        let lanes = plan.height * plan.row();
        let mut fires = fired(self.shared.task, self.step, self.first, plan.images, lanes);
        let rule = &self.shared.program.alive;
        let alive = rule.as_ref().map(|rule| self.alive(rule, state));
        if let Some(alive) = &alive {
            match &mut fires {
                Some(fires) => fires.iter_mut().zip(alive).for_each(|(f, a)| *f &= a),
                None => fires = Some(alive.clone()),
            }
        }
        Firing { fires, alive }
    }

    /// Which lanes have a living neighbour.
    pub fn alive(&self, rule: &AliveMask, state: &[f32]) -> Vec<bool> {
        let plan = self.plan;
        let (row, images) = (plan.row(), plan.images);
        let threshold = rule.threshold as f32;
        let mut above = vec![0u8; plan.height * row];
        for (above, cells) in above.chunks_exact_mut(row).zip(state.chunks_exact(plan.line())) {
            let channel = &cells[rule.channel * row..][..row];
            above
                .iter_mut()
                .zip(channel)
                .for_each(|(a, &x)| *a = u8::from(x > threshold));
        }
        // First along rows, then along columns.
        let mut wide = above.clone();
        for (above, wide) in above.chunks_exact(row).zip(wide.chunks_exact_mut(row)) {
            let inner = row - images;
            wide[images..]
                .iter_mut()
                .zip(&above[..inner])
                .for_each(|(w, a)| *w |= a);
            wide[..inner]
                .iter_mut()
                .zip(&above[images..])
                .for_each(|(w, a)| *w |= a);
            if rule.padding == crate::grid::Padding::Circular {
                wide[..images]
                    .iter_mut()
                    .zip(&above[inner..])
                    .for_each(|(w, a)| *w |= a);
                wide[inner..]
                    .iter_mut()
                    .zip(&above[..images])
                    .for_each(|(w, a)| *w |= a);
            }
        }
        let mut alive = wide.clone();
        for (y, alive) in alive.chunks_exact_mut(row).enumerate() {
            for dy in [-1, 1] {
                if let Some(near) = rule.padding.coordinate(y, dy, plan.height) {
                    let near = &wide[near * row..][..row];
                    alive.iter_mut().zip(near).for_each(|(a, w)| *a |= w);
                }
            }
        }
        alive.into_iter().map(|a| a != 0).collect()
    }

    /// Writes bands of the next state to `next`, whose rows begin with `first` of the grid; what is kept of each band, if
    /// anything.
    pub fn forward(
        &self,
        scratch: &mut Scratch,
        before: Before<'_>,
        bands: &[Range<usize>],
        (next, first): (&mut [f32], usize),
        keep: Keep,
    ) -> Vec<Trace> {
        let mut traces = vec![];
        let plan = self.plan;
        let (row, line, layout) = (plan.row(), plan.line(), self.shared.program.layout);
        for rows in bands {
            let band = self.band(rows, before.firing.fires.as_deref());
            let next = &mut next[(rows.start - first) * line..][..rows.len() * line];
            if !band.fires() {
                next.copy_from_slice(&before.state[rows.start * line..][..rows.len() * line]);
                traces.extend((keep == Keep::Trace).then(Trace::default));
                continue;
            }
            self.evaluate(scratch, before.state, &band, keep);
            let mut cells = scratch.values[0].take().unwrap_or_default();
            let (start, stride) = (self.start(0, 0, &band), plan.stride(0));
            let to = ViewMut {
                data: &mut cells[layout.input * stride + start..],
                stride,
            };
            let update = self.view(scratch, plan.update(), 0);
            match &band.picked {
                None => kernels::add_to(update, to, (layout.update_channels(), band.lanes(row))),
                Some(picked) => compact::expand(update, picked, to, layout.update_channels()),
            }
            for (r, next) in next.chunks_exact_mut(line).enumerate() {
                for (c, next) in next.chunks_exact_mut(row).enumerate() {
                    next.copy_from_slice(&cells[c * stride + start + r * row..][..row]);
                }
            }
            scratch.give_back(cells);
            if keep == Keep::Trace {
                traces.push(scratch.take_trace(|n| plan.nodes[n].traced()));
            }
            self.release(scratch);
        }
        traces
    }

    /// Which lanes stay alive after the step, given the cells with their updates; dead cells become 0.
    pub fn bury(&self, firing: &Firing, next: &mut [f32]) -> Option<Vec<bool>> {
        let rule = self.shared.program.alive.as_ref()?;
        let mut alive = self.alive(rule, next);
        let before = firing.alive.as_ref()?;
        alive.iter_mut().zip(before).for_each(|(a, b)| *a &= b);
        self.clear_dead(&alive, next);
        Some(alive)
    }

    /// Sets all channels of dead cells to 0.
    pub fn clear_dead(&self, alive: &[bool], cells: &mut [f32]) {
        let (row, line) = (self.plan.row(), self.plan.line());
        for (alive, cells) in alive.chunks_exact(row).zip(cells.chunks_exact_mut(line)) {
            if alive.iter().all(|&alive| alive) {
                continue;
            }
            for channel in cells.chunks_exact_mut(row) {
                for (x, &alive) in channel.iter_mut().zip(alive) {
                    *x = if alive { *x } else { 0.0 };
                }
            }
        }
    }

    /// A band of which some lanes of the grid are picked, or all.
    pub fn band<'b>(&self, rows: &'b Range<usize>, lanes: Option<&[bool]>) -> Band<'b> {
        let row = self.plan.row();
        let lanes = lanes.map(|lanes| &lanes[rows.start * row..rows.end * row]);
        Band {
            rows,
            picked: lanes.map(Picked::new),
        }
    }

    /// Gives the buffers of a band back, those that were lent too.
    pub fn release(&self, scratch: &mut Scratch) {
        for (n, slot) in self.plan.given().filter(|(n, _)| scratch.lent[*n]) {
            if let (Some(lent), Some(owed)) = (scratch.grads[n].take(), &mut scratch.owed) {
                *owed.of(slot) = lent;
            }
        }
        scratch.clear(self.plan.nodes.len());
    }

    /// A value from its `start`-th lane.
    pub fn view<'b>(&'b self, scratch: &'b Scratch, node: usize, start: usize) -> View<'b> {
        let planned = &self.plan.nodes[node];
        let root = planned.root;
        let own = scratch.values[root].as_deref();
        if let (None, Work::Given { slot }) = (own, &self.plan.nodes[root].work) {
            let stride = self.plan.grid_stride();
            let lane = scratch.origins[root] + start;
            let data = self.given.plain(*slot).unwrap_or_default();
            let data = &data[planned.channel * stride + lane..];
            return View { data, stride };
        }
        let stride = self.plan.stride(root);
        let buffer = own.unwrap_or_default();
        View {
            data: &buffer[planned.channel * stride + start..],
            stride,
        }
    }

    pub fn zeroed(&self, scratch: &mut Scratch, root: usize) -> Buffer {
        let len = self.plan.nodes[root].width * self.plan.stride(root);
        let mut buffer = scratch.take(len + LANES);
        buffer[..len].fill(0.0);
        buffer
    }

    /// The lane of input `x` at which the lanes of a value of `reach` rows around the band begin.
    pub fn start(&self, x: usize, reach: usize, band: &Band<'_>) -> usize {
        match self.plan.nodes[x].domain {
            Domain::Fired => 0,
            Domain::Rows(own) => {
                let (there, _) = self.plan.span(own, band.rows);
                let (here, _) = self.plan.span(reach, band.rows);
                (here - there) as usize * self.plan.row()
            }
        }
    }

    /// Number of lanes of a node, and the rows around the band that it covers.
    pub fn lanes(&self, node: usize, band: &Band<'_>) -> (usize, usize) {
        match self.plan.nodes[node].domain {
            Domain::Fired => (band.lanes(self.plan.row()), 0),
            Domain::Rows(reach) => (self.plan.span(reach, band.rows).1 * self.plan.row(), reach),
        }
    }

    /// The rows of `node` and those that they look at.
    pub fn hop(&self, node: usize, band: &Band<'_>, padding: crate::grid::Padding) -> Hop {
        let (plan, reach) = (self.plan, self.plan.reach_of(node));
        Hop {
            to: plan.span(reach, band.rows),
            from: plan.span(reach + 1, band.rows),
            whole: plan.bands.len() == 1,
            height: plan.height,
            padding,
        }
    }

    /// The values of a band.
    pub fn evaluate(&self, scratch: &mut Scratch, state: &[f32], band: &Band<'_>, keep: Keep) {
        scratch.clear(self.plan.nodes.len());
        self.complete(scratch, state, band, keep);
    }

    /// The same values as before, of which some were kept.
    pub fn evaluate_again(&self, scratch: &mut Scratch, state: &[f32], band: &Band<'_>, trace: Trace) {
        scratch.clear(self.plan.nodes.len());
        scratch.restore(trace);
        self.complete(scratch, state, band, Keep::All);
    }

    /// The values of a band that are not there yet.
    fn complete(&self, scratch: &mut Scratch, state: &[f32], band: &Band<'_>, keep: Keep) {
        let plan = self.plan;
        for (n, node) in plan.nodes.iter().enumerate() {
            if let Work::Given { slot } = node.work {
                let runs = plan.runs(n, band.rows);
                scratch.origins[n] = runs[0].1;
                // It is read where it lies, unless it lies in pieces.
                if runs.len() == 1 || self.given.spread(slot).is_some() {
                    continue;
                }
            }
            let needless = keep == Keep::All && node.dispensable || node.folded;
            if node.root == n && !needless && scratch.values[n].is_none() {
                let mut out = scratch.take(node.width * plan.stride(n) + LANES);
                let stride = plan.stride(n);
                let y = ViewMut {
                    data: &mut out,
                    stride,
                };
                self.compute(scratch, state, n, band, y);
                scratch.values[n] = Some(out);
            }
            for &root in &node.last_use_of {
                let wanted = keep == Keep::All || keep == Keep::Trace && plan.nodes[root].traced();
                if let Some(done) = scratch.values[root].take_if(|_| !wanted) {
                    scratch.give_back(done);
                }
            }
        }
    }

    pub fn compute(&self, scratch: &mut Scratch, state: &[f32], n: usize, band: &Band<'_>, y: ViewMut<'_>) {
        let (plan, shared) = (self.plan, self.shared);
        let width = plan.nodes[n].width;
        let (lanes, reach) = self.lanes(n, band);
        let size = (width, lanes);
        let start = |x: usize| self.start(x, reach, band);
        let op = match &plan.nodes[n].work {
            Work::Op(op) => op,
            Work::Given { slot } => {
                let stride = plan.grid_stride();
                for (to, lane, lanes) in plan.runs(n, band.rows) {
                    let from = View {
                        data: &self.given.plain(*slot).unwrap_or_default()[lane..],
                        stride,
                    };
                    let to = ViewMut {
                        data: &mut y.data[to..],
                        stride: y.stride,
                    };
                    kernels::copy(from, to, (width, lanes));
                }
                return;
            }
            Work::Compress { x } => {
                let x = self.view(scratch, *x, self.start(*x, 0, band));
                return match &band.picked {
                    Some(picked) => compact::compress(x, picked, y, width),
                    None => kernels::copy(x, y, size),
                };
            }
            Work::Expand { x } => {
                let x = self.view(scratch, *x, 0);
                return match &band.picked {
                    Some(picked) => compact::expand_or_zero(x, picked, y, width),
                    None => kernels::copy(x, y, size),
                };
            }
        };
        match op {
            Op::Cells => self.load(state, reach, band, y, width),
            // A constant is given.
            Op::Constant(_) | Op::Slice { .. } => {}
            Op::Concat(parts) => {
                let (mut rest, stride) = (y.data, y.stride);
                for &part in parts {
                    let channels = plan.nodes[part].width;
                    let x = self.view(scratch, part, start(part));
                    let to = ViewMut { data: rest, stride };
                    kernels::copy(x, to, (channels, lanes));
                    rest = &mut rest[channels * stride..];
                }
            }
            Op::Linear { x, weight, bias } => {
                let input = plan.nodes[*x].width;
                let x = self.view(scratch, *x, start(*x));
                let gemm = Gemm {
                    a: shared.param(*weight),
                    a_row: input,
                    a_column: 1,
                    packed: shared.packed(*weight, false),
                    b: x.data,
                    b_row: x.stride,
                    c: &mut *y.data,
                    c_row: y.stride,
                    size: [width, input, lanes],
                    end: End::Store {
                        bias: bias.map(|bias| shared.param(bias)),
                        plus: plan.nodes[n].plus.map(|x| match plan.nodes[x].folded() {
                            None => Plus {
                                rows: self.view(scratch, x, start(x)),
                                times: None,
                            },
                            Some((a, b)) => Plus {
                                rows: self.view(scratch, a, start(a)),
                                times: Some(self.view(scratch, b, start(b)).data),
                            },
                        }),
                        relu: plan.nodes[n].relu,
                    },
                };
                gemm.run(shared.task.precision, arch());
            }
            Op::Neighbourhood { x, .. } | Op::SumTaps { x, .. } | Op::Depthwise { x, .. } => {
                let hop = self.spread(scratch, n, *x, band, op);
                if let Prepared::Taps(taps, _) = &self.prepared[n] {
                    halo::stencil(scratch.near.around(&hop, 0), taps, y, plan.row(), false);
                }
            }
            Op::LayerNorm { x, weight, bias, eps } => {
                let norm = Norm {
                    x: self.view(scratch, *x, start(*x)),
                    weight: shared.param(*weight),
                    bias: shared.param(*bias),
                    eps: *eps as f32,
                };
                kernels::norm(norm, y, lanes);
            }
            Op::InverseRms { x, eps, centred } => {
                let size = (plan.nodes[*x].width, lanes);
                let x = self.view(scratch, *x, start(*x));
                kernels::inverse_rms(x, *eps as f32, *centred, y.data, size);
            }
            Op::Map { x, function } => {
                kernels::map(*function, self.view(scratch, *x, start(*x)), y, size);
            }
            Op::Add { a, b } => {
                let [a, b] = [*a, *b].map(|x| self.view(scratch, x, start(x)));
                kernels::sum(a, b, y, size);
            }
            Op::Mul { a, b } => {
                let [left, right] = [*a, *b].map(|x| self.view(scratch, x, start(x)));
                kernels::product(left, self.broadcast(*b, width, right), y, size, false);
            }
            Op::Affine { x, scale, shift } => {
                let [scale, shift] = [scale, shift].map(|p| p.map(|p| shared.param(p)));
                kernels::affine(self.view(scratch, *x, start(*x)), scale, shift, y, size, false);
            }
            Op::Attention(of) => self.attend(scratch, n, *of, band, y),
            Op::Dropout { x, rate, site } => {
                if !shared.task.training || *rate == 0.0 {
                    return kernels::copy(self.view(scratch, *x, start(*x)), y, size);
                }
                let stride = y.stride;
                let mut factors = scratch.take(width * stride + LANES);
                self.draw_dropout(&mut factors, stride, n, band, (*rate, *site));
                let data = &factors[..];
                let x = self.view(scratch, *x, start(*x));
                kernels::product(x, View { data, stride }, y, size, false);
                scratch.left[n] = Some(factors);
            }
        }
    }

    /// Spreads input `x` of the stencil `n` out.
    pub fn spread(&self, scratch: &mut Scratch, n: usize, x: usize, band: &Band<'_>, op: &Op) -> Hop {
        let padding = op.padding().unwrap_or_default();
        let hop = self.hop(n, band, padding);
        let start = self.start(x, self.plan.reach_of(n) + 1, band);
        let mut spread = std::mem::take(&mut scratch.near);
        let rows = (hop.from.1, self.plan.row(), self.plan.images);
        spread.fill(
            self.view(scratch, x, start),
            self.plan.nodes[x].width,
            rows,
            padding,
        );
        scratch.near = spread;
        hop
    }

    /// A single channel stands for as many as are asked for.
    pub fn broadcast<'b>(&self, x: usize, width: usize, view: View<'b>) -> View<'b> {
        match self.plan.nodes[x].width {
            1 if width > 1 => View { stride: 0, ..view },
            _ => view,
        }
    }

    /// Copies the rows around a band out of a whole grid, whose rows hold `width` channels.
    pub fn load(&self, grid: &[f32], reach: usize, band: &Band<'_>, y: ViewMut<'_>, width: usize) {
        let height = self.plan.height as isize;
        let (start, count) = self.plan.span(reach, band.rows);
        let rows = (start..start + count as isize).map(|row| row.rem_euclid(height) as usize);
        let row = self.plan.row();
        load(grid, (width * row, row), 0..width, rows, y);
    }

    /// The factors of a dropout on all lanes of node `n`.
    pub fn draw_dropout(
        &self,
        mask: &mut [f32],
        stride: usize,
        n: usize,
        band: &Band<'_>,
        (rate, site): (f64, u32),
    ) {
        let plan = self.plan;
        let (lanes, reach) = self.lanes(n, band);
        let (row, height) = (plan.row(), plan.height as isize);
        let (first_row, _) = plan.span(reach, band.rows);
        // The lane of the whole grid at which a lane of this value lies.
        let place = |lane: usize| match (plan.nodes[n].domain, &band.picked) {
            (Domain::Fired, Some(picked)) => picked.index[lane] as usize + band.rows.start * row,
            _ => {
                let y = (first_row + (lane / row) as isize).rem_euclid(height) as usize;
                y * row + lane % row
            }
        };
        let task = self.shared.task;
        let first = task.first_image + self.first;
        let (cells, images): (Vec<u32>, Vec<u32>) = (0..lanes)
            .map(place)
            .map(|place| ((place / plan.images) as u32, (first + place % plan.images) as u32))
            .unzip();
        let draws = Draws {
            key: task.key,
            stream: Stream::Dropout(site),
            step: self.step,
        };
        let y = ViewMut { data: mask, stride };
        dropout((draws, rate), (&cells, &images), y, plan.nodes[n].width);
    }
}

impl Band<'_> {
    /// Number of lanes that are computed.
    pub fn lanes(&self, row: usize) -> usize {
        match &self.picked {
            Some(picked) => picked.index.len(),
            None => self.rows.len() * row,
        }
    }

    /// Whether any lane takes an update.
    pub fn fires(&self) -> bool {
        self.picked.as_ref().is_none_or(|picked| !picked.index.is_empty())
    }
}

/// Copies `channels` of some rows of a grid, in which the channels of a row lie together.
pub(super) fn load(
    grid: &[f32],
    (line, row): (usize, usize),
    channels: Range<usize>,
    rows: impl Iterator<Item = usize>,
    y: ViewMut<'_>,
) {
    for (r, from) in rows.enumerate() {
        let from = &grid[from * line..][..line];
        for (c, from) in from
            .chunks_exact(row)
            .skip(channels.start)
            .take(channels.len())
            .enumerate()
        {
            y.data[c * y.stride + r * row..][..row].copy_from_slice(from);
        }
    }
}
