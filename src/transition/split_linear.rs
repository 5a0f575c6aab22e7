//! Linear maps of cells in two parts: of the input channels, which never change, and of the other channels.

use candle_core::Tensor;

use crate::error::Result;
use crate::grid::CellLayout;
use crate::program::{ProgramBuilder, Value};

/// Fewest input channels for which caching their product pays: multiplying fewer is as fast as reading it.
const WORTH_CACHING: usize = 8;

/// Linear maps of the (scaled) cells, with the constant inputs' part computed once: it is a separate value,
/// which an engine hoists out of the steps.
pub(super) struct SplitLinear {
    inputs: Option<Value>,
    /// The other channels, scaled; all channels if there is no separate input part.
    rest: Value,
    scale: Option<Value>,
}

impl SplitLinear {
    /// The cells of `p`, whose layout is given.
    pub fn new(p: &mut ProgramBuilder, layout: CellLayout) -> Result<Self> {
        let cells = p.cells();
        let (inputs, rest) = match layout.input {
            0..WORTH_CACHING => (None, cells),
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
