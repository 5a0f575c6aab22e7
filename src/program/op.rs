//! The operations of programs.

use super::Function;
use crate::grid::Padding;

/// One operation; inputs are indices of earlier nodes, weights indices of parameters.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Cells,
    /// The parameter is `[H, W, width]`.
    Constant(usize),
    Slice {
        x: usize,
        start: usize,
    },
    Concat(Vec<usize>),
    Linear {
        x: usize,
        weight: usize,
        bias: Option<usize>,
    },
    /// Channel `n * width + c` is channel c of neighbour n.
    Neighbourhood {
        x: usize,
        padding: Padding,
    },
    /// Channel c is the sum over n of channel `n * width + c` of neighbour n.
    SumTaps {
        x: usize,
        padding: Padding,
    },
    /// Channel `c * filters + f` is filter f of channel c; the kernel is `[C, filters, 9]`.
    Depthwise {
        x: usize,
        kernel: usize,
        padding: Padding,
    },
    LayerNorm {
        x: usize,
        weight: usize,
        bias: usize,
        eps: f64,
    },
    /// The scale is one number for each channel.
    RmsNorm {
        x: usize,
        scale: usize,
        eps: f64,
    },
    /// One channel, `1 / sqrt(mean of squares + eps)`, with the squares of `x` or of `x` less its mean.
    InverseRms {
        x: usize,
        eps: f64,
        centred: bool,
    },
    Map {
        x: usize,
        function: Function,
    },
    Add {
        a: usize,
        b: usize,
    },
    /// `b` has as many channels as `a`, or one that multiplies all of them.
    Mul {
        a: usize,
        b: usize,
    },
    Affine {
        x: usize,
        scale: Option<usize>,
        shift: Option<usize>,
    },
    Attention(Attention),
    Dropout {
        x: usize,
        rate: f64,
        site: u32,
    },
}

/// Attention of each cell over the nine cells around it. `q`, `k` and `v` have the same width, which `heads`
/// divides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    pub q: usize,
    pub k: usize,
    pub v: usize,
    pub heads: usize,
    pub padding: Padding,
}

impl Op {
    /// The nodes that an operation reads.
    pub(crate) fn inputs(&self) -> Vec<usize> {
        let mut inputs = vec![];
        self.clone().renumber(|x| {
            inputs.push(x);
            x
        });
        inputs
    }

    /// Replaces the number of every input.
    pub(crate) fn renumber(&mut self, mut number: impl FnMut(usize) -> usize) {
        match self {
            Op::Cells | Op::Constant(_) => {}
            Op::Concat(parts) => parts.iter_mut().for_each(|x| *x = number(*x)),
            Op::Slice { x, .. }
            | Op::Linear { x, .. }
            | Op::Neighbourhood { x, .. }
            | Op::SumTaps { x, .. }
            | Op::Depthwise { x, .. }
            | Op::LayerNorm { x, .. }
            | Op::RmsNorm { x, .. }
            | Op::InverseRms { x, .. }
            | Op::Map { x, .. }
            | Op::Affine { x, .. }
            | Op::Dropout { x, .. } => *x = number(*x),
            Op::Add { a, b } | Op::Mul { a, b } => {
                *a = number(*a);
                *b = number(*b);
            }
            Op::Attention(Attention { q, k, v, .. }) => {
                *q = number(*q);
                *k = number(*k);
                *v = number(*v);
            }
        }
    }

    /// The parameters of an operation.
    pub(crate) fn params(&self) -> Vec<usize> {
        match *self {
            Op::Constant(table) => vec![table],
            Op::Linear { weight, bias, .. } => [weight].into_iter().chain(bias).collect(),
            Op::Depthwise { kernel, .. } => vec![kernel],
            Op::LayerNorm { weight, bias, .. } => vec![weight, bias],
            Op::RmsNorm { scale, .. } => vec![scale],
            Op::Affine { scale, shift, .. } => scale.into_iter().chain(shift).collect(),
            Op::Cells
            | Op::Slice { .. }
            | Op::Concat(_)
            | Op::Neighbourhood { .. }
            | Op::SumTaps { .. }
            | Op::InverseRms { .. }
            | Op::Map { .. }
            | Op::Add { .. }
            | Op::Mul { .. }
            | Op::Attention(_)
            | Op::Dropout { .. } => vec![],
        }
    }

    /// The padding of an operation that reads neighbours; `None` for one that reads the cell alone.
    pub(crate) fn padding(&self) -> Option<Padding> {
        match *self {
            Op::Neighbourhood { padding, .. }
            | Op::SumTaps { padding, .. }
            | Op::Depthwise { padding, .. }
            | Op::Attention(Attention { padding, .. }) => Some(padding),
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
            | Op::Dropout { .. } => None,
        }
    }

    /// How many cells away input `node` is read: 0 or 1.
    pub(crate) fn halo(&self, node: usize) -> usize {
        match *self {
            // A query is read at the cell alone, unless it is a key or value as well.
            Op::Attention(Attention { k, v, .. }) => usize::from(node == k || node == v),
            Op::Neighbourhood { .. } | Op::SumTaps { .. } | Op::Depthwise { .. } => 1,
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
            | Op::Dropout { .. } => 0,
        }
    }

    /// Whether the value depends on the cell's own inputs alone: on no neighbour, and on no random draw.
    pub(crate) fn is_cellwise(&self) -> bool {
        match self {
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
            | Op::Affine { .. } => true,
            Op::Neighbourhood { .. }
            | Op::SumTaps { .. }
            | Op::Depthwise { .. }
            | Op::Attention(_)
            | Op::Dropout { .. } => false,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub op: Op,
    pub width: usize,
}
