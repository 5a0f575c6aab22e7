//! A program is itself a transition.

use candle_core::Tensor;

use super::TransitionFn;
use crate::error::Result;
use crate::grid::{AliveMask, CellLayout, Step};
use crate::program::Program;

impl TransitionFn for Program {
    fn layout(&self) -> CellLayout {
        self.layout
    }

    fn update(&self, cells: &Tensor, step: &Step) -> Result<Tensor> {
        self.evaluate(cells, step)
    }

    fn program(&self, _: &Tensor) -> Result<Option<Program>> {
        Ok(Some(self.clone()))
    }

    fn alive_mask(&self) -> Option<AliveMask> {
        self.alive
    }
}
