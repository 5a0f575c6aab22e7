//! The rule of each operation: the gradients of its inputs and weights, given its own.

use super::super::{Attention, Node, Op, Program};
use super::{Adjoint, AdjointNode, AdjointOp, CellSum};

impl Adjoint {
    /// The gradient of the update of `program` with respect to the cells, if `cells`, and to each parameter
    /// that `params` marks. Nothing else is computed.
    pub fn new(program: &Program, cells: bool, params: &[bool]) -> Self {
        let mut derivation = Derivation {
            program,
            params,
            differentiable: program.differentiable(cells, params),
            gradients: vec![Gradient::default(); program.nodes.len()],
            nodes: program.nodes.iter().map(ordinary).collect(),
            cells: None,
        };
        if derivation.differentiable[program.update] {
            let seed = derivation.push(AdjointOp::Seed, program.nodes[program.update].width);
            derivation.gradients[program.update].whole.push(seed);
        }
        for (n, node) in program.nodes.iter().enumerate().rev() {
            if let Some(dy) = derivation.total(n) {
                derivation.pass_on(n, &node.op, dy);
            }
        }
        Self {
            nodes: derivation.nodes,
            cells: derivation.cells,
        }
    }
}

fn ordinary(node: &Node) -> AdjointNode {
    AdjointNode {
        op: AdjointOp::Ordinary(node.op.clone()),
        width: node.width,
    }
}

/// What a node's readers have contributed to its gradient so far.
#[derive(Clone, Default)]
struct Gradient {
    /// Nodes of its full width.
    whole: Vec<usize>,
    /// Nodes that cover its channels from a start: `(start, node)`.
    parts: Vec<(usize, usize)>,
}

struct Derivation<'a> {
    program: &'a Program,
    params: &'a [bool],
    differentiable: Vec<bool>,
    gradients: Vec<Gradient>,
    nodes: Vec<AdjointNode>,
    cells: Option<usize>,
}

