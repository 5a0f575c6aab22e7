//! Programs as WGSL, the shading language of WebGPU: for GPUs of any maker, in browsers and out of them.
//!
//! A step forwards, without a gradient, in f32; dropout is off. The plan is that of
//! [`kernel_plan`](super::kernel_plan): a kernel for each phase, in which one invocation computes one cell.
//! Here as there, what each cell needs alone lies in the memory of its invocation, and a hidden layer that
//! only feeds the next is not stored at all. Everything keeps within the limits that WebGPU grants on any
//! device.
//!
//! WGSL promises neither NaN nor infinities, so what this library promises about them does not hold here:
//! arguments of exponentials are clamped where an overflow could pass unseen.

mod expression;
mod kernels;

use crate::error::{Error, Result};
use crate::program::Program;

use super::kernel_plan::{Packing, Plan, Room};

/// Cells of a workgroup.
pub(crate) const GROUP: usize = 64;
/// Most workgroups in one dimension of a dispatch, and most bytes of a binding: the default limits.
pub(crate) const GROUPS: usize = 65_535;
pub(crate) const BINDING: usize = 128 << 20;
/// Floats of an invocation's own memory, of which WGSL grants 2048: for values, and for the sums of a layer
/// whose input is not stored.
const VALUES: usize = 1024;
const SUMS: usize = 512;

/// The kernels of a program, for grids of any size.
#[derive(Clone, Debug)]
pub struct Shader {
    /// The module: WGSL.
    pub text: String,
    /// The entry points of a step, in order; with the last, cells die.
    pub kernels: Vec<String>,
    /// Channels of scratch: floats for each cell of all images.
    pub scratch: usize,
    /// Whether the last kernel writes `next`; otherwise the cells after a step are those in `updated`.
    pub buries: bool,
}

impl Shader {
    /// The kernels of `program`.
    pub fn new(program: &Program) -> Self {
        let room = Room {
            floats: VALUES,
            streamed: SUMS,
        };
        let plan = Plan::forward(program, room);
        let packing = Packing::new(program);
        kernels::shader(program, &plan, &packing)
    }

    /// Workgroups along both dimensions of a dispatch over `cells` cells.
    pub fn groups(cells: usize) -> [usize; 2] {
        let groups = cells.div_ceil(GROUP);
        match groups <= GROUPS {
            true => [groups, 1],
            false => [GROUPS, groups.div_ceil(GROUPS)],
        }
    }

    /// An error unless `cells` cells of `channels` channels fit into the bindings that WebGPU grants.
    pub fn check(&self, cells: usize, channels: usize) -> Result<()> {
        let floats = cells.saturating_mul(channels.max(self.scratch));
        match floats <= BINDING / 4 {
            true => Ok(()),
            false => {
                let most = BINDING / 4 / channels.max(self.scratch).max(1);
                let expected =
                    format!("at most {most} cells in all, whose values fill the 128 MiB of a binding");
                Err(Error::config("cells", expected, cells))
            }
        }
    }
}
