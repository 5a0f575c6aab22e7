//! Values that are cached from step to step until their cell fires again, and values hoisted out of all
//! steps.
//!
//! Values that neighbours read are needed on every lane, but are unchanged where the cell did not fire. So a
//! program is split in two: values of a cell alone that neighbours read are recomputed where cells changed,
//! and a step takes them as given. In the backward pass, the gradient of a cached value accumulates while the
//! value stays the same, and is passed on to the cell where the value changes.
//!
//! Hoisted values are functions of input channels alone, which never change. They are computed once, before
//! the first step, and their gradients are passed on once, at the end of the backward pass.

use std::ops::Range;

use crate::grid::Padding;

use super::buffers::Buffer;
use super::forward::Keep;
use super::given::{GivenGrads, OnGrid, on_grid};
use super::kernels::compact::{self, Picked};
use super::kernels::halo::Padded;
use super::kernels::{LANES, View, ViewMut};
use super::plan::Plan;
use super::scratch::Scratch;
use super::step::{Band, StepContext};
use super::strips::{Grads, each_strip};

/// Sets values on picked lanes of a band.
fn put(
    values: &mut [OnGrid],
    plan: &Plan,
    (rows, picks, picked): (&Range<usize>, &[bool], &Picked),
    new: Vec<Option<Buffer>>,
    scratch: &mut Scratch,
) {
    for ((&output, new), value) in plan.outputs.iter().zip(new).zip(values) {
        let Some(new) = new else { continue };
        let (width, root) = (plan.nodes[output].width, plan.nodes[output].root);
        let from = View {
            data: &new,
            stride: plan.stride(root),
        };
        match value {
            OnGrid::Plain(value) => {
                let to = plan.on_grid(value, rows.start * plan.row());
                compact::put(from, picked, to, width);
            }
            OnGrid::Padded(value, padding) => value.put(from, (rows, picks), width, *padding),
        }
        scratch.give_back(new);
    }
}

/// The cached values of a group of images, or its hoisted ones, which never become stale.
pub(super) struct Cached {
    pub values: Vec<OnGrid>,
    /// Lanes whose cells may have changed since the last refresh.
    stale: Vec<bool>,
}

impl Cached {
    /// Values of which none is computed yet.
    pub fn new(plan: &Plan, paddings: &[Option<Padding>]) -> Self {
        let grid = (plan.height, plan.row(), plan.images);
        let kept = |(&output, padding): (&usize, &Option<Padding>)| match *padding {
            Some(padding) => OnGrid::Padded(Padded::zeros(plan.nodes[output].width, grid), padding),
            None => OnGrid::Plain(on_grid(plan, output)),
        };
        Self {
            values: plan.outputs.iter().zip(paddings).map(kept).collect(),
            stale: vec![true; plan.height * plan.row()],
        }
    }

    /// Marks the cells of these lanes as changed; all of them if `None`.
    pub fn change(&mut self, lanes: Option<&[bool]>) {
        match lanes {
            Some(lanes) => self.stale.iter_mut().zip(lanes).for_each(|(s, l)| *s |= l),
            None => self.stale.fill(true),
        }
    }

    /// Recomputes stale values from `state`; `of` is a step of the plan of these values.
    pub fn refresh(&mut self, of: &StepContext<'_>, scratch: &mut [Scratch], state: &[f32]) {
        let plan = of.plan;
        let Self { values, stale } = self;
        if !stale.contains(&true) {
            return;
        }
        let compute = |rows: &Range<usize>, scratch: &mut Scratch| {
            let band = Band::new(plan, rows, Some(stale));
            if !band.fires() {
                return None;
            }
            of.evaluate(scratch, state, &band, Keep::Nothing);
            let roots = plan.outputs.iter().map(|&n| plan.nodes[n].root);
            let new: Vec<_> = roots.map(|root| scratch.values[root].take()).collect();
            Some((band.picked?, new))
        };
        if let [scratch] = scratch {
            for rows in &plan.bands {
                if let Some((picked, new)) = compute(rows, scratch) {
                    let picks = &stale[rows.start * plan.row()..rows.end * plan.row()];
                    put(values, plan, (rows, picks, &picked), new, scratch);
                }
            }
        } else {
            let changed = each_strip(scratch, plan.strips.iter().collect(), |strip, scratch| {
                let bands = plan.bands[strip.clone()].iter();
                bands
                    .map(|rows| (rows, compute(rows, scratch)))
                    .collect::<Vec<_>>()
            });
            let count = scratch.len();
            for (n, bands) in changed.into_iter().enumerate() {
                for (rows, new) in bands {
                    if let Some((picked, new)) = new {
                        let picks = &stale[rows.start * plan.row()..rows.end * plan.row()];
                        put(values, plan, (rows, picks, &picked), new, &mut scratch[n % count]);
                    }
                }
            }
        }
        stale.fill(false);
    }

    /// Passes the gradients `due` of the cached values on these lanes (on all if `None`) on to the gradients
    /// of `state` and of the given values that they were computed from, and clears them. Called before the
    /// cells change.
    pub fn flush(
        &self,
        of: &StepContext<'_>,
        scratch: &mut [Scratch],
        (state, lanes): (&[f32], Option<&[bool]>),
        grads: &mut Grads<'_>,
        (due, all_grads): (&mut [Buffer], &mut GivenGrads),
    ) {
        let plan = of.plan;
        if scratch.len() == 1 || plan.strips.len() == 1 {
            scratch[0].given_grads = Some(std::mem::take(all_grads));
        }
        let all = vec![true; self.stale.len()];
        let lanes = lanes.unwrap_or(&all);
        let parts = plan
            .strips
            .iter()
            .zip(plan.parts(grads.state))
            .zip(&mut *grads.weights);
        let given = each_strip(
            scratch,
            parts.collect(),
            |((strip, (grad, first)), weights), scratch| {
                let mut given = vec![];
                for rows in &plan.bands[strip.clone()] {
                    let band = Band::new(plan, rows, Some(lanes));
                    let Some(picked) = band.picked.as_ref().filter(|_| band.fires()) else {
                        continue;
                    };
                    of.evaluate(scratch, state, &band, Keep::All);
                    for (&output, due) in plan.outputs.iter().zip(&*due) {
                        let (width, root) = (plan.nodes[output].width, plan.nodes[output].root);
                        let stride = plan.stride(root);
                        let mut seed = scratch.take(width * stride + LANES);
                        let from = View {
                            data: &due[rows.start * plan.row()..],
                            stride: plan.grid_stride(),
                        };
                        let to = ViewMut {
                            data: &mut seed,
                            stride,
                        };
                        compact::compress(from, picked, to, width);
                        scratch.grads[root] = Some(seed);
                    }
                    given.extend(of.pass_on(scratch, &band, (&mut *grad, first as isize), weights));
                }
                given
            },
        );
        if let Some(grads) = scratch[0].given_grads.take() {
            *all_grads = grads;
        }
        let count = scratch.len();
        for (n, given) in given.into_iter().enumerate() {
            for of_band in given {
                all_grads.add(plan, &of_band);
                scratch[n % count].give_back(of_band.grad);
            }
        }
        let paid = Picked::new(lanes);
        let zeros = vec![0f32; lanes.len() + LANES];
        for (&output, due) in plan.outputs.iter().zip(due) {
            let zeros = View {
                data: &zeros,
                stride: 0,
            };
            compact::put(zeros, &paid, plan.on_grid(due, 0), plan.nodes[output].width);
        }
    }
}
