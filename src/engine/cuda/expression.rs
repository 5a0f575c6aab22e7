//! Values of programs as expressions in C.
//!
//! Kernels name what they read: `w3` is parameter 3, `v5` are the values of node 5 in scratch, `s5` those of
//! the block's rows in shared memory, `seed` is the gradient of the update.

use crate::engine::kernel_plan::{Home, Plan, Slot};
use crate::grid::Padding;
use crate::program::{AdjointNode, AdjointOp, Function, Op};

/// Writes expressions for the kernel of a phase, in which `row` is a row, and `rows` are all of the block.
#[derive(Clone, Copy)]
pub(super) struct Writer<'a> {
    pub plan: &'a Plan,
    /// The slot of each node that has one at this place.
    pub slots: &'a [Option<Slot>],
    /// The product whose sum is at hand as `sum`.
    pub product: Option<usize>,
}

/// The tables of neighbours, one for each padding.
pub(super) fn table(padding: Padding) -> &'static str {
    match padding {
        Padding::Zero => "rows.zero",
        Padding::Circular => "rows.torus",
    }
}

/// A float in C, exactly.
pub(super) fn float(value: f32) -> String {
    match value {
        value if value.is_nan() => "NAN".into(),
        f32::INFINITY => "INFINITY".into(),
        f32::NEG_INFINITY => "(-INFINITY)".into(),
        value => format!("{value:e}f"),
    }
}

