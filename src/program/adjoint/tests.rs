//! The adjoint against Candle's own gradients of the same program, and against differences of its values.

use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor, Var};

use super::super::test_programs::{Case, library, noise};
use super::super::{Function, Op, Program, ProgramBuilder};
use super::{Adjoint, AdjointOp, Pullback};
use crate::error::Result;
use crate::grid::{CellLayout, Padding, Step};
use crate::random::Key;

/// Allowed differences of f64 gradients, relative to the largest element of the same gradient or to 1e-3.
const EXACT: f64 = 1e-10;
/// Allowed errors of central differences.
const BY_DIFFERENCES: f64 = 1e-6;

/// Images, rows and columns of grids; on a torus of one or two cells a cell is its own neighbour several
/// times.
const GRIDS: [(usize, usize, usize); 6] = [(1, 1, 1), (2, 1, 2), (1, 2, 2), (2, 3, 1), (2, 4, 3), (1, 5, 6)];

fn step(training: bool) -> Step {
    Step {
        index: 3,
        training,
        key: Key::new(5),
        first_image: 2,
    }
}

fn wide_noise(shape: &[usize], seed: u64) -> Tensor {
    noise(shape, seed).to_dtype(DType::F64).unwrap()
}

/// Cells for a program, and a gradient of its update.
fn ends(program: &Program, (b, h, w): (usize, usize, usize)) -> (Tensor, Tensor) {
    let cells = wide_noise(&[b, h, w, program.layout.channels()], 11);
    (
        cells,
        wide_noise(&[b, h, w, program.layout.update_channels()], 12),
    )
}

fn numbers(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference, relative to the largest element of `b` or to 1e-3; infinite if there is a NaN.
fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let largest = |x: &Tensor| {
        numbers(x).into_iter().fold(0.0, |most: f64, x| match x.is_nan() {
            true => f64::INFINITY,
            false => most.max(x.abs()),
        })
    };
    largest(&(a - b).unwrap()) / largest(b).max(1e-3)
}

/// The gradients of cells and weights, as Candle finds them through the plain operations of the program.
fn autograd(program: &Program, cells: &Tensor, step: &Step, grad: &Tensor) -> Result<Pullback> {
    let mut program = program.clone().detached();
    let var = |x: &Tensor| Ok::<_, candle_core::Error>(Var::from_tensor(x)?.into_inner());
    program.params = program.params.iter().map(var).collect::<Result<_, _>>()?;
    let cells = var(cells)?;
    let loss = (program.evaluate(&cells, step)? * grad)?.sum_all()?;
    let grads = loss.backward()?;
    let of = |x: &Tensor| match grads.get(x) {
        Some(grad) => Ok(grad.clone()),
        None => x.zeros_like(),
    };
    Ok(Pullback {
        cells: of(&cells)?,
        weights: program.params.iter().map(of).collect::<Result<_, _>>()?,
    })
}

/// Asserts that the adjoint agrees with Candle; returns the largest difference.
fn assert_as_autograd(what: &str, program: &Program, size: (usize, usize, usize), training: bool) -> f64 {
    let (cells, grad) = ends(program, size);
    let step = step(training);
    let found = program.pullback(&cells, &step, &grad).unwrap();
    let expected = autograd(program, &cells, &step, &grad).unwrap();
    let mut worst = distance(&found.cells, &expected.cells);
    assert!(worst < EXACT, "{what} {size:?}, cells: {worst:e}\n{program:?}");
    for (n, (found, expected)) in found.weights.iter().zip(&expected.weights).enumerate() {
        let distance = distance(found, expected);
        let shape = expected.dims();
        assert!(
            distance < EXACT,
            "{what} {size:?}, weight {n} {shape:?}: {distance:e}\n{program:?}"
        );
        worst = worst.max(distance);
    }
    worst
}

