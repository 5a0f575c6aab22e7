//! Standing values: those that change only where a cell does, kept from step to step.
//!
//! What neighbours look at has to be known on all lanes, but where a cell did not fire in the last step it is what it
//! was. So a program is split in two: the values that cells have by themselves and others look at are computed where
//! cells have changed, and a step is computed with these given. Backwards, the gradients of a standing value add up
//! for as long as it stands, and are passed on to the cell when it changes.
//!
//! Input channels never change. What cells make of these alone is fixed: it is computed once, before the first step, and
//! its gradients are passed on after the last. It is kept as standing values are.

use std::ops::Range;

use crate::grid::Padding;
use crate::program::{Attention, Node, Op, Program};

use super::backward::Debt;
use super::buffers::{Buffer, Owed, Scratch};
use super::forward::{Keep, StepOf};
use super::kernels;
use super::kernels::compact::Picked;
use super::kernels::halo::Spread;
use super::kernels::{LANES, View, ViewMut, compact};
use super::plan::{Plan, dense, needed};
use super::runner::{Grads, each_strip};

/// Floats that the standing values of a group may take; on the way back as many again for their gradients.
const FLOATS: usize = 1 << 22;

/// The node that a slice is of, or the node itself: of a slice, the whole is kept.
fn whole(program: &Program, mut n: usize) -> usize {
    while let Op::Slice { x, .. } = program.nodes[n].op {
        n = x;
    }
    n
}

/// Of each node, whether it or what it is made of is a linear layer.
fn costs(program: &Program) -> Vec<bool> {
    let mut costs: Vec<bool> = vec![];
    for Node { op, .. } in &program.nodes {
        costs.push(matches!(op, Op::Linear { .. }) || op.inputs().into_iter().any(|x| costs[x]));
    }
    costs
}

/// The nodes of `program`, in its order, that are computed once a rollout: what cells make of their input channels and of
/// constants, where that costs a linear layer. None where they would take too much memory.
pub(super) fn worth_fixing(program: &Program, lanes: usize) -> Vec<usize> {
    let nodes = &program.nodes;
    let mut fixed: Vec<bool> = vec![];
    // The first channel of a part of the cells.
    let mut parts: Vec<Option<usize>> = vec![];
    for Node { op, width } in nodes {
        parts.push(match *op {
            Op::Cells => Some(0),
            Op::Slice { x, start } => parts[x].map(|first| first + start),
            _ => None,
        });
        fixed.push(match parts.last() {
            Some(Some(first)) => first + width <= program.layout.input,
            _ => op.is_cellwise() && op.inputs().into_iter().all(|x| fixed[x]),
        });
    }
    let needed = needed(program, &[program.update], &[]);
    let mut read = vec![false; nodes.len()];
    read[whole(program, program.update)] = true;
    for n in (0..nodes.len()).filter(|&n| needed[n] && !fixed[n]) {
        let inputs = nodes[n].op.inputs();
        inputs.into_iter().for_each(|x| read[whole(program, x)] = true);
    }
    let costs = costs(program);
    let kept: Vec<usize> = (0..nodes.len())
        .filter(|&n| fixed[n] && costs[n] && read[n])
        .collect();
    match kept.iter().map(|&n| nodes[n].width).sum::<usize>() * lanes <= FLOATS {
        true => kept,
        false => vec![],
    }
}

/// The nodes of `program` to be kept from step to step, in its order: values that hang on a cell alone, and that
/// neighbours look at or that cost a linear layer; what is `fixed` is at hand. None where that would not save a linear
/// layer, or take too much memory.
pub(super) fn worth_keeping(program: &Program, lanes: usize, fixed: &[usize]) -> Vec<usize> {
    let nodes = &program.nodes;
    let needed = needed(program, &[program.update], fixed);
    let dense = dense(program, &needed, fixed);
    let is_leaf = |n: usize| matches!(nodes[n].op, Op::Cells | Op::Constant(_)) || fixed.contains(&n);
    let whole = |n: usize| whole(program, n);
    let costs = costs(program);
    let mut stands: Vec<bool> = vec![];
    for Node { op, .. } in nodes {
        stands.push(op.is_cellwise() && op.inputs().into_iter().all(|x| stands[x]));
    }
    // Whether a value is read by one that does not itself stand on all lanes, and whether it is needed on all lanes there.
    let (mut read, mut on_all) = (vec![false; nodes.len()], vec![false; nodes.len()]);
    for (n, node) in nodes.iter().enumerate().filter(|(n, _)| needed[*n]) {
        let everywhere = dense[n] || node.op.padding().is_some();
        for x in node.op.inputs().into_iter().map(whole) {
            read[x] |= !(stands[n] && everywhere);
            on_all[x] |= !stands[n] && everywhere;
        }
    }
    let mut kept: Vec<usize> = vec![];
    for n in (0..nodes.len()).filter(|&n| stands[n] && dense[n] && read[n] && !is_leaf(n)) {
        let linear = matches!(nodes[n].op, Op::Linear { .. });
        let mut inputs = nodes[n].op.inputs().into_iter().map(whole);
        let at_hand = inputs.all(|x| is_leaf(x) || kept.contains(&x));
        // What only cells that fire need, and is one cheap operation from what is kept, is computed where they do.
        if on_all[n] || linear || !at_hand {
            kept.push(n);
        }
    }
    let floats = kept.iter().map(|&n| nodes[n].width).sum::<usize>() * lanes;
    match kept.iter().any(|&n| costs[n]) && floats <= FLOATS {
        true => kept,
        false => vec![],
    }
}

