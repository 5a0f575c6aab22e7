//! Values of programs as WGSL: statements, and an expression that they lead to.

use std::fmt::{self, Display, Write};

use crate::engine::kernel_plan::{Home, Offset, Packing, Plan, Slot};
use crate::grid::Padding;
use crate::program::{Function, Op, Program};

/// A channel of a value: known, or an expression of u32 and what is added to it.
#[derive(Clone, Debug)]
pub(super) enum Channel {
    Known(usize),
    Variable(String, isize),
}

impl Channel {
    pub fn variable(name: &str) -> Self {
        Self::Variable(name.into(), 0)
    }

    pub fn plus(&self, count: usize) -> Self {
        match self {
            Self::Known(c) => Self::Known(c + count),
            Self::Variable(name, more) => Self::Variable(name.clone(), more + count as isize),
        }
    }

    fn minus(&self, count: usize) -> Self {
        match self {
            Self::Known(c) => Self::Known(c.saturating_sub(count)),
            Self::Variable(name, more) => Self::Variable(name.clone(), more - count as isize),
        }
    }

    fn divided(&self, by: usize) -> Self {
        match self {
            Self::Known(c) => Self::Known(c / by),
            Self::Variable(..) => Self::Variable(format!("({self} / {by}u)"), 0),
        }
    }

    fn modulo(&self, by: usize) -> Self {
        match self {
            Self::Known(c) => Self::Known(c % by),
            Self::Variable(..) => Self::Variable(format!("({self} % {by}u)"), 0),
        }
    }
}

impl Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(c) => write!(f, "{c}u"),
            Self::Variable(name, 0) => write!(f, "{name}"),
            Self::Variable(name, more) if *more > 0 => write!(f, "({name} + {more}u)"),
            Self::Variable(name, more) => write!(f, "({name} - {}u)", -more),
        }
    }
}

/// A number in WGSL, which has no infinities.
pub(super) fn number(value: f32) -> String {
    format!("{:e}f", value.clamp(f32::MIN, f32::MAX))
}

/// The table of neighbours for a padding.
pub(super) fn table(padding: Padding) -> &'static str {
    match padding {
        Padding::Zero => "zero",
        Padding::Circular => "torus",
    }
}

/// Writes the body of a kernel, for the cell `cell`.
pub(super) struct Writer<'a> {
    pub program: &'a Program,
    pub plan: &'a Plan,
    pub packing: &'a Packing,
    /// The slot of each node that has one.
    pub slots: Vec<Option<Slot>>,
    /// The product whose sum is at hand as `sum`.
    pub product: Option<usize>,
    pub text: String,
    depth: usize,
    names: usize,
}

impl<'a> Writer<'a> {
    pub fn new(program: &'a Program, plan: &'a Plan, packing: &'a Packing) -> Self {
        Self {
            program,
            plan,
            packing,
            slots: vec![None; program.nodes.len()],
            product: None,
            text: String::new(),
            depth: 1,
            names: 0,
        }
    }

    pub fn line(&mut self, line: impl Display) {
        let indent = 4 * self.depth;
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{:indent$}{line}", "");
    }

    /// A block: `head { inside }`.
    pub fn block(&mut self, head: impl Display, inside: impl FnOnce(&mut Self)) {
        let head = head.to_string();
        self.line(if head.is_empty() {
            "{".into()
        } else {
            format!("{head} {{")
        });
        self.depth += 1;
        inside(self);
        self.depth -= 1;
        self.line("}");
    }

    /// `inside` for each of `count` channels.
    pub fn each(&mut self, count: usize, inside: impl FnOnce(&mut Self, &Channel)) {
        let c = self.name("c");
        self.block(format!("for (var {c} = 0u; {c} < {count}u; {c}++)"), |w| {
            inside(w, &Channel::variable(&c));
        });
    }

    /// A name that nothing else has.
    pub fn name(&mut self, of: &str) -> String {
        self.names += 1;
        format!("{of}{}", self.names)
    }

    pub fn width(&self, n: usize) -> usize {
        self.program.nodes[n].width
    }

    /// Element `at` of a parameter.
    pub fn weight(&self, param: usize, at: impl Display) -> String {
        match self.packing.of(param) {
            Offset::Weight(first) => format!("weights[{first}u + {at}]"),
            Offset::Constant(channels) => {
                let first = self.packing.weights;
                format!("weights[{first}u + {channels}u * args.height * args.width + {at}]")
            }
        }
    }

    /// Channel `c` of node `n`, at the cell.
    pub fn own(&mut self, n: usize, c: &Channel) -> String {
        if self.product == Some(n) {
            if let Op::Linear { bias: Some(bias), .. } = self.program.nodes[n].op {
                return format!("(sum + {})", self.weight(bias, c));
            }
            return "sum".into();
        }
        match (self.plan.homes[n], self.slots[n]) {
            (Home::Inline, _) => self.computed(n, c),
            (Home::Moved, _) => self.moved(n, c, &Self::own),
            (Home::Stored { .. }, Some(slot)) => format!("values[{}u + {c}]", slot.first),
            (Home::Stored { .. } | Home::Given | Home::Absent, _) => self.at(n, "cell", c),
        }
    }

    /// Channel `c` of node `n`, at any cell.
    pub fn at(&mut self, n: usize, cell: &str, c: &Channel) -> String {
        let width = self.width(n);
        match (self.plan.homes[n], &self.program.nodes[n].op) {
            (Home::Moved, _) => self.moved(n, c, &|w, part, c| w.at(part, cell, c)),
            (Home::Given, Op::Constant(table)) => self.weight(
                *table,
                format!("{cell} % (args.height * args.width) * {width}u + {c}"),
            ),
            (Home::Given, _) => format!("state[{cell} * {width}u + {c}]"),
            (home, _) => match home.scratch() {
                Some(first) => format!("scratch[args.cells * {first}u + {cell} * {width}u + {c}]"),
                // No shader with this name compiles.
                None => format!("not_stored_{n}"),
            },
        }
    }

