//! The kernel of each phase, as CUDA C.

use std::collections::BTreeSet;

use super::driver::Source;
use super::expression::{Writer, float, table};
use crate::engine::Precision;
use crate::engine::kernel_plan::{Emission, Home, Offset, Packing, PhaseKernel, Plan, Slot, Target};
use crate::grid::{AliveMask, CellLayout, Padding};
use crate::program::{AdjointNode, AdjointOp, Attention, Op, Program};

/// What the kernels of either direction share.
const LIBRARY: [&str; 4] = [
    include_str!("library/cells.cu"),
    include_str!("library/functions.cu"),
    include_str!("library/products.cu"),
    include_str!("library/neighbours.cu"),
];

/// What comes with the kernels of one.
const LIFE: &str = include_str!("library/life.cu");
const GRADIENTS: &str = include_str!("library/gradients.cu");

/// Warps of a block, and the floats in which all of them put sums of products.
const WARPS: usize = 8;
const STAGES: usize = WARPS * 32 * 20;

/// Which way a step goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Backward,
}

/// How the kernel of a phase is launched.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub name: String,
    /// 4-byte words of shared memory for each row of a tile, and for the block.
    pub words_per_row: usize,
    pub words: usize,
}

impl Launch {
    /// The bytes of shared memory with tiles of this many rows.
    pub fn shared(&self, tile: usize) -> usize {
        4 * (self.words + self.words_per_row * tile)
    }
}

/// The kernels of one direction of a step.
pub(super) struct Module {
    pub source: Source,
    /// In order, without phases in which nothing is computed.
    pub launches: Vec<Launch>,
}

/// Writes the kernels of a plan.
pub(super) struct Generator<'a> {
    pub plan: &'a Plan,
    pub packing: &'a Packing,
    pub layout: CellLayout,
    pub alive: Option<AliveMask>,
    pub direction: Direction,
}

impl<'a> Generator<'a> {
    pub fn new(program: &Program, plan: &'a Plan, packing: &'a Packing, direction: Direction) -> Self {
        Self {
            plan,
            packing,
            layout: program.layout(),
            alive: program.alive,
            direction,
        }
    }

    pub fn module(&self, precision: Precision) -> Module {
        let of_direction = match self.direction {
            Direction::Forward => LIFE,
            Direction::Backward => GRADIENTS,
        };
        let mut text = [&self.constants(precision), &LIBRARY.join("\n"), of_direction].join("\n");
        let mut launches = vec![];
        for (p, phase) in self.plan.phases.iter().enumerate() {
            if phase.emissions.is_empty() {
                continue;
            }
            let name = match self.direction {
                Direction::Forward => format!("forward_{p}"),
                Direction::Backward => format!("backward_{p}"),
            };
            let (kernel, launch) = self.kernel(name, phase);
            text += &kernel;
            launches.push(launch);
        }
        let source = Source::new(text);
        Module { source, launches }
    }

    fn constants(&self, precision: Precision) -> String {
        let precision = match precision {
            Precision::F32 => 0,
            Precision::Tf32 => 1,
            Precision::Bf16 => 2,
        };
        let (channel, threshold, torus) = match self.alive {
            Some(rule) => (
                rule.channel,
                rule.threshold as f32,
                rule.padding == Padding::Circular,
            ),
            None => (0, 0.0, false),
        };
        let (channels, inputs, threshold) = (self.layout.channels(), self.layout.input, float(threshold));
        format!(
            "constexpr int PRECISION = {precision};\n\
             constexpr int CHANNELS = {channels}, INPUTS = {inputs};\n\
             constexpr int ALIVE_CHANNEL = {channel};\n\
             #define ALIVE_THRESHOLD {threshold}\n\
             constexpr bool ALIVE_ON_TORUS = {torus};\n\n"
        )
    }

    fn kernel(&self, name: String, phase: &PhaseKernel) -> (String, Launch) {
        let mut slots = vec![None; self.plan.nodes.len()];
        for emission in &phase.emissions {
            if let Target::Node(n) = emission.target {
                slots[n] = emission.slot;
            }
        }
        let mut body = String::new();
        for emission in &phase.emissions {
            body += &self.emission(emission, &slots);
            body += "    block_sync();\n";
        }
        body += &self.idle(phase);
        let uses = |padding: Padding| body.contains(table(padding));
        let (zero, torus) = (uses(Padding::Zero), uses(Padding::Circular));
        let only_firing = phase.only_firing;
        let has_product = phase.emissions.iter().any(|emission| emission.product.is_some());
        let stages = if has_product { STAGES } else { 0 };
        let names = self.names(&body);
        let text = format!(
            "\nKERNEL {name}(CONSTANT Args args) {{\n{names}    \
             const Rows rows = select<{zero}, {torus}, {stages}>(args, {only_firing});\n{body}}}\n"
        );
        let tables = usize::from(zero) + usize::from(torus);
        let launch = Launch {
            name,
            words_per_row: 1 + 9 * tables + phase.floats,
            words: WARPS + stages,
        };
        (text, launch)
    }

