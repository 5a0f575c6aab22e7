//! What the plan of kernels asks of an operation.

use crate::program::{AdjointOp, CellSum, Op};

/// How the result of an operation is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is at hand.
    Given,
    /// Its channels are channels of other values, or 0.
    Move,
    /// Each channel by itself.
    Channelwise,
    /// A matrix product.
    Product,
    /// From many channels of a row at once, by a team of lanes.
    Reduction,
    /// It is a sum over cells, which no phase computes.
    Sum,
}

pub(super) fn kind(op: &AdjointOp) -> Kind {
    match op {
        AdjointOp::Ordinary(op) => match op {
            Op::Cells | Op::Constant(_) => Kind::Given,
            Op::Slice { .. } | Op::Concat(_) => Kind::Move,
            Op::Linear { .. } => Kind::Product,
            Op::Neighbourhood { .. }
            | Op::SumTaps { .. }
            | Op::Depthwise { .. }
            | Op::Map { .. }
            | Op::Add { .. }
            | Op::Mul { .. }
            | Op::Affine { .. }
            | Op::Dropout { .. } => Kind::Channelwise,
            Op::LayerNorm { .. } | Op::RmsNorm { .. } | Op::InverseRms { .. } | Op::Attention(_) => {
                Kind::Reduction
            }
        },
        AdjointOp::Seed => Kind::Given,
        AdjointOp::Embed(_) => Kind::Move,
        AdjointOp::LinearTransposed { .. } => Kind::Product,
        AdjointOp::Slope { .. }
        | AdjointOp::MirroredTaps { .. }
        | AdjointOp::MirroredNeighbourhood { .. }
        | AdjointOp::MirroredDepthwise { .. }
        | AdjointOp::WeightedSum { .. }
        | AdjointOp::WeightedGather { .. } => Kind::Channelwise,
        AdjointOp::Dot { .. }
        | AdjointOp::Normalised { .. }
        | AdjointOp::NormalisedGradient { .. }
        | AdjointOp::InverseRmsGradient { .. }
        | AdjointOp::Shares { .. }
        | AdjointOp::ProductGradients { .. } => Kind::Reduction,
        AdjointOp::Weight { .. } => Kind::Sum,
    }
}

/// The values of which channel c of the result needs channel c alone.
pub(super) fn aligned(op: &AdjointOp) -> Vec<usize> {
    match *op {
        AdjointOp::Ordinary(Op::Map { x, .. } | Op::Affine { x, .. } | Op::Dropout { x, .. }) => vec![x],
        AdjointOp::Ordinary(Op::Add { a, b }) => vec![a, b],
        // The second factor may have one channel, which is read many times.
        AdjointOp::Ordinary(Op::Mul { a, .. }) => vec![a],
        AdjointOp::Slope { x, dy, .. } => vec![x, dy],
        AdjointOp::Ordinary(
            Op::Cells
            | Op::Constant(_)
            | Op::Slice { .. }
            | Op::Concat(_)
            | Op::Linear { .. }
            | Op::Neighbourhood { .. }
            | Op::SumTaps { .. }
            | Op::Depthwise { .. }
            | Op::LayerNorm { .. }
            | Op::RmsNorm { .. }
            | Op::InverseRms { .. }
            | Op::Attention(_),
        )
        | AdjointOp::Seed
        | AdjointOp::Embed(_)
        | AdjointOp::Dot { .. }
        | AdjointOp::LinearTransposed { .. }
        | AdjointOp::MirroredTaps { .. }
        | AdjointOp::MirroredNeighbourhood { .. }
        | AdjointOp::MirroredDepthwise { .. }
        | AdjointOp::Normalised { .. }
        | AdjointOp::NormalisedGradient { .. }
        | AdjointOp::InverseRmsGradient { .. }
        | AdjointOp::Shares { .. }
        | AdjointOp::ProductGradients { .. }
        | AdjointOp::WeightedSum { .. }
        | AdjointOp::WeightedGather { .. }
        | AdjointOp::Weight { .. } => vec![],
    }
}

/// Whether an operation copies so many channels from neighbours that they are better read there.
pub(super) fn is_wide(op: &AdjointOp, width: usize) -> bool {
    matches!(op, AdjointOp::Ordinary(Op::Neighbourhood { .. })) && width > 512
}

/// Whether the result is 0 wherever the gradient of the update is; `vanishing` has the same of all earlier
/// nodes.
pub(super) fn vanishes(op: &AdjointOp, vanishing: &[bool]) -> bool {
    match *op {
        AdjointOp::Seed => true,
        AdjointOp::Ordinary(ref op) => match *op {
            Op::Slice { x, .. }
            | Op::Affine { x, shift: None, .. }
            | Op::Dropout { x, .. }
            | Op::Linear { x, bias: None, .. } => vanishing[x],
            Op::Concat(ref parts) => parts.iter().all(|&part| vanishing[part]),
            Op::Add { a, b } => vanishing[a] && vanishing[b],
            Op::Mul { a, b } => vanishing[a] || vanishing[b],
            Op::Cells
            | Op::Constant(_)
            | Op::Linear { bias: Some(_), .. }
            | Op::Neighbourhood { .. }
            | Op::SumTaps { .. }
            | Op::Depthwise { .. }
            | Op::LayerNorm { .. }
            | Op::RmsNorm { .. }
            | Op::InverseRms { .. }
            | Op::Map { .. }
            | Op::Affine { shift: Some(_), .. }
            | Op::Attention(_) => false,
        },
        AdjointOp::Embed(ref parts) => parts.iter().all(|&(_, part)| vanishing[part]),
        AdjointOp::Slope { dy, .. }
        | AdjointOp::LinearTransposed { dy, .. }
        | AdjointOp::NormalisedGradient { dy, .. }
        | AdjointOp::InverseRmsGradient { dy, .. }
        | AdjointOp::ProductGradients { dy, .. } => vanishing[dy],
        AdjointOp::Dot { a, b } => vanishing[a] || vanishing[b],
        AdjointOp::WeightedSum { weights, .. } => vanishing[weights],
        AdjointOp::MirroredTaps { .. }
        | AdjointOp::MirroredNeighbourhood { .. }
        | AdjointOp::MirroredDepthwise { .. }
        | AdjointOp::Normalised { .. }
        | AdjointOp::Shares { .. }
        | AdjointOp::WeightedGather { .. }
        | AdjointOp::Weight { .. } => false,
    }
}

impl CellSum {
    /// Whether the sum is one of outer products.
    pub(super) fn is_outer(&self) -> bool {
        matches!(self, Self::Outer { .. })
    }

    /// Whether value `n` is read, at the cell alone, as factor of a value that vanishes.
    pub(super) fn is_factor(&self, n: usize, vanishing: &[bool]) -> bool {
        match *self {
            Self::Outer { dy, x } => n == x && vanishing[dy],
            Self::Products { a, b } => (n == a && vanishing[b]) || (n == b && vanishing[a]),
            Self::Channels { .. } | Self::Taps { .. } | Self::Images { .. } => false,
        }
    }
}
