//! A step of a group of images, forwards: the values of a plan, band by band.

use std::ops::Range;

use crate::grid::draws::{Draws, Stream};
use crate::program::Op;

use super::buffers::Trace;
use super::draws::dropout;
use super::kernels::gemm::{End, Gemm, Plus};
use super::kernels::halo::Window;
use super::kernels::{self, LANES, Norm, RmsNorm, View, ViewMut, arch, compact, stencil};
use super::plan::{Domain, Work};
use super::scratch::Scratch;
use super::step::{Band, Before, StepContext};

/// Which values of a band are kept once it is computed, besides its outputs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Nothing,
    /// Those worth storing for the backward pass.
    Trace,
    /// All that the backward pass needs.
    All,
}

impl StepContext<'_> {
    /// Writes bands of the next state to `next`, which begins at row `first` of the grid. Returns what is
    /// stored of each band, if anything.
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
        let (row, line, layout) = (plan.row(), plan.line(), self.call.job.program.layout);
        for rows in bands {
            let band = Band::new(plan, rows, before.firing.fires.as_deref());
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

    /// Computes the values of a band.
    pub fn evaluate(&self, scratch: &mut Scratch, state: &[f32], band: &Band<'_>, keep: Keep) {
        scratch.clear(self.plan.nodes.len());
        self.complete(scratch, state, band, keep);
    }

    /// Recomputes the values of a band that are not in its `trace`.
    pub fn evaluate_again(&self, scratch: &mut Scratch, state: &[f32], band: &Band<'_>, trace: Trace) {
        scratch.clear(self.plan.nodes.len());
        scratch.restore(trace);
        self.complete(scratch, state, band, Keep::All);
    }

    /// Computes the values of a band that are missing.
    fn complete(&self, scratch: &mut Scratch, state: &[f32], band: &Band<'_>, keep: Keep) {
        let plan = self.plan;
        for (n, node) in plan.nodes.iter().enumerate() {
            if let Work::Given { slot } = node.work {
                let runs = plan.runs(n, band.rows);
                scratch.origins[n] = runs[0].1;
                // A given value is read in place if it is contiguous or padded.
                if runs.len() == 1 || self.given.padded(slot).is_some() {
                    continue;
                }
            }
            let needless = keep == Keep::All && node.forward_only || node.fused;
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

    /// Computes the values of node `n` on a band.
    fn compute(&self, scratch: &mut Scratch, state: &[f32], n: usize, band: &Band<'_>, y: ViewMut<'_>) {
        let width = self.plan.nodes[n].width;
        match &self.plan.nodes[n].work {
            Work::Op(op) => self.compute_op(scratch, (n, op), state, band, y),
            Work::Given { slot } => {
                let stride = self.plan.grid_stride();
                for (to, lane, lanes) in self.plan.runs(n, band.rows) {
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
            }
            Work::Compress { x } => {
                let x = self.view(scratch, *x, self.start(*x, 0, band));
                match &band.picked {
                    Some(picked) => compact::compress(x, picked, y, width),
                    None => kernels::copy(x, y, (width, self.lanes(n, band).0)),
                }
            }
            Work::Expand { x } => {
                let x = self.view(scratch, *x, 0);
                match &band.picked {
                    Some(picked) => compact::expand_or_zero(x, picked, y, width),
                    None => kernels::copy(x, y, (width, self.lanes(n, band).0)),
                }
            }
        }
    }

    fn compute_op(
        &self,
        scratch: &mut Scratch,
        (n, op): (usize, &Op),
        state: &[f32],
        band: &Band<'_>,
        y: ViewMut<'_>,
    ) {
        let (plan, call) = (self.plan, self.call);
        let width = plan.nodes[n].width;
        let (lanes, halo) = self.lanes(n, band);
        let size = (width, lanes);
        let start = |x: usize| self.start(x, halo, band);
        match op {
            Op::Cells => self.load(state, halo, band, y, width),
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
            Op::Linear { x, weight, bias } => self.linear(scratch, (n, *x), (*weight, *bias), band, y),
            Op::Neighbourhood { x, .. } | Op::SumTaps { x, .. } | Op::Depthwise { x, .. } => {
                let window = self.pad_input(scratch, n, *x, band, op);
                if let Some(taps) = &self.taps[n] {
                    stencil::stencil(
                        scratch.padded.neighbours(&window, 0),
                        &taps.forward,
                        y,
                        plan.row(),
                        false,
                    );
                }
            }
            Op::LayerNorm { x, weight, bias, eps } => {
                let norm = Norm {
                    x: self.view(scratch, *x, start(*x)),
                    weight: call.param(*weight),
                    bias: call.param(*bias),
                    eps: *eps as f32,
                };
                kernels::norm(norm, y, lanes);
            }
            Op::RmsNorm { x, scale, eps } => {
                let norm = RmsNorm {
                    x: self.view(scratch, *x, start(*x)),
                    scale: call.param(*scale),
                    eps: *eps as f32,
                };
                kernels::rms_norm(norm, y, lanes);
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
                let [scale, shift] = [scale, shift].map(|param| param.map(|param| call.param(param)));
                kernels::affine(self.view(scratch, *x, start(*x)), scale, shift, y, size, false);
            }
            Op::Attention(of) => self.attend(scratch, n, *of, band, y),
            Op::Dropout { x, rate, site } => {
                if !call.job.task.training || *rate == 0.0 {
                    return kernels::copy(self.view(scratch, *x, start(*x)), y, size);
                }
                let stride = y.stride;
                let mut factors = scratch.take(width * stride + LANES);
                self.draw_dropout(&mut factors, stride, n, band, (*rate, *site));
                let data = &factors[..];
                let x = self.view(scratch, *x, start(*x));
                kernels::product(x, View { data, stride }, y, size, false);
                scratch.saved[n] = Some(factors);
            }
        }
    }

    /// The values of linear layer `n` of `x`, with what is fused into it.
    fn linear(
        &self,
        scratch: &Scratch,
        (n, x): (usize, usize),
        (weight, bias): (usize, Option<usize>),
        band: &Band<'_>,
        y: ViewMut<'_>,
    ) {
        let (plan, call) = (self.plan, self.call);
        let (lanes, halo) = self.lanes(n, band);
        let view = |x: usize| self.view(scratch, x, self.start(x, halo, band));
        let (node, input) = (&plan.nodes[n], plan.nodes[x].width);
        let x = view(x);
        let gemm = Gemm {
            a: call.param(weight),
            a_row: input,
            a_column: 1,
            packed: call.packed(weight, false),
            b: x.data,
            b_row: x.stride,
            c: y.data,
            c_row: y.stride,
            size: [node.width, input, lanes],
            end: End::Store {
                bias: bias.map(|bias| call.param(bias)),
                plus: node.addend.map(|x| match plan.nodes[x].factors() {
                    None => Plus {
                        rows: view(x),
                        times: None,
                    },
                    Some((a, b)) => Plus {
                        rows: view(a),
                        times: Some(view(b).data),
                    },
                }),
                relu: node.relu,
            },
        };
        gemm.run(call.job.task.precision, arch());
    }

    /// Pads input `x` of the stencil `n`.
    pub fn pad_input(&self, scratch: &mut Scratch, n: usize, x: usize, band: &Band<'_>, op: &Op) -> Window {
        let padding = op.padding().unwrap_or_default();
        let window = self.window(n, band, padding);
        let start = self.start(x, self.plan.halo_of(n) + 1, band);
        let mut padded = std::mem::take(&mut scratch.padded);
        let rows = (window.read.1, self.plan.row(), self.plan.images);
        padded.fill(
            self.view(scratch, x, start),
            self.plan.nodes[x].width,
            rows,
            padding,
        );
        scratch.padded = padded;
        window
    }

    /// Copies the rows of a band and its halo out of a whole grid of `width` channels.
    pub fn load(&self, grid: &[f32], halo: usize, band: &Band<'_>, y: ViewMut<'_>, width: usize) {
        let height = self.plan.height as isize;
        let (start, count) = self.plan.span(halo, band.rows);
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
        let (lanes, halo) = self.lanes(n, band);
        let (row, height) = (plan.row(), plan.height as isize);
        let (first_row, _) = plan.span(halo, band.rows);
        // The lane of the whole grid that a lane of this value stands for.
        let place = |lane: usize| match (plan.nodes[n].domain, &band.picked) {
            (Domain::Fired, Some(picked)) => picked.index[lane] as usize + band.rows.start * row,
            _ => {
                let y = (first_row + (lane / row) as isize).rem_euclid(height) as usize;
                y * row + lane % row
            }
        };
        let task = &self.call.job.task;
        let first = task.first_image + self.first_image;
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

/// Copies `channels` of some rows of a grid; each row holds its channels one after the other.
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