    /// Declares the weights and the values in scratch that a kernel reads or writes.
    fn names(&self, body: &str) -> String {
        let words: BTreeSet<&str> = body.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let mut text = String::new();
        for param in (0..self.packing.len()).filter(|param| words.contains(&*format!("w{param}"))) {
            let at = match self.packing.of(param) {
                Offset::Weight(at) => at.to_string(),
                Offset::Constant(channels) => {
                    let weights = self.packing.weights;
                    format!("{weights} + (size_t){channels} * (args.height * args.width)")
                }
            };
            text += &format!("    const float* w{param} = args.weights + {at};\n");
        }
        if words.contains("seed") {
            text += "    const float* seed = args.scratch;\n";
        }
        for (n, home) in self.plan.homes.iter().enumerate() {
            if let (Some(at), true) = (home.scratch(), words.contains(&*format!("v{n}"))) {
                text += &format!("    float* v{n} = args.scratch + (size_t)args.cells * {at};\n");
            }
        }
        text
    }

    fn emission(&self, emission: &Emission, slots: &[Option<Slot>]) -> String {
        let writer = Writer {
            plan: self.plan,
            slots,
            product: emission.product,
        };
        match emission.target {
            Target::Node(n) => {
                let AdjointNode { op, width } = &self.plan.nodes[n];
                let mut text = format!("    // {n}: {width} channels\n");
                let mut store = String::new();
                if let Some(slot) = emission.slot {
                    text += &format!("    float* s{n} = rows.values + {} * args.tile;\n", slot.first);
                    store += &format!("s{n}[row * {} + c] = value; ", slot.pitch);
                }
                if self.plan.homes[n].scratch().is_some() {
                    store += &format!("v{n}[(size_t)rows.cell[row] * {width} + c] = value; ");
                }
                if let Some(reduction) = self.reduction(op, &writer) {
                    let store = format!("auto store = [&](int row, int c, float value) {{ {store}}};");
                    return text + &format!("    {{\n        {store}\n        {reduction}\n    }}\n");
                }
                let value = match emission.product {
                    Some(product) if product == n => writer.own(n, "row", "c"),
                    _ => writer.computed(n, "row", "c"),
                };
                text + &self.channel_by_channel(&writer, *width, &format!("float value = {value}; {store}"))
            }
            Target::Result => self.result(&writer),
        }
    }

    /// A loop over the rows and channels of a value that runs `body` for each, on the sums of a product if
    /// there is one.
    fn channel_by_channel(&self, writer: &Writer<'_>, width: usize, body: &str) -> String {
        let Some(product) = writer.product else {
            return format!("    each<{width}>(rows, [&](int row, int c) {{ {body}}});\n");
        };
        let op = &self.plan.nodes[product].op;
        let (x, right) = if let AdjointOp::LinearTransposed { dy, weight } = *op {
            (dy, format!("Matrix{{w{weight}, 1, {width}}}"))
        } else if let AdjointOp::Ordinary(Op::Linear { x, weight, .. }) = *op {
            (x, format!("Matrix{{w{weight}, {}, 1}}", self.plan.nodes[x].width))
        } else {
            (product, "no_product".into())
        };
        let (terms, left) = (self.plan.nodes[x].width, self.left(writer, x));
        format!(
            "    product<{terms}, {width}>(rows, {left}, {right},\n        \
             [&](int row, int c, float sum) {{ {body}}});\n"
        )
    }

    /// The left operand of a product.
    fn left(&self, writer: &Writer<'_>, x: usize) -> String {
        let (mut whole, mut first) = (x, 0);
        while let (Home::Moved, AdjointOp::Ordinary(Op::Slice { x, start })) =
            (self.plan.homes[whole], &self.plan.nodes[whole].op)
        {
            (whole, first) = (*x, first + start);
        }
        if let Some(slot) = writer.slots[whole] {
            return format!("Table{{s{whole} + {first}, {}, nullptr}}", slot.pitch);
        }
        let AdjointNode { op, width } = &self.plan.nodes[whole];
        let of_cells = |values: &str| format!("Table{{{values} + {first}, {width}, rows.cell}}");
        match (self.plan.homes[whole], op) {
            (Home::Stored { scratch: Some(_) }, _) => of_cells(&format!("v{whole}")),
            (Home::Given, AdjointOp::Seed) => of_cells("seed"),
            (Home::Given, AdjointOp::Ordinary(Op::Cells)) => of_cells("args.state"),
            _ => format!(
                "computed([&](int row, int k) {{ return {}; }})",
                writer.own(x, "row", "k")
            ),
        }
    }

