//! The CPU engine.
//!
//! Channels are planes and cells are lanes, so that every operation of a program is a loop over vectors of
//! cells and needs no shuffling. A grid is cut into bands of rows whose values stay in the cache through a
//! whole step; several small images share the lanes. Cells that do not fire, or are dead, are skipped: the
//! lanes that fire are compressed before the first operation whose values no neighbour reads. Values of a
//! cell alone that neighbours read are cached until the cell fires again. The backward pass recomputes a
//! band's values from the state before the step, unless they were stored.
//!
//! Groups, bands and the order of all sums depend on sizes alone: the bits are the same on any number of
//! threads.
//!
//! `README.md` in the folder above describes the life of a step and has a glossary.

mod alive;
mod attention;
mod backward;
mod bound;
mod buffers;
mod cached;
mod call;
mod compiled;
mod draws;
mod forward;
mod given;
mod group;
mod kernels;
mod plan;
mod runner;
mod scratch;
mod step;
mod strips;
mod taps;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::job::Job;
pub(super) use bound::Bindings;
use bound::Bound;
use buffers::Trace;
use call::Call;
use compiled::Compiled;
use forward::Keep;
use group::Group;
use runner::Runner;
use strips::Grads;
use taps::sum_over_images;

/// Batch, height, width and channels.
type Dims = (usize, usize, usize, usize);

/// Most bytes of values that a rollout stores for its backward pass.
const TRACES: usize = 32 << 20;

/// What the backward pass needs of a forward pass.
pub(super) struct Saved {
    bound: Arc<[Bound]>,
    groups: Vec<SavedGroup>,
}

#[derive(Default)]
struct SavedGroup {
    /// States before every `every`-th step.
    states: Vec<Vec<f32>>,
    /// Which lanes stayed alive in each step, where the program has such a rule.
    alive: Vec<Vec<bool>>,
    /// Stored values of each of the last steps, until they are used.
    traces: Mutex<Vec<Vec<Trace>>>,
}

/// How a batch is cut into groups of images side by side in the lanes.
struct Groups {
    batch: usize,
    size: usize,
}

impl Groups {
    fn new((batch, height, width, _): Dims) -> Self {
        let wanted = compiled::group_size((height, width));
        // At least two groups where the batch allows it.
        let size = wanted.min(batch.div_ceil(2)).max(1);
        Self { batch, size }
    }

    /// The group sizes that occur: the usual one, and that of a smaller last group.
    fn sizes(&self) -> Vec<usize> {
        let rest = self.batch % self.size;
        [self.size, rest].into_iter().filter(|&size| size > 0).collect()
    }

