//! The transitions of the library on the engine and without it.

use candle_core::{DType, Tensor, Var};
use lnca::random::Key;
use lnca::transition::{Lattice, Perception, Quantisation, polar_directions};
use lnca::{
    AliveMask, Damage, Function, Gated, GatedConfig, Growing, GrowingConfig, Memory, Nafca, NafcaConfig,
    Padding, Precision, Result, Rollout, Texture, TextureConfig, TransitionFn, Vitca, VitcaConfig, Weights,
};

use crate::device::device;
use crate::programs::noise;

fn values(x: &Tensor) -> Vec<f64> {
    let x = x.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    x.to_vec1().unwrap()
}

/// The largest value of a tensor.
pub fn largest(x: &Tensor) -> f64 {
    values(x).into_iter().fold(0.0, |m, x| m.max(x.abs()))
}

/// The largest difference of two tensors in units of the largest value of the second, or of `least`.
pub fn distance(a: &Tensor, b: &Tensor, least: f64) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let scale = largest(b).max(least);
    let (a, b) = (values(a), values(b));
    let difference = |(a, b): (&f64, &f64)| if a == b { 0.0 } else { (a - b).abs() };
    a.iter()
        .zip(&b)
        .map(difference)
        .fold(0.0, |m: f64, d| if d.is_nan() { d } else { m.max(d) })
        / scale
}

/// The last cells, and the gradients of a random linear loss with respect to the first cells and all
/// variables.
pub fn everything<T: TransitionFn + Clone + 'static>(
    transition: &T,
    vars: &[Tensor],
    cells: &Tensor,
    rollout: &Rollout,
) -> Result<Vec<Tensor>> {
    let cells = Var::from_tensor(cells)?;
    let last = rollout.run(transition, cells.as_tensor())?;
    let loss = (&last * noise(last.dims(), 99))?.sum_all()?;
    let grads = loss.backward()?;
    let mut all = vec![last.detach()];
    for var in [cells.as_tensor()].into_iter().chain(vars) {
        all.push(match grads.get(var) {
            Some(grad) => grad.clone(),
            None => var.zeros_like()?,
        });
    }
    Ok(all)
}

/// Moves weights away from initial values that are symmetric or 0.
pub fn shaken(weights: &Weights, by: f64) -> Vec<Tensor> {
    let mut vars = vec![];
    for (i, (_, var)) in weights.vars().into_iter().enumerate() {
        let shaken = (var.as_tensor() + (noise(var.dims(), i as u64) * by).unwrap()).unwrap();
        var.set(&shaken).unwrap();
        vars.push(var.as_tensor().clone());
    }
    vars
}

pub fn agree<T: TransitionFn + Clone + 'static>(
    transition: &T,
    vars: &[Tensor],
    (b, h, w): (usize, usize, usize),
    rollout: &Rollout,
) {
    let cells = noise(&[b, h, w, transition.layout().channels()], 5);
    agree_from(transition, vars, &cells, rollout);
}

/// Asserts the same from given cells.
fn agree_from<T: TransitionFn + Clone + 'static>(
    transition: &T,
    vars: &[Tensor],
    cells: &Tensor,
    rollout: &Rollout,
) {
    let shape = cells.dims();
    let fused = everything(transition, vars, cells, rollout).unwrap();
    let plain = everything(transition, vars, cells, &rollout.clone().plain()).unwrap();
    let limits = [1e-5].into_iter().chain(std::iter::repeat(1e-4));
    // A gradient that nearly cancels is only rounding.
    let least = 1e-3 * plain[1..].iter().map(largest).fold(1e-3, f64::max);
    for (i, ((fused, plain), limit)) in fused.iter().zip(&plain).zip(limits).enumerate() {
        let distance = distance(fused, plain, least);
        assert!(
            distance < limit,
            "{shape:?}, tensor {i} {:?}: {distance:e}",
            plain.dims()
        );
    }
    // Without a gradient, and on one thread or several, the bits are the same.
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| everything(transition, vars, cells, rollout).unwrap())
    };
    for threads in [1, 3] {
        for (i, (a, b)) in fused.iter().zip(&run(threads)).enumerate() {
            assert_eq!(bits(a), bits(b), "{shape:?}, tensor {i} on {threads} threads");
        }
    }
    let alone = rollout
        .clone()
        .memory(Memory::Nothing)
        .run(transition, cells)
        .unwrap();
    assert!(distance(&alone, &fused[0], 1e-3) < 1e-6);
}

