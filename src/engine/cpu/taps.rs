//! Taps of stencils, and constants on all lanes: computed from a rollout's weights once, for all steps.

use crate::program::Op;

use super::kernels::LANES;
use super::kernels::stencil::Tap;
use super::plan::{Plan, Work};

/// The taps of a stencil.
pub(super) struct Taps {
    /// The taps that each channel sums.
    pub forward: Vec<Vec<Tap>>,
    /// The taps that the gradient of each input channel sums.
    pub backward: Vec<Vec<Tap>>,
}

impl Taps {
    /// For each node of a plan, its taps if it is a stencil.
    pub fn of_plan<'a>(plan: &Plan, param: impl Fn(usize) -> &'a [f32]) -> Vec<Option<Self>> {
        let of_node = |n: usize| {
            let Work::Op(op) = &plan.nodes[n].work else {
                return None;
            };
            let input = plan.nodes[*op.inputs().first()?].width;
            let forward = taps(op, &param, input, plan.nodes[n].width)?;
            let backward = backward(&forward, input);
            Some(Self { forward, backward })
        };
        (0..plan.nodes.len()).map(of_node).collect()
    }
}

/// The taps that each channel of a stencil sums.
fn taps<'a>(
    op: &Op,
    param: impl Fn(usize) -> &'a [f32],
    input: usize,
    width: usize,
) -> Option<Vec<Vec<Tap>>> {
    let tap = |channel, neighbour, factor| Tap {
        channel,
        neighbour,
        factor,
    };
    Some(match *op {
        Op::Neighbourhood { .. } => (0..width).map(|c| vec![tap(c % input, c / input, 1.0)]).collect(),
        Op::SumTaps { .. } => {
            let of_channel = |c| (0..9).map(|n| tap(n * width + c, n, 1.0)).collect();
            (0..width).map(of_channel).collect()
        }
        Op::Depthwise { kernel, .. } => {
            let kernel = param(kernel);
            let of_channel = |c: usize| {
                let factors = kernel[9 * c..][..9].iter().enumerate();
                let factors = factors.filter(|(_, factor)| **factor != 0.0);
                factors
                    .map(|(n, &factor)| tap(c * input / width, n, factor))
                    .collect()
            };
            (0..width).map(of_channel).collect()
        }
        Op::Cells
        | Op::Constant(_)
        | Op::Slice { .. }
        | Op::Concat(_)
        | Op::Linear { .. }
        | Op::LayerNorm { .. }
        | Op::RmsNorm { .. }
        | Op::InverseRms { .. }
        | Op::Map { .. }
        | Op::Add { .. }
        | Op::Mul { .. }
        | Op::Affine { .. }
        | Op::Attention(_)
        | Op::Dropout { .. } => return None,
    })
}

/// The taps that the gradient of each input channel sums.
fn backward(taps: &[Vec<Tap>], input: usize) -> Vec<Vec<Tap>> {
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

/// A constant `[H, W, width]` on all lanes of a plan's grid, channel by channel.
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

/// The gradient of a constant, `[H, W, width]`, of that on all lanes: the sum over the images.
pub(super) fn sum_over_images(plan: &Plan, lanes: &[f32], width: usize) -> Vec<f32> {
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
