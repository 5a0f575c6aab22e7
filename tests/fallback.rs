//! Why plain Candle operations run in place of an engine is told by `tracing`, once a reason.
//!
//! A binary of its own: the subscriber and what was told already are those of the whole process.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use lnca::{CellLayout, Growing, GrowingConfig, Memory, Result, Rollout, Step, TransitionFn, Weights};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Keeps the field `reason` of all events.
#[derive(Clone, Default)]
struct Reasons(Arc<Mutex<Vec<String>>>);

impl Reasons {
    /// Those that came since the last call.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Subscriber for Reasons {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("lnca::")
    }

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    // There are no spans.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Visit for Reasons {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "reason" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

/// A transition that is no program.
#[derive(Clone)]
struct Decay;

impl TransitionFn for Decay {
    fn layout(&self) -> CellLayout {
        CellLayout {
            input: 0,
            output: 4,
            hidden: 12,
        }
    }

    fn update(&self, cells: &Tensor, _: &Step) -> Result<Tensor> {
        Ok((cells * -0.5)?)
    }
}

#[test]
fn each_reason_is_told_once() -> Result<()> {
    let reasons = Reasons::default();
    tracing::subscriber::set_global_default(reasons.clone()).unwrap();
    let cpu = Device::Cpu;
    let cells = Tensor::ones((1, 4, 4, 16), DType::F32, &cpu)?;
    let growing = |dtype| Growing::new(GrowingConfig::default(), Weights::new(0, dtype, &cpu).builder());
    let (program, double) = (growing(DType::F32)?, growing(DType::F64)?);
    let rollout = Rollout::new(2);

    rollout.run(&program, &cells)?;
    rollout.clone().plain().run(&program, &cells)?;
    rollout.clone().plain().run(&Decay, &cells)?;
    assert_eq!(reasons.take(), <[&str; 0]>::default());

    // Trajectories tell the same as runs.
    for _ in 0..2 {
        rollout.run(&Decay, &cells)?;
        rollout.trajectory(&Decay, &cells)?;
    }
    assert_eq!(
        reasons.take(),
        ["a transition without a program: expected one with"]
    );

    for _ in 0..2 {
        rollout.run(&double, &cells.to_dtype(DType::F64)?)?;
    }
    assert_eq!(reasons.take(), ["cells of F64: expected F32"]);

    for _ in 0..2 {
        let rollout = rollout.clone().memory(Memory::Everything);
        rollout.run(&program, &cells)?;
    }
    assert_eq!(
        reasons.take(),
        ["`Memory::Everything`: expected a policy that recomputes"]
    );

    for _ in 0..2 {
        let mask = Tensor::full(0.5f32, (1, 4, 4, 1), &cpu)?;
        let rollout = rollout.clone().masks(vec![mask.clone(), mask]);
        rollout.run(&program, &cells)?;
    }
    assert_eq!(
        reasons.take(),
        ["a given update mask with other values than 0 and 1: expected only these"]
    );
    Ok(())
}
