//! Plans: made once for a program and a grid, used by every rollout of them, forwards and backwards.
//!
//! [`Compiled`] holds plans and no weights. A cache keeps the most recently used plans, by the structure of
//! their program, so that training compiles once. What depends on
//! a rollout's weights is in `bound.rs`.

use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::job::Job;
use crate::grid::Padding;
use crate::program::Structure;

use super::kernels::LANES;
use super::plan::{Plan, Setting};

/// The plan of values that are computed on the whole grid, outside the step.
pub(super) struct Stage {
    pub plan: Plan,
    /// For each value, its padding if it is stored padded, as attention reads keys and values.
    pub paddings: Vec<Option<Padding>>,
}

/// How a program runs on groups of one size: the plans of its hoisted and cached values, if any, and of a
/// step that is given these.
pub(super) struct Compiled {
    pub step: Plan,
    /// Values computed once a rollout.
    pub hoisted: Option<Stage>,
    /// Values recomputed where a cell changes, given the hoisted ones.
    pub cached: Option<Stage>,
}

/// Everything that plans depend on.
#[derive(Clone, PartialEq, Eq)]
struct Case {
    structure: Structure,
    grid: (usize, usize),
    images: usize,
    sparse: bool,
    /// Whether values can be reused in later steps.
    reuses: bool,
    differentiable: Vec<bool>,
    training: bool,
}

/// Most plans that the cache holds.
const KEPT: usize = 32;

/// The most recently used plans, the latest last.
static CACHE: Mutex<Vec<(Case, Arc<Compiled>)>> = Mutex::new(vec![]);

/// Most floats that the hoisted or cached values of a group may take; in the backward pass their gradients
/// take as many again.
const FLOATS: usize = 1 << 22;

/// Images of a group: enough that a row fills two vectors and the grid eight.
pub(super) fn group_size((height, width): (usize, usize)) -> usize {
    let rows = (2 * LANES).div_ceil(width);
    rows.max((8 * LANES).div_ceil(width * height))
}

impl Compiled {
    /// The plans of a job on a grid of this height and width, for groups of `images` images.
    pub fn of(job: &Job, grid: (usize, usize), images: usize) -> Arc<Self> {
        let case = Case {
            structure: job.program.structure(),
            grid,
            images,
            sparse: job.is_sparse(),
            // Cells that die change without having fired, and a single step has nothing to reuse.
            reuses: job.program.alive.is_none() && job.task.steps.len() > 1,
            differentiable: job.program.differentiable(true, &job.weights.trained),
            training: job.differentiable,
        };
        let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = cache.iter().position(|(other, _)| *other == case) {
            let entry = cache.remove(at);
            cache.push(entry);
        } else {
            let compiled = Arc::new(Self::new(job, &case));
            if cache.len() == KEPT {
                cache.remove(0);
            }
            cache.push((case, compiled));
        }
        cache[cache.len() - 1].1.clone()
    }

    fn new(job: &Job, case: &Case) -> Self {
        let program = &*job.program;
        let setting = Setting {
            program,
            grid: case.grid,
            images: case.images,
            sparse: case.sparse,
            differentiable: &case.differentiable,
            training: case.training,
        };
        let lanes = case.grid.0 * case.grid.1 * case.images;
        let that_fit = |nodes: Vec<usize>| {
            let channels: usize = nodes.iter().map(|&n| program.nodes[n].width).sum();
            if channels * lanes <= FLOATS { nodes } else { vec![] }
        };
        let (mut hoisted, mut cached) = (vec![], vec![]);
        if case.reuses {
            hoisted = that_fit(program.hoisted());
            if case.sparse {
                cached = that_fit(program.cached(&hoisted));
            }
        }
        let given = [&hoisted[..], &cached].concat();
        let stage = |outputs: &[usize], given_to: &[usize]| {
            let padding = |&n: &usize| program.key_value_padding(&given, n);
            (!outputs.is_empty()).then(|| Stage {
                plan: Plan::of_values(setting, outputs, given_to),
                paddings: outputs.iter().map(padding).collect(),
            })
        };
        Self {
            step: Plan::of_step(setting, &given),
            hoisted: stage(&hoisted, &[]),
            cached: stage(&cached, &hoisted),
        }
    }
}