/// Asserts that the gradients agree with central differences in random directions of the cells and of each
/// weight; returns the largest error.
fn assert_as_differences(what: &str, program: &Program, size: (usize, usize, usize)) -> f64 {
    let (cells, grad) = ends(program, size);
    let step = step(true);
    let program = program.clone().detached();
    let found = program.pullback(&cells, &step, &grad).unwrap();
    let loss = |program: &Program, cells: &Tensor| {
        let update = program.evaluate(cells, &step).unwrap();
        let loss = (update * &grad).unwrap().sum_all().unwrap();
        loss.to_scalar::<f64>().unwrap()
    };
    let half = 1e-6;
    let mut worst: f64 = 0.0;
    let mut check = |name: String, x: &Tensor, gradient: &Tensor, at: &dyn Fn(&Tensor) -> f64| {
        let direction = wide_noise(x.dims(), 13);
        let along = |by: f64| at(&(x + (&direction * by).unwrap()).unwrap());
        let expected = (along(half) - along(-half)) / (2.0 * half);
        let terms = numbers(&(gradient * &direction).unwrap());
        let (found, scale) = (
            terms.iter().sum::<f64>(),
            terms.iter().map(|x| x.abs()).sum::<f64>(),
        );
        let error = (found - expected).abs() / scale.max(1e-1);
        assert!(
            error < BY_DIFFERENCES,
            "{what} {size:?}, {name}: {found} for {expected}\n{program:?}"
        );
        worst = worst.max(error);
    };
    check("cells".into(), &cells, &found.cells, &|cells| {
        loss(&program, cells)
    });
    for (n, gradient) in found.weights.iter().enumerate() {
        let at = |weight: &Tensor| {
            let mut moved = program.clone();
            moved.params[n] = weight.clone();
            loss(&moved, &cells)
        };
        check(format!("weight {n}"), &program.params[n], gradient, &at);
    }
    worst
}

fn random_cases() -> impl Iterator<Item = (Case, (usize, usize, usize))> {
    let sizes = GRIDS.into_iter().cycle();
    (0..300)
        .zip(sizes)
        .map(|(seed, size)| (Case::random(seed, (size.1, size.2), DType::F64), size))
}

#[test]
fn random_programs_have_the_gradients_of_autograd() {
    let of = |(case, size): (Case, _)| assert_as_autograd(&case.what, &case.program, size, true);
    let worst = random_cases().map(of).fold(0.0, f64::max);
    println!("largest difference: {worst:e}");
}

#[test]
fn random_programs_have_the_slopes_of_their_values() {
    let of = |(case, size): (Case, _)| assert_as_differences(&case.what, &case.program, size);
    let worst = random_cases().map(of).fold(0.0, f64::max);
    println!("largest difference: {worst:e}");
}

#[test]
fn transitions_have_the_gradients_of_autograd_and_the_slopes_of_their_values() {
    let (mut exact, mut differences) = (0.0f64, 0.0f64);
    for size in GRIDS {
        for Case { what, program, .. } in library((size.1, size.2), DType::F64) {
            for training in [false, true] {
                exact = exact.max(assert_as_autograd(&what, &program, size, training));
            }
            differences = differences.max(assert_as_differences(&what, &program, size));
        }
    }
    println!("largest differences: {exact:e} from autograd, {differences:e} from differences");
}

/// Random programs have no quantised values, on which engines may disagree, and no neighbourhoods of
/// neighbourhoods.
#[test]
fn what_random_programs_lack_has_a_gradient_too() {
    let layout = CellLayout {
        input: 1,
        output: 2,
        hidden: 0,
    };
    for padding in [Padding::Zero, Padding::Circular] {
        let mut p = ProgramBuilder::new(layout);
        let rounded = p.map(p.cells(), Function::quantise(-0.5, 0.7)).unwrap();
        let near = p.neighbourhood(rounded, padding).unwrap();
        let far = p.neighbourhood(near, padding).unwrap();
        let square = p.mul(far, far).unwrap();
        let once = p.sum_taps(square, padding).unwrap();
        let twice = p.sum_taps(once, padding).unwrap();
        // One value as query, key and value, and parts that overlap.
        let attended = p.attention(twice, twice, twice, 3, padding).unwrap();
        let (left, right) = (p.slice(attended, 0, 2).unwrap(), p.slice(attended, 1, 2).unwrap());
        let update = p.mul(left, right).unwrap();
        let program = p.finish(update).unwrap();
        for size in GRIDS {
            assert_as_autograd("rounded", &program, size, true);
        }
    }
}

/// One that is added does not compile until it is here; then it goes into the list below, and random programs
/// have to draw it.
fn name(op: &Op) -> &'static str {
    match op {
        Op::Cells => "Cells",
        Op::Constant(_) => "Constant",
        Op::Slice { .. } => "Slice",
        Op::Concat(_) => "Concat",
        Op::Linear { .. } => "Linear",
        Op::Neighbourhood { .. } => "Neighbourhood",
        Op::SumTaps { .. } => "SumTaps",
        Op::Depthwise { .. } => "Depthwise",
        Op::LayerNorm { .. } => "LayerNorm",
        Op::RmsNorm { .. } => "RmsNorm",
        Op::InverseRms { .. } => "InverseRms",
        Op::Map { .. } => "Map",
        Op::Add { .. } => "Add",
        Op::Mul { .. } => "Mul",
        Op::Affine { .. } => "Affine",
        Op::Attention(_) => "Attention",
        Op::Dropout { .. } => "Dropout",
    }
}

