//! What the weights of a rollout make of its plans.

use std::sync::{Arc, Mutex, PoisonError};

use super::call::Call;
use super::compiled::{Compiled, Stage};
use super::plan::Plan;
use super::taps::{Taps, on_all_lanes};

/// Plans, and what the weights of a rollout make of them.
pub(super) struct Bound {
    pub compiled: Arc<Compiled>,
    /// The constants of the program on all lanes of the grid.
    pub tables: Vec<Vec<f32>>,
    pub step_taps: Vec<Option<Taps>>,
    pub hoisted_taps: Vec<Option<Taps>>,
    pub cached_taps: Vec<Option<Taps>>,
}

impl Bound {
    pub fn new(compiled: Arc<Compiled>, call: &Call<'_>) -> Self {
        let program = &call.job.program;
        let taps = |plan: &Plan| Taps::of_plan(plan, |param| call.param(param));
        let of_stage = |stage: &Option<Stage>| stage.as_ref().map_or(vec![], |stage| taps(&stage.plan));
        let table = |(n, param): (usize, usize)| {
            on_all_lanes(&compiled.step, call.param(param), program.nodes[n].width)
        };
        Self {
            tables: program.constants().map(table).collect(),
            step_taps: taps(&compiled.step),
            hoisted_taps: of_stage(&compiled.hoisted),
            cached_taps: of_stage(&compiled.cached),
            compiled,
        }
    }
}

/// The plans of one program with its weights, bound when they are first needed: the steps of a trajectory and
/// the backward pass share them.
#[derive(Default)]
pub(in crate::engine) struct Bindings(Mutex<Option<Arc<[Bound]>>>);

impl Bindings {
    /// These plans with the weights of `call`, which are the same in every call.
    pub(super) fn of(&self, plans: &[Arc<Compiled>], call: &Call<'_>) -> Arc<[Bound]> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let are_these = |bound: &Arc<[Bound]>| {
            let mut pairs = bound.iter().zip(plans);
            bound.len() == plans.len() && pairs.all(|(bound, plan)| Arc::ptr_eq(&bound.compiled, plan))
        };
        match last.as_ref().filter(|bound| are_these(bound)) {
            Some(bound) => bound.clone(),
            None => {
                let bind = |plan: &Arc<Compiled>| Bound::new(plan.clone(), call);
                let bound: Arc<[Bound]> = plans.iter().map(bind).collect();
                *last = Some(bound.clone());
                bound
            }
        }
    }
}
