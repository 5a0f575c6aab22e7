//! A group of images taken through steps, forwards and backwards, on one thread or on several.

use super::alive::{clear_dead, clear_dying};
use super::buffers::{Buffer, Trace};
use super::cached::Cached;
use super::compiled::Stage;
use super::forward::Keep;
use super::given::GivenGrads;
use super::group::Group;
use super::scratch::Scratch;
use super::step::{Before, StepContext};
use super::strips::{Grads, each_strip};

/// A group with its working memory: one for each strip that runs at the same time.
pub(super) struct Runner<'a> {
    group: &'a Group<'a>,
    scratch: Vec<Scratch>,
    hoisted: Option<Cached>,
    cached: Option<Cached>,
    /// For the backward pass.
    given_grads: GivenGrads,
}

impl<'a> Runner<'a> {
    /// A runner for the forward pass, or, with `back`, for the backward pass as well.
    pub fn new(group: &'a Group<'a>, back: bool) -> Self {
        let strips = match group.parallel {
            true => group.strips(),
            false => 1,
        };
        let unknown = |stage: &Stage| Cached::new(&stage.plan, &stage.paddings);
        Self {
            group,
            scratch: (0..strips).map(|_| Scratch::default()).collect(),
            hoisted: group.hoisted().map(unknown),
            cached: group.cached().map(unknown),
            given_grads: if back {
                group.given_grads()
            } else {
                GivenGrads::default()
            },
        }
    }

    /// The gradients of constants on all lanes, after the whole backward pass.
    pub fn into_table_grads(self) -> Vec<Buffer> {
        self.given_grads.tables
    }

    /// Makes all cached values stale: the next state does not follow from the last one.
    pub fn forget(&mut self) {
        if let Some(cached) = &mut self.cached {
            cached.change(None);
        }
    }

    /// One step from `state`, the result of the last step, to `next`. Returns which lanes stayed alive, if
    /// the program has such a rule, and what is stored of each band.
    pub fn step(
        &mut self,
        step: usize,
        state: &[f32],
        next: &mut Vec<f32>,
        keep: Keep,
    ) -> (Option<Vec<bool>>, Vec<Trace>) {
        let group = self.group;
        let plan = group.plan();
        let firing = group.at(step).firing(state);
        let before = Before {
            state,
            firing: &firing,
        };
        next.resize(state.len(), 0.0);
        let traces = self.with_given(step, state, |of, scratch| {
            let parts = plan.strips.iter().zip(plan.parts(next)).collect();
            each_strip(scratch, parts, |(strip, part), scratch| {
                of.forward(scratch, before, &plan.bands[strip.clone()], part, keep)
            })
        });
        if let Some(cached) = &mut self.cached {
            cached.change(firing.fires.as_deref());
        }
        let rule = group.call.job.program.alive.as_ref();
        let alive = rule.zip(firing.alive.as_ref());
        let alive = alive.map(|(rule, before)| clear_dying(rule, plan, before, next));
        (alive, traces.into_iter().flatten().collect())
    }

