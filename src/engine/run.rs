//! A plan at work: steps of a group of images, forwards and backwards.

use std::ops::Range;

use candle_core::{DType, Tensor};

use crate::program::{Op, Program};
use crate::transition::AliveMask;

use super::buffer::Buffer;
use super::draws::{dropout, fired};
use super::gemm::{End, Gemm};
use super::kernels::{self, Norm, Picked, View, ViewMut, arch};
use super::near::{self, Attention, AttentionBack, Hop, Spread, Tap};
use super::plan::{Domain, Plan, Work};
use super::{LANES, Task};

/// Everything that all groups of a rollout share.
pub(super) struct Shared<'a> {
    pub program: &'a Program,
    pub task: &'a Task,
    /// All weights, one after the other, and where each begins.
    pub params: &'a [f32],
    pub offsets: &'a [usize],
    /// Which weights get a gradient.
    pub trained: &'a [bool],
}

impl<'a> Shared<'a> {
    fn range(&self, param: usize) -> Range<usize> {
        let start = self.offsets[param];
        start..start + self.program.params[param].elem_count()
    }

    pub fn param(&self, param: usize) -> &'a [f32] {
        &self.params[self.range(param)]
    }
}

/// Working memory of a thread, allocated once a rollout.
#[derive(Default)]
pub(super) struct Scratch {
    values: Vec<Option<Buffer>>,
    grads: Vec<Option<Buffer>>,
    /// Nine shares a head of each attention, for the way back.
    shares: Vec<Buffer>,
    free: Vec<Buffer>,
    near: Spread,
    far: Spread,
    turned: Buffer,
    wide: Buffer,
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
    fn take(&mut self, len: usize) -> Buffer {
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
    fn clear(&mut self, nodes: usize) {
        let used = self.values.drain(..).chain(self.grads.drain(..));
        self.free.extend(used.flatten());
        self.values.resize_with(nodes, || None);
        self.grads.resize_with(nodes, || None);
        self.shares.resize_with(nodes, Buffer::default);
    }
}

/// What a node of a plan needs beside its inputs, the same in every step.
pub(super) enum Prepared {
    Nothing,
    /// A constant on all lanes, row by row.
    Table(Vec<f32>),
    /// What each channel of a stencil adds up, and what each of its input gets of the gradient.
    Taps(Vec<Vec<Tap>>, Vec<Vec<Tap>>),
}

impl Prepared {
    pub fn new(plan: &Plan, params: impl Fn(usize) -> Vec<f32>) -> Vec<Self> {
        let prepare = |n: usize| match &plan.nodes[n].work {
            Work::Op(Op::Constant(table)) => Self::Table(on_all_lanes(plan, table)),
            Work::Op(
                op @ (Op::Neighbourhood { x, .. } | Op::SumTaps { x, .. } | Op::Depthwise { x, .. }),
            ) => {
                let kernel = match op {
                    Op::Depthwise { kernel, .. } => params(*kernel),
                    _ => vec![],
                };
                let (input, width) = (plan.nodes[*x].width, plan.nodes[n].width);
                let taps = taps(op, &kernel, input, width);
                let back = taps_back(&taps, input);
                Self::Taps(taps, back)
            }
            _ => Self::Nothing,
        };
        (0..plan.nodes.len()).map(prepare).collect()
    }
}

fn on_all_lanes(plan: &Plan, table: &Tensor) -> Vec<f32> {
    let width = table.dims()[2];
    let values = table
        .to_dtype(DType::F32)
        .and_then(|t| t.flatten_all()?.to_vec1::<f32>());
    let values = values.unwrap_or_default();
    let mut lanes = vec![0f32; values.len() * plan.images];
    for (cell, values) in values.chunks_exact(width).enumerate() {
        let (y, x) = (cell / plan.columns, cell % plan.columns);
        for (c, &value) in values.iter().enumerate() {
            lanes[(y * width + c) * plan.row() + x * plan.images..][..plan.images].fill(value);
        }
    }
    lanes
}

/// What each channel of a stencil adds up.
fn taps(op: &Op, kernel: &[f32], input: usize, width: usize) -> Vec<Vec<Tap>> {
    let tap = |channel, neighbour, factor| Tap {
        channel,
        neighbour,
        factor,
    };
    let of = |c: usize| -> Vec<Tap> {
        match op {
            Op::Neighbourhood { .. } => vec![tap(c % input, c / input, 1.0)],
            Op::SumTaps { .. } => (0..9).map(|n| tap(n * width + c, n, 1.0)).collect(),
            _ => {
                let factors = kernel[9 * c..][..9]
                    .iter()
                    .enumerate()
                    .filter(|(_, f)| **f != 0.0);
                factors.map(|(n, &f)| tap(c * input / width, n, f)).collect()
            }
        }
    };
    (0..width).map(of).collect()
}

/// What each channel of a stencil's input gets of the gradient.
fn taps_back(taps: &[Vec<Tap>], input: usize) -> Vec<Vec<Tap>> {
    let mut back = vec![vec![]; input];
    for (c, taps) in taps.iter().enumerate() {
        for tap in taps {
            back[tap.channel].push(Tap {
                channel: c,
                neighbour: 8 - tap.neighbour,
                factor: tap.factor,
            });
        }
    }
    back
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
}

/// Which lanes take their update in a step, and which are alive before it; `None` where all are.
pub(super) struct Firing {
    fires: Option<Vec<bool>>,
    alive: Option<Vec<bool>>,
}

/// The state before a step, and which lanes fire in it.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    pub state: &'a [f32],
    pub firing: &'a Firing,
}

