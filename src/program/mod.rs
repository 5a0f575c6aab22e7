//! Cell programs: a transition described once, as a short list of operations on cell vectors.
//!
//! A [`Program`] runs as plain Candle operations
//! ([`TransitionFn::update`](crate::transition::TransitionFn::update), on any device and number type) and,
//! inside a [`Rollout`](crate::rollout::Rollout) of f32 cells on a CPU or, with the feature `cuda`, on an
//! NVIDIA GPU, fused: the values of a whole step stay in the cache, forwards and backwards.

// A `match` that forgets a new operation must not compile.
#![deny(clippy::wildcard_enum_match_arm)]

mod adjoint;
mod analysis;
mod builder;
mod lower;
mod op;
mod phases;
mod reference;
mod structure;
#[cfg(test)]
#[expect(dead_code, reason = "tests outside the crate read the variables too")]
#[path = "../../tests/common/programs.rs"]
mod test_programs;
/// Where tests of this crate have their tensors, as `tests/common/device.rs` for those outside.
#[cfg(test)]
mod device {
    pub fn device() -> candle_core::Device {
        candle_core::Device::Cpu
    }
}

use candle_core::Tensor;

use crate::error::{Result, check};
use crate::grid::{AliveMask, CellLayout};

pub use crate::ops::Function;
pub use adjoint::Pullback;
pub(crate) use adjoint::{Adjoint, AdjointNode, AdjointOp, CellSum};
pub use builder::{ProgramBuilder, Value};
pub(crate) use lower::{Lowered, last_uses};
pub(crate) use op::{Attention, Node, Op};
pub(crate) use phases::{Phase, Read};
pub use structure::Structure;
pub(crate) use structure::fnv1a;

/// A transition as a list of operations on cell vectors, with its weights.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use lnca::program::{Function, Program, ProgramBuilder};
/// use lnca::{CellLayout, Padding, Rollout};
///
/// # fn main() -> lnca::Result<()> {
/// let layout = CellLayout { input: 0, output: 4, hidden: 12 };
/// let laplacian = Tensor::new(&[[[1f32, 2., 1.], [2., -12., 2.], [1., 2., 1.]]], &Device::Cpu)?;
/// let weight = Tensor::randn(0f32, 0.1, (16, 32), &Device::Cpu)?;
///
/// let mut p = ProgramBuilder::new(layout);
/// let cells = p.cells();
/// let curvature = p.stencil(cells, &laplacian, Padding::Circular)?; // 16 channels
/// let seen = p.concat(&[cells, curvature])?; // 32 channels
/// let mixed = p.linear(seen, &weight, None)?;
/// let update = p.map(mixed, Function::Tanh)?;
/// let program: Program = p.finish(update)?;
///
/// let cells = layout.single_cell((1, 16, 16), DType::F32, &Device::Cpu)?;
/// let grown = Rollout::new(20).fire_rate(0.5).run(&program, &cells)?;
/// assert_eq!(grown.dims(), [1, 16, 16, 16]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Program {
    pub(crate) layout: CellLayout,
    pub(crate) alive: Option<AliveMask>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) params: Vec<Tensor>,
    pub(crate) update: usize,
}

impl Program {
    /// The same program, whose cells die by `rule`.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if the rule compares a channel that the cells do not have.
    pub fn with_alive_mask(mut self, rule: Option<AliveMask>) -> Result<Self> {
        let channels = self.layout.channels();
        rule.iter().try_for_each(|rule| rule.check(channels))?;
        self.alive = rule;
        Ok(self)
    }

    /// The weights and tables of the operations, in the order in which they were added. A convolution is a
    /// linear map, whose weight is a permutation of its kernel.
    pub fn weights(&self) -> &[Tensor] {
        &self.params
    }

    /// An error unless cells and weights are of one type and on one device. Constants are converted.
    pub(crate) fn check_types(&self, cells: &Tensor) -> Result<()> {
        check::float("cells", cells)?;
        let constants: Vec<usize> = self.constants().map(|(_, param)| param).collect();
        let mut weights = (0..self.params.len()).filter(|param| !constants.contains(param));
        weights.try_for_each(|param| check::as_other("cells", cells, "the weights", &self.params[param]))
    }

    /// The channels of the cells that the program works on.
    pub(crate) fn layout(&self) -> CellLayout {
        self.layout
    }

    /// The same program with weights that get no gradient.
    pub(crate) fn detached(mut self) -> Self {
        self.params.iter_mut().for_each(|param| *param = param.detach());
        self
    }
}
