//! What a step costs on a GPU, counted from its plan.

use super::ROOM;
use super::sums::{self, Sum};
use crate::engine::kernel_plan::{Plan, Target};
use crate::program::{Adjoint, AdjointNode, AdjointOp, Op, Program};

/// What one direction of a step costs, each cell where every cell fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Kernels, launched one after the other.
    pub kernels: usize,
    /// Multiplications of matrix products.
    pub multiplications: usize,
    /// Floats that go to and from device memory: cells and their gradients, and values in scratch, each
    /// written once and read once by each kernel that reads it. What neighbours read comes from a cache.
    pub floats: usize,
    /// Floats of scratch.
    pub scratch: usize,
    /// Most floats of shared memory that a row takes in a phase.
    pub shared: usize,
}

/// The cost of a step forwards, and backwards with all weights trained.
pub fn costs(program: &Program) -> [Cost; 2] {
    let layout = program.layout();
    let (channels, alive) = (layout.channels(), usize::from(program.alive.is_some()));
    let plan = Plan::forward(program, ROOM);
    let mut forward = of_phases(&plan);
    forward.kernels += alive;
    forward.floats += channels * (2 + 3 * alive);

    let adjoint = Adjoint::new(program, true, &vec![true; program.params.len()]);
    let plan = Plan::backward(&adjoint, layout.update_channels(), ROOM);
    let sums = sums::sums(&plan);
    let mut backward = of_phases(&plan);
    let products = sums.iter().map(Sum::multiplications).sum::<usize>();
    let kinds = usize::from(products > 0) + usize::from(sums.iter().any(|sum| sum.multiplications() == 0));
    backward.kernels += 1 + kinds;
    backward.multiplications += products;
    // The gradient after, the state, the gradient before (written, read and written), and the gradient of the
    // update (written and read).
    backward.floats += 5 * channels + 2 * layout.update_channels();
    backward.floats += sums.iter().map(Sum::floats).sum::<usize>();
    [forward, backward]
}

/// Of the kernels of all phases.
fn of_phases(plan: &Plan) -> Cost {
    let mut cost = Cost {
        kernels: 0,
        multiplications: 0,
        floats: 0,
        scratch: plan.scratch,
        shared: 0,
    };
    for phase in plan.phases.iter().filter(|phase| !phase.emissions.is_empty()) {
        cost.kernels += 1;
        cost.shared = cost.shared.max(phase.floats);
        for emission in &phase.emissions {
            if let Some(product) = emission.product {
                cost.multiplications += of_product(plan, product);
            }
            if let Target::Node(n) = emission.target
                && plan.homes[n].scratch().is_some()
            {
                cost.floats += plan.nodes[n].width;
            }
        }
        cost.floats += phase.reads.iter().map(|&n| plan.nodes[n].width).sum::<usize>();
    }
    cost
}

fn of_product(plan: &Plan, n: usize) -> usize {
    let AdjointNode { op, width } = &plan.nodes[n];
    let (AdjointOp::Ordinary(Op::Linear { x, .. }) | AdjointOp::LinearTransposed { dy: x, .. }) = *op else {
        return 0;
    };
    plan.nodes[x].width * width
}
