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
        let program = program_of(transition, cells)?;
        if self.plain {
            return Ok(None);
        }
        if self.memory == Memory::Everything {
            return fallback(Fallback::Everything);
        }
        let Some(mut program) = program else {
            return fallback(Fallback::NoProgram);
        };
        let Some(masks) = self.fires()? else {
            return fallback(Fallback::Mask);
        };
        if self.memory == Memory::Nothing {
            program = program.detached();
        }
        match engine::Compiled::new(program, cells)? {
            Ok(compiled) => Ok(Some(Fused {
                rollout: self,
                compiled,
                masks,
                every: self.stretch(cells).min(self.steps),
            })),
            Err(reason) => fallback(reason),
        }
    }

    /// Whether each cell fires in each step, where masks are given; `None` if they hold other values than 0
    /// and 1.
    pub(super) fn fires(&self) -> Result<Option<Masks>> {
        let Some(masks) = &self.masks else {
            return Ok(Some(None));
        };
        let fires = masks.iter().map(fires).collect::<Result<Option<Vec<_>>>>()?;
        Ok(fires.map(|fires| Some(Arc::new(fires))))
    }

    /// What an engine is to do in `steps`, which stores a state `every` so many of them.
    pub(super) fn task(&self, steps: Range<usize>, masks: Masks, every: usize) -> engine::Task {
        engine::Task {
            steps,
            key: self.key,
            first_image: self.first_image,
            fire_rate: self.fire_rate.clone(),
            masks,
            training: self.training,
            precision: self.precision,
            every,
            store_values: self.memory == Memory::Every(1),
        }
    }
}

/// For each step whether each cell fires, if that is given.
pub(super) type Masks = Option<Arc<Vec<Vec<bool>>>>;

/// The program of `transition` for `cells`, if it has one.
///
/// # Errors
/// As [`agreeing`], and if cells and weights are not of one type on one device.
pub(super) fn program_of(transition: &impl TransitionFn, cells: &Tensor) -> Result<Option<Program>> {
    let program = transition.program(cells)?;
    let program = program.map(|program| agreeing(transition, program)).transpose()?;
    if let Some(program) = &program {
        program.check_types(cells)?;
    }
    Ok(program)
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
    masks: Masks,
    every: usize,
}

impl Fused<'_> {
    /// The cells after `steps`.
    pub fn run(&self, cells: &Tensor, steps: Range<usize>) -> Result<Tensor> {
        let task = self.rollout.task(steps, self.masks.clone(), self.every);
        match self.rollout.memory {
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
