//! A program as plain Candle operations: slow, on any device, and simple enough to be obviously right.

use candle_core::{D, Tensor};

use super::{Op, Program};
use crate::error::{Error, Result};
use crate::grid::{Padding, Step};
use crate::nn::{LayerNorm, Linear};
use crate::ops::{
    add_channels, gather, matmul, neighbourhood, neighbours, scale_channels, stencil, sum_taps,
};

impl Program {
    /// The update of every cell: `[B, H, W, C]` to `[B, H, W, output + hidden]`.
    pub(crate) fn evaluate(&self, cells: &Tensor, step: &Step) -> Result<Tensor> {
        self.layout.check(cells)?;
        self.check_types(cells)?;
        let mut values: Vec<Tensor> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let value = self.value(&node.op, node.width, &values, cells, step)?;
            values.push(value);
        }
        Ok(values.swap_remove(self.update))
    }

    /// The value of an operation, `[B, H, W, width]`; inputs are indices into `values`.
    pub(super) fn value(
        &self,
        op: &Op,
        width: usize,
        values: &[Tensor],
        cells: &Tensor,
        step: &Step,
    ) -> Result<Tensor> {
        let param = |p: &usize| &self.params[*p];
        Ok(match op {
            Op::Cells => cells.clone(),
            Op::Constant(table) => {
                let (table, (b, h, w, _)) = (param(table), cells.dims4()?);
                if table.dims()[..2] != [h, w] {
                    let expected = format!("a grid of {:?} cells, as its table", &table.dims()[..2]);
                    return Err(Error::shape("cells", expected, cells.dims()));
                }
                let table = table.to_dtype(cells.dtype())?.to_device(cells.device())?;
                table.broadcast_as((b, h, w, table.dims()[2]))?
            }
            Op::Slice { x, start } => values[*x].narrow(D::Minus1, *start, width)?,
            Op::Concat(parts) => {
                let parts: Vec<&Tensor> = parts.iter().map(|&part| &values[part]).collect();
                Tensor::cat(&parts, D::Minus1)?
            }
            Op::Linear { x, weight, bias } => {
                Linear::new(param(weight).clone(), bias.as_ref().map(|b| param(b).clone()))
                    .forward(&values[*x])?
            }
            Op::Neighbourhood { x, padding } => neighbourhood(&values[*x], *padding)?.flatten_from(3)?,
            Op::SumTaps { x, padding } => sum_taps(&values[*x], *padding)?,
            Op::Depthwise { x, kernel, padding } => stencil(&values[*x], param(kernel), *padding)?,
            Op::LayerNorm { x, weight, bias, eps } => {
                LayerNorm::from_weights(param(weight).clone(), param(bias).clone(), *eps)
                    .forward(&values[*x])?
            }
            Op::RmsNorm { x, scale, eps } => {
                let square = values[*x].sqr()?.mean_keepdim(D::Minus1)?;
                let normal = values[*x].broadcast_div(&(square + *eps)?.sqrt()?)?;
                scale_channels(&normal, param(scale))?
            }
            Op::InverseRms { x, eps, centred } => {
                let x = match centred {
                    true => values[*x].broadcast_sub(&values[*x].mean_keepdim(D::Minus1)?)?,
                    false => values[*x].clone(),
                };
                let square = x.sqr()?.mean_keepdim(D::Minus1)?;
                (square + *eps)?.sqrt()?.recip()?
            }
            Op::Map { x, function } => function.of(&values[*x])?,
            Op::Add { a, b } => values[*a].broadcast_add(&values[*b])?,
            Op::Mul { a, b } => values[*a].broadcast_mul(&values[*b])?,
            Op::Affine { x, scale, shift } => {
                let mut y = values[*x].clone();
                if let Some(scale) = scale {
                    y = scale_channels(&y, param(scale))?;
                }
                if let Some(shift) = shift {
                    y = add_channels(&y, param(shift))?;
                }
                y
            }
            Op::Attention(of) => attention(
                [&values[of.q], &values[of.k], &values[of.v]],
                of.heads,
                of.padding,
            )?,
            Op::Dropout { x, rate, site } => step.dropout(&values[*x], *rate, *site)?,
        })
    }
}

/// Attention of each cell over the nine cells around it.
fn attention([q, k, v]: [&Tensor; 3], heads: usize, padding: Padding) -> Result<Tensor> {
    let (b, h, w, e) = q.dims4()?;
    let d = e / heads;
    let q = (q / (d as f64).sqrt())?.reshape((b * h * w * heads, d, 1))?;
    // One row for each (cell, head), so that neighbours are gathered head by head.
    let mut index = Vec::with_capacity(9 * h * w * heads);
    for near in neighbours((h, w), padding).chunks_exact(9) {
        for head in 0..heads {
            index.extend(near.iter().map(|cell| cell.map(|cell| cell * heads + head)));
        }
    }
    let near = |x: &Tensor| -> Result<Tensor> {
        let rows = x.reshape((b, h * w * heads, d))?;
        Ok(gather(&rows, index.clone())?.reshape((b * h * w * heads, 9, d))?)
    };
    let logits = matmul(&near(k)?, &q)?.squeeze(2)?;
    let shares = candle_nn::ops::softmax(&logits, 1)?.unsqueeze(1)?;
    Ok(matmul(&shares, &near(v)?)?.reshape((b, h, w, e))?)
}
