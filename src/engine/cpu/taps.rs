//! What operations need that is the same in every step.

use crate::program::Op;

use super::kernels::LANES;
use super::kernels::halo::Tap;
use super::plan::{Plan, Work};

/// What a node of a plan needs beside its inputs, the same in every step.
pub(super) enum Prepared {
    Nothing,
    /// What each channel of a stencil adds up, and what each of its input gets of the gradient.
    Taps(Vec<Vec<Tap>>, Vec<Vec<Tap>>),
}

impl Prepared {
    pub fn new(plan: &Plan, params: impl Fn(usize) -> Vec<f32>) -> Vec<Self> {
        let prepare = |n: usize| match &plan.nodes[n].work {
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

/// A table `[H, W, width]` on all lanes of a plan's grid, channel by channel.
pub(super) fn on_all_lanes(plan: &Plan, table: &[f32], width: usize) -> Vec<f32> {
    let stride = plan.grid_stride();
    let mut lanes = vec![0f32; width * stride + LANES];
    for (cell, values) in table.chunks_exact(width).enumerate() {
        for (c, &value) in values.iter().enumerate() {
            lanes[c * stride + cell * plan.images..][..plan.images].fill(value);
        }
    }
    lanes
}

/// The way back for a gradient: the sum over the images.
pub(super) fn of_table(plan: &Plan, lanes: &[f32], width: usize) -> Vec<f32> {
    let stride = plan.grid_stride();
    let cells = 0..plan.height * plan.columns;
    let sum = |cell: usize, c: usize| {
        lanes[c * stride + cell * plan.images..][..plan.images]
            .iter()
            .sum()
    };
    cells
        .flat_map(|cell| (0..width).map(move |c| sum(cell, c)))
        .collect()
}
