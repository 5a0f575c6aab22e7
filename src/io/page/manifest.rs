//! A program as JSON, which the page's JavaScript runs.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use candle_core::{DType, Device};
use serde_json::{Value, json};

use crate::engine::{Packing, Shader};
use crate::error::{Error, Result};
use crate::grid::Padding;
use crate::nn::pack;
use crate::program::{Attention, Function, Op, Program};

/// Everything about a program but its first cells and how they are shown.
pub(super) fn of(program: &Program, (height, width): (usize, usize)) -> Result<Value> {
    if let Some((_, param)) = program.constants().next() {
        let table = &program.params[param];
        if table.dims()[..2] != [height, width] {
            let expected = format!("{:?}, that of a constant of the program", &table.dims()[..2]);
            return Err(Error::shape("size", expected, &[height, width]));
        }
    }
    let layout = program.layout();
    let shader = Shader::new(program);
    shader.check(height * width, layout.channels())?;
    let nodes: Vec<Value> = program
        .nodes
        .iter()
        .map(|node| operation(&node.op, node.width))
        .collect();
    let alive = program.alive.map(|rule| {
        json!({
            "channel": rule.channel,
            "threshold": number(rule.threshold as f32),
            "torus": rule.padding == Padding::Circular,
        })
    });
    let (weights, params) = weights(program, height * width)?;
    Ok(json!({
        "format": 1,
        "layout": { "input": layout.input, "output": layout.output, "hidden": layout.hidden },
        "alive": alive,
        "size": [height, width],
        "fixed": program.constants().next().is_some(),
        "nodes": nodes,
        "update": program.update,
        "params": params,
        "weights": weights,
        "shader": {
            "text": shader.text,
            "kernels": shader.kernels,
            "scratch": shader.scratch,
            "buries": shader.buries,
        },
    }))
}

/// All weights as kernels read them, in base64, and the first element of each.
fn weights(program: &Program, area: usize) -> Result<(String, Vec<usize>)> {
    let packing = Packing::new(program);
    let first = |param: usize| packing.element(param, area);
    let mut order: Vec<usize> = (0..program.params.len()).collect();
    order.sort_by_key(|&param| first(param));
    let values = order
        .iter()
        .map(|&param| program.params[param].to_device(&Device::Cpu));
    let values = values.collect::<candle_core::Result<Vec<_>>>()?;
    let values: Vec<f32> = pack(&values, DType::F32, &Device::Cpu)?
        .flatten_all()?
        .to_vec1()?;
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return Err(Error::config("weights", "finite numbers", value));
    }
    let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    let firsts = (0..program.params.len()).map(first);
    Ok((BASE64_STANDARD.encode(bytes), firsts.collect()))
}

/// JSON has no infinities.
fn number(value: f32) -> f32 {
    value.clamp(f32::MIN, f32::MAX)
}

fn operation(op: &Op, width: usize) -> Value {
    let torus = op.padding().map(|padding| padding == Padding::Circular);
    match *op {
        Op::Cells => json!({ "op": "cells", "width": width }),
        Op::Constant(param) => json!({ "op": "constant", "width": width, "param": param }),
        Op::Slice { x, start } => json!({ "op": "slice", "width": width, "x": x, "start": start }),
        Op::Concat(ref parts) => json!({ "op": "concat", "width": width, "parts": parts }),
        Op::Linear { x, weight, bias } => {
            json!({ "op": "linear", "width": width, "x": x, "weight": weight, "bias": bias })
        }
        Op::Neighbourhood { x, .. } => {
            json!({ "op": "neighbourhood", "width": width, "x": x, "torus": torus })
        }
        Op::SumTaps { x, .. } => json!({ "op": "sum_taps", "width": width, "x": x, "torus": torus }),
        Op::Depthwise { x, kernel, .. } => {
            json!({ "op": "depthwise", "width": width, "x": x, "kernel": kernel, "torus": torus })
        }
        Op::LayerNorm { x, weight, bias, eps } => {
            json!({ "op": "layer_norm", "width": width, "x": x, "weight": weight, "bias": bias, "eps": eps })
        }
        Op::RmsNorm { x, scale, eps } => {
            json!({ "op": "rms_norm", "width": width, "x": x, "weight": scale, "eps": eps })
        }
        Op::InverseRms { x, eps, centred } => {
            json!({ "op": "inverse_rms", "width": width, "x": x, "eps": eps, "centred": centred })
        }
        Op::Map { x, function } => function_of(function, x, width),
        Op::Add { a, b } => json!({ "op": "add", "width": width, "a": a, "b": b }),
        Op::Mul { a, b } => json!({ "op": "mul", "width": width, "a": a, "b": b }),
        Op::Affine { x, scale, shift } => {
            json!({ "op": "affine", "width": width, "x": x, "scale": scale, "shift": shift })
        }
        Op::Attention(Attention { q, k, v, heads, .. }) => json!({
            "op": "attention", "width": width, "q": q, "k": k, "v": v, "heads": heads, "torus": torus,
        }),
        Op::Dropout { x, .. } => json!({ "op": "dropout", "width": width, "x": x }),
    }
}

fn function_of(function: Function, x: usize, width: usize) -> Value {
    let named = |name: &str| json!({ "op": "map", "width": width, "x": x, "function": name });
    match function {
        Function::Relu => named("relu"),
        Function::Elu => named("elu"),
        Function::Gelu => named("gelu"),
        Function::Silu => named("silu"),
        Function::Sigmoid => named("sigmoid"),
        Function::Tanh => named("tanh"),
        Function::Clamp { min, max } => json!({
            "op": "map", "width": width, "x": x, "function": "clamp", "min": number(min), "max": number(max),
        }),
        Function::Quantise { min, max, step } => json!({
            "op": "map", "width": width, "x": x, "function": "quantise", "min": min, "max": max, "step": step,
        }),
    }
}
