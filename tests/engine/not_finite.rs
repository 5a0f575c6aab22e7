//! NaN and infinities: the engine and plain operations give what the formulas give.

use candle_core::{DType, Tensor, Var};
use lnca::random::Key;
use lnca::{AliveMask, CellLayout, Function, Memory, Padding, Program, ProgramBuilder, Rollout};

use crate::device::device;
use crate::programs::{Draw, noise, spoil};

const NAN: f32 = f32::NAN;
const INF: f32 = f32::INFINITY;

fn values(x: &Tensor) -> Vec<f32> {
    let x = x.to_dtype(DType::F32).unwrap();
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Both NaN, the same infinity, or close.
fn alike(a: f32, b: f32, within: f32) -> bool {
    a.is_nan() && b.is_nan() || a == b || (a - b).abs() <= within * (1.0 + b.abs())
}

fn output(channels: usize) -> CellLayout {
    CellLayout {
        input: 0,
        output: channels,
        hidden: 0,
    }
}

/// Each function, its values and its slopes at `INPUTS`.
const INPUTS: [f32; 8] = [NAN, INF, -INF, 1e38, -1e38, 200.0, -200.0, 0.25];

fn functions() -> Vec<(Function, [f32; 8], [f32; 8])> {
    let bounds = Function::Clamp { min: -1.0, max: 0.5 };
    let rounded = Function::quantise(-1.0, 1.0);
    let Function::Quantise { min, max, step } = rounded else {
        unreachable!()
    };
    let near = ((0.25 - min) / step + 0.5).floor() * step + min;
    let ramp = [NAN, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0];
    let flat = [NAN, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let unit = [NAN, INF, 0.0, 1e38, 0.0, 200.0, 0.0];
    let with = |seven: [f32; 7], last: f32| std::array::from_fn(|i| if i < 7 { seven[i] } else { last });
    let sigmoid = 1.0 / (1.0 + (-0.25f32).exp());
    let tanh = 0.25f32.tanh();
    vec![
        (Function::Relu, with(unit, 0.25), with(ramp, 1.0)),
        (
            Function::Elu,
            [NAN, INF, -1.0, 1e38, -1.0, 200.0, -1.0, 0.25],
            with(ramp, 1.0),
        ),
        (Function::Gelu, with(unit, 0.149_676_5), with(ramp, 0.695_374_7)),
        (
            Function::Silu,
            with(unit, 0.25 * sigmoid),
            with(ramp, sigmoid * (1.0 + 0.25 * (1.0 - sigmoid))),
        ),
        (
            Function::Sigmoid,
            [NAN, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, sigmoid],
            with(flat, sigmoid * (1.0 - sigmoid)),
        ),
        (
            Function::Tanh,
            [NAN, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, tanh],
            with(flat, 1.0 - tanh * tanh),
        ),
        (
            bounds,
            [NAN, 0.5, -1.0, 0.5, -1.0, 0.5, -1.0, 0.25],
            with(flat, 1.0),
        ),
        (
            rounded,
            [NAN, max, min, max, min, max, min, near],
            with(flat, 1.0),
        ),
    ]
}

/// The updates of `function`, and their slopes, by a rollout of one step.
fn by_rollout(function: Function, rollout: &Rollout, x: &Tensor) -> (Vec<f32>, Vec<f32>) {
    let layout = CellLayout {
        input: 1,
        output: 1,
        hidden: 0,
    };
    let mut p = ProgramBuilder::new(layout);
    let x0 = p.slice(p.cells(), 0, 1).unwrap();
    let update = p.map(x0, function).unwrap();
    let program = p.finish(update).unwrap();
    let cells = Tensor::cat(&[x, &x.zeros_like().unwrap()], 3).unwrap();
    let cells = Var::from_tensor(&cells).unwrap();
    let next = rollout.run(&program, &cells).unwrap();
    let next = next.narrow(3, 1, 1).unwrap();
    let grads = next.sum_all().unwrap().backward().unwrap();
    let slopes = grads.get(&cells).unwrap().narrow(3, 0, 1).unwrap();
    (values(&next), values(&slopes))
}

#[test]
fn functions_keep_nan_and_take_infinities_to_their_limits() {
    // Tails of vectors too.
    let count = 8 * 5;
    let x: Vec<f32> = INPUTS.into_iter().cycle().take(count).collect();
    let x = Tensor::from_vec(x, (1, 1, count, 1), &device()).unwrap();
    for (function, expected, slopes) in functions() {
        let mut ways = vec![
            ("engine", by_rollout(function, &Rollout::new(1), &x)),
            ("plain", by_rollout(function, &Rollout::new(1).plain(), &x)),
        ];
        let types = [("f32", DType::F32), ("f64", DType::F64), ("bf16", DType::BF16)];
        for (name, dtype) in types {
            let x = Var::from_tensor(&x.to_dtype(dtype).unwrap()).unwrap();
            let y = function.of(&x).unwrap();
            let grads = y.sum_all().unwrap().backward().unwrap();
            ways.push((name, (values(&y), values(grads.get(&x).unwrap()))));
        }
        for (way, (found, found_slopes)) in ways {
            let within = if way == "bf16" { 1e-2 } else { 2e-6 };
            for i in 0..count {
                let (x, expected, slope) = (INPUTS[i % 8], expected[i % 8], slopes[i % 8]);
                let what = format!("{function:?} of {x}, {way}, {i}");
                assert!(
                    alike(found[i], expected, within),
                    "{what}: {} for {expected}",
                    found[i]
                );
                let found = found_slopes[i];
                assert!(alike(found, slope, within), "{what}, slope: {found} for {slope}");
            }
        }
    }
}

/// The pullback is the gradient by the program that engines on GPUs run.
#[test]
fn pullbacks_have_the_same_slopes() {
    use lnca::{Result, Step, TransitionFn};
    #[derive(Clone)]
    struct Slope(Function);
    impl TransitionFn for Slope {
        fn layout(&self) -> CellLayout {
            output(1)
        }

        fn update(&self, cells: &Tensor, step: &Step) -> Result<Tensor> {
            let mut p = ProgramBuilder::new(self.layout());
            let update = p.map(p.cells(), self.0)?;
            let pulled = p.finish(update)?.pullback(cells, step, &cells.ones_like()?)?;
            // The update is the slope less the cell, so that the next cells are slopes.
            Ok((pulled.cells - cells)?)
        }
    }
    for (function, _, slopes) in functions() {
        for (x, slope) in INPUTS.into_iter().zip(slopes) {
            // Of an infinity nothing could be subtracted.
            let x = if x.is_infinite() { x.signum() * 1e4 } else { x };
            if x.abs() > 1e10 {
                continue;
            }
            let cells = Tensor::full(x, (1, 1, 1, 1), &device()).unwrap();
            let found = values(&Rollout::new(1).run(&Slope(function), &cells).unwrap())[0];
            assert!(
                (found.is_nan() && slope.is_nan()) || (found - slope).abs() < 2e-3,
                "{function:?} {x}: {found}"
            );
        }
    }
}

/// A ReLU that is fused into the layer before it, and its gradient.
#[test]
fn a_fused_relu_keeps_nan() {
    for width in [1usize, 3, 8, 20] {
        for odd in [NAN, INF, -INF] {
            let weight = Tensor::full(odd, (width, 1), &device()).unwrap();
            let ones = Tensor::ones((1, width), DType::F32, &device()).unwrap();
            let mut p = ProgramBuilder::new(output(1));
            let hidden = p.linear(p.cells(), &weight, None).unwrap();
            let hidden = p.map(hidden, Function::Relu).unwrap();
            let update = p.linear(hidden, &ones, None).unwrap();
            let program = p.finish(update).unwrap();
            let cells = Var::from_tensor(&Tensor::full(0.5f32, (1, 3, 7, 1), &device()).unwrap()).unwrap();
            let expected = [NAN, INF, 0.5][[NAN, INF, -INF]
                .iter()
                .position(|x| x.to_bits() == odd.to_bits())
                .unwrap()];
            for rollout in ways(1) {
                let next = rollout.run(&program, &cells).unwrap();
                assert!(
                    values(&next).iter().all(|&x| alike(x, expected, 0.0)),
                    "{odd}: {next}"
                );
                let grads = next.sum_all().unwrap().backward().unwrap();
                let slope = if odd == -INF { NAN } else { expected };
                let found = values(grads.get(&cells).unwrap());
                // 1 + 0 (-inf), where nothing passes but all the same is multiplied.
                assert!(found.iter().all(|&x| alike(x, slope, 0.0)), "{odd}: {found:?}");
            }
        }
    }
}

/// The engine in f32 and bf16, and plain operations.
fn ways(steps: usize) -> [Rollout; 3] {
    let rollout = Rollout::new(steps).key(Key::new(5));
    [
        rollout.clone().precision(lnca::Precision::Bf16),
        rollout.clone(),
        rollout.plain(),
    ]
}

#[test]
fn nan_in_dead_cells_dies_and_gives_no_life() {
    let nothing = Tensor::zeros(2, DType::F32, &device()).unwrap();
    let mut p = ProgramBuilder::new(output(2));
    let update = p.affine(p.cells(), None, Some(&nothing)).unwrap();
    let zero = p.affine(update, Some(&nothing), None).unwrap();
    let program = p.finish(zero).unwrap();
    for padding in [Padding::Zero, Padding::Circular] {
        let rule = AliveMask {
            channel: 0,
            threshold: 0.1,
            padding,
        };
        let program = program.clone().with_alive_mask(Some(rule)).unwrap();
        for odd in [NAN, INF, -INF] {
            for channel in 0..2 {
                // One living cell in a corner; two cells away, and further, what is not a number.
                let mut cells = vec![0f32; 2 * 36];
                cells[2 * 14] = 1.0;
                cells[2 * 15 + channel] = odd;
                cells[2 * 35 + channel] = odd;
                let cells = Tensor::from_vec(cells, (1, 6, 6, 2), &device()).unwrap();
                let [_, engine, plain] =
                    ways(1).map(|rollout| values(&rollout.run(&program, &cells).unwrap()));
                for (i, (&a, &b)) in engine.iter().zip(&plain).enumerate() {
                    assert!(
                        alike(a, b, 0.0),
                        "{padding:?} {odd} in {channel}, at {i}: {a} and {b}"
                    );
                }
                // A NaN is above no threshold.
                let expected = if channel == 0 && odd == INF { NAN } else { 0.0 };
                assert!(
                    alike(engine[2 * 35 + 1], 0.0, 0.0) || expected.is_nan(),
                    "{engine:?}"
                );
            }
        }
    }
}

#[test]
fn cells_that_do_not_fire_take_no_nan() {
    let mut p = ProgramBuilder::new(output(1));
    let nan = Tensor::full(NAN, 1, &device()).unwrap();
    let update = p.affine(p.cells(), Some(&nan), None).unwrap();
    let program = p.finish(update).unwrap();
    let cells = Tensor::ones((1, 9, 9, 1), DType::F32, &device()).unwrap();
    let count = |rollout: Rollout| {
        let next = values(&rollout.fire_rate(0.5).run(&program, &cells).unwrap());
        next.iter().filter(|x| x.is_nan()).count()
    };
    let [bf16, engine, plain] = ways(1).map(count);
    assert!(
        engine == plain && bf16 == plain && engine > 10 && engine < 70,
        "{engine} {plain}"
    );
}

/// A fixed filter whose taps are 0 next to NaN, as in Sobel filters.
#[test]
fn a_tap_of_zero_reads_nothing() {
    let filters = Tensor::new(
        &[
            [[0f32, 0., 0.], [0., 1., 0.], [0., 0., 0.]],
            [[-1., 0., 1.], [-2., 0., 2.], [-1., 0., 1.]],
        ],
        &device(),
    )
    .unwrap();
    for padding in [Padding::Zero, Padding::Circular] {
        let layout = CellLayout {
            input: 1,
            output: 2,
            hidden: 0,
        };
        let mut p = ProgramBuilder::new(layout);
        let x = p.slice(p.cells(), 0, 1).unwrap();
        let update = p.stencil(x, &filters, padding).unwrap();
        let program = p.finish(update).unwrap();
        for odd in [NAN, INF] {
            let mut cells = vec![0.5f32; 3 * 49];
            cells[3 * 24] = odd;
            let cells = Var::from_tensor(&Tensor::from_vec(cells, (1, 7, 7, 3), &device()).unwrap()).unwrap();
            let [_, engine, plain] = ways(1).map(|rollout| {
                let next = rollout.run(&program, &cells).unwrap();
                let grads = next.sum_all().unwrap().backward().unwrap();
                (values(&next), values(grads.get(&cells).unwrap()))
            });
            for i in 0..3 * 49 {
                assert!(alike(engine.0[i], plain.0[i], 1e-6), "{padding:?} {odd} at {i}");
                assert!(
                    alike(engine.1[i], plain.1[i], 1e-6),
                    "{padding:?} {odd} at {i}, gradient"
                );
            }
            // Above the odd cell the second filter has a tap of 0, and the first reads the cell alone.
            assert!(
                engine.0[3 * 17..][1..3].iter().all(|x| x.is_finite()),
                "{:?}",
                &engine.0[51..54]
            );
        }
    }
}

/// States and, if `with_gradients`, gradients of cells.
fn compare(program: &Program, cells: &Tensor, rollout: &Rollout, what: &str) {
    let run = |rollout: Rollout| values(&rollout.run(program, cells).unwrap());
    let (engine, plain) = (run(rollout.clone()), run(rollout.clone().plain()));
    for (i, (&a, &b)) in engine.iter().zip(&plain).enumerate() {
        assert!(
            alike(a, b, 1e-3),
            "{what}: {a} by the engine, {b} by plain operations, at {i}"
        );
    }
}

#[test]
fn random_programs_hide_nothing() {
    let mut odd = 0;
    for seed in 0..300u64 {
        let layout = CellLayout {
            input: seed as usize % 3,
            output: 1 + seed as usize % 4,
            hidden: seed as usize / 4 % 5,
        };
        let (h, w) = (1 + seed as usize % 9, 1 + seed as usize / 9 % 11);
        let mut draw = Draw::new(seed, DType::F32);
        // In every second program all weights are finite.
        draw.spoiled = seed as u32 % 2 * 8;
        let program = draw.program(layout, (h, w), 1 + seed as usize % 9).unwrap();
        let cells = noise(&[2, h, w, layout.channels()], seed);
        let cells = if seed % 4 != 1 { spoil(&cells, seed) } else { cells };
        let rollout = Rollout::new(1 + seed as usize % 2)
            .key(Key::new(seed))
            .fire_rate(if seed % 3 == 0 { 0.6 } else { 1.0 })
            .training(seed % 5 == 0)
            .memory(Memory::Every(1));
        compare(&program, &cells, &rollout, &format!("seed {seed}"));
        let next = values(&rollout.run(&program, &cells).unwrap());
        odd += usize::from(next.iter().any(|x| !x.is_finite()) && next.iter().any(|x| x.is_finite()));
    }
    assert!(odd > 50, "{odd} programs had both");
}
