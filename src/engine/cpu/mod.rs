//! The CPU engine: rollouts of cell programs, fused, forwards and backwards.
//!
//! A rollout is one operation in Candle's graph. Inside, channels are planes and cells are lanes, so
//! that every operation of a program is a loop over vectors of cells and needs no shuffling. A grid is
//! cut into bands of rows whose values stay in the cache through a whole step; small images share a
//! group of lanes. What the fire rate or death leaves alone is left out: the lanes that fire are moved
//! together before the first operation that no neighbour looks at. What cells have by themselves and
//! neighbours look at is kept until the cell fires again. The backward pass recomputes a band's values
//! from the state before the step, so of the past only states are kept.
//!
//! Groups, bands and the order of all sums depend on sizes alone: the bits are the same on any number
//! of threads.

mod attention;
mod backward;
mod buffers;
mod cached;
mod draws;
mod forward;
mod group;
mod kernels;
mod plan;
mod runner;
mod taps;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::engine::{Precision, Task};
use crate::error::Result;
use crate::program::{Op, Program};

use buffers::Trace;
use cached::{border, worth_fixing, worth_keeping};
use forward::{Keep, Shared};
use group::{Group, Plans, Ready, Stage};
use kernels::{LANES, arch, gemm_bf16};
use plan::{Plan, Setting};
use runner::{Grads, Runner};
use taps::{Prepared, of_table, on_all_lanes};

/// Most bytes of values that a rollout keeps for its way back.
const TRACES: usize = 32 << 20;

/// Elements that a thread takes at once.
const PIECE: usize = 1 << 14;

/// Whether the engine can run `program` on `cells`.
pub(crate) fn supports(program: &Program, cells: &Tensor) -> bool {
    let ours = |tensor: &Tensor| tensor.device().is_cpu() && tensor.dtype() == DType::F32;
    // Constants are turned into f32.
    let tables: Vec<usize> = program.constants().map(|(_, table)| table).collect();
    let fits = |(n, param): (usize, &Tensor)| match tables.contains(&n) {
        true => param.dims()[..2] == cells.dims()[1..3] && param.device().is_cpu(),
        false => ours(param),
    };
    ours(cells) && program.params.iter().enumerate().all(fits)
}

/// The cells after the steps of `task`, differentiable with respect to `cells` and all weights.
pub(crate) fn run(program: Program, task: Task, cells: &Tensor) -> Result<Tensor> {
    let trained: Vec<bool> = program.params.iter().map(Tensor::track_op).collect();
    let differentiable = cells.track_op() || trained.contains(&true);
    // An operation has few inputs, so all weights travel as one; the gradient of each finds its way
    // back through the concatenation.
    // Constants come last: their gradients are summed in their own way.
    let tables: Vec<usize> = program.constants().map(|(_, param)| param).collect();
    let weights = (0..program.params.len()).filter(|param| !tables.contains(param));
    let mut offsets = vec![0; program.params.len()];
    let (mut flat, mut end, mut weights_end) = (vec![], 0, 0);
    for param in weights.chain(tables.iter().copied()) {
        offsets[param] = end;
        flat.push(program.params[param].flatten_all()?.to_dtype(DType::F32)?);
        end += program.params[param].elem_count();
        if !tables.contains(&param) {
            weights_end = end;
        }
    }
    let packed = match flat.is_empty() {
        true => Tensor::zeros(1, DType::F32, cells.device())?,
        false => Tensor::cat(&flat, 0)?,
    };
    let op = FusedRollout {
        program,
        task,
        offsets,
        weights_end,
        trained,
        differentiable,
        saved: Mutex::default(),
    };
    Ok(cells.contiguous()?.apply_op2(&packed.contiguous()?, op)?)
}

/// What the backward pass of a group needs.
#[derive(Default)]
struct Saved {
    /// States before every `every`-th step.
    states: Vec<Vec<f32>>,
    /// Which lanes stayed alive in each step, where the program has such a rule.
    alive: Vec<Vec<bool>>,
    /// What was kept of each of the last steps, until it is used.
    traces: Mutex<Vec<Vec<Trace>>>,
}

