//! The gradient of a program, as a program: reverse-mode differentiation done once, for every engine.
//!
//! An [`Adjoint`] begins with the nodes of its program and goes on with those of the gradient, in one
//! numbering. So an engine that can run a program runs most of the adjoint with the same code, and decides
//! itself which values of the program it stores and which it recomputes. The rules are in `derive.rs`; each
//! operation as plain Candle operations is in `reference.rs`.
//!
//! No operation scatters: a gradient that flows to neighbours is gathered by them, from cells at the opposite
//! offsets. Neighbours are told apart by offset, never by cell: on a torus of fewer than three rows or
//! columns one cell is several neighbours. Beyond a zero-padded border gradients are 0, as values are.

mod derive;
mod reference;
#[cfg(test)]
mod tests;

use super::phases::Read;
use super::{Function, Op};
use crate::grid::Padding;

pub use reference::Pullback;

/// The gradient of a program as a list of operations.
///
/// Given are the cells before the step and the gradient of the update. The gradient of the cells here is the
/// one through the update alone: `next = cells + update` adds that of the next cells to it.
#[derive(Clone, Debug)]
pub(crate) struct Adjoint {
    /// Those of the program under their own numbers, then those of the gradient. Inputs have smaller numbers.
    pub nodes: Vec<AdjointNode>,
    /// The node that holds the gradient of the cells; `None` if it is not wanted, or the update does not
    /// depend on them.
    pub cells: Option<usize>,
}

/// An operation and the number of channels of its result: 0 for the gradient of a weight, which is no value
/// of cells.
#[derive(Clone, Debug)]
pub(crate) struct AdjointNode {
    pub op: AdjointOp,
    pub width: usize,
}

/// One operation of an [`Adjoint`]. `dy` is the gradient of the result of an operation of the program; the
/// result here is the gradient of one of its inputs.
#[derive(Clone, Debug)]
pub(crate) enum AdjointOp {
    /// An operation of the program, or the same operation applied to gradients. Dropout draws by its site, so
    /// a gradient gets the same factors as the value.
    Ordinary(Op),
    /// The gradient of the update.
    Seed,
    /// The channels of each part `(start, x)` from `start` on, 0 elsewhere; parts do not overlap. For slices.
    Embed(Vec<(usize, usize)>),
    /// `function'(x) dy`.
    Slope { x: usize, dy: usize, function: Function },
    /// One channel, the sum over channels of `a b`. For a single channel that multiplies all channels.
    Dot { a: usize, b: usize },
    /// `weight^T dy`, with `weight` `[output, input]`.
    LinearTransposed { dy: usize, weight: usize },
    /// Channel c is the sum over n of channel `n * width + c` of the cell at minus the offset of neighbour n.
    /// For a neighbourhood.
    MirroredTaps { dy: usize, padding: Padding },
    /// Channel `n * C + c` is channel c of the cell at minus the offset of neighbour n, where `dy` has C
    /// channels. For a sum of taps.
    MirroredNeighbourhood { dy: usize, padding: Padding },
    /// Channel c is the sum over f and n of `kernel[c, f, n]` times channel `c * filters + f` of the cell at
    /// minus the offset of neighbour n. For a depthwise stencil.
    MirroredDepthwise {
        dy: usize,
        kernel: usize,
        padding: Padding,
    },
    /// `(x - mean of x) inverse`, with `inverse` one channel: the input of a layer norm's scale and shift.
    Normalised { x: usize, inverse: usize },
    /// `inverse (dy - mean of dy - normal (mean of dy normal))`, with means over channels. For an
    /// [`AdjointOp::Normalised`].
    NormalisedGradient {
        normal: usize,
        inverse: usize,
        dy: usize,
    },
    /// `-dy y^3 x / C`, or with `x` less its mean, where `y` and `dy` have one channel and `x` has C. For an
    /// inverse root mean square or deviation.
    InverseRmsGradient {
        x: usize,
        y: usize,
        dy: usize,
        centred: bool,
    },
    /// Channel `9 h + n` is the share of neighbour n in the softmax of head h, that is of `q k / sqrt(d)`,
    /// where d is the width of a head. Beyond a zero-padded border k is 0, and the neighbour still counts.
    Shares {
        q: usize,
        k: usize,
        heads: usize,
        padding: Padding,
    },
    /// The gradients of the products `q k` from those of attention: with `s_n = dy v_n` per head, channel `9
    /// h + n` is `shares_n (s_n - sum over m of shares_m s_m) / sqrt(d)`.
    ProductGradients {
        shares: usize,
        v: usize,
        dy: usize,
        heads: usize,
        padding: Padding,
    },
    /// For each head the sum over n of channel `9 h + n` of `weights` times `x` of neighbour n. For a query.
    WeightedSum {
        weights: usize,
        x: usize,
        heads: usize,
        padding: Padding,
    },
    /// For each head the sum over n of channel `9 h + n` of `weights` times `x`, both of the cell at minus
    /// the offset of neighbour n. For a key or value.
    WeightedGather {
        weights: usize,
        x: usize,
        heads: usize,
        padding: Padding,
    },
    /// A summand of the gradient of parameter `param`.
    Weight { param: usize, sum: CellSum },
}