    /// Turns the gradient of the state after a step into that of `state`, the one before it. `after` is the
    /// state after the step, `None` for the last step; `traces` is what was stored of its bands, if anything.
    pub fn step_back(
        &mut self,
        step: usize,
        (state, after): (&[f32], Option<&[f32]>),
        (alive, traces): (Option<&Vec<bool>>, Vec<Trace>),
        grads: &mut Grads<'_>,
    ) {
        let group = self.group;
        let plan = group.plan();
        let line = plan.line();
        if let Some(alive) = alive {
            clear_dead(plan, alive, grads.state);
        }
        let firing = group.at(step).firing(state);
        let fires = firing.fires.as_deref();
        if let Some(after) = after {
            self.flush(step, after, fires, grads);
        }
        if let Some(cached) = &mut self.cached {
            cached.change(fires);
        }
        let before = Before {
            state,
            firing: &firing,
        };
        // Each strip separately sums the gradients of its rows and their halo.
        let parts = self.with_given(step, state, |of, scratch| {
            let mut traces = traces.into_iter();
            let traces = plan
                .strips
                .iter()
                .map(|strip| traces.by_ref().take(strip.len()).collect());
            let traces: Vec<Vec<Trace>> = traces.collect();
            let strips = plan.strips.iter().zip(traces).zip(&mut *grads.weights);
            each_strip(
                scratch,
                strips.collect(),
                |((strip, traces), weights), scratch| {
                    let bands = &plan.bands[strip.clone()];
                    let (first, last) = (
                        plan.span(plan.halo, &bands[0]),
                        plan.span(plan.halo, &bands[bands.len() - 1]),
                    );
                    let rows = (last.0 + last.1 as isize - first.0) as usize;
                    let mut flow = scratch.zeros(rows * line);
                    let to = (&mut flow[..], first.0);
                    let bands = (bands, traces);
                    let given = of.backward(scratch, before, bands, grads.state, to, weights);
                    (first.0, rows, flow, given)
                },
            )
        });
        let count = self.scratch.len();
        for (n, (start, rows, flow, given)) in parts.into_iter().enumerate() {
            for (r, flow) in flow.chunks_exact(line).enumerate().take(rows) {
                let at = (start + r as isize).rem_euclid(plan.height as isize) as usize;
                let to = grads.state[at * line..][..line].iter_mut();
                to.zip(flow).for_each(|(to, x)| *to += x);
            }
            self.scratch[n % count].give_back(flow);
            for of_band in given {
                self.given_grads.add(plan, &of_band);
                self.scratch[n % count].give_back(of_band.grad);
            }
        }
    }

    /// Passes the gradients of the cached values on these lanes (on all if `None`) on to that of `state`.
    fn flush(&mut self, step: usize, state: &[f32], lanes: Option<&[bool]>, grads: &mut Grads<'_>) {
        let hoisted = self.hoisted.as_ref().map_or(&[][..], |hoisted| &hoisted.values);
        if let (Some(cached), Some(stage)) = (&self.cached, self.group.cached()) {
            let mut of = self.group.cached_at(stage, step);
            of.given.hoisted = hoisted;
            let mut due = std::mem::take(&mut self.given_grads.cached);
            let given = (&mut due[..], &mut self.given_grads);
            cached.flush(&of, &mut self.scratch, (state, lanes), grads, given);
            self.given_grads.cached = due;
        }
    }

    /// Passes the gradients of all cached and hoisted values on to that of the first state.
    pub fn flush_all(&mut self, step: usize, state: &[f32], grads: &mut Grads<'_>) {
        self.flush(step, state, None, grads);
        if let (Some(hoisted), Some(stage)) = (&self.hoisted, self.group.hoisted()) {
            let of = self.group.hoisted_at(stage, step);
            let mut due = std::mem::take(&mut self.given_grads.hoisted);
            let given = (&mut due[..], &mut self.given_grads);
            hoisted.flush(&of, &mut self.scratch, (state, None), grads, given);
            self.given_grads.hoisted = due;
        }
    }

    /// Calls `f` for a step from `state`, with the hoisted and cached values of this state at hand.
    fn with_given<R>(
        &mut self,
        step: usize,
        state: &[f32],
        f: impl FnOnce(&StepContext<'_>, &mut [Scratch]) -> R,
    ) -> R {
        let mut of = self.group.at(step);
        if let (Some(hoisted), Some(stage)) = (&mut self.hoisted, self.group.hoisted()) {
            hoisted.refresh(&self.group.hoisted_at(stage, step), &mut self.scratch, state);
            of.given.hoisted = &hoisted.values;
        }
        if let (Some(cached), Some(stage)) = (&mut self.cached, self.group.cached()) {
            let mut of_cached = self.group.cached_at(stage, step);
            of_cached.given.hoisted = of.given.hoisted;
            cached.refresh(&of_cached, &mut self.scratch, state);
            of.given.cached = &cached.values;
        }
        if self.scratch.len() > 1 && of.plan.strips.len() > 1 {
            return f(&of, &mut self.scratch);
        }
        self.scratch[0].given_grads = Some(std::mem::take(&mut self.given_grads));
        let result = f(&of, &mut self.scratch);
        self.given_grads = self.scratch[0].given_grads.take().unwrap_or_default();
        result
    }
}
