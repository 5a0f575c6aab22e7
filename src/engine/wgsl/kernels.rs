//! The kernel of each phase, and the one by which cells die, as WGSL.

use super::expression::{Channel, Writer, number, table};
use super::{GROUP, SUMS, Shader};
use crate::engine::kernel_plan::{Emission, Home, Packing, PhaseKernel, Plan, Slot, Target};
use crate::grid::{AliveMask, Padding};
use crate::program::{Attention, Op, Program};

const LIBRARY: &str = include_str!("library.wgsl");

pub(super) fn shader(program: &Program, plan: &Plan, packing: &Packing) -> Shader {
    let (mut text, mut kernels) = (LIBRARY.to_string(), vec![]);
    for (p, phase) in plan.phases.iter().enumerate() {
        if phase.emissions.is_empty() {
            continue;
        }
        let name = format!("phase_{p}");
        text += &kernel(&name, program, plan, packing, phase);
        kernels.push(name);
    }
    if let Some(rule) = program.alive {
        text += &bury(rule, program.layout().channels());
        kernels.push("bury".into());
    }
    Shader {
        text,
        kernels,
        scratch: plan.scratch,
        buries: program.alive.is_some(),
    }
}

/// An entry point that runs `body` for each cell.
fn entry(name: &str, body: &str) -> String {
    let tables = [Padding::Zero, Padding::Circular].map(|padding| {
        let (name, is_torus) = (table(padding), padding == Padding::Circular);
        match body.contains(&format!("{name}[")) {
            true => format!("    var {name} = around(cell, {is_torus});\n"),
            false => String::new(),
        }
    });
    format!(
        "\n@compute @workgroup_size({GROUP})\n\
         fn {name}(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {{\n    \
         let cell = id.y * groups.x * {GROUP}u + id.x;\n    \
         if (cell >= args.cells) {{\n        return;\n    }}\n{}{body}}}\n",
        tables.concat()
    )
}

fn kernel(name: &str, program: &Program, plan: &Plan, packing: &Packing, phase: &PhaseKernel) -> String {
    let mut writer = Writer::new(program, plan, packing);
    for emission in &phase.emissions {
        if let Target::Node(n) = emission.target {
            writer.slots[n] = emission.slot;
        }
    }
    let channels = program.layout().channels();
    if phase.only_firing {
        writer.block("if (!fires(cell))", |w| {
            keep(w, channels, channels);
            w.line("return;");
        });
    }
    if phase.floats > 0 {
        writer.line(format!("var values: array<f32, {}>;", phase.floats));
    }
    let streams = |emission: &Emission| {
        let product = emission.product?;
        is_streamed(&writer, product).then_some(program.nodes[product].width)
    };
    if let Some(most) = phase.emissions.iter().filter_map(streams).max() {
        writer.line(format!("var sums: array<f32, {most}>;"));
    }
    for emission in &phase.emissions {
        emit(&mut writer, emission);
    }
    entry(name, &writer.text)
}

/// The first `count` of a cell's channels stay as they are.
fn keep(writer: &mut Writer<'_>, count: usize, channels: usize) {
    if count > 0 {
        writer.each(count, |w, c| {
            let at = format!("cell * {channels}u + {c}");
            w.line(format!("updated[{at}] = state[{at}];"));
        });
    }
}

/// The input of a product and its weights.
fn input(writer: &Writer<'_>, product: usize) -> Option<(usize, usize)> {
    if let Op::Linear { x, weight, .. } = writer.program.nodes[product].op {
        return Some((x, weight));
    }
    None
}

/// Whether the input of a product is stored nowhere, so that each of its channels is added to all sums at
/// once.
fn is_streamed(writer: &Writer<'_>, product: usize) -> bool {
    let inline = input(writer, product).is_some_and(|(x, _)| writer.plan.homes[x] == Home::Inline);
    inline && writer.width(product) <= SUMS
}