pub fn bits(x: &Tensor) -> Vec<u32> {
    let values: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// Sizes that are no multiple of anything, some cut into bands.
const SHAPES: [(usize, usize, usize); 5] = [(3, 8, 8), (1, 1, 1), (2, 5, 3), (1, 67, 19), (5, 4, 2)];

#[test]
fn growing() {
    for padding in [Padding::Zero, Padding::Circular] {
        let config = GrowingConfig {
            padding,
            angle: 0.3,
            ..GrowingConfig::default()
        };
        let weights = Weights::new(1, DType::F32, &device());
        let growing = Growing::new(config, weights.builder()).unwrap();
        let vars = shaken(&weights, 0.05);
        for shape in SHAPES {
            agree(
                &growing,
                &vars,
                shape,
                &Rollout::new(6).fire_rate(0.5).key(Key::new(3)),
            );
        }
    }
}

#[test]
fn gated() {
    for padding in [Padding::Zero, Padding::Circular] {
        let config = GatedConfig {
            padding,
            gate_dim: 13,
            ..GatedConfig::default()
        };
        let weights = Weights::new(1, DType::F32, &device());
        let gated = Gated::new(config, weights.builder()).unwrap();
        let vars = shaken(&weights, 0.05);
        for (shape, fire_rate) in SHAPES.into_iter().zip([1.0, 0.5, 1.0, 0.5, 0.0]) {
            let rollout = Rollout::new(4).fire_rate(fire_rate).key(Key::new(3));
            agree(&gated, &vars, shape, &rollout);
        }
    }
}

#[test]
fn nafca() {
    for perception in [Perception::Grouped, Perception::Plain] {
        for padding in [Padding::Zero, Padding::Circular] {
            let config = NafcaConfig {
                padding,
                perception,
                dropout: 0.1,
                ..NafcaConfig::default()
            };
            let weights = Weights::new(1, DType::F32, &device());
            let nafca = Nafca::new(config, weights.builder()).unwrap();
            let vars = shaken(&weights, 0.05);
            for (shape, fire_rate) in SHAPES.into_iter().zip([1.0, 0.5, 1.0, 0.5, 0.0]) {
                let rollout = Rollout::new(4).fire_rate(fire_rate).key(Key::new(3));
                agree(&nafca, &vars, shape, &rollout.training(true));
            }
        }
    }
}

#[test]
fn vitca() {
    for padding in [Padding::Zero, Padding::Circular] {
        let config = VitcaConfig {
            padding,
            depth: 2,
            embed_dim: 24,
            heads: 3,
            mlp_dim: 20,
            ..VitcaConfig::default()
        };
        let weights = Weights::new(1, DType::F32, &device());
        let vitca = Vitca::new(config, weights.builder()).unwrap();
        let vars = shaken(&weights, 0.05);
        for (shape, fire_rate) in SHAPES.into_iter().zip([1.0, 0.5, 1.0, 0.5, 0.5]) {
            let rollout = Rollout::new(4).fire_rate(fire_rate).key(Key::new(3));
            agree(&vitca, &vars, shape, &rollout.memory(Memory::Every(3)));
        }
    }
}

#[test]
fn every_step_of_a_trajectory_has_a_gradient() {
    let weights = Weights::new(1, DType::F32, &device());
    let growing = Growing::new(GrowingConfig::default(), weights.builder()).unwrap();
    let vars = shaken(&weights, 0.05);
    let cells = noise(&[2, 9, 9, 16], 5);
    let gradients = |rollout: Rollout| {
        let states = rollout.trajectory(&growing, &cells).unwrap();
        let losses: Vec<Tensor> = states
            .iter()
            .map(|s| s.sqr().unwrap().mean_all().unwrap())
            .collect();
        let grads = Tensor::stack(&losses, 0)
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        vars.iter()
            .map(|var| grads.get(var).unwrap().clone())
            .collect::<Vec<_>>()
    };
    let rollout = Rollout::new(5).fire_rate(0.5);
    let fused = gradients(rollout.clone());
    for (fused, plain) in fused.iter().zip(&gradients(rollout.plain())) {
        assert!(distance(fused, plain, 1e-6) < 1e-4);
    }
}

#[test]
fn given_masks_are_followed() {
    let weights = Weights::new(1, DType::F32, &device());
    let nafca = Nafca::new(NafcaConfig::default(), weights.builder()).unwrap();
    let vars = shaken(&weights, 0.05);
    let masks = (0..3u64).map(|step| {
        noise(&[3, 8, 8, 1], step)
            .gt(0.2)
            .unwrap()
            .to_dtype(DType::F32)
            .unwrap()
    });
    agree(&nafca, &vars, (3, 8, 8), &Rollout::new(3).masks(masks.collect()));
}

#[test]
fn memory_policies_change_no_bit() {
    let weights = Weights::new(1, DType::F32, &device());
    let growing = Growing::new(GrowingConfig::default(), weights.builder()).unwrap();
    let vars = shaken(&weights, 0.05);
    let cells = noise(&[2, 9, 9, 16], 5);
    let state = 2 * 9 * 9 * 16 * 4;
    let run = |memory: Memory| {
        let rollout = Rollout::new(7).fire_rate(0.5).key(Key::new(8)).memory(memory);
        everything(&growing, &vars, &cells, &rollout).unwrap()
    };
    let all = run(Memory::Every(1));
    let policies = [
        Memory::Every(3),
        Memory::Every(100),
        Memory::Budget(0),
        Memory::Budget(5 * state),
    ];
    for memory in policies {
        for (a, b) in all.iter().zip(&run(memory)) {
            assert_eq!(bits(a), bits(b), "{memory:?}");
        }
    }
}

/// Where every cell fires, values of the last steps are stored for the backward pass: of all steps on small
/// grids, of some on larger ones.
#[test]
fn values_stored_for_the_backward_pass_change_no_bit() {
    let weights = Weights::new(1, DType::F32, &device());
    let vb = weights.builder();
    let nafca = Nafca::new(NafcaConfig::default(), vb.pp("nafca")).unwrap();
    let vitca = Vitca::new(VitcaConfig::latent(), vb.pp("vitca")).unwrap();
    let vars = shaken(&weights, 0.05);
    for (size, steps) in [((3, 8, 8), 5), ((4, 24, 24), 8)] {
        let cells = noise(&[size.0, size.1, size.2, 64], 5);
        let rollout = Rollout::new(steps).key(Key::new(8)).training(true);
        let again = rollout.clone().memory(Memory::Every(2));
        let pairs = [
            [&rollout, &again].map(|r| everything(&nafca, &vars, &cells, r).unwrap()),
            [&rollout, &again].map(|r| everything(&vitca, &vars, &cells, r).unwrap()),
        ];
        for [kept, again] in pairs {
            for (a, b) in kept.iter().zip(&again) {
                assert_eq!(bits(a), bits(b), "{size:?}");
            }
        }
        let last = rollout.run(&nafca, &cells).unwrap();
        let [first, second] = [(); 2].map(|()| last.sum_all().unwrap().backward().unwrap());
        for var in vars.iter().filter(|var| first.get(var).is_some()) {
            let [a, b] = [&first, &second].map(|grads| bits(grads.get(var).unwrap()));
            assert_eq!(a, b, "{size:?}, twice");
        }
    }
}

/// Values of cells that did not fire are cached from step to step, and their gradients accumulate meanwhile:
/// on grids of one band and of several, under every memory policy, on a torus too.
#[test]
fn cached_values_are_those_of_every_step() {
    for (grid, depth, padding) in [
        ((6, 5), 1, Padding::Zero),
        ((60, 20), 1, Padding::Zero),
        ((60, 20), 1, Padding::Circular),
        // Bands would have a single row here, but must be larger than their halos.
        ((3, 130), 2, Padding::Circular),
    ] {
        let weights = Weights::new(1, DType::F32, &device());
        let config = VitcaConfig {
            padding,
            depth,
            ..VitcaConfig::default()
        };
        let vitca = Vitca::new(config, weights.builder()).unwrap();
        let vars = shaken(&weights, 0.05);
        let cells = noise(&[1, grid.0, grid.1, 38], 5);
        let rollout = Rollout::new(5).fire_rate(0.3).key(Key::new(8));
        let run = |rollout: &Rollout| everything(&vitca, &vars, &cells, rollout).unwrap();
        let all = run(&rollout);
        for memory in [Memory::Every(2), Memory::Every(100)] {
            for (a, b) in all.iter().zip(&run(&rollout.clone().memory(memory))) {
                assert_eq!(bits(a), bits(b), "{memory:?}");
            }
        }
        for (a, b) in all.iter().zip(&run(&rollout.plain())) {
            assert!(distance(a, b, 1e-3) < 1e-4, "{grid:?} {padding:?}");
        }
    }
}

#[test]
fn texture() {
    let variants = [
        TextureConfig::default(),
        TextureConfig {
            lattice: Lattice::Hexagonal,
            padding: Padding::Zero,
            ..TextureConfig::default()
        },
        TextureConfig {
            quantisation: Quantisation::Weights,
            ..TextureConfig::released()
        },
    ];
    for config in variants {
        let weights = Weights::new(1, DType::F32, &device());
        let texture = Texture::new(config, weights.builder()).unwrap();
        let vars = shaken(&weights, 0.05);
        for shape in SHAPES {
            let rollout = Rollout::new(4).fire_rate(0.5).key(Key::new(3));
            agree(&texture, &vars, shape, &rollout);
        }
        let field = polar_directions(9, 7, &noise(&[1], 0)).unwrap();
        let rollout = Rollout::new(3).fire_rate(0.5);
        agree(&texture.directed(&field).unwrap(), &vars, (2, 9, 7), &rollout);
    }
}

#[test]
fn quantised_values() {
    // One step, from a quantised state: rounding may differ where a sum lies on a boundary, so nearly all
    // values must agree, and the others be one quantisation step away.
    let config = TextureConfig {
        quantisation: Quantisation::Everything,
        ..TextureConfig::released()
    };
    let weights = Weights::new(1, DType::F32, &device());
    let texture = Texture::new(config, weights.builder()).unwrap();
    shaken(&weights, 0.1);
    let cells = Function::quantise(-2.0, 2.0)
        .of(&noise(&[2, 19, 13, 12], 5))
        .unwrap();
    let rollout = Rollout::new(1).fire_rate(0.5);
    let fused = rollout.run(&texture, &cells).unwrap();
    let plain = rollout.plain().run(&texture, &cells).unwrap();
    let apart = (fused - plain)
        .unwrap()
        .abs()
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    let moved = apart.iter().filter(|&&d| d > 1e-4).count();
    assert!(moved * 200 < apart.len(), "{moved} of {}", apart.len());
    assert!(apart.iter().all(|&d| d < 1.01 * 2.0 * 4.0 / 255.0));
}

#[test]
fn cells_of_different_fire_rates() {
    let weights = Weights::new(1, DType::F32, &device());
    let growing = Growing::new(GrowingConfig::default(), weights.builder()).unwrap();
    let vars = shaken(&weights, 0.05);
    let rates = noise(&[11, 6], 3).abs().unwrap().clamp(0.0, 1.0).unwrap();
    let rollout = Rollout::new(5).key(Key::new(4)).fire_rates(&rates).unwrap();
    agree(&growing, &vars, (3, 11, 6), &rollout);
}

#[test]
fn few_living_cells_in_a_large_grid() {
    // Few rows are alive, at the border of a torus: bands in which nothing fires are copied.
    for (padding, top, left) in [
        (Padding::Zero, 20, 3),
        (Padding::Circular, 0, 0),
        (Padding::Circular, 39, 11),
    ] {
        let config = GrowingConfig {
            padding,
            alive: Some(AliveMask {
                channel: 3,
                threshold: 0.1,
                padding,
            }),
            ..GrowingConfig::default()
        };
        let weights = Weights::new(1, DType::F32, &device());
        let growing = Growing::new(config, weights.builder()).unwrap();
        let vars = shaken(&weights, 0.05);
        let one = Damage::Rectangle {
            rows: (top, top + 1),
            columns: (left, left + 1),
        };
        let rest = one.mask((40, 12), DType::F32, &device()).unwrap();
        let cells = (1.0 - rest)
            .unwrap()
            .broadcast_as((1, 40, 12, 16))
            .unwrap()
            .contiguous()
            .unwrap();
        for memory in [Memory::Every(1), Memory::Every(4)] {
            let rollout = Rollout::new(6).fire_rate(0.5).memory(memory);
            agree_from(&growing, &vars, &cells, &rollout);
        }
    }
}

#[test]
fn a_relu_at_zero_passes_no_gradient() {
    // Dead cells are exactly 0, and so are the outputs of a layer without bias on them.
    let layout = lnca::CellLayout {
        input: 0,
        output: 3,
        hidden: 2,
    };
    let var = Var::from_tensor(&noise(&[5, 5], 1)).unwrap();
    let mut p = lnca::ProgramBuilder::new(layout);
    let x = p.linear(p.cells(), var.as_tensor(), None).unwrap();
    let update = p.map(x, Function::Relu).unwrap();
    let program = p.finish(update).unwrap();
    let zeros = Tensor::zeros((1, 3, 4, 5), DType::F32, &device()).unwrap();
    let rollout = Rollout::new(2).fire_rate(0.7);
    agree_from(&program, &[var.as_tensor().clone()], &zeros, &rollout);
}

#[test]
fn an_update_may_be_what_is_there_already() {
    let layout = lnca::CellLayout {
        input: 1,
        output: 2,
        hidden: 1,
    };
    let table = Var::from_tensor(&noise(&[5, 7, 3], 2)).unwrap();
    type Build<'a> = &'a dyn Fn(&mut lnca::ProgramBuilder) -> lnca::program::Value;
    let of_cells: Build<'_> = &|p| p.slice(p.cells(), 1, 3).unwrap();
    let of_table: Build<'_> = &|p| p.constant(table.as_tensor()).unwrap();
    for build in [of_cells, of_table] {
        for fire_rate in [1.0, 0.5] {
            let mut p = lnca::ProgramBuilder::new(layout);
            let update = build(&mut p);
            let program = p.finish(update).unwrap();
            let rollout = Rollout::new(3).fire_rate(fire_rate).key(Key::new(3));
            agree(&program, &[table.as_tensor().clone()], (3, 5, 7), &rollout);
        }
    }
}

/// Cells in f32 run on the engine even if a table is in f64, as positional tables are.
#[test]
fn constants_of_any_type_run_on_the_engine() {
    let layout = lnca::CellLayout {
        input: 0,
        output: 2,
        hidden: 1,
    };
    let table = noise(&[4, 4, 3], 2);
    let last = |table: &Tensor| {
        let mut p = lnca::ProgramBuilder::new(layout);
        let table = p.constant(table).unwrap();
        let sum = p.add(p.cells(), table).unwrap();
        let update = p.map(sum, Function::Tanh).unwrap();
        let cells = noise(&[2, 4, 4, 3], 3);
        Rollout::new(4).run(&p.finish(update).unwrap(), &cells).unwrap()
    };
    let wide = table.to_dtype(DType::F64).unwrap();
    // The engine's own tanh differs from Candle's in the last bits.
    assert_eq!(bits(&last(&table)), bits(&last(&wide)));
}

/// Factors keep eight significant bits, so results differ in the second digit or later.
#[test]
fn in_bf16() {
    fn close<T: TransitionFn + Clone + 'static>(transition: &T, weights: &Weights, padding: Padding) {
        let vars = shaken(weights, 0.05);
        for shape in SHAPES {
            let cells = noise(&[shape.0, shape.1, shape.2, transition.layout().channels()], 5);
            let rollout = Rollout::new(4).fire_rate(0.5).key(Key::new(3));
            let exact = everything(transition, &vars, &cells, &rollout).unwrap();
            let rounded = rollout.clone().precision(Precision::Bf16);
            let rounded = everything(transition, &vars, &cells, &rounded).unwrap();
            let least = 1e-2 * exact[1..].iter().map(largest).fold(1e-3, f64::max);
            let mut differs = false;
            for (i, (rounded, exact)) in rounded.iter().zip(&exact).enumerate() {
                let distance = distance(rounded, exact, least);
                assert!(distance < 0.05, "{padding:?} {shape:?}, tensor {i}: {distance:e}");
                differs |= distance > 1e-5;
            }
            assert!(differs, "{padding:?} {shape:?}: nothing was rounded");
        }
    }
    let new = || Weights::new(1, DType::F32, &device());
    for padding in [Padding::Zero, Padding::Circular] {
        let weights = new();
        let config = NafcaConfig {
            padding,
            ..NafcaConfig::default()
        };
        close(&Nafca::new(config, weights.builder()).unwrap(), &weights, padding);
        let weights = new();
        let config = VitcaConfig {
            padding,
            embed_dim: 24,
            heads: 3,
            mlp_dim: 19,
            ..VitcaConfig::default()
        };
        close(&Vitca::new(config, weights.builder()).unwrap(), &weights, padding);
    }
}

