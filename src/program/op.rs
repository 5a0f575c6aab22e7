//! The operations that a program is a list of.

use super::Function;
use crate::stencil::Padding;

/// One operation; inputs are numbers of earlier nodes, weights numbers of parameters.
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
    /// One channel, `1 / sqrt(mean of squares + eps)`, the squares of `x` or of `x` less its mean.
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
    /// `b` has the channels of `a`, or one that multiplies them all.
    Mul {
        a: usize,
        b: usize,
    },
    Affine {
        x: usize,
        scale: Option<usize>,
        shift: Option<usize>,
    },
    Attention {
        q: usize,
        k: usize,
        v: usize,
        heads: usize,
        padding: Padding,
    },
    Dropout {
        x: usize,
        rate: f64,
        site: u32,
    },
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
            | Op::InverseRms { x, .. }
            | Op::Map { x, .. }
            | Op::Affine { x, .. }
            | Op::Dropout { x, .. } => *x = number(*x),
            Op::Add { a, b } | Op::Mul { a, b } => {
                *a = number(*a);
                *b = number(*b);
            }
            Op::Attention { q, k, v, .. } => {
                *q = number(*q);
                *k = number(*k);
                *v = number(*v);
            }
        }
    }

    /// The border of the grid, for the operations that look at neighbours.
    pub(crate) fn padding(&self) -> Option<Padding> {
        match *self {
            Op::Neighbourhood { padding, .. }
            | Op::SumTaps { padding, .. }
            | Op::Depthwise { padding, .. }
            | Op::Attention { padding, .. } => Some(padding),
            _ => None,
        }
    }

    /// Whether the operation reads input `node` at neighbours.
    pub(crate) fn looks_around(&self, node: usize) -> bool {
        match *self {
            Op::Attention { k, v, .. } => node == k || node == v,
            _ => self.padding().is_some(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub op: Op,
    pub width: usize,
}