fn emit(writer: &mut Writer<'_>, emission: &Emission) {
    let Target::Node(n) = emission.target else {
        return result(writer, emission.product);
    };
    let program = writer.program;
    let (op, width) = (&program.nodes[n].op, writer.width(n));
    writer.line(format!("// {n}: {width} channels"));
    let store = |w: &mut Writer<'_>, c: &Channel, value: &str| store(w, n, emission.slot, c, value);
    match op {
        Op::LayerNorm { x, weight, bias, eps } => {
            normalise(writer, (n, *x), *eps, true);
            writer.each(width, |w, c| {
                let value = w.own(*x, c);
                let (weight, bias) = (w.weight(*weight, c), w.weight(*bias, c));
                store(
                    w,
                    c,
                    &format!("({value} - mean{n}) * inverse{n} * {weight} + {bias}"),
                );
            });
        }
        Op::RmsNorm { x, scale, eps } => {
            normalise(writer, (n, *x), *eps, false);
            writer.each(width, |w, c| {
                let (value, scale) = (w.own(*x, c), w.weight(*scale, c));
                store(w, c, &format!("{value} * inverse{n} * {scale}"));
            });
        }
        Op::InverseRms { x, eps, centred } => {
            normalise(writer, (n, *x), *eps, *centred);
            store(writer, &Channel::Known(0), &format!("inverse{n}"));
        }
        Op::Attention(of) => attention(writer, of, &store),
        Op::Concat(parts) => {
            let mut first = 0;
            for &part in parts {
                let count = writer.width(part);
                writer.each(count, |w, c| {
                    let value = w.own(part, c);
                    store(w, &c.plus(first), &value);
                });
                first += count;
            }
        }
        Op::Cells
        | Op::Constant(_)
        | Op::Slice { .. }
        | Op::Linear { .. }
        | Op::Neighbourhood { .. }
        | Op::SumTaps { .. }
        | Op::Depthwise { .. }
        | Op::Map { .. }
        | Op::Add { .. }
        | Op::Mul { .. }
        | Op::Affine { .. }
        | Op::Dropout { .. } => channel_by_channel(writer, width, emission.product, |w, c| {
            let value = match w.product == Some(n) {
                true => w.own(n, c),
                false => w.computed(n, c),
            };
            store(w, c, &value);
        }),
    }
}

/// Puts a channel of node `n` where later loops and kernels read it.
fn store(writer: &mut Writer<'_>, n: usize, slot: Option<Slot>, c: &Channel, value: &str) {
    let width = writer.width(n);
    writer.block("", |w| {
        w.line(format!("let value = {value};"));
        if let Some(slot) = slot {
            w.line(format!("values[{}u + {c}] = value;", slot.first));
        }
        if let Some(first) = w.plan.homes[n].scratch() {
            w.line(format!(
                "scratch[args.cells * {first}u + cell * {width}u + {c}] = value;"
            ));
        }
    });
}