    /// What the last phase does with its value: the cells after the step, or the gradient of those before it.
    fn result(&self, writer: &Writer<'_>) -> String {
        let Some(result) = self.plan.result else {
            return String::new();
        };
        let value = writer.own(result, "row", "c");
        let width = self.plan.nodes[result].width;
        if self.direction == Direction::Backward {
            let body = format!("args.gradient_before[(size_t)rows.cell[row] * CHANNELS + c] += {value}; ");
            return self.channel_by_channel(writer, width, &body);
        }
        let next = self.next();
        let body = format!(
            "size_t at = (size_t)rows.cell[row] * CHANNELS + INPUTS + c; \
             {next}[at] = args.state[at] + {value}; "
        );
        let mut text = self.channel_by_channel(writer, width, &body);
        if self.layout.input > 0 {
            text += &format!(
                "    each<INPUTS>(rows, [&](int row, int c) {{ \
                 size_t at = (size_t)rows.cell[row] * CHANNELS + c; {next}[at] = args.state[at]; }});\n"
            );
        }
        text
    }

    /// Where the cells after the step go, before some of them die.
    fn next(&self) -> &'static str {
        match self.alive {
            Some(_) => "args.after",
            None => "args.next",
        }
    }

    /// What becomes of cells that do not fire, in a phase that computes only those that do.
    fn idle(&self, phase: &PhaseKernel) -> String {
        if !phase.only_firing {
            return String::new();
        }
        if self.direction == Direction::Forward {
            let next = self.next();
            return format!(
                "    each_idle<CHANNELS>(args, rows, [&](int cell, int c) {{ \
                 size_t at = (size_t)cell * CHANNELS + c; {next}[at] = args.state[at]; }});\n"
            );
        }
        let mut text = String::new();
        for emission in &phase.emissions {
            let Target::Node(n) = emission.target else {
                continue;
            };
            if self.plan.homes[n].scratch().is_some() {
                let width = self.plan.nodes[n].width;
                text += &format!(
                    "    each_idle<{width}>(args, rows, [&](int cell, int c) {{ \
                     v{n}[(size_t)cell * {width} + c] = 0.0f; }});\n"
                );
            }
        }
        text
    }

    /// The code of an operation that takes many channels of a row together, and calls `store`.
    fn reduction(&self, op: &AdjointOp, writer: &Writer<'_>) -> Option<String> {
        let width = |x: usize| self.plan.nodes[x].width;
        let own = |x: usize| writer.own(x, "row", "c");
        let one = |x: usize| writer.own(x, "row", "0");
        Some(match op {
            AdjointOp::Ordinary(op) => return self.ordinary_reduction(op, writer),
            AdjointOp::Dot { a, b } => {
                let sum = channel_sum(width(*a), &format!("{} * {}", own(*a), own(*b)));
                team(&format!(
                    "float sum = {sum}; if (is_real && lane == 0) store(row, 0, sum);"
                ))
            }
            AdjointOp::Normalised { x, inverse } => {
                let (value, mean) = (own(*x), mean(width(*x), &own(*x)));
                let body = format!("float mean = {mean}, inverse = {};", one(*inverse));
                team(&(body + &channels(width(*x), &format!("({value} - mean) * inverse"))))
            }
            AdjointOp::NormalisedGradient { normal, inverse, dy } => {
                let (width, normal, dy) = (width(*dy), own(*normal), own(*dy));
                let along = mean(width, &format!("{dy} * {normal}"));
                let body = format!(
                    "float mean = {}, along = {along}, inverse = {};",
                    mean(width, &dy),
                    one(*inverse)
                );
                team(&(body + &channels(width, &format!("inverse * ({dy} - mean - {normal} * along)"))))
            }
            AdjointOp::InverseRmsGradient { x, y, dy, centred } => {
                let (width, value) = (width(*x), own(*x));
                let mean = if *centred {
                    mean(width, &value)
                } else {
                    "0.0f".into()
                };
                let body = format!(
                    "float mean = {mean}, y = {}, factor = -{} * y * y * y / {width}.0f;",
                    one(*y),
                    one(*dy)
                );
                team(&(body + &channels(width, &format!("({value} - mean) * factor"))))
            }
            AdjointOp::Shares { q, k, heads, padding } => {
                let depth = width(*q) / heads;
                let (query, key) = (by_row(&own(*q)), by_cell(&writer.at(*k, "cell", "c")));
                let table = table(*padding);
                format!("attention_shares<{depth}, {heads}>(rows, {table}, {query}, {key}, store);")
            }
            AdjointOp::ProductGradients {
                shares,
                v,
                dy,
                heads,
                padding,
            } => {
                let depth = width(*v) / heads;
                let (shares, value) = (by_row(&own(*shares)), by_cell(&writer.at(*v, "cell", "c")));
                let (dy, table) = (by_row(&own(*dy)), table(*padding));
                format!(
                    "attention_gradients<{depth}, {heads}>(rows, {table}, {shares}, {value}, {dy}, store);"
                )
            }
            AdjointOp::Seed
            | AdjointOp::Embed(_)
            | AdjointOp::Slope { .. }
            | AdjointOp::LinearTransposed { .. }
            | AdjointOp::MirroredTaps { .. }
            | AdjointOp::MirroredNeighbourhood { .. }
            | AdjointOp::MirroredDepthwise { .. }
            | AdjointOp::WeightedSum { .. }
            | AdjointOp::WeightedGather { .. }
            | AdjointOp::Weight { .. } => return None,
        })
    }

    fn ordinary_reduction(&self, op: &Op, writer: &Writer<'_>) -> Option<String> {
        let width = |x: usize| self.plan.nodes[x].width;
        let own = |x: usize| writer.own(x, "row", "c");
        Some(match op {
            Op::LayerNorm { x, weight, bias, eps } => {
                let value = format!("({} - mean) * inverse * w{weight}[c] + w{bias}[c]", own(*x));
                team(&(inverse_rms(width(*x), &own(*x), *eps, true) + &channels(width(*x), &value)))
            }
            Op::RmsNorm { x, scale, eps } => {
                let value = format!("{} * inverse * w{scale}[c]", own(*x));
                team(&(inverse_rms(width(*x), &own(*x), *eps, false) + &channels(width(*x), &value)))
            }
            Op::InverseRms { x, eps, centred } => {
                let body = inverse_rms(width(*x), &own(*x), *eps, *centred);
                team(&(body + " if (is_real && lane == 0) store(row, 0, inverse);"))
            }
            Op::Attention(Attention {
                q,
                k,
                v,
                heads,
                padding,
            }) => {
                let depth = width(*q) / heads;
                let (query, table) = (by_row(&own(*q)), table(*padding));
                let (key, value) = (writer.at(*k, "cell", "c"), writer.at(*v, "cell", "c"));
                let (key, value) = (by_cell(&key), by_cell(&value));
                format!("attention<{depth}, {heads}>(rows, {table}, {query}, {key}, {value}, store);")
            }
            Op::Cells
            | Op::Constant(_)
            | Op::Slice { .. }
            | Op::Concat(_)
            | Op::Linear { .. }
            | Op::Neighbourhood { .. }
            | Op::SumTaps { .. }
            | Op::Depthwise { .. }
            | Op::Map { .. }
            | Op::Add { .. }
            | Op::Mul { .. }
            | Op::Affine { .. }
            | Op::Dropout { .. } => return None,
        })
    }
}

