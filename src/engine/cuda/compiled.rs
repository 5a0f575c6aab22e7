//! Plans and the sources of kernels: made once for a program, used by every rollout of it on any grid.
//!
//! A cache keeps those that were used last, by the structure of their program. What a device makes of a
//! source is the driver's to keep.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::ROOM;
use super::driver::Source;
use super::kernels::{Direction, Generator, Module};
use super::sums::{Sum, sums};
use crate::engine::job::{Job, Precision};
use crate::engine::kernel_plan::{Packing, Plan};
use crate::program::{Adjoint, Program, Structure};

/// One direction of a step.
pub(super) struct Half {
    pub plan: Plan,
    pub module: Module,
}

impl Half {
    fn forward(program: &Program, packing: &Packing, precision: Precision) -> Self {
        let plan = Plan::forward(program, ROOM);
        let module = Generator::new(program, &plan, packing, Direction::Forward).module(precision);
        Self { plan, module }
    }

    /// With the gradients of weights that are `trained`.
    fn backward(program: &Program, packing: &Packing, precision: Precision, trained: &[bool]) -> Self {
        let adjoint = Adjoint::new(program, true, trained);
        let plan = Plan::backward(&adjoint, program.layout().update_channels(), ROOM);
        let module = Generator::new(program, &plan, packing, Direction::Backward).module(precision);
        Self { plan, module }
    }
}

/// A program as kernels; those of the backward pass are made when they are first asked for.
pub(super) struct Compiled {
    pub packing: Packing,
    pub forward: Half,
    backward: OnceLock<(Half, Vec<Sum>)>,
}

/// Everything that the kernels depend on.
#[derive(PartialEq, Eq)]
struct Case {
    structure: Structure,
    precision: Precision,
    trained: Arc<[bool]>,
}

/// Most programs that the cache holds.
const KEPT: usize = 32;

/// The most recently used programs, the latest last.
static CACHE: Mutex<Vec<(Case, Arc<Compiled>)>> = Mutex::new(vec![]);

impl Compiled {
    pub fn of(job: &Job) -> Arc<Self> {
        let case = Case {
            structure: job.program.structure(),
            precision: job.task.precision,
            trained: job.weights.trained.clone(),
        };
        let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = cache.iter().position(|(other, _)| *other == case) {
            let entry = cache.remove(at);
            cache.push(entry);
        } else {
            let packing = Packing::new(&job.program);
            let compiled = Self {
                forward: Half::forward(&job.program, &packing, case.precision),
                packing,
                backward: OnceLock::new(),
            };
            if cache.len() == KEPT {
                cache.remove(0);
            }
            cache.push((case, Arc::new(compiled)));
        }
        cache[cache.len() - 1].1.clone()
    }

    /// The kernels of the backward pass, and the gradients of weights; `job` is as it was in
    /// [`Compiled::of`].
    pub fn backward(&self, job: &Job) -> &(Half, Vec<Sum>) {
        self.backward.get_or_init(|| {
            let (precision, trained) = (job.task.precision, &job.weights.trained);
            let half = Half::backward(&job.program, &self.packing, precision, trained);
            let sums = sums(&half.plan);
            (half, sums)
        })
    }
}

/// The kernels of a program as CUDA C: forwards, and backwards with all weights trained.
pub fn sources(program: &Program, precision: Precision) -> [Source; 2] {
    let packing = Packing::new(program);
    let trained = vec![true; program.params.len()];
    let forward = Half::forward(program, &packing, precision);
    let backward = Half::backward(program, &packing, precision, &trained);
    [forward, backward].map(|half| half.module.source)
}