/// A band and its lanes that fire, counted from the band's first.
struct Band<'a> {
    rows: &'a Range<usize>,
    picked: Option<Picked>,
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
    fn alive(&self, rule: &AliveMask, state: &[f32]) -> Vec<bool> {
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
            if rule.padding == crate::Padding::Circular {
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

    /// Writes bands of the next state to `next`, whose rows begin with `first` of the grid.
    pub fn forward(
        &self,
        scratch: &mut Scratch,
        before: Before<'_>,
        bands: &[Range<usize>],
        (next, first): (&mut [f32], usize),
    ) {
        let plan = self.plan;
        let (row, line, layout) = (plan.row(), plan.line(), self.shared.program.layout);
        for rows in bands {
            let band = self.band(rows, before.firing);
            let next = &mut next[(rows.start - first) * line..][..rows.len() * line];
            if !band.fires() {
                next.copy_from_slice(&before.state[rows.start * line..][..rows.len() * line]);
                continue;
            }
            self.evaluate(scratch, before.state, &band, false);
            let mut cells = scratch.values[0].take().unwrap_or_default();
            let (start, stride) = (self.start(0, 0, &band), plan.stride(0));
            let to = ViewMut {
                data: &mut cells[layout.input * stride + start..],
                stride,
            };
            let update = self.view(scratch, plan.update, 0);
            match &band.picked {
                None => kernels::add_to(update, to, (layout.update_channels(), band.lanes(row))),
                Some(picked) => kernels::expand(update, picked, to, layout.update_channels()),
            }
            for (r, next) in next.chunks_exact_mut(line).enumerate() {
                for (c, next) in next.chunks_exact_mut(row).enumerate() {
                    next.copy_from_slice(&cells[c * stride + start + r * row..][..row]);
                }
            }
            scratch.give_back(cells);
            scratch.clear(plan.nodes.len());
        }
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

    /// Adds the gradients of bands: `grad` is that of the next state, already 0 where cells died. What
    /// flows to the state through the update goes to `flow`, whose rows begin with `first`; `weights`
    /// gets the gradients of the weights.
    pub fn backward(
        &self,
        scratch: &mut Scratch,
        before: Before<'_>,
        bands: &[Range<usize>],
        grad: &[f32],
        (flow, first): (&mut [f32], isize),
        weights: &mut [f32],
    ) {
        let plan = self.plan;
        let (row, line) = (plan.row(), plan.line());
        for rows in bands {
            let band = self.band(rows, before.firing);
            if !band.fires() {
                continue;
            }
            self.evaluate(scratch, before.state, &band, true);
            self.seed(scratch, grad, &band);
            for n in (1..plan.nodes.len()).rev() {
                let node = &plan.nodes[n];
                if node.root != n || !node.differentiable {
                    continue;
                }
                if let Some(mut grad) = scratch.grads[n].take() {
                    if node.relu {
                        let (lanes, _) = self.lanes(n, &band);
                        let dy = ViewMut {
                            data: &mut grad,
                            stride: plan.stride(n),
                        };
                        kernels::cut_off(self.view(scratch, n, 0), dy, (node.width, lanes));
                    }
                    self.back(scratch, n, &grad, &band, weights);
                    scratch.free.push(grad);
                }
            }
            if let (Some(grad), Domain::Rows(reach)) = (scratch.grads[0].take(), plan.nodes[0].domain) {
                let (start, count) = plan.span(reach, rows);
                let flow = &mut flow[(start - first) as usize * line..][..count * line];
                for (r, flow) in flow.chunks_exact_mut(line).enumerate() {
                    for (c, flow) in flow.chunks_exact_mut(row).enumerate() {
                        let grad = &grad[c * plan.stride(0) + r * row..][..row];
                        flow.iter_mut().zip(grad).for_each(|(flow, g)| *flow += g);
                    }
                }
                scratch.free.push(grad);
            }
            scratch.clear(plan.nodes.len());
        }
    }

    /// The gradient of the update of a band.
    fn seed(&self, scratch: &mut Scratch, grad: &[f32], band: &Band<'_>) {
        let plan = self.plan;
        let (row, layout) = (plan.row(), self.shared.program.layout);
        let (planned, stride) = (&plan.nodes[plan.update], plan.stride(plan.update));
        // All its lanes are set unless the update is part of something wider.
        let mut seed = match planned.root == plan.update {
            true => scratch.take(planned.width * stride + LANES),
            false => self.zeroed(scratch, planned.root),
        };
        let mut to = ViewMut {
            data: &mut seed[planned.channel * stride + self.start(plan.update, 0, band)..],
            stride,
        };
        let channels = layout.input..layout.channels();
        match &band.picked {
            None => load(grad, (plan.line(), row), channels, band.rows.clone(), to),
            Some(picked) => {
                let lanes = band.rows.len() * row;
                let mut all = scratch.take(layout.update_channels() * lanes + LANES);
                let dense = ViewMut {
                    data: &mut all,
                    stride: lanes,
                };
                load(grad, (plan.line(), row), channels, band.rows.clone(), dense);
                let from = View {
                    data: &all,
                    stride: lanes,
                };
                kernels::compress(from, picked, to.reborrow(0), layout.update_channels());
                scratch.give_back(all);
            }
        }
        scratch.grads[planned.root] = Some(seed);
    }

    fn band<'b>(&self, rows: &'b Range<usize>, firing: &Firing) -> Band<'b> {
        let row = self.plan.row();
        let firing = firing
            .fires
            .as_ref()
            .map(|firing| &firing[rows.start * row..rows.end * row]);
        Band {
            rows,
            picked: firing.map(Picked::new),
        }
    }

    /// A value from its `start`-th lane.
    fn view<'b>(&self, scratch: &'b Scratch, node: usize, start: usize) -> View<'b> {
        let planned = &self.plan.nodes[node];
        let stride = self.plan.stride(planned.root);
        let buffer = scratch.values[planned.root].as_deref().unwrap_or_default();
        View {
            data: &buffer[planned.channel * stride + start..],
            stride,
        }
    }

    fn zeroed(&self, scratch: &mut Scratch, root: usize) -> Buffer {
        let len = self.plan.nodes[root].width * self.plan.stride(root);
        let mut buffer = scratch.take(len + LANES);
        buffer[..len].fill(0.0);
        buffer
    }

    /// The lane of input `x` at which the lanes of a value of `reach` rows around the band begin.
    fn start(&self, x: usize, reach: usize, band: &Band<'_>) -> usize {
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
    fn lanes(&self, node: usize, band: &Band<'_>) -> (usize, usize) {
        match self.plan.nodes[node].domain {
            Domain::Fired => (band.lanes(self.plan.row()), 0),
            Domain::Rows(reach) => (self.plan.span(reach, band.rows).1 * self.plan.row(), reach),
        }
    }

    /// The rows of `node` that look at those of `x`.
    fn hop(&self, node: usize, x: usize, band: &Band<'_>, padding: crate::Padding) -> Hop {
        let span = |node: usize| match self.plan.nodes[node].domain {
            Domain::Rows(reach) => self.plan.span(reach, band.rows),
            Domain::Fired => (0, 0),
        };
        Hop {
            to: span(node),
            from: span(x),
            height: self.plan.height,
            padding,
        }
    }

    /// All values of a band.
    fn evaluate(&self, scratch: &mut Scratch, state: &[f32], band: &Band<'_>, keep: bool) {
        let plan = self.plan;
        scratch.clear(plan.nodes.len());
        for (n, node) in plan.nodes.iter().enumerate() {
            if node.root == n && !(keep && plan.dispensable(n)) {
                let mut out = scratch.take(node.width * plan.stride(n) + LANES);
                let stride = plan.stride(n);
                let y = ViewMut {
                    data: &mut out,
                    stride,
                };
                self.compute(scratch, state, n, band, y);
                scratch.values[n] = Some(out);
            }
            if !keep {
                for &root in &node.last_use_of {
                    let done = scratch.values[root].take();
                    scratch.free.extend(done);
                }
            }
        }
    }

    fn compute(&self, scratch: &mut Scratch, state: &[f32], n: usize, band: &Band<'_>, y: ViewMut<'_>) {
        let (plan, shared) = (self.plan, self.shared);
        let width = plan.nodes[n].width;
        let (lanes, reach) = self.lanes(n, band);
        let size = (width, lanes);
        let start = |x: usize| self.start(x, reach, band);
        let op = match &plan.nodes[n].work {
            Work::Op(op) => op,
            Work::Compress { x } => {
                let x = self.view(scratch, *x, self.start(*x, 0, band));
                return match &band.picked {
                    Some(picked) => kernels::compress(x, picked, y, width),
                    None => kernels::copy(x, y, size),
                };
            }
            Work::Expand { x } => {
                let (x, mut y) = (self.view(scratch, *x, 0), y);
                return match &band.picked {
                    Some(picked) => {
                        (0..width).for_each(|c| y.row(c, lanes).fill(0.0));
                        kernels::expand(x, picked, y, width);
                    }
                    None => kernels::copy(x, y, size),
                };
            }
        };
        match op {
            Op::Cells => self.load(state, reach, band, y, width),
            Op::Constant(_) => {
                if let Prepared::Table(table) = &self.prepared[n] {
                    self.load(table, reach, band, y, width);
                }
            }
            Op::Slice { .. } => {}
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
                    b: x.data,
                    b_row: x.stride,
                    c: &mut *y.data,
                    c_row: y.stride,
                    size: [width, input, lanes],
                    end: End::Store {
                        bias: bias.map(|bias| shared.param(bias)),
                        relu: plan.nodes[n].relu,
                    },
                };
                gemm.run(arch());
            }
            Op::Neighbourhood { x, .. } | Op::SumTaps { x, .. } | Op::Depthwise { x, .. } => {
                let hop = self.spread(scratch, n, *x, band, op);
                if let Prepared::Taps(taps, _) = &self.prepared[n] {
                    near::stencil(scratch.near.around(&hop), taps, y, plan.row(), false);
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
            Op::Attention {
                q,
                k,
                v,
                heads,
                padding,
            } => {
                let hop = self.hop(n, *k, band, *padding);
                self.spread_values(scratch, (*k, *v), &hop);
                let mut shares = std::mem::take(&mut scratch.shares[n]);
                shares.at_least(9 * heads * plan.stride(n) + LANES);
                let attention = Attention {
                    q: self.view(scratch, *q, start(*q)),
                    k: &scratch.near,
                    v: &scratch.far,
                    hop,
                    heads: *heads,
                    width: plan.row(),
                    depth: width / heads,
                };
                let stride = plan.stride(n);
                let to = ViewMut {
                    data: &mut shares,
                    stride,
                };
                attention.forward(y, to);
                scratch.shares[n] = shares;
            }
            Op::Dropout { x, rate, site } => {
                let x = self.view(scratch, *x, start(*x));
                if !shared.task.training || *rate == 0.0 {
                    return kernels::copy(x, y, size);
                }
                let (stride, mut y) = (y.stride, y);
                self.draw_dropout(y.data, stride, n, band, (*rate, *site));
                for c in 0..width {
                    let x = x.row(c, lanes);
                    y.row(c, lanes).iter_mut().zip(x).for_each(|(y, x)| *y *= x);
                }
            }
        }
    }

    /// Adds the gradients of the inputs of node `n`, whose own is `grad`, and of its weights.
    fn back(&self, scratch: &mut Scratch, n: usize, grad: &[f32], band: &Band<'_>, weights: &mut [f32]) {
        let (plan, shared) = (self.plan, self.shared);
        let width = plan.nodes[n].width;
        let (lanes, reach) = self.lanes(n, band);
        let size = (width, lanes);
        let dy = View {
            data: grad,
            stride: plan.stride(n),
        };
        let start = |x: usize| self.start(x, reach, band);
        let op = match &plan.nodes[n].work {
            Work::Op(op) => op,
            Work::Compress { x } => {
                let all = (self.start(*x, 0, band), band.rows.len() * plan.row());
                return self.give(scratch, *x, all, band, |_, mut dx, add| match &band.picked {
                    Some(picked) => {
                        dx.clear_unless(add, (width, all.1));
                        kernels::expand(dy, picked, dx, width);
                    }
                    None => kernels::pass(dy, dx, size, add),
                });
            }
            Work::Expand { x } => {
                let count = band.lanes(plan.row());
                return self.give(scratch, *x, (0, count), band, |scratch, dx, add| {
                    let Some(picked) = &band.picked else {
                        return kernels::pass(dy, dx, size, add);
                    };
                    if !add {
                        return kernels::compress(dy, picked, dx, width);
                    }
                    let (mut line, stride) = (scratch.take(width * dx.stride), dx.stride);
                    let to = ViewMut {
                        data: &mut line,
                        stride,
                    };
                    kernels::compress(dy, picked, to, width);
                    let from = View { data: &line, stride };
                    kernels::add_to(from, dx, (width, count));
                    scratch.give_back(line);
                });
            }
        };
        match op {
            Op::Cells | Op::Constant(_) | Op::Slice { .. } => {}
            Op::Concat(parts) => {
                let mut channel = 0;
                for &part in parts {
                    let channels = plan.nodes[part].width;
                    let dy = View {
                        data: &grad[channel * dy.stride..],
                        ..dy
                    };
                    self.give(scratch, part, (start(part), lanes), band, |_, dx, add| {
                        kernels::pass(dy, dx, (channels, lanes), add);
                    });
                    channel += channels;
                }
            }
            Op::Linear { x, weight, bias } => {
                let input = plan.nodes[*x].width;
                if let Some(bias) = bias.filter(|&bias| shared.trained[bias]) {
                    kernels::sum_lanes(dy, &mut weights[shared.range(bias)], size);
                }
                if shared.trained[*weight] {
                    self.weight_back(
                        scratch,
                        *x,
                        start(*x),
                        dy,
                        size,
                        &mut weights[shared.range(*weight)],
                    );
                }
                let mut wide = std::mem::take(&mut scratch.wide);
                let whole = start(*x) == 0 && self.lanes(*x, band).0 == lanes;
                self.give(scratch, *x, (start(*x), lanes), band, |_, dx, add| {
                    let (c, c_row) = match whole {
                        true => (&mut *dx.data, dx.stride),
                        false => (wide.at_least(input * dy.stride + LANES), dy.stride),
                    };
                    let gemm = Gemm {
                        a: shared.param(*weight),
                        a_row: 1,
                        a_column: input,
                        b: grad,
                        b_row: dy.stride,
                        c,
                        c_row,
                        size: [input, width, lanes],
                        end: if whole && add { End::Add } else { End::STORE },
                    };
                    gemm.run(arch());
                    if !whole {
                        let from = View {
                            data: &wide,
                            stride: dy.stride,
                        };
                        kernels::add_to(from, dx, (input, lanes));
                    }
                });
                scratch.wide = wide;
            }
            Op::Neighbourhood { x, padding }
            | Op::SumTaps { x, padding }
            | Op::Depthwise { x, padding, .. } => {
                let input = plan.nodes[*x].width;
                if let Op::Depthwise { kernel, .. } = op
                    && shared.trained[*kernel]
                {
                    let hop = self.spread(scratch, n, *x, band, op);
                    let kernel = &mut weights[shared.range(*kernel)];
                    near::kernel_back(scratch.near.around(&hop), dy, kernel, width / input, plan.row());
                }
                let hop = self.hop(n, *x, band, *padding).back();
                let mut spread = std::mem::take(&mut scratch.near);
                spread.fill(dy, width, (hop.from.1, plan.row(), plan.images), *padding);
                if let Prepared::Taps(_, taps) = &self.prepared[n] {
                    let all = (0, hop.to.1 * plan.row());
                    self.give(scratch, *x, all, band, |_, dx, add| {
                        near::stencil(spread.around(&hop), taps, dx, plan.row(), add);
                    });
                }
                scratch.near = spread;
            }
            Op::LayerNorm { x, weight, bias, eps } => {
                let (mut of_weight, mut of_bias) = (vec![0f32; width], vec![0f32; width]);
                let mut norm_back = |scratch: &mut Scratch, dx: ViewMut<'_>, add: bool| {
                    let norm = Norm {
                        x: self.view(scratch, *x, start(*x)),
                        weight: shared.param(*weight),
                        bias: shared.param(*bias),
                        eps: *eps as f32,
                    };
                    let dw = (&mut of_weight[..], &mut of_bias[..]);
                    kernels::norm_back(norm, dy, dx, dw, (lanes, add));
                };
                if plan.nodes[*x].differentiable {
                    self.give(scratch, *x, (start(*x), lanes), band, norm_back);
                } else {
                    // The gradients of the weights are wanted all the same.
                    let (mut unused, stride) = (scratch.take(width * dy.stride + LANES), dy.stride);
                    let data = &mut unused;
                    norm_back(scratch, ViewMut { data, stride }, false);
                    scratch.give_back(unused);
                }
                for (param, sums) in [(*weight, of_weight), (*bias, of_bias)] {
                    if shared.trained[param] {
                        let to = weights[shared.range(param)].iter_mut();
                        to.zip(sums).for_each(|(w, s)| *w += s);
                    }
                }
            }
            Op::Map { x, function } => {
                self.give(scratch, *x, (start(*x), lanes), band, |scratch, dx, add| {
                    kernels::map_back(*function, self.view(scratch, *x, start(*x)), dy, dx, size, add);
                })
            }
            Op::Add { a, b } => {
                for x in [*a, *b] {
                    self.give(scratch, x, (start(x), lanes), band, |_, dx, add| {
                        kernels::pass(dy, dx, size, add);
                    });
                }
            }
            Op::Mul { a, b } => {
                self.give(scratch, *a, (start(*a), lanes), band, |scratch, dx, add| {
                    let right = self.view(scratch, *b, start(*b));
                    kernels::product(dy, self.broadcast(*b, width, right), dx, size, add);
                });
                self.give(scratch, *b, (start(*b), lanes), band, |scratch, mut dx, add| {
                    let left = self.view(scratch, *a, start(*a));
                    match plan.nodes[*b].width {
                        1 if width > 1 => {
                            dx.clear_unless(add, (1, lanes));
                            kernels::dot_channels(dy, left, dx.data, size);
                        }
                        _ => kernels::product(dy, left, dx, size, add),
                    }
                });
            }
            Op::Affine { x, scale, shift } => {
                if let Some(shift) = shift.filter(|&shift| shared.trained[shift]) {
                    kernels::sum_lanes(dy, &mut weights[shared.range(shift)], size);
                }
                if let Some(scale) = scale.filter(|&scale| shared.trained[scale]) {
                    let x = self.view(scratch, *x, start(*x));
                    kernels::dot_lanes(dy, x, &mut weights[shared.range(scale)], size);
                }
                let scale = scale.map(|scale| shared.param(scale));
                self.give(scratch, *x, (start(*x), lanes), band, |_, dx, add| {
                    kernels::affine(dy, scale, None, dx, size, add);
                });
            }
            Op::Attention {
                q,
                k,
                v,
                heads,
                padding,
            } => {
                self.attention_back(scratch, n, dy, band, ([*q, *k, *v], *heads, *padding));
            }
            Op::Dropout { x, rate, site } => {
                if !shared.task.training || *rate == 0.0 {
                    return self.give(scratch, *x, (start(*x), lanes), band, |_, dx, add| {
                        kernels::pass(dy, dx, size, add);
                    });
                }
                let mut mask = std::mem::take(&mut scratch.wide);
                let stride = dy.stride;
                mask.at_least(width * stride + LANES);
                self.draw_dropout(&mut mask, stride, n, band, (*rate, *site));
                self.give(scratch, *x, (start(*x), lanes), band, |_, dx, add| {
                    let mask = View { data: &mask, stride };
                    kernels::product(dy, mask, dx, size, add);
                });
                scratch.wide = mask;
            }
        }
    }

    /// Calls `f` with the gradient of `x` from its `start`-th lane, if it is to have one, and whether
    /// `f` is to add to it or, where it is new and `f` writes all of its `lanes`, to set it.
    fn give(
        &self,
        scratch: &mut Scratch,
        x: usize,
        (start, lanes): (usize, usize),
        band: &Band<'_>,
        f: impl FnOnce(&mut Scratch, ViewMut<'_>, bool),
    ) {
        let planned = &self.plan.nodes[x];
        if !planned.differentiable {
            return;
        }
        let (root, stride) = (planned.root, self.plan.stride(planned.root));
        let whole = planned.width == self.plan.nodes[root].width && start == 0;
        let whole = whole && self.lanes(x, band).0 == lanes;
        let (mut grad, add) = match scratch.grads[root].take() {
            Some(grad) => (grad, true),
            None if whole => (scratch.take(planned.width * stride + LANES), false),
            None => (self.zeroed(scratch, root), true),
        };
        let to = ViewMut {
            data: &mut grad[planned.channel * stride + start..],
            stride,
        };
        f(scratch, to, add);
        scratch.grads[root] = Some(grad);
    }

    /// `weight += dy x^T`.
    fn weight_back(
        &self,
        scratch: &mut Scratch,
        x: usize,
        start: usize,
        dy: View<'_>,
        (width, lanes): (usize, usize),
        weight: &mut [f32],
    ) {
        let input = self.plan.nodes[x].width;
        let pitch = input.next_multiple_of(LANES);
        let (mut turned, mut wide) = (
            std::mem::take(&mut scratch.turned),
            std::mem::take(&mut scratch.wide),
        );
        turned.at_least(lanes * pitch + LANES);
        let x = self.view(scratch, x, start);
        kernels::transpose(x, &mut turned, pitch, (input, lanes));
        let aligned = pitch == input;
        let (c, c_row) = match aligned {
            true => (&mut *weight, input),
            false => (wide.at_least(width * pitch), pitch),
        };
        let gemm = Gemm {
            a: dy.data,
            a_row: dy.stride,
            a_column: 1,
            b: &turned,
            b_row: pitch,
            c,
            c_row,
            size: [width, lanes, input],
            end: if aligned { End::Add } else { End::STORE },
        };
        gemm.run(arch());
        if !aligned {
            for (to, from) in weight.chunks_exact_mut(input).zip(wide.chunks_exact(pitch)) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            }
        }
        (scratch.turned, scratch.wide) = (turned, wide);
    }

    fn attention_back(
        &self,
        scratch: &mut Scratch,
        n: usize,
        dy: View<'_>,
        band: &Band<'_>,
        ([q, k, v], heads, padding): ([usize; 3], usize, crate::Padding),
    ) {
        let plan = self.plan;
        let (width, stride, row) = (plan.nodes[n].width, plan.stride(n), plan.row());
        let (_, reach) = self.lanes(n, band);
        let hop = self.hop(n, k, band, padding);
        self.spread_values(scratch, (k, v), &hop);
        let shares = std::mem::take(&mut scratch.shares[n]);
        let mut scores = std::mem::take(&mut scratch.wide);
        scores.at_least(9 * heads * stride + LANES);
        let (near, far) = (
            std::mem::take(&mut scratch.near),
            std::mem::take(&mut scratch.far),
        );
        let start = self.start(q, reach, band);
        let size = (heads, width / heads, row);
        let own = (start, hop.to.1 * row);
        self.give(scratch, q, own, band, |scratch, dq, add| {
            let of = Attention {
                q: self.view(scratch, q, start),
                k: &near,
                v: &far,
                hop,
                heads,
                width: row,
                depth: width / heads,
            };
            let shares = View {
                data: &shares,
                stride,
            };
            let back = AttentionBack { of, dy, shares };
            let to = ViewMut {
                data: &mut scores,
                stride,
            };
            back.queries((dq, add), to);
        });
        let (mut near, mut far) = (near, far);
        let rows = (hop.to.1, row, plan.images);
        let back = hop.back();
        let weights = |data| View { data, stride };
        // Keys get the queries of those that look at them, by the gradients of their scores; values get
        // the gradients of those, by their shares.
        near.fill(self.view(scratch, q, start), width, rows, padding);
        far.fill(weights(&scores), 9 * heads, rows, padding);
        let all = (0, hop.from.1 * row);
        self.give(scratch, k, all, band, |_, dk, add| {
            near::send_back(&near, &far, &back, (dk, add), size);
        });
        near.fill(dy, width, rows, padding);
        far.fill(weights(&shares), 9 * heads, rows, padding);
        self.give(scratch, v, all, band, |_, dv, add| {
            near::send_back(&near, &far, &back, (dv, add), size);
        });
        (scratch.near, scratch.far, scratch.wide) = (near, far, scores);
        scratch.shares[n] = shares;
    }

    /// Spreads input `x` of the stencil `n` out.
    fn spread(&self, scratch: &mut Scratch, n: usize, x: usize, band: &Band<'_>, op: &Op) -> Hop {
        let padding = op.padding().unwrap_or_default();
        let hop = self.hop(n, x, band, padding);
        let mut spread = std::mem::take(&mut scratch.near);
        let rows = (hop.from.1, self.plan.row(), self.plan.images);
        spread.fill(self.view(scratch, x, 0), self.plan.nodes[x].width, rows, padding);
        scratch.near = spread;
        hop
    }

    /// Spreads keys and values out.
    fn spread_values(&self, scratch: &mut Scratch, (k, v): (usize, usize), hop: &Hop) {
        let rows = (hop.from.1, self.plan.row(), self.plan.images);
        let (mut near, mut far) = (
            std::mem::take(&mut scratch.near),
            std::mem::take(&mut scratch.far),
        );
        let width = self.plan.nodes[k].width;
        near.fill(self.view(scratch, k, 0), width, rows, hop.padding);
        far.fill(self.view(scratch, v, 0), width, rows, hop.padding);
        (scratch.near, scratch.far) = (near, far);
    }

    /// A single channel stands for as many as are asked for.
    fn broadcast<'b>(&self, x: usize, width: usize, view: View<'b>) -> View<'b> {
        match self.plan.nodes[x].width {
            1 if width > 1 => View { stride: 0, ..view },
            _ => view,
        }
    }

    /// Copies the rows around a band out of a whole grid, whose rows hold `width` channels.
    fn load(&self, grid: &[f32], reach: usize, band: &Band<'_>, y: ViewMut<'_>, width: usize) {
        let height = self.plan.height as isize;
        let (start, count) = self.plan.span(reach, band.rows);
        let rows = (start..start + count as isize).map(|row| row.rem_euclid(height) as usize);
        let row = self.plan.row();
        load(grid, (width * row, row), 0..width, rows, y);
    }

    /// The factors of a dropout on all lanes of node `n`.
    fn draw_dropout(
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
        let channels = plan.nodes[n].width;
        for lane in 0..lanes {
            let place = place(lane);
            let (cell, image) = (place / plan.images, self.first + place % plan.images);
            let draw = (self.step, image, cell);
            dropout(self.shared.task, draw, (rate, site), channels, |c, factor| {
                mask[c * stride + lane] = factor;
            });
        }
    }
}

impl Band<'_> {
    /// Number of lanes that are computed.
    fn lanes(&self, row: usize) -> usize {
        match &self.picked {
            Some(picked) => picked.index.len(),
            None => self.rows.len() * row,
        }
    }

    /// Whether any lane takes an update.
    fn fires(&self) -> bool {
        self.picked.as_ref().is_none_or(|picked| !picked.index.is_empty())
    }
}

/// Copies `channels` of some rows of a grid, in which the channels of a row lie together.
fn load(
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