impl Derivation<'_> {
    fn push(&mut self, op: AdjointOp, width: usize) -> usize {
        self.nodes.push(AdjointNode { op, width });
        self.nodes.len() - 1
    }

    /// Adds the result of `op` to the gradient of `x`, if that is wanted.
    fn give(&mut self, x: usize, op: AdjointOp) {
        if self.differentiable[x] {
            let gradient = self.push(op, self.program.nodes[x].width);
            self.gradients[x].whole.push(gradient);
        }
    }

    /// Adds `dy` to the gradient of `x`, if that is wanted.
    fn hand_on(&mut self, x: usize, dy: usize) {
        if self.differentiable[x] {
            self.gradients[x].whole.push(dy);
        }
    }

    /// Adds a sum over cells to the gradient of `param`, if that is wanted.
    fn weight(&mut self, param: usize, sum: CellSum) {
        if self.params[param] {
            self.push(AdjointOp::Weight { param, sum }, 0);
        }
    }

    /// The node that holds the gradient of `n`: the sum of all contributions, if there are any.
    fn total(&mut self, n: usize) -> Option<usize> {
        let (width, gradient) = (
            self.program.nodes[n].width,
            std::mem::take(&mut self.gradients[n]),
        );
        let mut all = gradient.whole;
        for parts in self.apart(gradient.parts) {
            let covered: usize = parts.iter().map(|&(_, part)| self.nodes[part].width).sum();
            let op = match covered == width {
                true => AdjointOp::Ordinary(Op::Concat(parts.into_iter().map(|(_, part)| part).collect())),
                false => AdjointOp::Embed(parts),
            };
            all.push(self.push(op, width));
        }
        let add = |a, b| self.push(AdjointOp::Ordinary(Op::Add { a, b }), width);
        all.into_iter().reduce(add)
    }

    /// Groups of parts without overlaps, each ordered by start.
    fn apart(&self, parts: Vec<(usize, usize)>) -> Vec<Vec<(usize, usize)>> {
        let end = |&(start, part): &(usize, usize)| start + self.nodes[part].width;
        let mut groups: Vec<Vec<(usize, usize)>> = vec![];
        for part in parts {
            let overlaps = |other: &(usize, usize)| part.0 < end(other) && other.0 < end(&part);
            match groups.iter_mut().find(|group| !group.iter().any(overlaps)) {
                Some(group) => group.push(part),
                None => groups.push(vec![part]),
            }
        }
        groups.iter_mut().for_each(|group| group.sort());
        groups
    }

    /// Adds to the gradients of the inputs and weights of `op`, the operation of node `n`; `dy` is its own
    /// gradient.
    fn pass_on(&mut self, n: usize, op: &Op, dy: usize) {
        let width = |x: usize| self.program.nodes[x].width;
        match *op {
            Op::Cells => self.cells = Some(dy),
            Op::Constant(table) => self.weight(table, CellSum::Images { x: dy }),
            Op::Slice { x, .. } if width(x) == width(n) => self.hand_on(x, dy),
            Op::Slice { x, start } => {
                if self.differentiable[x] {
                    self.gradients[x].parts.push((start, dy));
                }
            }
            Op::Concat(ref parts) => {
                let mut start = 0;
                for &part in parts {
                    self.give(part, AdjointOp::Ordinary(Op::Slice { x: dy, start }));
                    start += self.program.nodes[part].width;
                }
            }
            Op::Linear { x, weight, bias } => {
                self.give(x, AdjointOp::LinearTransposed { dy, weight });
                self.weight(weight, CellSum::Outer { dy, x });
                if let Some(bias) = bias {
                    self.weight(bias, CellSum::Channels { x: dy });
                }
            }
            Op::Neighbourhood { x, padding } => self.give(x, AdjointOp::MirroredTaps { dy, padding }),
            Op::SumTaps { x, padding } => self.give(x, AdjointOp::MirroredNeighbourhood { dy, padding }),
            Op::Depthwise { x, kernel, padding } => {
                self.give(x, AdjointOp::MirroredDepthwise { dy, kernel, padding });
                self.weight(kernel, CellSum::Taps { dy, x, padding });
            }
            Op::LayerNorm { x, weight, bias, eps } => self.layer_norm((x, eps), (weight, bias), dy),
            Op::RmsNorm { x, scale, eps } => self.rms_norm((x, eps), scale, dy),
            Op::InverseRms { x, eps: _, centred } => {
                self.give(x, AdjointOp::InverseRmsGradient { x, y: n, dy, centred });
            }
            Op::Map { x, function } => self.give(x, AdjointOp::Slope { x, dy, function }),
            Op::Add { a, b } => {
                self.hand_on(a, dy);
                self.hand_on(b, dy);
            }
            Op::Mul { a, b } => {
                let scales_all = width(b) == 1 && width(a) > 1;
                self.give(a, AdjointOp::Ordinary(Op::Mul { a: dy, b }));
                self.give(
                    b,
                    match scales_all {
                        true => AdjointOp::Dot { a: dy, b: a },
                        false => AdjointOp::Ordinary(Op::Mul { a: dy, b: a }),
                    },
                );
            }
            Op::Affine { x, scale, shift } => {
                match scale {
                    Some(_) => {
                        let (x_dy, shift) = (dy, None);
                        self.give(
                            x,
                            AdjointOp::Ordinary(Op::Affine {
                                x: x_dy,
                                scale,
                                shift,
                            }),
                        );
                    }
                    None => self.hand_on(x, dy),
                }
                if let Some(scale) = scale {
                    self.weight(scale, CellSum::Products { a: dy, b: x });
                }
                if let Some(shift) = shift {
                    self.weight(shift, CellSum::Channels { x: dy });
                }
            }
            Op::Attention(of) => self.attention(of, dy),
            Op::Dropout { x, rate, site } => {
                self.give(x, AdjointOp::Ordinary(Op::Dropout { x: dy, rate, site }));
            }
        }
    }

    fn layer_norm(&mut self, (x, eps): (usize, f64), (weight, bias): (usize, usize), dy: usize) {
        self.weight(bias, CellSum::Channels { x: dy });
        if !self.params[weight] && !self.differentiable[x] {
            return;
        }
        let (width, centred) = (self.program.nodes[x].width, true);
        let inverse = self.push(AdjointOp::Ordinary(Op::InverseRms { x, eps, centred }), 1);
        let normal = self.push(AdjointOp::Normalised { x, inverse }, width);
        self.weight(weight, CellSum::Products { a: dy, b: normal });
        if self.differentiable[x] {
            let (scale, shift) = (Some(weight), None);
            let scaled = self.push(AdjointOp::Ordinary(Op::Affine { x: dy, scale, shift }), width);
            let dy = scaled;
            self.give(x, AdjointOp::NormalisedGradient { normal, inverse, dy });
        }
    }

    /// Of `x inverse scale`, where `inverse` is a function of `x`.
    fn rms_norm(&mut self, (x, eps): (usize, f64), scale: usize, dy: usize) {
        let (width, centred) = (self.program.nodes[x].width, false);
        let inverse = self.push(AdjointOp::Ordinary(Op::InverseRms { x, eps, centred }), 1);
        if self.params[scale] {
            let normal = self.push(AdjointOp::Ordinary(Op::Mul { a: x, b: inverse }), width);
            self.weight(scale, CellSum::Products { a: dy, b: normal });
        }
        if self.differentiable[x] {
            let (factor, shift) = (Some(scale), None);
            let scaled = Op::Affine {
                x: dy,
                scale: factor,
                shift,
            };
            let dy = self.push(AdjointOp::Ordinary(scaled), width);
            self.give(x, AdjointOp::Ordinary(Op::Mul { a: dy, b: inverse }));
            let (y, dy) = (inverse, self.push(AdjointOp::Dot { a: dy, b: x }, 1));
            self.give(x, AdjointOp::InverseRmsGradient { x, y, dy, centred });
        }
    }

    fn attention(&mut self, of: Attention, dy: usize) {
        let Attention {
            q,
            k,
            v,
            heads,
            padding,
        } = of;
        let shares = AdjointOp::Shares { q, k, heads, padding };
        let shares = self.push(shares, 9 * heads);
        let gather = |weights, x| AdjointOp::WeightedGather {
            weights,
            x,
            heads,
            padding,
        };
        self.give(v, gather(shares, dy));
        if self.differentiable[q] || self.differentiable[k] {
            let products = AdjointOp::ProductGradients {
                shares,
                v,
                dy,
                heads,
                padding,
            };
            let weights = self.push(products, 9 * heads);
            let sum = AdjointOp::WeightedSum {
                weights,
                x: k,
                heads,
                padding,
            };
            self.give(q, sum);
            self.give(k, gather(weights, q));
        }
    }
}