    /// Calls `f` for each group, in parallel; results come in the order of the groups.
    fn each<R: Send>(&self, call: &Call<'_>, bound: &[Bound], f: impl Fn(&Group<'_>) -> R + Sync) -> Vec<R> {
        let ranges: Vec<Range<usize>> = (0..self.batch)
            .step_by(self.size)
            .map(|start| start..self.batch.min(start + self.size))
            .collect();
        let count = ranges.len();
        let parallel = count < rayon::current_num_threads();
        // In order, so that a group's sums do not wait long for those of earlier groups.
        let ranges = ranges.into_iter().enumerate().par_bridge();
        let mut done: Vec<(usize, R)> = ranges
            .map(|(number, images)| {
                let group = Group {
                    call,
                    bound: &bound[usize::from(images.len() < self.size)],
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
}

/// The last cells, and what is saved for the backward pass.
pub(super) fn forward(
    (job, bindings): (&Job, &Bindings),
    cells: &[f32],
    params: &[f32],
    dims: Dims,
) -> (Vec<f32>, Saved) {
    let (groups, call) = (Groups::new(dims), Call::new(job, params));
    let compile = |images| Compiled::of(job, (dims.1, dims.2), images);
    let plans: Vec<_> = groups.sizes().into_iter().map(compile).collect();
    let bound = bindings.of(&plans, &call);
    let done = groups.each(&call, &bound, |group| {
        let mut runner = Runner::new(group, false);
        let mut state = group.gather(cells);
        let mut saved = SavedGroup::default();
        let (mut next, mut traces) = (vec![], vec![]);
        let last = job.task.steps.end - steps_stored(group);
        for step in job.task.steps.clone() {
            let keep = if step < last { Keep::Nothing } else { Keep::Trace };
            let (alive, trace) = runner.step(step, &state, &mut next, keep);
            if job.differentiable {
                saved.alive.extend(alive);
                if keep == Keep::Trace {
                    traces.push(trace);
                }
                if (step - job.task.steps.start).is_multiple_of(job.task.every) {
                    saved.states.push(std::mem::take(&mut state));
                }
            }
            std::mem::swap(&mut state, &mut next);
        }
        saved.traces = Mutex::new(traces);
        (group.scatter(&state), saved)
    });
    let (outs, groups): (Vec<_>, Vec<_>) = done.into_iter().unzip();
    (joined(outs), Saved { bound, groups })
}

/// Number of final steps whose values are stored; 0 if under half would fit. Where cells fire half of the
/// time, recomputing is as fast as reading.
fn steps_stored(group: &Group<'_>) -> usize {
    let job = group.call.job;
    if !job.differentiable || !job.task.store_values || job.is_sparse() {
        return 0;
    }
    let bytes = group.plan().trace_floats() * size_of::<f32>() * group.count;
    let (steps, fit) = (job.task.steps.len(), TRACES / bytes.max(1));
    if 2 * fit < steps { 0 } else { fit.min(steps) }
}

/// The gradients of the first cells and, after them, of all parameters, given that of the last cells.
pub(super) fn backward(job: &Job, saved: &Saved, grad: &[f32], params: &[f32], dims: Dims) -> Vec<f32> {
    let (groups, call) = (Groups::new(dims), Call::new(job, params));
    let sum = Mutex::new(OrderedSum::new(params.len()));
    let outs = groups.each(&call, &saved.bound, |group| {
        let (grad, parts) = group_backward(group, &saved.groups[group.number], grad);
        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
        sum.add(group.number, parts);
        grad
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut all = Vec::with_capacity(grad.len() + params.len());
    outs.iter().for_each(|out| all.extend_from_slice(out));
    all.extend(sum.total);
    all
}

/// Parts of the packed parameter gradients, each with its offset.
type Parts = Vec<(usize, Vec<f32>)>;

/// The gradients of a group's first cells, and those of the parameters in parts.
fn group_backward(group: &Group<'_>, saved: &SavedGroup, grad: &[f32]) -> (Vec<f32>, Parts) {
    let (job, mut runner) = (group.call.job, Runner::new(group, true));
    let mut grad = group.gather(grad);
    let mut weights = vec![vec![0f32; job.weights.weights_end]; group.strips()];
    let mut grads = Grads {
        state: &mut grad,
        weights: &mut weights,
    };
    let (start, end, every) = (job.task.steps.start, job.task.steps.end, job.task.every);
    let mut after: Option<&Vec<f32>> = None;
    for (n, first) in saved.states.iter().enumerate().rev() {
        let from = start + n * every;
        let steps = from..end.min(from + every);
        // The states between two stored ones, recomputed.
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
        runner.flush_all(start, first, &mut grads);
    }
    let constants = job.program.constants().zip(runner.into_table_grads());
    let constants = constants.filter(|((_, param), _)| job.is_trained(*param));
    let constants = constants.map(|((n, param), grad)| {
        let width = job.program.nodes[n].width;
        let grad = sum_over_images(group.plan(), &grad, width);
        (job.weights.offsets[param], grad)
    });
    let parts = weights.into_iter().map(|strip| (0, strip)).chain(constants);
    let parts = parts.collect();
    (group.scatter(&grad), parts)
}

/// Sums the gradients of all parameters in the order of the groups: a group that finishes early waits for
/// those before it, so the bits are always the same.
struct OrderedSum {
    total: Vec<f32>,
    /// The group that comes next.
    next: usize,
    waiting: BTreeMap<usize, Parts>,
}

impl OrderedSum {
    fn new(len: usize) -> Self {
        Self {
            total: vec![0.0; len],
            next: 0,
            waiting: BTreeMap::new(),
        }
    }

    fn add(&mut self, group: usize, parts: Parts) {
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

/// The results of all groups, concatenated.
fn joined(mut outs: Vec<Vec<f32>>) -> Vec<f32> {
    match outs.len() {
        1 => outs.remove(0),
        _ => outs.concat(),
    }
}
