//! A group of images taken through steps, forwards and backwards, on one thread or on several.

use rayon::prelude::*;

use super::buffers::{Buffer, Owed, Scratch, Trace};
use super::cached::{Standing, on_grid};
use super::forward::{Before, Keep, StepOf};
use super::group::{Group, Stage};

/// A group with its working memory: one for each strip that runs at the same time.
pub(super) struct Runner<'a> {
    group: &'a Group<'a>,
    scratch: Vec<Scratch>,
    fixed: Option<Standing>,
    standing: Option<Standing>,
    /// For the way back.
    owed: Owed,
}

/// The gradients that a step back turns into those of the step before.
pub(super) struct Grads<'a> {
    /// Of the state.
    pub state: &'a mut [f32],
    /// Of the weights, summed apart for each strip.
    pub weights: &'a mut [Vec<f32>],
}

impl<'a> Runner<'a> {
    /// A runner forwards, or one that goes back as well.
    pub fn new(group: &'a Group<'a>, back: bool) -> Self {
        let strips = match group.parallel {
            true => group.strips(),
            false => 1,
        };
        let grads = |of: Option<&Stage>| {
            of.map_or(vec![], |Stage { ready, .. }| {
                let outputs = ready.plan.outputs.iter();
                outputs.map(|&n| on_grid(&ready.plan, n)).collect()
            })
        };
        let owed = || Owed {
            tables: group.table_grads(),
            fixed: grads(group.fixed),
            standing: grads(group.standing),
        };
        let unknown = |of: &Stage| Standing::new(&of.ready.plan, &of.borders);
        Self {
            group,
            scratch: (0..strips).map(|_| Scratch::default()).collect(),
            fixed: group.fixed.map(unknown),
            standing: group.standing.map(unknown),
            owed: if back { owed() } else { Owed::default() },
        }
    }

    /// The gradients of constants on all lanes, once all is done.
    pub fn into_table_grads(self) -> Vec<Buffer> {
        self.owed.tables
    }

    /// The next state has nothing to do with the last one.
    pub fn forget(&mut self) {
        if let Some(standing) = &mut self.standing {
            standing.change(None);
        }
    }

    /// One step from `state`, which is the one that the last step led to, to `next`; which lanes stayed alive, where the
    /// program has such a rule, and what is kept of each band.
    pub fn step(
        &mut self,
        step: usize,
        state: &[f32],
        next: &mut Vec<f32>,
        keep: Keep,
    ) -> (Option<Vec<bool>>, Vec<Trace>) {
        let group = self.group;
        let plan = &group.step.plan;
        let firing = group.at(step).firing(state);
        let before = Before {
            state,
            firing: &firing,
        };
        next.resize(state.len(), 0.0);
        let traces = self.with_standing(step, state, |of, scratch| {
            let parts = plan.strips.iter().zip(plan.parts(next)).collect();
            each_strip(scratch, parts, |(strip, part), scratch| {
                of.forward(scratch, before, &plan.bands[strip.clone()], part, keep)
            })
        });
        if let Some(standing) = &mut self.standing {
            standing.change(firing.fires.as_deref());
        }
        let alive = group.at(step).bury(&firing, next);
        (alive, traces.into_iter().flatten().collect())
    }

