//! A step of a group of images, backwards: recomputes the values of a band, then computes their gradients.

use std::ops::Range;

use crate::grid::Padding;
use crate::program::Op;

use super::buffers::{Buffer, Trace};
use super::forward::load;
use super::given::BandGrad;
use super::kernels::gemm::{End, Gemm};
use super::kernels::{self, LANES, Norm, RmsNorm, View, ViewMut, arch, compact, stencil};
use super::plan::{Domain, Work};
use super::scratch::Scratch;
use super::step::{Band, Before, StepContext};

impl StepContext<'_> {
    /// Adds the gradients of bands; `grad` is that of the next state, already 0 where cells died. The state's
    /// gradient through the update is added to `flow`, which begins at row `first` of the grid, and the
    /// weights' to `weights`. Returns the gradients of given values, but for those that accumulate in place.
    pub fn backward<'b>(
        &self,
        scratch: &mut Scratch,
        before: Before<'_>,
        (bands, traces): (&'b [Range<usize>], Vec<Trace>),
        grad: &[f32],
        (flow, first): (&mut [f32], isize),
        weights: &mut [f32],
    ) -> Vec<BandGrad<'b>> {
        let (plan, mut given, mut traces) = (self.plan, vec![], traces.into_iter());
        for rows in bands {
            let trace = traces.next().unwrap_or_default();
            let band = Band::new(plan, rows, before.firing.fires.as_deref());
            if !band.fires() {
                continue;
            }
            self.evaluate_again(scratch, before.state, &band, trace);
            self.seed(scratch, grad, &band);
            given.extend(self.pass_on(scratch, &band, (&mut *flow, first), weights));
        }
        given
    }

    /// Passes the gradients of a band's outputs on to its cells, the weights and given values, and frees the
    /// band's values. Returns the gradients of given values, but for those that accumulate in place.
    pub fn pass_on<'b>(
        &self,
        scratch: &mut Scratch,
        band: &Band<'b>,
        (flow, first): (&mut [f32], isize),
        weights: &mut [f32],
    ) -> Vec<BandGrad<'b>> {
        let plan = self.plan;
        let mut given = vec![];
        if let Some(all) = &mut scratch.given_grads {
            for (n, slot) in plan.given().filter(|(n, _)| plan.nodes[*n].in_place) {
                scratch.grads[n] = Some(std::mem::take(all.of(slot)));
                scratch.in_place[n] = true;
            }
        }
        self.sweep(scratch, band, weights);
        self.drain(scratch, band.rows, (flow, first));
        for (node, slot) in plan.given() {
            if scratch.in_place[node] {
                continue;
            }
            let grad = scratch.grads[node].take();
            given.extend(grad.map(|grad| BandGrad {
                rows: band.rows,
                node,
                slot,
                grad,
            }));
        }
        self.release(scratch);
        given
    }

    /// Passes gradients through the nodes of a band, in reverse, to its cells and given values.
    fn sweep(&self, scratch: &mut Scratch, band: &Band<'_>, weights: &mut [f32]) {
        let plan = self.plan;
        for n in (1..plan.nodes.len()).rev() {
            let node = &plan.nodes[n];
            if node.root != n || !node.differentiable || matches!(node.work, Work::Given { .. }) {
                continue;
            }
            if let Some(mut grad) = scratch.grads[n].take() {
                if node.relu {
                    let (lanes, _) = self.lanes(n, band);
                    let dy = ViewMut {
                        data: &mut grad,
                        stride: plan.stride(n),
                    };
                    kernels::cut_off(self.view(scratch, n, 0), dy, (node.width, lanes));
                }
                self.back(scratch, n, &grad, band, weights);
                let second = if let Work::Op(Op::Add { b, .. }) = node.work {
                    Some(b)
                } else {
                    node.addend
                };
                match second {
                    Some(x) => self.hand_on(scratch, n, x, grad, band),
                    None => scratch.give_back(grad),
                }
            }
        }
    }

    /// Passes the gradient of sum `n` to its operand `x`: the buffer itself where possible, if `x` has no
    /// gradient yet.
    fn hand_on(&self, scratch: &mut Scratch, n: usize, x: usize, grad: Buffer, band: &Band<'_>) {
        let (plan, planned) = (self.plan, &self.plan.nodes[x]);
        let ((lanes, halo), stride) = (self.lanes(n, band), plan.stride(n));
        let start = self.start(x, halo, band);
        let whole = planned.root == x && start == 0 && self.lanes(x, band).0 == lanes;
        if planned.differentiable && whole && plan.stride(x) == stride && scratch.grads[x].is_none() {
            scratch.grads[x] = Some(grad);
            return;
        }
        let dy = View { data: &grad, stride };
        self.give(scratch, x, (start, lanes), band, |_, dx, add| {
            kernels::pass(dy, dx, (planned.width, lanes), add);
        });
        scratch.give_back(grad);
    }

    /// Adds the gradient of a band's cells and their halo to `flow`, which begins at row `first` of the grid.
    fn drain(&self, scratch: &mut Scratch, rows: &Range<usize>, (flow, first): (&mut [f32], isize)) {
        let plan = self.plan;
        let (row, line) = (plan.row(), plan.line());
        if let (Some(grad), Domain::Rows(halo)) = (scratch.grads[0].take(), plan.nodes[0].domain) {
            let (start, count) = plan.span(halo, rows);
            let flow = &mut flow[(start - first) as usize * line..][..count * line];
            for (r, flow) in flow.chunks_exact_mut(line).enumerate() {
                for (c, flow) in flow.chunks_exact_mut(row).enumerate() {
                    let grad = &grad[c * plan.stride(0) + r * row..][..row];
                    flow.iter_mut().zip(grad).for_each(|(flow, g)| *flow += g);
                }
            }
            scratch.give_back(grad);
        }
    }

    /// Sets the gradient of a band's update.
    fn seed(&self, scratch: &mut Scratch, grad: &[f32], band: &Band<'_>) {
        let plan = self.plan;
        let (row, layout) = (plan.row(), self.call.job.program.layout);
        let (planned, stride) = (&plan.nodes[plan.update()], plan.stride(plan.update()));
        // Every lane is written, unless the update is a slice of a wider value.
        let mut seed = match planned.root == plan.update() {
            true => scratch.take(planned.width * stride + LANES),
            false => self.zeroed(scratch, planned.root),
        };
        let mut to = ViewMut {
            data: &mut seed[planned.channel * stride + self.start(plan.update(), 0, band)..],
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
                compact::compress(from, picked, to.reborrow(0), layout.update_channels());
                scratch.give_back(all);
            }
        }
        scratch.grads[planned.root] = Some(seed);
    }

    /// Adds to the gradients of the inputs and weights of node `n`; `grad` is its own. [`Self::hand_on`]
    /// passes the gradient to a sum's second operand.
    fn back(&self, scratch: &mut Scratch, n: usize, grad: &[f32], band: &Band<'_>, weights: &mut [f32]) {
        let plan = self.plan;
        let (width, (lanes, _)) = (plan.nodes[n].width, self.lanes(n, band));
        let size = (width, lanes);
        let dy = View {
            data: grad,
            stride: plan.stride(n),
        };
        match &plan.nodes[n].work {
            Work::Op(op) => self.op_back(scratch, (n, op), dy, band, weights),
            Work::Given { .. } => {}
            Work::Compress { x } => {
                let all = (self.start(*x, 0, band), band.rows.len() * plan.row());
                self.give(scratch, *x, all, band, |_, dx, add| match &band.picked {
                    Some(picked) if add => compact::expand(dy, picked, dx, width),
                    Some(picked) => compact::expand_or_zero(dy, picked, dx, width),
                    None => kernels::pass(dy, dx, size, add),
                });
            }
            Work::Expand { x } => {
                let count = band.lanes(plan.row());
                self.give(scratch, *x, (0, count), band, |scratch, dx, add| {
                    let Some(picked) = &band.picked else {
                        return kernels::pass(dy, dx, size, add);
                    };
                    if !add {
                        return compact::compress(dy, picked, dx, width);
                    }
                    let (mut line, stride) = (scratch.take(width * dx.stride), dx.stride);
                    let to = ViewMut {
                        data: &mut line,
                        stride,
                    };
                    compact::compress(dy, picked, to, width);
                    let from = View { data: &line, stride };
                    kernels::add_to(from, dx, (width, count));
                    scratch.give_back(line);
                });
            }
        }
    }

    /// As [`Self::back`], for an operation of the program.
    fn op_back(
        &self,
        scratch: &mut Scratch,
        (n, op): (usize, &Op),
        dy: View<'_>,
        band: &Band<'_>,
        weights: &mut [f32],
    ) {
        let (plan, job) = (self.plan, self.call.job);
        let width = plan.nodes[n].width;
        let (lanes, halo) = self.lanes(n, band);
        let size = (width, lanes);
        let start = |x: usize| self.start(x, halo, band);
        match op {
            Op::Cells | Op::Constant(_) | Op::Slice { .. } => {}
            Op::Concat(parts) => {
                let mut channel = 0;
                for &part in parts {
                    let channels = plan.nodes[part].width;
                    let dy = View {
                        data: &dy.data[channel * dy.stride..],
                        ..dy
                    };
                    self.give(scratch, part, (start(part), lanes), band, |_, dx, add| {
                        kernels::pass(dy, dx, (channels, lanes), add);
                    });
                    channel += channels;
                }
            }
            Op::Linear { x, weight, bias } => {
                if let Some(bias) = bias.filter(|&bias| job.is_trained(bias)) {
                    kernels::sum_lanes(dy, &mut weights[job.range(bias)], size);
                }
                if job.is_trained(*weight) {
                    let weight = &mut weights[job.range(*weight)];
                    self.weight_back(scratch, *x, start(*x), dy, size, weight);
                }
                self.linear_back(scratch, (n, *x), *weight, dy, band);
            }
            Op::Neighbourhood { x, padding }
            | Op::SumTaps { x, padding }
            | Op::Depthwise { x, padding, .. } => {
                if let Op::Depthwise { kernel, .. } = op
                    && job.is_trained(*kernel)
                {
                    let window = self.pad_input(scratch, n, *x, band, op);
                    let (filters, row) = (width / plan.nodes[*x].width, plan.row());
                    let kernel = &mut weights[job.range(*kernel)];
                    stencil::kernel_back(scratch.padded.neighbours(&window, 0), dy, kernel, filters, row);
                }
                self.stencil_back(scratch, (n, *x), *padding, dy, band);
            }
            Op::LayerNorm { x, weight, bias, eps } => {
                let params = (*weight, *bias, *eps);
                self.layer_norm_back(scratch, (n, *x), params, dy, band, weights);
            }
            Op::RmsNorm { x, scale, eps } => {
                self.rms_norm_back(scratch, (n, *x), (*scale, *eps), dy, band, weights);
            }
            Op::InverseRms { x, centred, .. } => {
                let input = plan.nodes[*x].width;
                self.give(scratch, *x, (start(*x), lanes), band, |scratch, dx, add| {
                    let (x, y) = (self.view(scratch, *x, start(*x)), self.view(scratch, n, 0));
                    kernels::inverse_rms_back(x, *centred, (y.data, dy.data), dx, (input, lanes), add);
                });
            }
            Op::Map { x, function } => {
                self.give(scratch, *x, (start(*x), lanes), band, |scratch, dx, add| {
                    kernels::map_back(*function, self.view(scratch, *x, start(*x)), dy, dx, size, add);
                });
            }
            Op::Add { a, .. } => self.give(scratch, *a, (start(*a), lanes), band, |_, dx, add| {
                kernels::pass(dy, dx, size, add);
            }),
            Op::Mul { a, b } => self.mul_back(scratch, n, (*a, *b), dy, band),
            Op::Affine { x, scale, shift } => {
                self.affine_back(scratch, (n, *x), (*scale, *shift), dy, band, weights);
            }
            Op::Attention(of) => self.attend_back(scratch, n, *of, band, dy),
            Op::Dropout { x, rate, .. } => {
                if !job.task.training || *rate == 0.0 {
                    return self.give(scratch, *x, (start(*x), lanes), band, |_, dx, add| {
                        kernels::pass(dy, dx, size, add);
                    });
                }
                let factors = scratch.saved[n].take().unwrap_or_default();
                self.give(scratch, *x, (start(*x), lanes), band, |_, dx, add| {
                    let (data, stride) = (&factors[..], dy.stride);
                    kernels::product(dy, View { data, stride }, dx, size, add);
                });
                scratch.give_back(factors);
            }
        }
    }

    /// The gradients of the input `x` and of the scale and shift of affine map `n`.
    fn affine_back(
        &self,
        scratch: &mut Scratch,
        (n, x): (usize, usize),
        (scale, shift): (Option<usize>, Option<usize>),
        dy: View<'_>,
        band: &Band<'_>,
        weights: &mut [f32],
    ) {
        let (job, (lanes, halo)) = (self.call.job, self.lanes(n, band));
        let (size, start) = ((self.plan.nodes[n].width, lanes), self.start(x, halo, band));
        if let Some(shift) = shift.filter(|&shift| job.is_trained(shift)) {
            kernels::sum_lanes(dy, &mut weights[job.range(shift)], size);
        }
        if let Some(scale) = scale.filter(|&scale| job.is_trained(scale)) {
            let x = self.view(scratch, x, start);
            kernels::dot_lanes(dy, x, &mut weights[job.range(scale)], size);
        }
        let scale = scale.map(|scale| self.call.param(scale));
        self.give(scratch, x, (start, lanes), band, |_, dx, add| {
            kernels::affine(dy, scale, None, dx, size, add);
        });
    }

    /// The gradient of the input `x` of linear layer `n`.
    fn linear_back(
        &self,
        scratch: &mut Scratch,
        (n, x): (usize, usize),
        weight: usize,
        dy: View<'_>,
        band: &Band<'_>,
    ) {
        let (width, input) = (self.plan.nodes[n].width, self.plan.nodes[x].width);
        let (lanes, halo) = self.lanes(n, band);
        let start = self.start(x, halo, band);
        let mut wide = std::mem::take(&mut scratch.product);
        let whole = start == 0 && self.lanes(x, band).0 == lanes;
        self.give(scratch, x, (start, lanes), band, |_, dx, add| {
            let (c, c_row) = match whole {
                true => (&mut *dx.data, dx.stride),
                false => (wide.at_least(input * dy.stride + LANES), dy.stride),
            };
            let gemm = Gemm {
                a: self.call.param(weight),
                a_row: 1,
                a_column: input,
                packed: self.call.packed(weight, true),
                b: dy.data,
                b_row: dy.stride,
                c,
                c_row,
                size: [input, width, lanes],
                end: if whole && add { End::Add } else { End::STORE },
            };
            gemm.run(self.call.job.task.precision, arch());
            if !whole {
                let from = View {
                    data: &wide,
                    stride: dy.stride,
                };
                kernels::add_to(from, dx, (input, lanes));
            }
        });
        scratch.product = wide;
    }

    /// The gradient of the input `x` of stencil `n`.
    fn stencil_back(
        &self,
        scratch: &mut Scratch,
        (n, x): (usize, usize),
        padding: Padding,
        dy: View<'_>,
        band: &Band<'_>,
    ) {
        let (plan, halo) = (self.plan, self.plan.halo_of(n));
        let window = self.window(n, band, padding).reversed();
        let mut padded = std::mem::take(&mut scratch.padded);
        let rows = (window.read.1, plan.row(), plan.images);
        padded.fill(dy, plan.nodes[n].width, rows, padding);
        if let Some(taps) = &self.taps[n] {
            let all = (self.start(x, halo + 1, band), window.computed.1 * plan.row());
            self.give(scratch, x, all, band, |_, dx, add| {
                stencil::stencil(padded.neighbours(&window, 0), &taps.backward, dx, plan.row(), add);
            });
        }
        scratch.padded = padded;
    }

    /// The gradients of the input `x` of layer norm `n`, and of its weights.
    fn layer_norm_back(
        &self,
        scratch: &mut Scratch,
        (n, x): (usize, usize),
        (weight, bias, eps): (usize, usize, f64),
        dy: View<'_>,
        band: &Band<'_>,
        weights: &mut [f32],
    ) {
        let (width, job) = (self.plan.nodes[n].width, self.call.job);
        let (lanes, halo) = self.lanes(n, band);
        let start = self.start(x, halo, band);
        let (mut of_weight, mut of_bias) = (vec![0f32; width], vec![0f32; width]);
        self.give_anyway(scratch, x, (start, lanes), band, |scratch, dx, add| {
            let norm = Norm {
                x: self.view(scratch, x, start),
                weight: self.call.param(weight),
                bias: self.call.param(bias),
                eps: eps as f32,
            };
            let dw = (&mut of_weight[..], &mut of_bias[..]);
            kernels::norm_back(norm, dy, dx, dw, (lanes, add));
        });
        for (param, sums) in [(weight, of_weight), (bias, of_bias)] {
            if job.is_trained(param) {
                let to = weights[job.range(param)].iter_mut();
                to.zip(sums).for_each(|(w, s)| *w += s);
            }
        }
    }

    /// The gradients of the input `x` of RMS norm `n`, and of its scale.
    fn rms_norm_back(
        &self,
        scratch: &mut Scratch,
        (n, x): (usize, usize),
        (scale, eps): (usize, f64),
        dy: View<'_>,
        band: &Band<'_>,
        weights: &mut [f32],
    ) {
        let job = self.call.job;
        let (lanes, halo) = self.lanes(n, band);
        let start = self.start(x, halo, band);
        let mut of_scale = vec![0f32; self.plan.nodes[n].width];
        self.give_anyway(scratch, x, (start, lanes), band, |scratch, dx, add| {
            let norm = RmsNorm {
                x: self.view(scratch, x, start),
                scale: self.call.param(scale),
                eps: eps as f32,
            };
            kernels::rms_norm_back(norm, dy, dx, &mut of_scale, (lanes, add));
        });
        if job.is_trained(scale) {
            let to = weights[job.range(scale)].iter_mut();
            to.zip(of_scale).for_each(|(w, s)| *w += s);
        }
    }

    /// The gradients of the factors `a` and `b` of product `n`.
    fn mul_back(
        &self,
        scratch: &mut Scratch,
        n: usize,
        (a, b): (usize, usize),
        dy: View<'_>,
        band: &Band<'_>,
    ) {
        let width = self.plan.nodes[n].width;
        let (lanes, halo) = self.lanes(n, band);
        let size = (width, lanes);
        let [start_a, start_b] = [a, b].map(|x| self.start(x, halo, band));
        self.give(scratch, a, (start_a, lanes), band, |scratch, dx, add| {
            let right = self.view(scratch, b, start_b);
            kernels::product(dy, self.broadcast(b, width, right), dx, size, add);
        });
        self.give(scratch, b, (start_b, lanes), band, |scratch, mut dx, add| {
            let left = self.view(scratch, a, start_a);
            match self.plan.nodes[b].width {
                1 if width > 1 => {
                    dx.clear_unless(add, (1, lanes));
                    kernels::dot_channels(dy, left, dx.data, size);
                }
                _ => kernels::product(dy, left, dx, size, add),
            }
        });
    }

    /// Calls `f` with the gradient of `x` from lane `start` on, if `x` needs one. The flag tells `f` to add
    /// to it; it is false only for a new gradient, all of whose lanes `f` then sets.
    pub fn give(
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
        let root = planned.root;
        let (stride, origin) = match scratch.in_place[root] {
            true => (self.plan.grid_stride(), scratch.origins[root]),
            false => (self.plan.stride(root), 0),
        };
        let whole = planned.width == self.plan.nodes[root].width && start == 0;
        let whole = whole && self.lanes(x, band).0 == lanes;
        let (mut grad, add) = match scratch.grads[root].take() {
            Some(grad) => (grad, true),
            None if whole => (scratch.take(planned.width * stride + LANES), false),
            None => (self.zeroed(scratch, root), true),
        };
        let to = ViewMut {
            data: &mut grad[planned.channel * stride + origin + start..],
            stride,
        };
        f(scratch, to, add);
        scratch.grads[root] = Some(grad);
    }

    /// The same for an `f` that finds gradients of weights as well: where `x` is to have none, it is called
    /// all the same, and what it writes is thrown away.
    fn give_anyway(
        &self,
        scratch: &mut Scratch,
        x: usize,
        (start, lanes): (usize, usize),
        band: &Band<'_>,
        f: impl FnOnce(&mut Scratch, ViewMut<'_>, bool),
    ) {
        if self.plan.nodes[x].differentiable {
            return self.give(scratch, x, (start, lanes), band, f);
        }
        let stride = lanes.next_multiple_of(LANES);
        let mut unused = scratch.take(self.plan.nodes[x].width * stride + LANES);
        let data = &mut unused;
        f(scratch, ViewMut { data, stride }, false);
        scratch.give_back(unused);
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
        // An odd number of cache lines, so that a column of vectors is spread over the cache's sets.
        let pitch = (input.div_ceil(LANES) | 1) * LANES;
        let (mut turned, mut wide) = (
            std::mem::take(&mut scratch.transposed),
            std::mem::take(&mut scratch.product),
        );
        turned.at_least(lanes * pitch + LANES);
        let x = self.view(scratch, x, start);
        compact::transpose(x, &mut turned, pitch, (input, lanes));
        let aligned = input.is_multiple_of(LANES);
        let (c, c_row) = match aligned {
            true => (&mut *weight, input),
            false => (wide.at_least(width * pitch), pitch),
        };
        let gemm = Gemm {
            a: dy.data,
            a_row: dy.stride,
            a_column: 1,
            packed: None,
            b: &turned,
            b_row: pitch,
            c,
            c_row,
            size: [width, lanes, input],
            end: if aligned { End::Add } else { End::STORE },
        };
        gemm.run(self.call.job.task.precision, arch());
        if !aligned {
            for (to, from) in weight.chunks_exact_mut(input).zip(wide.chunks_exact(pitch)) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            }
        }
        (scratch.transposed, scratch.product) = (turned, wide);
    }
}
