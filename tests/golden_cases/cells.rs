//! Cases of one transition: positional tables, single steps, rollouts with their gradients.

use candle_core::{DType, Tensor, Var};
use lnca::transition::{Perception, PositionalOrder, positional_table};
use lnca::{CellLayout, Memory, Nafca, NafcaConfig, Rollout, TransitionFn, Vitca, VitcaConfig, Weights};

use super::case::{Case, Result};
use super::check::{Check, Grade};
use super::weights;
use crate::device::device;

pub fn positional_tables(check: &mut Check) -> Result<()> {
    for name in check.results("out.") {
        let parse = || {
            let (order, size) = name.split_once('.')?;
            let (positions, channels) = size.split_once('x')?;
            Some((order, positions.parse().ok()?, channels.parse().ok()?))
        };
        let (order, positions, channels) = parse().ok_or("a name that is not order.PxC")?;
        let table = positional_table(positions, channels, positional_order(order)?, &device())?;
        check.output(&format!("out.{name}"), &table, Grade::Step)?;
    }
    Ok(())
}

fn positional_order(words: &str) -> Result<PositionalOrder> {
    match (words.contains("interleaved"), words.contains("block")) {
        (true, false) => Ok(PositionalOrder::Interleaved),
        (false, true) => Ok(PositionalOrder::Block),
        _ => Err(format!("unknown positional order `{words}`").into()),
    }
}

/// The channels of a cell: `in`, `out`, `hidden`; a latent model has its latent twice, an RGB one the
/// colours.
pub fn layout(case: &Case) -> Result<CellLayout> {
    let visible = |key| match case.count(&format!("config.{key}")) {
        Ok(count) => count,
        Err(_) => case.count("config.latent_channels").unwrap_or(3),
    };
    Ok(CellLayout {
        input: visible("in"),
        output: visible("out"),
        hidden: case.count("config.hidden")?,
    })
}

/// A ViTCA with the weights named `prefix..`.
pub fn vitca(check: &Check, prefix: &str) -> Result<(Vitca, Weights)> {
    let case = check.case;
    let config = VitcaConfig {
        layout: layout(case)?,
        embed_dim: case.count("config.embed_dim")?,
        heads: case.count("config.heads")?,
        mlp_dim: case.count("config.mlp_dim")?,
        depth: case.count("config.depth").unwrap_or(1),
        eps: case.number("config.layer_norm_eps").unwrap_or(1e-3),
        positional_order: positional_order(case.text("config.positional_encoding")?)?,
        ..VitcaConfig::default()
    };
    weights::model(check, prefix, |weights| Vitca::new(config, weights.builder()))
}

/// A NAFCA with the weights named `prefix..`.
pub fn nafca(check: &Check, prefix: &str) -> Result<(Nafca, Weights)> {
    let case = check.case;
    let grouped = check.has(&format!("{prefix}conv2.kernel"));
    let config = NafcaConfig {
        layout: layout(case)?,
        embed_dim: case.count("config.embed_dim")?,
        ffn_expand: case.count("config.ffn_expand")?,
        // Zero in every case: a text where nothing is trained, else a number.
        dropout: case.number("config.dropout").unwrap_or(0.0),
        eps: case.number("config.layer_norm_eps").unwrap_or(1e-6),
        perception: if grouped {
            Perception::Grouped
        } else {
            Perception::Plain
        },
        ..NafcaConfig::default()
    };
    weights::model(check, prefix, |weights| Nafca::new(config, weights.builder()))
}

pub fn vitca_case(check: &mut Check) -> Result<()> {
    let (transition, weights) = vitca(check, "w.")?;
    if check.has("mid.pe.f64") {
        let (_, h, w, _) = check.input("in.cells")?.dims4()?;
        let order = positional_order(check.case.text("config.positional_encoding")?)?;
        let channels = check.case.count("config.embed_dim")?;
        let table = positional_table(h * w, channels, order, &device())?;
        check.output("mid.pe", &table, Grade::Step)?;
    }
    transition_case(check, &transition, &weights)
}

pub fn nafca_case(check: &mut Check) -> Result<()> {
    let (transition, weights) = nafca(check, "w.")?;
    transition_case(check, &transition, &weights)
}

fn transition_case<T>(check: &mut Check, transition: &T, weights: &Weights) -> Result<()>
where
    T: TransitionFn + Clone + 'static,
{
    let cells = check.input("in.cells")?;
    let masks = masks(check, "in.mask")?;
    let rollout = Rollout::new(masks.len()).masks(masks);
    let grade = match rollout.steps() {
        1 => Grade::Step,
        _ => Grade::Rollout,
    };
    if check.has("mid.update.f64") {
        // Where every cell fires, the change of a step is the update.
        let next = Rollout::new(1).run(transition, &cells)?;
        let layout = transition.layout();
        let update = (next - &cells)?.narrow(3, layout.input, layout.update_channels())?;
        check.output("mid.update", &update, grade)?;
    }
    let states = rollout.trajectory(transition, &cells)?;
    let found = match check.expected("out.cells")?.rank() {
        4 => states[states.len() - 1].clone(),
        _ => Tensor::stack(&states, 0)?,
    };
    check.output("out.cells", &found, grade)?;

    let r = check.input("r.out")?;
    for memory in memories(rollout.steps()) {
        let start = Var::from_tensor(&cells)?;
        let last = rollout
            .clone()
            .memory(memory)
            .run(transition, start.as_tensor())?;
        let sum = weights::weighted(&[(&last.to_dtype(DType::F64)?, &r.to_dtype(DType::F64)?)])?;
        let grads = weights::weighted(&[(&last, &r)])?.backward()?;
        let limit = grade.output(check.dtype);
        check.scalar("out.loss", weights::value(&sum)?, limit)?;
        let grad = grads.get(&start).ok_or("no gradient of the cells")?;
        check.gradient("grad.in.cells", grad, grade)?;
        let limit = grade.gradient(check.dtype);
        weights::gradients(check, weights, &grads, |_| limit)?;
    }
    Ok(())
}

/// Every memory policy, with stretches that do and do not divide the rollout.
pub fn memories(steps: usize) -> Vec<Memory> {
    let mut memories = vec![Memory::Everything, Memory::Every(1)];
    if steps > 1 {
        memories.extend([
            Memory::Every(2),
            Memory::Every(steps - 1),
            Memory::Every(steps + 1),
        ]);
        memories.dedup();
    }
    memories
}

/// Update masks `[steps, B, h, w, 1]`, one tensor a step.
pub fn masks(check: &Check, name: &str) -> Result<Vec<Tensor>> {
    let masks = check.input(name)?;
    (0..masks.dim(0)?).map(|step| Ok(masks.get(step)?)).collect()
}