struct FusedRollout {
    program: Program,
    task: Task,
    offsets: Vec<usize>,
    /// Where the weights end and the constants begin.
    weights_end: usize,
    trained: Vec<bool>,
    differentiable: bool,
    saved: Mutex<Vec<Saved>>,
}

impl FusedRollout {
    /// The matrices of linear maps as the product in bf16 takes them, one entry a weight; nothing where they are not
    /// taken so.
    fn packed(&self, params: &[f32]) -> Vec<[Vec<u32>; 2]> {
        if self.task.precision == Precision::F32 || !gemm_bf16::is_native(arch()) {
            return vec![];
        }
        let mut packed = vec![[vec![], vec![]]; self.program.params.len()];
        for node in &self.program.nodes {
            let Op::Linear { weight, .. } = node.op else {
                continue;
            };
            if let [output, input] = *self.program.params[weight].dims() {
                let values = &params[self.offsets[weight]..][..output * input];
                packed[weight] = [
                    gemm_bf16::pack(values, (input, 1), (output, input)),
                    gemm_bf16::pack(values, (1, input), (input, output)),
                ];
            }
        }
        packed
    }

    /// Calls `f` for each group of images, in parallel, with its plan.
    fn groups<R: Send>(&self, params: &[f32], shape: &[usize], f: impl Fn(&Group<'_>) -> R + Sync) -> Vec<R> {
        let &[batch, height, width, _] = shape else {
            return vec![];
        };
        let packed = self.packed(params);
        let shared = Shared {
            packed: &packed,
            program: &self.program,
            task: &self.task,
            params,
            offsets: &self.offsets,
            trained: &self.trained,
        };
        // Enough images for rows of two vectors and grids of eight, but not so many that a batch
        // makes a single group.
        let wanted = (2 * LANES)
            .div_ceil(width)
            .max((8 * LANES).div_ceil(width * height));
        let size = wanted.min(batch.div_ceil(2)).max(1);
        let sparse = self.is_sparse();
        let flow = self.flow();
        let plans = |images: usize| {
            let setting = Setting {
                program: &self.program,
                grid: (height, width),
                images,
                sparse,
                differentiable: &flow,
                training: self.differentiable,
            };
            let ready = |plan| Ready {
                prepared: Prepared::new(&plan, |param| shared.param(param).to_vec()),
                plan,
            };
            // Cells that die change without having fired, and after a single step nothing is used again.
            let (mut fixed, mut standing) = (vec![], vec![]);
            let lanes = height * width * images;
            if self.program.alive.is_none() && self.task.steps.len() > 1 {
                fixed = worth_fixing(&self.program, lanes);
                if sparse {
                    standing = worth_keeping(&self.program, lanes, &fixed);
                }
            }
            let given = [&fixed[..], &standing].concat();
            let step = ready(Plan::of_step(setting, &given));
            let stage = |kept: &[usize], given_to: &[usize]| {
                let border = |&n: &usize| border(&self.program, &given, n);
                (!kept.is_empty()).then(|| Stage {
                    ready: ready(Plan::of_standing(setting, kept, given_to)),
                    borders: kept.iter().map(border).collect(),
                })
            };
            let table = |(n, param): (usize, usize)| {
                on_all_lanes(&step.plan, shared.param(param), self.program.nodes[n].width)
            };
            Plans {
                tables: self.program.constants().map(table).collect(),
                fixed: stage(&fixed, &[]),
                standing: stage(&standing, &fixed),
                step,
            }
        };
        let (full, rest) = (plans(size), (batch % size > 0).then(|| plans(batch % size)));
        let ranges: Vec<Range<usize>> = (0..batch)
            .step_by(size)
            .map(|start| start..batch.min(start + size))
            .collect();
        let count = ranges.len();
        let parallel = count < rayon::current_num_threads();
        // One after the other, so that what groups have summed up need not wait long for those before them.
        let ranges = ranges.into_iter().enumerate().par_bridge();
        let mut done: Vec<(usize, R)> = ranges
            .map(|(number, images)| {
                let Plans {
                    step,
                    fixed,
                    standing,
                    tables,
                } = match &rest {
                    Some(rest) if images.len() < size => rest,
                    _ => &full,
                };
                let group = Group {
                    shared: &shared,
                    step,
                    fixed: fixed.as_ref(),
                    standing: standing.as_ref(),
                    tables,
                    images,
                    number,
                    count,
                    parallel,
                };
                (number, f(&group))
            })
            .collect();
        done.sort_by_key(|(number, _)| *number);
        done.into_iter().map(|(_, result)| result).collect()
    }

    /// Whether some cells may be left alone in a step.
    fn is_sparse(&self) -> bool {
        !self.task.fire_rate.is_full() || self.task.masks.is_some() || self.program.alive.is_some()
    }

    /// Through which nodes of the program gradients flow.
    fn flow(&self) -> Vec<bool> {
        let mut flow: Vec<bool> = vec![];
        for node in &self.program.nodes {
            let trains = |param: &usize| self.trained[*param];
            let own = matches!(node.op, Op::Cells) || node.op.params().iter().any(trains);
            let inherited = node.op.inputs().into_iter().any(|x| flow[x]);
            flow.push(own || inherited);
        }
        flow
    }

    fn forward(&self, cells: &[f32], params: &[f32], shape: &[usize]) -> Vec<f32> {
        let groups = self.groups(params, shape, |group| {
            let mut runner = Runner::new(group, false);
            let mut state = group.gather(cells);
            let mut saved = Saved::default();
            let (mut next, mut traces) = (vec![], vec![]);
            let last = self.task.steps.end - self.traced_steps(group);
            for step in self.task.steps.clone() {
                let keep = if step < last { Keep::Nothing } else { Keep::Trace };
                let (alive, trace) = runner.step(step, &state, &mut next, keep);
                if self.differentiable {
                    saved.alive.extend(alive);
                    if keep == Keep::Trace {
                        traces.push(trace);
                    }
                    if (step - self.task.steps.start).is_multiple_of(self.task.every) {
                        saved.states.push(std::mem::take(&mut state));
                    }
                }
                std::mem::swap(&mut state, &mut next);
            }
            saved.traces = Mutex::new(traces);
            (group.scatter(&state), saved)
        });
        let (outs, saved): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = saved;
        joined(outs)
    }

    /// Of how many of the last steps values are kept: only where that is half of them or more. Of cells that fire half of
    /// the time they are computed again as fast.
    fn traced_steps(&self, group: &Group<'_>) -> usize {
        if !self.differentiable || !self.task.traces || self.is_sparse() {
            return 0;
        }
        let bytes = group.step.plan.trace() * size_of::<f32>() * group.count;
        let (steps, fit) = (self.task.steps.len(), TRACES / bytes.max(1));
        if 2 * fit < steps { 0 } else { fit.min(steps) }
    }

    /// The gradients of the first cells and of the weights.
    fn backward(&self, grad: &[f32], params: &[f32], shape: &[usize]) -> (Vec<f32>, Vec<f32>) {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let saved: &[Saved] = &saved;
        let size = self.weights_end;
        let sum = Mutex::new(OrderedSum::new(params.len()));
        let outs = self.groups(params, shape, |group| {
            let mut runner = Runner::new(group, true);
            let mut grad = group.gather(grad);
            let saved = &saved[group.number];
            let mut weights = vec![vec![0f32; size]; group.strips()];
            let mut grads = Grads {
                state: &mut grad,
                weights: &mut weights,
            };
            let start = self.task.steps.start;
            let mut after: Option<&Vec<f32>> = None;
            for (n, first) in saved.states.iter().enumerate().rev() {
                let from = start + n * self.task.every;
                let steps = from..self.task.steps.end.min(from + self.task.every);
                // The states between, computed again.
                let mut between: Vec<Vec<f32>> = vec![];
                if steps.len() > 1 {
                    runner.forget();
                }
                for step in from + 1..steps.end {
                    let mut next = vec![];
                    let state = between.last().unwrap_or(first);
                    runner.step(step - 1, state, &mut next, Keep::Nothing);
                    between.push(next);
                }
                let states = std::iter::once(first).chain(&between).collect::<Vec<_>>();
                let mut later = after;
                for (step, &state) in steps.zip(&states).rev() {
                    let alive = saved.alive.get(step - start);
                    let mut traces = saved.traces.lock().unwrap_or_else(PoisonError::into_inner);
                    let traces = traces.pop().unwrap_or_default();
                    let states = (&state[..], later.map(Vec::as_slice));
                    runner.step_back(step, states, (alive, traces), &mut grads);
                    later = Some(state);
                }
                after = Some(first);
            }
            if let Some(first) = saved.states.first() {
                runner.settle_all(start, first, &mut grads);
            }
            let constants = self.program.constants().zip(runner.into_table_grads());
            let tables =
                constants
                    .filter(|((_, param), _)| self.trained[*param])
                    .map(|((n, param), grad)| {
                        let width = self.program.nodes[n].width;
                        (self.offsets[param], of_table(&group.step.plan, &grad, width))
                    });
            let parts = weights.into_iter().map(|strip| (0, strip)).chain(tables);
            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
            sum.add(group.number, parts.collect());
            group.scatter(&grad)
        });
        let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
        (joined(outs), sum.total)
    }
}

/// The gradients of all weights, group by group: those of a group that is early wait for the ones before it, so that the
/// order of the sum is always the same.
struct OrderedSum {
    total: Vec<f32>,
    /// The group that comes next.
    next: usize,
    /// Parts of the gradients, each with its first place among all of them.
    waiting: BTreeMap<usize, Vec<(usize, Vec<f32>)>>,
}

impl OrderedSum {
    fn new(len: usize) -> Self {
        Self {
            total: vec![0.0; len],
            next: 0,
            waiting: BTreeMap::new(),
        }
    }