    /// Turns the gradient of the state after a step, which is `after` unless it is the last, into that of `state`, the
    /// one before it; `traces` is what was kept of its bands, if anything.
    pub fn step_back(
        &mut self,
        step: usize,
        (state, after): (&[f32], Option<&[f32]>),
        (alive, traces): (Option<&Vec<bool>>, Vec<Trace>),
        grads: &mut Grads<'_>,
    ) {
        let group = self.group;
        let plan = &group.step.plan;
        let line = plan.line();
        if let Some(alive) = alive {
            group.at(step).clear_dead(alive, grads.state);
        }
        let firing = group.at(step).firing(state);
        let fires = firing.fires.as_deref();
        if let Some(after) = after {
            self.settle(step, after, fires, grads);
        }
        if let Some(standing) = &mut self.standing {
            standing.change(fires);
        }
        let before = Before {
            state,
            firing: &firing,
        };
        // Each strip adds up what flows to its rows and those around it, apart from the others.
        let parts = self.with_standing(step, state, |of, scratch| {
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
                        plan.span(plan.reach, &bands[0]),
                        plan.span(plan.reach, &bands[bands.len() - 1]),
                    );
                    let rows = (last.0 + last.1 as isize - first.0) as usize;
                    let mut flow = scratch.zeros(rows * line);
                    let to = (&mut flow[..], first.0);
                    let bands = (bands, traces);
                    let debts = of.backward(scratch, before, bands, grads.state, to, weights);
                    (first.0, rows, flow, debts)
                },
            )
        });
        let count = self.scratch.len();
        for (n, (start, rows, flow, debts)) in parts.into_iter().enumerate() {
            for (r, flow) in flow.chunks_exact(line).enumerate().take(rows) {
                let at = (start + r as isize).rem_euclid(plan.height as isize) as usize;
                let to = grads.state[at * line..][..line].iter_mut();
                to.zip(flow).for_each(|(to, x)| *to += x);
            }
            self.scratch[n % count].give_back(flow);
            for debt in debts {
                self.owed.add(plan, &debt);
                self.scratch[n % count].give_back(debt.grad);
            }
        }
    }

    /// Passes what is owed to the cells of these lanes of `state`, or of all, on to its gradient.
    fn settle(&mut self, step: usize, state: &[f32], lanes: Option<&[bool]>, grads: &mut Grads<'_>) {
        let fixed = self.fixed.as_ref().map_or(&[][..], |fixed| &fixed.values);
        if let (Some(standing), Some(stage)) = (&self.standing, self.group.standing) {
            let mut of = self.group.of(&stage.ready, step);
            of.given.fixed = fixed;
            let mut due = std::mem::take(&mut self.owed.standing);
            let owed = (&mut due[..], &mut self.owed);
            standing.settle(&of, &mut self.scratch, (state, lanes), grads, owed);
            self.owed.standing = due;
        }
    }

    /// Passes all that is still owed on to the gradient of the first state.
    pub fn settle_all(&mut self, step: usize, state: &[f32], grads: &mut Grads<'_>) {
        self.settle(step, state, None, grads);
        if let (Some(fixed), Some(stage)) = (&self.fixed, self.group.fixed) {
            let of = self.group.of(&stage.ready, step);
            let mut due = std::mem::take(&mut self.owed.fixed);
            let owed = (&mut due[..], &mut self.owed);
            fixed.settle(&of, &mut self.scratch, (state, None), grads, owed);
            self.owed.fixed = due;
        }
    }

    /// Calls `f` for a step from `state`, with the fixed and standing values of this state at hand.
    fn with_standing<R>(
        &mut self,
        step: usize,
        state: &[f32],
        f: impl FnOnce(&StepOf<'_>, &mut [Scratch]) -> R,
    ) -> R {
        let mut of = self.group.at(step);
        if let (Some(fixed), Some(stage)) = (&mut self.fixed, self.group.fixed) {
            fixed.refresh(&self.group.of(&stage.ready, step), &mut self.scratch, state);
            of.given.fixed = &fixed.values;
        }
        if let (Some(standing), Some(stage)) = (&mut self.standing, self.group.standing) {
            let mut of_standing = self.group.of(&stage.ready, step);
            of_standing.given.fixed = of.given.fixed;
            standing.refresh(&of_standing, &mut self.scratch, state);
            of.given.standing = &standing.values;
        }
        if self.scratch.len() > 1 && of.plan.strips.len() > 1 {
            return f(&of, &mut self.scratch);
        }
        self.scratch[0].owed = Some(std::mem::take(&mut self.owed));
        let result = f(&of, &mut self.scratch);
        self.owed = self.scratch[0].owed.take().unwrap_or_default();
        result
    }
}

/// Calls `f` for each strip, each with working memory of its own: in parallel where there is more than one.
pub(super) fn each_strip<T: Send, R: Send>(
    scratch: &mut [Scratch],
    strips: Vec<T>,
    f: impl Fn(T, &mut Scratch) -> R + Sync,
) -> Vec<R> {
    match scratch {
        [scratch] => strips.into_iter().map(|strip| f(strip, scratch)).collect(),
        _ => {
            let strips = strips.into_par_iter().zip(scratch);
            strips.map(|(strip, scratch)| f(strip, scratch)).collect()
        }
    }
}