impl Writer<'_> {
    fn node(&self, n: usize) -> &AdjointNode {
        &self.plan.nodes[n]
    }

    /// Channel `c` of node `n`, at row `row`.
    pub fn own(&self, n: usize, row: &str, c: &str) -> String {
        if self.product == Some(n) {
            return self.of_product(n, c);
        }
        match self.plan.homes[n] {
            Home::Inline => self.computed(n, row, c),
            Home::Moved => self.moved(n, c, &|part, c| self.own(part, row, c)),
            Home::Stored { .. } => match self.slots[n] {
                Some(slot) => format!("s{n}[{row} * {} + {c}]", slot.pitch),
                None => self.at(n, &format!("rows.cell[{row}]"), c),
            },
            Home::Given | Home::Absent => self.at(n, &format!("rows.cell[{row}]"), c),
        }
    }

    /// Channel `c` of node `n`, at cell `cell` of any row or none.
    pub fn at(&self, n: usize, cell: &str, c: &str) -> String {
        let width = self.node(n).width;
        match (self.plan.homes[n], &self.node(n).op) {
            (Home::Moved, _) => self.moved(n, c, &|part, c| self.at(part, cell, c)),
            (Home::Given, AdjointOp::Ordinary(Op::Constant(table))) => {
                format!("w{table}[(size_t)({cell} % (args.height * args.width)) * {width} + {c}]")
            }
            (Home::Given, AdjointOp::Seed) => format!("seed[(size_t){cell} * {width} + {c}]"),
            (Home::Given, _) => format!("args.state[(size_t){cell} * {width} + {c}]"),
            // A value that is not in scratch has no such name, and no kernel with it compiles.
            (Home::Stored { .. } | Home::Inline | Home::Absent, _) => {
                format!("v{n}[(size_t){cell} * {width} + {c}]")
            }
        }
    }

    fn of_product(&self, n: usize, c: &str) -> String {
        if let AdjointOp::Ordinary(Op::Linear { bias: Some(bias), .. }) = self.node(n).op {
            return format!("(sum + w{bias}[{c}])");
        }
        "sum".into()
    }

    /// A channel of a value that consists of others, by the one that it is a channel of.
    fn moved(&self, n: usize, c: &str, part: &dyn Fn(usize, &str) -> String) -> String {
        let shifted = |start: usize| match start {
            0 => c.to_string(),
            start => format!("({c} - {start})"),
        };
        let op = &self.node(n).op;
        if let AdjointOp::Ordinary(Op::Slice { x, start }) = op {
            return match start {
                0 => part(*x, c),
                start => part(*x, &format!("({c} + {start})")),
            };
        }
        let mut text = String::from("(");
        let (parts, covers_all) = parts(op, |x| self.node(x).width);
        for (i, &(start, x)) in parts.iter().enumerate() {
            let value = part(x, &shifted(start));
            if covers_all && i + 1 == parts.len() {
                return text + &value + ")";
            }
            let end = start + self.node(x).width;
            text += &format!("{c} >= {start} && {c} < {end} ? {value} : ");
        }
        text + "0.0f)"
    }

    /// Channel `c` of a value that is computed channel by channel, or consists of others.
    pub fn computed(&self, n: usize, row: &str, c: &str) -> String {
        let AdjointNode { op, width } = self.node(n);
        let own = |x: usize| self.own(x, row, c);
        match op {
            AdjointOp::Ordinary(Op::Concat(_) | Op::Slice { .. }) | AdjointOp::Embed(_) => {
                self.moved(n, c, &|part, c| self.own(part, row, c))
            }
            AdjointOp::Ordinary(op) => self.computed_ordinary(op, *width, row, c),
            AdjointOp::Slope { x, dy, function } => through(*function, &own(*x), &own(*dy)),
            AdjointOp::MirroredTaps { dy, padding } => {
                let term = self.at(*dy, "near", &format!("(n * {width} + {c})"));
                sum(true, *padding, row, &term)
            }
            AdjointOp::MirroredNeighbourhood { dy, padding } => {
                let channels = self.node(*dy).width;
                let near = format!("{}[9 * {row} + 8 - {c} / {channels}]", table(*padding));
                let value = self.at(*dy, &near, &format!("({c} % {channels})"));
                format!("({near} < 0 ? 0.0f : {value})")
            }
            AdjointOp::MirroredDepthwise { dy, kernel, padding } => {
                let filters = self.node(*dy).width / width;
                let terms = (0..filters).map(|f| {
                    let channel = format!("({c} * {filters} + {f})");
                    format!(
                        "tapped(w{kernel}[{channel} * 9 + n], {})",
                        self.at(*dy, "near", &channel)
                    )
                });
                sum(true, *padding, row, &terms.collect::<Vec<_>>().join(" + "))
            }
            AdjointOp::WeightedSum {
                weights,
                x,
                heads,
                padding,
            } => {
                let depth = width / heads;
                let weight = self.own(*weights, row, &format!("({c} / {depth} * 9 + n)"));
                let term = format!("{weight} * {}", self.at(*x, "near", c));
                sum(false, *padding, row, &term)
            }
            AdjointOp::WeightedGather {
                weights,
                x,
                heads,
                padding,
            } => {
                let depth = width / heads;
                let weight = self.at(*weights, "near", &format!("({c} / {depth} * 9 + n)"));
                let term = format!("{weight} * {}", self.at(*x, "near", c));
                sum(true, *padding, row, &term)
            }
            AdjointOp::Seed
            | AdjointOp::Dot { .. }
            | AdjointOp::LinearTransposed { .. }
            | AdjointOp::Normalised { .. }
            | AdjointOp::NormalisedGradient { .. }
            | AdjointOp::InverseRmsGradient { .. }
            | AdjointOp::Shares { .. }
            | AdjointOp::ProductGradients { .. }
            | AdjointOp::Weight { .. } => format!("not_channelwise_{n}"),
        }
    }

    fn computed_ordinary(&self, op: &Op, width: usize, row: &str, c: &str) -> String {
        let own = |x: usize| self.own(x, row, c);
        match op {
            Op::Map { x, function } => apply(*function, &own(*x)),
            Op::Add { a, b } => format!("({} + {})", own(*a), own(*b)),
            Op::Mul { a, b } if self.node(*b).width == 1 => {
                format!("({} * {})", own(*a), self.own(*b, row, "0"))
            }
            Op::Mul { a, b } => format!("({} * {})", own(*a), own(*b)),
            Op::Affine { x, scale, shift } => {
                let scale = scale.map_or(String::new(), |scale| format!(" * w{scale}[{c}]"));
                let shift = shift.map_or(String::new(), |shift| format!(" + w{shift}[{c}]"));
                format!("({}{scale}{shift})", own(*x))
            }
            Op::Dropout { x, rate, site } => {
                let (rate, kept) = (*rate as f32, (1.0 / (1.0 - rate)) as f32);
                let (rate, kept) = (float(rate), float(kept));
                let factor =
                    format!("dropout(args, rows.cell[{row}], {c}, {width}, {site}u, {rate}, {kept})");
                format!("({} * {factor})", own(*x))
            }
            Op::Neighbourhood { x, padding } => {
                let channels = self.node(*x).width;
                let near = format!("{}[9 * {row} + {c} / {channels}]", table(*padding));
                let value = self.at(*x, &near, &format!("({c} % {channels})"));
                format!("({near} < 0 ? 0.0f : {value})")
            }
            Op::SumTaps { x, padding } => {
                let term = self.at(*x, "near", &format!("(n * {width} + {c})"));
                sum(false, *padding, row, &term)
            }
            Op::Depthwise { x, kernel, padding } => {
                let filters = width / self.node(*x).width;
                let value = self.at(*x, "near", &format!("({c} / {filters})"));
                let near = format!("{} + 9 * {row}", table(*padding));
                format!("tap_sum({near}, w{kernel} + {c} * 9, [&](int near) {{ return {value}; }})")
            }
            Op::Cells
            | Op::Constant(_)
            | Op::Slice { .. }
            | Op::Concat(_)
            | Op::Linear { .. }
            | Op::LayerNorm { .. }
            | Op::RmsNorm { .. }
            | Op::InverseRms { .. }
            | Op::Attention(_) => "not_channelwise".into(),
        }
    }
}