/// The border of the grid for one of the `given` values that serves as keys and values of attention alone: such a value
/// is kept spread out, as attention reads it.
pub(super) fn border(program: &Program, given: &[usize], n: usize) -> Option<Padding> {
    let needed = needed(program, &[program.update], given);
    let (mut parts, mut border) = (vec![n], None);
    for m in (n + 1..needed.len()).filter(|&m| needed[m] && !given.contains(&m)) {
        let op = &program.nodes[m].op;
        let reads = |x: &usize| parts.contains(x);
        if !op.inputs().iter().any(reads) {
            continue;
        }
        match *op {
            Op::Slice { .. } => parts.push(m),
            Op::Attention(Attention { q, padding, .. })
                if !reads(&q) && border.is_none_or(|b| b == padding) =>
            {
                border = Some(padding);
            }
            _ => return None,
        }
    }
    border
}

/// A fixed or a standing value on all lanes of the grid.
pub(super) enum Kept {
    /// Channel by channel.
    Plain(Buffer),
    /// Spread out.
    Spread(Spread, Padding),
}

/// Zeros for a node of a plan on all lanes of the grid, channel by channel.
pub(super) fn on_grid(plan: &Plan, n: usize) -> Buffer {
    let mut buffer = Buffer::default();
    buffer.at_least(plan.nodes[n].width * plan.grid_stride() + LANES);
    buffer
}

impl Owed {
    /// Adds the gradient of a given value on a band of a plan and the rows around it.
    pub fn add(&mut self, plan: &Plan, debt: &Debt<'_>) {
        let (stride, width) = (plan.stride(debt.node), plan.nodes[debt.node].width);
        for (lane, to, lanes) in plan.runs(debt.node, debt.rows) {
            let from = View {
                data: &debt.grad[lane..],
                stride,
            };
            kernels::add_to(from, plan.on_grid(self.of(debt.slot), to), (width, lanes));
        }
    }
}

/// Sets standing values on picked lanes of a band.
fn keep(
    values: &mut [Kept],
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
            Kept::Plain(value) => {
                let to = plan.on_grid(value, rows.start * plan.row());
                compact::put(from, picked, to, width);
            }
            Kept::Spread(value, padding) => value.put(from, (rows, picks), width, *padding),
        }
        scratch.give_back(new);
    }
}

/// The standing values of a group of images, or its fixed ones, whose cells do not change.
pub(super) struct Standing {
    pub values: Vec<Kept>,
    /// Lanes whose cells may have changed since.
    stale: Vec<bool>,
}

impl Standing {
    /// Values of which none is known yet.
    pub fn new(plan: &Plan, borders: &[Option<Padding>]) -> Self {
        let grid = (plan.height, plan.row(), plan.images);
        let kept = |(&output, border): (&usize, &Option<Padding>)| match *border {
            Some(padding) => Kept::Spread(Spread::zeros(plan.nodes[output].width, grid), padding),
            None => Kept::Plain(on_grid(plan, output)),
        };
        Self {
            values: plan.outputs.iter().zip(borders).map(kept).collect(),
            stale: vec![true; plan.height * plan.row()],
        }
    }

    /// The cells of these lanes have changed; all, if none are given.
    pub fn change(&mut self, lanes: Option<&[bool]>) {
        match lanes {
            Some(lanes) => self.stale.iter_mut().zip(lanes).for_each(|(s, l)| *s |= l),
            None => self.stale.fill(true),
        }
    }

    /// Brings the values to those of `state`; `of` is a step of the plan of standing values.
    pub fn refresh(&mut self, of: &StepOf<'_>, scratch: &mut [Scratch], state: &[f32]) {
        let plan = of.plan;
        let Self { values, stale } = self;
        if !stale.contains(&true) {
            return;
        }
        let compute = |rows: &Range<usize>, scratch: &mut Scratch| {
            let band = of.band(rows, Some(stale));
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
                    keep(values, plan, (rows, picks, &picked), new, scratch);
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
                        keep(values, plan, (rows, picks, &picked), new, &mut scratch[n % count]);
                    }
                }
            }
        }
        stale.fill(false);
    }

    /// Passes on to the gradient of `state`, and to those of what these values are made of, the gradients `due` to the cells
    /// of these lanes, before they change; to all if none are given.
    pub fn settle(
        &self,
        of: &StepOf<'_>,
        scratch: &mut [Scratch],
        (state, lanes): (&[f32], Option<&[bool]>),
        grads: &mut Grads<'_>,
        (due, owed): (&mut [Buffer], &mut Owed),
    ) {
        let plan = of.plan;
        if scratch.len() == 1 || plan.strips.len() == 1 {
            scratch[0].owed = Some(std::mem::take(owed));
        }
        let all = vec![true; self.stale.len()];
        let lanes = lanes.unwrap_or(&all);
        let parts = plan
            .strips
            .iter()
            .zip(plan.parts(grads.state))
            .zip(&mut *grads.weights);
        let debts = each_strip(
            scratch,
            parts.collect(),
            |((strip, (grad, first)), weights), scratch| {
                let mut debts = vec![];
                for rows in &plan.bands[strip.clone()] {
                    let band = of.band(rows, Some(lanes));
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
                    debts.extend(of.pass_on(scratch, &band, (&mut *grad, first as isize), weights));
                }
                debts
            },
        );
        if let Some(lent) = scratch[0].owed.take() {
            *owed = lent;
        }
        let count = scratch.len();
        for (n, debts) in debts.into_iter().enumerate() {
            for debt in debts {
                owed.add(plan, &debt);
                scratch[n % count].give_back(debt.grad);
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
