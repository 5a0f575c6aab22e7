//! Cells in two parts: the input channels, which never change, and the others.

use candle_core::Tensor;

use crate::error::Result;
use crate::grid::CellLayout;
use crate::program::{ProgramBuilder, Value};

/// Input channels from which on it pays to keep what is made of them: to multiply with a few is as fast as to read a table.
const WORTH_KEEPING: usize = 8;

/// The cells, or the cells times one number each, to take linear maps of: what a map makes of input channels is a value
/// of its own, so that it is computed once a rollout.
pub(super) struct Parts {
    inputs: Option<Value>,
    /// The other channels times the number, or all of them.
    rest: Value,
    scale: Option<Value>,
}

impl Parts {
    /// The cells of `p`, whose layout is given.
    pub fn new(p: &mut ProgramBuilder, layout: CellLayout) -> Result<Self> {
        let cells = p.cells();
        let (inputs, rest) = match layout.input {
            0..WORTH_KEEPING => (None, cells),
            input => (
                Some(p.slice(cells, 0, input)?),
                p.slice(cells, input, layout.update_channels())?,
            ),
        };
        Ok(Self {
            inputs,
            rest,
            scale: None,
        })
    }

    /// The same cells times `scale`, one channel.
    pub fn scaled(&self, p: &mut ProgramBuilder, scale: Value) -> Result<Self> {
        Ok(Self {
            rest: p.mul(self.rest, scale)?,
            scale: Some(scale),
            ..*self
        })
    }

    /// `(weight cells + table) scale + bias`, with `weight` `[output, K]` and `bias` `[output]`.
    pub fn linear(
        &self,
        p: &mut ProgramBuilder,
        weight: &Tensor,
        bias: Option<&Tensor>,
        table: Option<Value>,
    ) -> Result<Value> {
        let input = self.inputs.map_or(0, |inputs| inputs.width());
        let own = p.linear(self.rest, &weight.narrow(1, input, self.rest.width())?, bias)?;
        let mut fixed = table;
        if let Some(inputs) = self.inputs {
            let of_inputs = p.linear(inputs, &weight.narrow(1, 0, input)?, None)?;
            fixed = Some(match table {
                Some(table) => p.add(of_inputs, table)?,
                None => of_inputs,
            });
        }
        if let (Some(value), Some(scale)) = (fixed, self.scale) {
            fixed = Some(p.mul(value, scale)?);
        }
        match fixed {
            Some(fixed) => p.add(own, fixed),
            None => Ok(own),
        }
    }
}
