//! Where weights lie in the one buffer that kernels read them from.

use crate::program::Program;

/// Where the parameters of a program begin in the packed weights.
#[derive(Clone, Debug)]
pub(crate) struct Packing {
    offsets: Vec<Offset>,
    /// Elements of all weights that are no constants.
    pub weights: usize,
}

/// Where a parameter begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Offset {
    /// At this element.
    Weight(usize),
    /// After the weights, and this many channels of a grid.
    Constant(usize),
}

impl Packing {
    pub fn new(program: &Program) -> Self {
        let constants: Vec<usize> = program.constants().map(|(_, param)| param).collect();
        let (mut offsets, mut weights, mut channels) = (vec![], 0, 0);
        for (param, value) in program.params.iter().enumerate() {
            offsets.push(Offset::Weight(weights));
            if !constants.contains(&param) {
                weights += value.elem_count();
            }
        }
        for param in constants {
            offsets[param] = Offset::Constant(channels);
            channels += program.params[param].dims().last().copied().unwrap_or(0);
        }
        Self { offsets, weights }
    }

    /// The number of parameters.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    pub fn of(&self, param: usize) -> Offset {
        self.offsets[param]
    }

    /// The first element of a parameter on a grid of `area` cells.
    pub fn element(&self, param: usize, area: usize) -> usize {
        match self.offsets[param] {
            Offset::Weight(at) => at,
            Offset::Constant(channels) => self.weights + channels * area,
        }
    }
}