/// The values that a value consists of, each with its first channel there, and whether they are all of it.
fn parts(op: &AdjointOp, width: impl Fn(usize) -> usize) -> (Vec<(usize, usize)>, bool) {
    if let AdjointOp::Embed(parts) = op {
        return (parts.clone(), false);
    }
    let AdjointOp::Ordinary(Op::Concat(concatenated)) = op else {
        return (vec![], false);
    };
    let mut start = 0;
    let part = |&x: &usize| {
        let first = start;
        start += width(x);
        (first, x)
    };
    (concatenated.iter().map(part).collect(), true)
}

/// The sum over the neighbours `near` of row `row`, by number `n`.
fn sum(mirrored: bool, padding: Padding, row: &str, term: &str) -> String {
    let name = if mirrored { "mirrored_sum" } else { "near_sum" };
    let table = table(padding);
    format!("{name}({table} + 9 * {row}, [&](int near, int n) {{ return {term}; }})")
}

fn apply(function: Function, x: &str) -> String {
    match function {
        Function::Relu => format!("relu({x})"),
        Function::Elu => format!("elu({x})"),
        Function::Gelu => format!("gelu({x})"),
        Function::Silu => format!("silu({x})"),
        Function::Sigmoid => format!("sigmoid({x})"),
        Function::Tanh => format!("hyperbolic_tangent({x})"),
        Function::Clamp { min, max } => format!("clamped({x}, {}, {})", float(min), float(max)),
        Function::Quantise { min, max, step } => {
            format!("quantised({x}, {}, {}, {})", float(min), float(max), float(step))
        }
    }
}

/// A gradient through a function at `x`.
fn through(function: Function, x: &str, dy: &str) -> String {
    let slope = slope(function, x);
    match function {
        Function::Relu | Function::Clamp { .. } | Function::Quantise { .. } => {
            format!("through({slope}, {dy})")
        }
        Function::Elu | Function::Gelu | Function::Silu | Function::Sigmoid | Function::Tanh => {
            format!("({slope} * {dy})")
        }
    }
}

fn slope(function: Function, x: &str) -> String {
    match function {
        Function::Relu => format!("relu_slope({x})"),
        Function::Elu => format!("elu_slope({x})"),
        Function::Gelu => format!("gelu_slope({x})"),
        Function::Silu => format!("silu_slope({x})"),
        Function::Sigmoid => format!("sigmoid_slope({x})"),
        Function::Tanh => format!("hyperbolic_tangent_slope({x})"),
        Function::Clamp { min, max } | Function::Quantise { min, max, step: _ } => {
            format!("clamped_slope({x}, {}, {})", float(min), float(max))
        }
    }
}