/// `body` for each channel of a value, with the sum of a product if it is computed on one.
fn channel_by_channel(
    writer: &mut Writer<'_>,
    width: usize,
    product: Option<usize>,
    body: impl FnOnce(&mut Writer<'_>, &Channel),
) {
    let of_product = product.and_then(|product| Some((product, input(writer, product)?)));
    let Some((product, (x, weight))) = of_product else {
        return writer.each(width, body);
    };
    let terms = writer.width(x);
    if !is_streamed(writer, product) {
        return writer.each(width, |w, c| {
            sum_of(w, (x, weight), c);
            w.product = Some(product);
            body(w, c);
            w.product = None;
        });
    }
    writer.each(width, |w, c| w.line(format!("sums[{c}] = 0.0;")));
    writer.each(terms, |w, k| {
        let inner = w.plan.product[x];
        if let Some((inner, operands)) = inner.and_then(|inner| Some((inner, input(w, inner)?))) {
            sum_of(w, operands, k);
            w.product = Some(inner);
        }
        let value = w.own(x, k);
        w.product = None;
        let term = w.name("t");
        w.line(format!("let {term} = {value};"));
        w.each(width, |w, c| {
            let weight = w.weight(weight, format!("{c} * {terms}u + {k}"));
            w.line(format!("sums[{c}] += {weight} * {term};"));
        });
    });
    writer.each(width, |w, c| {
        w.line(format!("let sum = sums[{c}];"));
        w.product = Some(product);
        body(w, c);
        w.product = None;
    });
}

/// Declares `sum`, channel `c` of the product of x and a weight.
fn sum_of(writer: &mut Writer<'_>, (x, weight): (usize, usize), c: &Channel) {
    let terms = writer.width(x);
    writer.line("var sum = 0.0;");
    writer.each(terms, |w, k| {
        let value = w.own(x, k);
        let weight = w.weight(weight, format!("{c} * {terms}u + {k}"));
        w.line(format!("sum += {weight} * {value};"));
    });
}

/// The cells after the step, but for those that die.
fn result(writer: &mut Writer<'_>, product: Option<usize>) {
    let layout = writer.program.layout();
    let (channels, inputs) = (layout.channels(), layout.input);
    let update = writer.program.update;
    channel_by_channel(writer, layout.update_channels(), product, |w, c| {
        let value = w.own(update, c);
        let at = format!("cell * {channels}u + {}", c.plus(inputs));
        w.line(format!("updated[{at}] = state[{at}] + {value};"));
    });
    keep(writer, inputs, channels);
}

/// Declares the mean of `x` (0 unless `centred`) and the inverse of its root mean square around it, for node
/// `n`.
fn normalise(writer: &mut Writer<'_>, (n, x): (usize, usize), eps: f64, centred: bool) {
    let width = writer.width(x);
    writer.line(format!("var mean{n} = 0.0;"));
    if centred {
        writer.each(width, |w, c| {
            let value = w.own(x, c);
            w.line(format!("mean{n} += {value};"));
        });
        writer.line(format!("mean{n} /= {width}.0;"));
    }
    writer.line(format!("var square{n} = 0.0;"));
    writer.each(width, |w, c| {
        let value = w.own(x, c);
        w.line(format!("let away = {value} - mean{n};"));
        w.line(format!("square{n} += away * away;"));
    });
    let eps = number(eps as f32);
    writer.line(format!(
        "let inverse{n} = 1.0 / sqrt(square{n} / {width}.0 + {eps});"
    ));
}

/// Head by head: the shares of the nine neighbours, then the sum of their values. Beyond a zero-padded border
/// a key is 0, and still has a share.
fn attention(writer: &mut Writer<'_>, of: &Attention, store: &dyn Fn(&mut Writer<'_>, &Channel, &str)) {
    let Attention {
        q,
        k,
        v,
        heads,
        padding,
    } = *of;
    let depth = writer.width(q) / heads;
    let table = table(padding);
    let scale = number(1.0 / (depth as f32).sqrt());
    let head = writer.name("head");
    writer.block(
        format!("for (var {head} = 0u; {head} < {heads}u; {head}++)"),
        |w| {
            w.line("var shares: array<f32, 9>;");
            w.line(format!("var most = {};", number(f32::MIN)));
            w.block("for (var n = 0u; n < 9u; n++)", |w| {
                w.line("var sum = 0.0;");
                w.block(format!("if ({table}[n] >= 0)"), |w| {
                    w.line(format!("let near = u32({table}[n]);"));
                    w.each(depth, |w, c| {
                        let channel = Channel::variable(&format!("({head} * {depth}u + {c})"));
                        let (query, key) = (w.own(q, &channel), w.at(k, "near", &channel));
                        w.line(format!("sum += {query} * {key};"));
                    });
                });
                w.line(format!("shares[n] = sum * {scale};"));
                w.line("most = max(most, shares[n]);");
            });
            w.line("var total = 0.0;");
            w.block("for (var n = 0u; n < 9u; n++)", |w| {
                w.line("shares[n] = bounded_exp(shares[n] - most);");
                w.line("total += shares[n];");
            });
            w.each(depth, |w, c| {
                let channel = Channel::variable(&format!("({head} * {depth}u + {c})"));
                let sum = w.near_sum(padding, |w, near, n| {
                    let value = w.at(v, near, &channel);
                    format!("shares[{n}] * {value}")
                });
                store(w, &channel, &format!("{sum} / total"));
            });
        },
    );
}

/// The kernel by which cells die: it writes `next`.
fn bury(rule: AliveMask, channels: usize) -> String {
    let (table, channel, threshold) = (table(rule.padding), rule.channel, number(rule.threshold as f32));
    let body = format!(
        "    var before = false;
    var after = false;
    for (var n = 0u; n < 9u; n++) {{
        if ({table}[n] >= 0) {{
            let at = u32({table}[n]) * {channels}u + {channel}u;
            before = before || state[at] > {threshold};
            after = after || updated[at] > {threshold};
        }}
    }}
    let lives = before && after;
    for (var c = 0u; c < {channels}u; c++) {{
        next[cell * {channels}u + c] = select(0.0, updated[cell * {channels}u + c], lives);
    }}
"
    );
    entry("bury", &body)
}
