//! The golden rollouts of the repository.

use std::path::Path;

use candle_core::{DType, Tensor};
use lnca::{GrowingConfig, Rollout, TransitionFn};

use crate::agreement::assert_close;
use crate::cases::case::Case;
use crate::cases::check::Check;
use crate::cases::{cells, growing};
use crate::gpu::gpu;

fn case(name: &str) -> Case {
    Case::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"), name).unwrap()
}

/// Runs a rollout under the given masks, step by step, against the states of the case.
fn compare<T: TransitionFn>(what: &str, transition: &T, cells: &Tensor, masks: Vec<Tensor>, states: &Tensor) {
    let Some(gpu) = gpu() else { return };
    let rollout = Rollout::new(masks.len()).masks(masks);
    let mut on_gpu = rollout.start_on(gpu, transition, cells).unwrap();
    for step in 0..rollout.steps() {
        on_gpu.advance(1).unwrap();
        let what = format!("{what}, step {step}");
        assert_close(&what, &on_gpu.cells().unwrap(), &states.get(step).unwrap());
    }
    assert!(on_gpu.advance(1).is_err(), "there are no more masks");
}

#[test]
fn growing_follows_its_golden_rollout() {
    let case = case("growing_rollout8");
    let check = Check::new(&case, DType::F32);
    let angle = case.number("angle").unwrap();
    let alive = GrowingConfig::default().alive;
    let (rule, _) = growing::rule(DType::F32, angle, alive, |name| check.input(name)).unwrap();
    let read = |name: &str| growing::channels_last(&case.tensors[name]).unwrap();
    let masks = growing::steps(&read("masks")).unwrap();
    compare("growing", &rule, &read("x0"), masks, &read("states_f64"));
}

#[test]
fn nafca_and_vitca_follow_their_golden_rollouts() {
    for name in ["nafca_rollout5", "vitca_rollout5_interleaved_pe"] {
        let case = case(name);
        let check = Check::new(&case, DType::F32);
        let masks = cells::masks(&check, "in.mask").unwrap();
        let (start, states) = (&case.tensors["in.cells"], &case.tensors["out.cells"]);
        match name.starts_with("nafca") {
            true => compare(name, &cells::nafca(&check, "w.").unwrap().0, start, masks, states),
            false => compare(name, &cells::vitca(&check, "w.").unwrap().0, start, masks, states),
        }
    }
}