    fn add(&mut self, group: usize, parts: Vec<(usize, Vec<f32>)>) {
        self.waiting.insert(group, parts);
        while let Some(parts) = self.waiting.remove(&self.next) {
            for (start, part) in parts {
                let total = self.total[start..].iter_mut();
                total.zip(part).for_each(|(total, part)| *total += part);
            }
            self.next += 1;
        }
    }
}

/// What groups made, one after the other.
fn joined(mut outs: Vec<Vec<f32>>) -> Vec<f32> {
    match outs.len() {
        1 => outs.remove(0),
        _ => outs.concat(),
    }
}

/// The values of contiguous f32 storage.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => candle_core::bail!("the engine works on contiguous f32 values"),
    }
}

impl CustomOp2 for FusedRollout {
    fn name(&self) -> &'static str {
        "fused-rollout"
    }

    fn cpu_fwd(
        &self,
        cells: &CpuStorage,
        cells_layout: &Layout,
        params: &CpuStorage,
        params_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let shape = cells_layout.shape();
        let out = self.forward(
            values(cells, cells_layout)?,
            values(params, params_layout)?,
            shape.dims(),
        );
        Ok((CpuStorage::F32(out), shape.clone()))
    }

    fn bwd(
        &self,
        cells: &Tensor,
        params: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?.flatten_all()?.to_vec1::<f32>()?;
        let packed = params.flatten_all()?.to_vec1::<f32>()?;
        let (first, weights) = self.backward(&grad, &packed, cells.dims());
        Ok((
            Some(Tensor::from_vec(first, cells.shape(), cells.device())?),
            Some(Tensor::from_vec(weights, params.shape(), params.device())?),
        ))
    }
}
