//! Rollouts on a GPU against those on a CPU.

use candle_core::{DType, Device, Tensor};
use lnca::random::Key;
use lnca::{
    CellLayout, Growing, GrowingConfig, Padding, Pattern, Program, ProgramBuilder, Rollout, Step,
    TransitionFn, Weights,
};

use crate::gpu::gpu;
use crate::programs::{Case, library, noise};

/// An error unless the largest difference is within 1e-4 of the largest value, at least of 1.
pub fn assert_close(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let values = |x: &Tensor| -> Vec<f64> {
        let x = x.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        x.to_vec1().unwrap()
    };
    let (found, expected) = (values(found), values(expected));
    assert!(
        expected.iter().all(|value| value.is_finite()),
        "{what}: expected finite values"
    );
    let largest = expected.iter().fold(1f64, |most, value| most.max(value.abs()));
    for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = (found - expected).abs() / largest;
        assert!(
            error <= 1e-4,
            "{what}: number {n} is {found}, expected {expected}"
        );
    }
}

fn exact(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// States after 1, 8 and 64 steps, on a batch of two.
fn compare(what: &str, program: &Program, (h, w): (usize, usize), steps: &[usize]) {
    let Some(gpu) = gpu() else { return };
    let channels = program.layout().channels();
    let cells = (noise(&[2, h, w, channels], 7) * 0.5).unwrap();
    for &steps in steps {
        let rollout = Rollout::new(steps).fire_rate(0.6).key(Key::new(5 << 40 | 3));
        let expected = rollout.run(program, &cells).unwrap();
        let found = rollout.run_on(gpu, program, &cells).unwrap();
        assert_close(&format!("{what} {h}x{w}, {steps} steps"), &found, &expected);
    }
}

#[test]
fn transitions_agree() {
    for grid in [(5, 7), (1, 2)] {
        for case in library(grid, DType::F32) {
            // With random weights a texture magnifies the last digits, or leaves the range of f32.
            let steps: &[usize] = match case.what.starts_with("texture") {
                true => &[1, 8],
                false => &[1, 8, 64],
            };
            compare(&case.what, &case.program, grid, steps);
        }
    }
}

#[test]
fn shipped_patterns_agree() {
    let Some(gpu) = gpu() else { return };
    for name in ["lizard", "fish", "bubbles", "weave"] {
        let file = format!("{}/models/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let pattern = Pattern::load(file, &Device::Cpu).unwrap();
        let seed = pattern.seed(1, (19, 23)).unwrap();
        for steps in [1, 8, 64] {
            let rollout = pattern.rollout(steps, Key::new(4));
            let expected = rollout.run(pattern.rule(), &seed).unwrap();
            let found = rollout.run_on(gpu, pattern.rule(), &seed).unwrap();
            assert_close(&format!("{name}, {steps} steps"), &found, &expected);
        }
    }
}

#[test]
fn random_programs_agree() {
    for seed in 0..20 {
        let grid = [(4, 3), (1, 1), (6, 5), (2, 9)][seed as usize % 4];
        let case = Case::random(seed, grid, DType::F32);
        compare(&case.what, &case.program, grid, &[1, 8, 64]);
    }
}

#[test]
fn cells_live_and_die_alike() {
    for padding in [Padding::Zero, Padding::Circular] {
        let mut config = GrowingConfig {
            hidden_dim: 40,
            padding,
            ..GrowingConfig::default()
        };
        config.alive.iter_mut().for_each(|rule| rule.padding = padding);
        let weights = Weights::new(3, DType::F32, &Device::Cpu);
        let rule = Growing::new(config, weights.builder()).unwrap();
        for (n, (_, var)) in weights.vars().into_iter().enumerate() {
            var.set(&(noise(var.dims(), n as u64) * 0.2).unwrap()).unwrap();
        }
        let cells = rule
            .layout()
            .single_cell((2, 13, 11), DType::F32, &Device::Cpu)
            .unwrap();
        let Some(gpu) = gpu() else { return };
        for steps in [1, 8, 64] {
            let rollout = Rollout::new(steps).fire_rate(0.5).key(Key::new(11));
            let expected = rollout.run(&rule, &cells).unwrap();
            let found = rollout.run_on(gpu, &rule, &cells).unwrap();
            assert_close(&format!("{padding:?}, {steps} steps"), &found, &expected);
            let dead = |x: &Tensor| exact(x).iter().filter(|value| **value == 0.0).count();
            assert_eq!(dead(&found), dead(&expected));
        }
    }
}

/// A program that counts how often a cell fires.
fn counter() -> Program {
    let layout = CellLayout {
        input: 1,
        output: 1,
        hidden: 0,
    };
    let mut p = ProgramBuilder::new(layout);
    let zero = Tensor::zeros((1, 2), DType::F32, &Device::Cpu).unwrap();
    let one = Tensor::ones(1, DType::F32, &Device::Cpu).unwrap();
    let update = p.linear(p.cells(), &zero, Some(&one)).unwrap();
    p.finish(update).unwrap()
}

#[test]
fn masks_are_the_same_bit_by_bit() {
    let Some(gpu) = gpu() else { return };
    let program = counter();
    for (b, h, w) in [(1, 1, 1), (3, 7, 5), (2, 33, 31), (1, 130, 127)] {
        let cells = Tensor::zeros((b, h, w, 2), DType::F32, &Device::Cpu).unwrap();
        let rates = ((noise(&[h, w], 4) + 1.0).unwrap() * 0.5).unwrap();
        let given = |steps: usize| -> Vec<Tensor> {
            let mask = |step| noise(&[b, h, w, 1], step as u64).ge(0.2).unwrap();
            (0..steps)
                .map(|step| mask(step).to_dtype(DType::F32).unwrap())
                .collect()
        };
        for (steps, seed) in [(1, 0), (70, u64::MAX - 5)] {
            let of = |rollout: Rollout| rollout.key(Key::new(seed)).first_image(u32::MAX as usize - 9);
            for rollout in [
                of(Rollout::new(steps).fire_rate(0.5)),
                of(Rollout::new(steps).fire_rate(0.0)),
                of(Rollout::new(steps).fire_rates(&rates).unwrap()),
                of(Rollout::new(steps).masks(given(steps))),
            ] {
                let expected = rollout.run(&program, &cells).unwrap();
                let found = rollout.run_on(gpu, &program, &cells).unwrap();
                assert!(exact(&found) == exact(&expected), "{rollout:?} on {b}x{h}x{w}");
            }
        }
    }
}

#[test]
fn cells_stay_between_calls() {
    let Some(gpu) = gpu() else { return };
    let case = &library((5, 4), DType::F32)[0];
    let cells = noise(&[2, 5, 4, case.program.layout().channels()], 1);
    let rollout = Rollout::new(9).fire_rate(0.5).key(Key::new(2));
    let whole = rollout.run_on(gpu, &case.program, &cells).unwrap();
    let mut parts = rollout.start_on(gpu, &case.program, &cells).unwrap();
    assert_eq!(exact(&parts.cells().unwrap()), exact(&cells));
    for steps in [4, 0, 5] {
        parts.advance(steps).unwrap();
    }
    assert_eq!(
        (parts.steps(), exact(&parts.cells().unwrap())),
        (9, exact(&whole))
    );
    parts.set_cells(&cells).unwrap();
    assert_eq!(exact(&parts.cells().unwrap()), exact(&cells));
    assert!(parts.set_cells(&cells.narrow(0, 0, 1).unwrap()).is_err());
    assert!(parts.set_cells(&cells.to_dtype(DType::F64).unwrap()).is_err());
}

/// A transition without a program.
#[derive(Clone)]
struct Plain;

impl TransitionFn for Plain {
    fn layout(&self) -> CellLayout {
        counter().layout()
    }

    fn update(&self, cells: &Tensor, _: &Step) -> lnca::Result<Tensor> {
        Ok(cells.narrow(3, 1, 1)?)
    }
}

#[test]
fn what_cannot_run_is_refused() {
    let Some(gpu) = gpu() else { return };
    let cells = Tensor::zeros((1, 3, 3, 2), DType::F32, &Device::Cpu).unwrap();
    let told = |result: lnca::Result<Tensor>| result.unwrap_err().to_string();
    let rollout = Rollout::new(2);
    let error = told(rollout.run_on(gpu, &Plain, &cells));
    assert!(error.contains("without a program"), "{error}");
    let error = told(rollout.clone().training(true).run_on(gpu, &counter(), &cells));
    assert!(error.contains("training"), "{error}");
    let halves = vec![Tensor::full(0.5f32, (1, 3, 3, 1), &Device::Cpu).unwrap(); 2];
    let error = told(rollout.clone().masks(halves).run_on(gpu, &counter(), &cells));
    assert!(error.contains("0 and 1"), "{error}");
    let wide = cells.to_dtype(DType::F64).unwrap();
    assert!(rollout.run_on(gpu, &counter(), &wide).is_err());
    assert!(
        rollout
            .run_on(gpu, &counter(), &cells.narrow(3, 0, 1).unwrap())
            .is_err()
    );
    let still = Rollout::new(0).run_on(gpu, &counter(), &cells).unwrap();
    assert_eq!(exact(&still), exact(&cells));
}

/// More workgroups than one dimension of a dispatch has.
#[test]
fn large_grids_take_two_dimensions_of_workgroups() {
    let Some(gpu) = gpu() else { return };
    let (h, w) = (2050, 2049);
    let cells = Tensor::zeros((1, h, w, 2), DType::F32, &Device::Cpu).unwrap();
    let rollout = Rollout::new(1).fire_rate(0.5);
    let expected = rollout.run(&counter(), &cells).unwrap();
    let found = rollout.run_on(gpu, &counter(), &cells).unwrap();
    assert!(exact(&found) == exact(&expected));
    let error = rollout.run_on(gpu, &counter(), &cells.repeat((4, 1, 1, 1)).unwrap());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("128 MiB"), "{error}");
}
