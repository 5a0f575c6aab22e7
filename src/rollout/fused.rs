//! Rollouts on an engine: compiled once, run for all steps or step by step.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::{Memory, Rollout};
use crate::engine::{self, Fallback};
use crate::error::{Error, Result};
use crate::program::Program;
use crate::transition::TransitionFn;

impl Rollout {
    /// The transition compiled for an engine, if one can run it on `cells`.
    pub(super) fn compile<T: TransitionFn>(
        &self,
        transition: &T,
        cells: &Tensor,
    ) -> Result<Option<Fused<'_>>> {
        if self.steps == 0 {
            return Ok(None);
        }
        let fallback = |reason: Fallback| {
            reason.tell();
            Ok(None)
        };
        // Plain operations, too, run only what an engine would run alike.
        let program = transition.program(cells)?;
        let program = program.map(|program| agreeing(transition, program)).transpose()?;
        if let Some(program) = &program {
            program.check_types(cells)?;
        }
        if self.plain {
            return Ok(None);
        }
        if self.memory == Memory::Everything {
            return fallback(Fallback::Everything);
        }
        let Some(mut program) = program else {
            return fallback(Fallback::NoProgram);
        };
        let masks = self
            .masks
            .iter()
            .flatten()
            .map(fires)
            .collect::<Result<Option<Vec<_>>>>()?;
        let Some(masks) = masks else {
            return fallback(Fallback::Mask);
        };
        if self.memory == Memory::Nothing {
            program = program.detached();
        }
        match engine::Compiled::new(program, cells)? {
            Ok(compiled) => Ok(Some(Fused {
                rollout: self,
                compiled,
                masks: self.masks.is_some().then(|| Arc::new(masks)),
                every: self.stretch(cells).min(self.steps),
            })),
            Err(reason) => fallback(reason),
        }
    }
}

/// The program of `transition` with its alive mask.
///
/// # Errors
/// [`Error::Config`] if the program is for other cells, or has another alive mask.
fn agreeing(transition: &impl TransitionFn, program: Program) -> Result<Program> {
    let differs = |what: &str, expected: String, found: String| {
        Err(Error::config(
            "program",
            format!("the {what} of its transition, {expected}"),
            found,
        ))
    };
    let (expected, found) = (transition.layout(), program.layout());
    if expected != found {
        return differs("layout", format!("{expected:?}"), format!("{found:?}"));
    }
    match (transition.alive_mask(), program.alive) {
        // The transition knows what dies; its program need not repeat it.
        (rule, None) => program.with_alive_mask(rule),
        (rule, found) if rule != found => differs("alive mask", format!("{rule:?}"), format!("{found:?}")),
        _ => Ok(program),
    }
}

/// A rollout on an engine.
pub(super) struct Fused<'a> {
    rollout: &'a Rollout,
    compiled: engine::Compiled,
    masks: Option<Arc<Vec<Vec<bool>>>>,
    every: usize,
}

impl Fused<'_> {
    /// The cells after `steps`.
    pub fn run(&self, cells: &Tensor, steps: Range<usize>) -> Result<Tensor> {
        let of = self.rollout;
        let task = engine::Task {
            steps,
            key: of.key,
            first_image: of.first_image,
            fire_rate: of.fire_rate.clone(),
            masks: self.masks.clone(),
            training: of.training,
            precision: of.precision,
            every: self.every,
            store_values: of.memory == Memory::Every(1),
        };
        match of.memory {
            Memory::Nothing => self.compiled.run(task, &cells.detach()),
            Memory::Everything | Memory::Every(_) | Memory::Budget(_) => self.compiled.run(task, cells),
        }
    }
}

/// Whether each cell fires under a given mask of zeros and ones; `None` if it holds other values.
fn fires(mask: &Tensor) -> Result<Option<Vec<bool>>> {
    let values = mask.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    let fires = |value: f32| match value {
        0.0 => Some(false),
        1.0 => Some(true),
        _ => None,
    };
    Ok(values.into_iter().map(fires).collect())
}