/// A sum over cells that gives the gradient of a weight: over the cells of all images, unless stated
/// otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CellSum {
    /// `dy x^T`: `[output, input]`.
    Outer { dy: usize, x: usize },
    /// Each channel of `x`: `[C]`.
    Channels { x: usize },
    /// Each channel of `a b`: `[C]`.
    Products { a: usize, b: usize },
    /// `dy x_n`, with `x_n` the `x` of neighbour n: `[C, filters, 9]`, channels as in a depthwise stencil.
    Taps { dy: usize, x: usize, padding: Padding },
    /// `x` over images, not over the cells of an image: `[H, W, C]`.
    Images { x: usize },
}

impl AdjointOp {
    /// What the operation reads, and at what distance.
    pub fn reads(&self) -> Vec<Read> {
        let (own, near) = (Read::own, Read::near);
        match *self {
            Self::Ordinary(ref op) => Read::of(op),
            Self::Seed => vec![],
            Self::Embed(ref parts) => parts.iter().map(|&(_, x)| own(x)).collect(),
            Self::Slope { x, dy, function: _ } => vec![own(x), own(dy)],
            Self::Dot { a, b } => vec![own(a), own(b)],
            Self::LinearTransposed { dy, weight: _ } => vec![own(dy)],
            Self::MirroredTaps { dy, padding: _ }
            | Self::MirroredNeighbourhood { dy, padding: _ }
            | Self::MirroredDepthwise {
                dy,
                kernel: _,
                padding: _,
            } => vec![near(dy)],
            Self::Normalised { x, inverse } => vec![own(x), own(inverse)],
            Self::NormalisedGradient { normal, inverse, dy } => vec![own(normal), own(inverse), own(dy)],
            Self::InverseRmsGradient { x, y, dy, centred: _ } => vec![own(x), own(y), own(dy)],
            Self::Shares {
                q,
                k,
                heads: _,
                padding: _,
            } => vec![own(q), near(k)],
            Self::ProductGradients {
                shares,
                v,
                dy,
                heads: _,
                padding: _,
            } => vec![own(shares), near(v), own(dy)],
            Self::WeightedSum {
                weights,
                x,
                heads: _,
                padding: _,
            } => vec![own(weights), near(x)],
            Self::WeightedGather {
                weights,
                x,
                heads: _,
                padding: _,
            } => vec![near(weights), near(x)],
            Self::Weight { param: _, sum } => sum.reads(),
        }
    }

    /// The parameters that the operation reads.
    #[cfg_attr(not(test), expect(dead_code, reason = "for engines that pack weights"))]
    pub fn params(&self) -> Vec<usize> {
        match *self {
            Self::Ordinary(ref op) => op.params(),
            Self::LinearTransposed { dy: _, weight } => vec![weight],
            Self::MirroredDepthwise {
                dy: _,
                kernel,
                padding: _,
            } => vec![kernel],
            Self::Seed
            | Self::Embed(_)
            | Self::Slope { .. }
            | Self::Dot { .. }
            | Self::MirroredTaps { .. }
            | Self::MirroredNeighbourhood { .. }
            | Self::Normalised { .. }
            | Self::NormalisedGradient { .. }
            | Self::InverseRmsGradient { .. }
            | Self::Shares { .. }
            | Self::ProductGradients { .. }
            | Self::WeightedSum { .. }
            | Self::WeightedGather { .. }
            | Self::Weight { .. } => vec![],
        }
    }
}

impl CellSum {
    /// What the sum reads, and at what distance.
    fn reads(&self) -> Vec<Read> {
        let (own, near) = (Read::own, Read::near);
        match *self {
            Self::Outer { dy, x } => vec![own(dy), own(x)],
            Self::Channels { x } | Self::Images { x } => vec![own(x)],
            Self::Products { a, b } => vec![own(a), own(b)],
            Self::Taps { dy, x, padding: _ } => vec![own(dy), near(x)],
        }
    }
}