#[test]
fn random_programs_have_every_operation() {
    let operations = "Cells Constant Slice Concat Linear Neighbourhood SumTaps Depthwise LayerNorm RmsNorm \
        InverseRms Map Add Mul Affine Attention Dropout";
    let gradients = "Seed Embed Slope Dot LinearTransposed MirroredTaps MirroredNeighbourhood \
        MirroredDepthwise Normalised NormalisedGradient InverseRmsGradient Shares ProductGradients \
        WeightedSum WeightedGather Outer Channels Products Taps Images";
    let operations: BTreeSet<&str> = operations.split(' ').collect();
    let (mut drawn, mut made) = (BTreeSet::new(), BTreeSet::new());
    for (Case { program, .. }, _) in random_cases() {
        drawn.extend(program.nodes.iter().map(|node| name(&node.op)));
        for node in Adjoint::new(&program, true, &vec![true; program.params.len()]).nodes {
            let name = format!("{:?}", node.op);
            let words = name.split(|letter: char| !letter.is_alphanumeric());
            made.extend(words.map(str::to_string));
        }
    }
    assert_eq!(drawn, operations);
    let lacking: Vec<&str> = gradients
        .split(' ')
        .filter(|&name| !made.contains(name))
        .collect();
    assert!(lacking.is_empty(), "{lacking:?}");
}

/// If only some gradients are wanted, they are the same as if all were, and nothing else is computed.
#[test]
fn only_what_is_wanted_is_made() {
    for (seed, (Case { what, program, .. }, size)) in random_cases().take(100).enumerate() {
        let (cells, grad) = ends(&program, size);
        let (program, step) = (program.detached(), step(true));
        let all = program.pullback(&cells, &step, &grad).unwrap();
        let wants: Vec<bool> = (0..program.params.len()).map(|n| (n + seed) % 3 == 0).collect();
        for (of_cells, params) in [
            (true, vec![false; wants.len()]),
            (false, wants.clone()),
            (true, wants),
        ] {
            let adjoint = Adjoint::new(&program, of_cells, &params);
            let given = super::reference::Given {
                program: &program,
                cells: &cells,
                step: &step,
                seed: &grad,
            };
            let some = adjoint.evaluate(&given).unwrap();
            let expected = match of_cells {
                true => all.cells.clone(),
                false => all.cells.zeros_like().unwrap(),
            };
            assert_eq!(numbers(&some.cells), numbers(&expected), "{what}, cells");
            for (n, (some, all)) in some.weights.iter().zip(&all.weights).enumerate() {
                let all = if params[n] {
                    all.clone()
                } else {
                    all.zeros_like().unwrap()
                };
                assert_eq!(numbers(some), numbers(&all), "{what}, weight {n}");
            }
            assert_all_read(&what, &program, &adjoint);
        }
        let nothing = Adjoint::new(&program, false, &vec![false; program.params.len()]);
        assert_eq!(nothing.nodes.len(), program.nodes.len(), "{what}");
    }
}

/// Asserts that every node of the gradient is read, wanted, or a weight sum; that inputs come first and
/// weights exist.
fn assert_all_read(what: &str, program: &Program, adjoint: &Adjoint) {
    let mut read = vec![false; adjoint.nodes.len()];
    for (n, node) in adjoint.nodes.iter().enumerate() {
        for input in node.op.reads() {
            assert!(input.node < n, "{what}: node {n} reads {}", input.node);
            read[input.node] = true;
        }
        assert!(node.op.params().iter().all(|&param| param < program.params.len()));
    }
    for (n, node) in adjoint.nodes.iter().enumerate().skip(program.nodes.len()) {
        let is_sum = matches!(node.op, AdjointOp::Weight { .. });
        assert!(
            read[n] || is_sum || adjoint.cells == Some(n),
            "{what}: nobody reads {n}"
        );
        assert_eq!(node.width == 0, is_sum, "{what}: node {n}");
    }
}

#[test]
fn a_gradient_of_another_shape_is_an_error() {
    let layout = CellLayout {
        input: 1,
        output: 1,
        hidden: 1,
    };
    let mut p = ProgramBuilder::new(layout);
    let update = p.slice(p.cells(), 1, 2).unwrap();
    let program = p.finish(update).unwrap();
    let zeros = |channels| Tensor::zeros((2, 3, 4, channels), DType::F32, &Device::Cpu).unwrap();
    let pullback = |cells, grad| program.pullback(&zeros(cells), &step(false), &zeros(grad));
    assert!(pullback(3, 2).is_ok());
    let error = pullback(3, 3).unwrap_err().to_string();
    assert_eq!(error, "`grad` has shape [2, 3, 4, 3], expected [2, 3, 4, 2]");
    let error = pullback(2, 2).unwrap_err().to_string();
    assert!(error.starts_with("`cells` has shape [2, 3, 4, 2]"), "{error}");
}