#[test]
fn bf16_hides_no_nan() {
    let weights = Weights::new(1, DType::F32, &device());
    let nafca = Nafca::new(NafcaConfig::default(), weights.builder()).unwrap();
    let cells = noise(&[1, 4, 4, 64], 1);
    let bad = (&cells * f64::NAN).unwrap().narrow(1, 0, 1).unwrap();
    let cells = Tensor::cat(&[&bad, &cells.narrow(1, 1, 3).unwrap()], 1).unwrap();
    let rollout = Rollout::new(1).precision(Precision::Bf16);
    let last = rollout.run(&nafca, &cells).unwrap();
    assert!(values(&last).iter().any(|value| value.is_nan()));
}

#[test]
fn an_update_of_a_dead_cell_keeps_its_neighbour_alive() -> Result<()> {
    // The third cell is dead before the step, and stays 0; but its update is above the threshold, and so the
    // second cell, alive before beside the first, lives on.
    let layout = lnca::CellLayout {
        input: 0,
        output: 1,
        hidden: 0,
    };
    for padding in [Padding::Zero, Padding::Circular] {
        let mut p = lnca::ProgramBuilder::new(layout);
        let table = Tensor::new(&[[[-0.5f32], [0.05], [0.9], [0.0], [0.0]]], &device())?;
        let update = p.constant(&table)?;
        let rule = AliveMask {
            channel: 0,
            threshold: 0.1,
            padding,
        };
        let program = p.finish(update)?.with_alive_mask(Some(rule))?;
        let cells = Tensor::new(&[[[[0.5f32], [0.0], [0.0], [0.0], [0.0]]]], &device())?;
        let rollout = Rollout::new(1);
        let expected = [0.0, 0.05, 0.0, 0.0, 0.0];
        for rollout in [rollout.clone(), rollout.plain()] {
            let next = rollout.run(&program, &cells)?.flatten_all()?;
            assert_eq!(next.to_vec1::<f32>()?, expected, "{padding:?}");
        }
    }
    Ok(())
}