    /// A channel of a value that consists of others.
    fn moved(
        &mut self,
        n: usize,
        c: &Channel,
        part: &dyn Fn(&mut Self, usize, &Channel) -> String,
    ) -> String {
        let program = self.program;
        if let Op::Slice { x, start } = program.nodes[n].op {
            return part(self, x, &c.plus(start));
        }
        let Op::Concat(parts) = &program.nodes[n].op else {
            return format!("not_moved_{n}");
        };
        let mut first = 0;
        let starts = parts.iter().map(|&x| {
            let start = first;
            first += self.width(x);
            (start, first, x)
        });
        let starts: Vec<(usize, usize, usize)> = starts.collect();
        if let Channel::Known(known) = c {
            let holds = starts.iter().find(|(_, end, _)| known < end);
            return match holds {
                Some(&(start, _, x)) => part(self, x, &c.minus(start)),
                None => format!("not_moved_{n}"),
            };
        }
        let value = self.name("t");
        self.line(format!("var {value} = 0.0;"));
        for (start, end, x) in starts {
            self.block(format!("if ({c} >= {start}u && {c} < {end}u)"), |w| {
                let of_part = part(w, x, &c.minus(start));
                w.line(format!("{value} = {of_part};"));
            });
        }
        value
    }

    /// The sum over the neighbours that there are of `term(neighbour, n)`.
    pub fn near_sum(
        &mut self,
        padding: Padding,
        term: impl FnOnce(&mut Self, &str, &str) -> String,
    ) -> String {
        let (value, n, near) = (self.name("t"), self.name("n"), self.name("near"));
        let table = table(padding);
        self.line(format!("var {value} = 0.0;"));
        self.block(format!("for (var {n} = 0u; {n} < 9u; {n}++)"), |w| {
            w.block(format!("if ({table}[{n}] >= 0)"), |w| {
                w.line(format!("let {near} = u32({table}[{n}]);"));
                let term = term(w, &near, &n);
                w.line(format!("{value} += {term};"));
            });
        });
        value
    }

    /// Channel `c` of a value that is computed channel by channel.
    pub fn computed(&mut self, n: usize, c: &Channel) -> String {
        let width = self.width(n);
        match self.program.nodes[n].op {
            Op::Map { x, function } => {
                let x = self.own(x, c);
                apply(function, &x)
            }
            Op::Add { a, b } => format!("({} + {})", self.own(a, c), self.own(b, c)),
            Op::Mul { a, b } if self.width(b) == 1 => {
                format!("({} * {})", self.own(a, c), self.own(b, &Channel::Known(0)))
            }
            Op::Mul { a, b } => format!("({} * {})", self.own(a, c), self.own(b, c)),
            Op::Affine { x, scale, shift } => {
                let x = self.own(x, c);
                let scale = scale.map_or(String::new(), |scale| format!(" * {}", self.weight(scale, c)));
                let shift = shift.map_or(String::new(), |shift| format!(" + {}", self.weight(shift, c)));
                format!("({x}{scale}{shift})")
            }
            // Off: there is no training here.
            Op::Dropout { x, .. } => self.own(x, c),
            Op::Neighbourhood { x, padding } => {
                let channels = self.width(x);
                let (value, near, table) = (self.name("t"), self.name("near"), table(padding));
                self.line(format!("let {near} = {table}[{}];", c.divided(channels)));
                self.line(format!("var {value} = 0.0;"));
                self.block(format!("if ({near} >= 0)"), |w| {
                    let of_near = w.at(x, &format!("u32({near})"), &c.modulo(channels));
                    w.line(format!("{value} = {of_near};"));
                });
                value
            }
            Op::SumTaps { x, padding } => self.near_sum(padding, |w, near, n| {
                let channel = Channel::Variable(format!("{n} * {width}u + {c}"), 0);
                w.at(x, near, &channel)
            }),
            Op::Depthwise { x, kernel, padding } => {
                let filters = width / self.width(x);
                self.near_sum(padding, |w, near, n| {
                    let value = w.at(x, near, &c.divided(filters));
                    let tap = w.weight(kernel, format!("{c} * 9u + {n}"));
                    format!("{tap} * {value}")
                })
            }
            Op::Concat(_) | Op::Slice { .. } => self.moved(n, c, &Self::own),
            Op::Cells
            | Op::Constant(_)
            | Op::Linear { .. }
            | Op::LayerNorm { .. }
            | Op::RmsNorm { .. }
            | Op::InverseRms { .. }
            | Op::Attention(_) => format!("not_channelwise_{n}"),
        }
    }
}

fn apply(function: Function, x: &str) -> String {
    match function {
        Function::Relu => format!("relu({x})"),
        Function::Elu => format!("elu({x})"),
        Function::Gelu => format!("gelu({x})"),
        Function::Silu => format!("silu({x})"),
        Function::Sigmoid => format!("sigmoid({x})"),
        Function::Tanh => format!("hyperbolic_tangent({x})"),
        Function::Clamp { min, max } => format!("clamp({x}, {}, {})", number(min), number(max)),
        Function::Quantise { min, max, step } => {
            format!(
                "quantised({x}, {}, {}, {})",
                number(min),
                number(max),
                number(step)
            )
        }
    }
}