/// `body` for each row, by a team of lanes.
fn team(body: &str) -> String {
    format!("each_team(rows.count, [&](int row, int lane, bool is_real) {{ {body} }});")
}

fn channel_sum(width: usize, value: &str) -> String {
    format!("channel_sum<{width}>(lane, [&](int c) {{ return {value}; }})")
}

fn mean(width: usize, value: &str) -> String {
    format!("{} / {width}.0f", channel_sum(width, value))
}

/// Declares `mean` (0 unless `centred`) and `inverse`.
fn inverse_rms(width: usize, value: &str, eps: f64, centred: bool) -> String {
    let mean_of = if centred {
        mean(width, value)
    } else {
        "0.0f".into()
    };
    let square = mean(width, &format!("({value} - mean) * ({value} - mean)"));
    let eps = float(eps as f32);
    format!("float mean = {mean_of}, inverse = 1.0f / sqrtf({square} + {eps});")
}

/// Stores a value for each channel of a row.
fn channels(width: usize, value: &str) -> String {
    format!(
        " _Pragma(\"unroll 2\") for (int c = lane; is_real && c < {width}; c += TEAM) store(row, c, {value});"
    )
}

fn by_row(value: &str) -> String {
    format!("[&](int row, int c) {{ return {value}; }}")
}

fn by_cell(value: &str) -> String {
    format!("[&](int cell, int c) {{ return {value}; }}")
}
