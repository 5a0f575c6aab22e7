//! RMS norm, which no transition of the library uses.

use candle_core::{DType, Tensor};
use lnca::random::Key;
use lnca::{CellLayout, Memory, Program, ProgramBuilder, Rollout};

use crate::agreement::{agree, bits};
use crate::device::device;
use crate::programs::{Draw, noise};

/// A layer, its RMS norm, and a layer of that.
fn normed(width: usize, draw: &mut Draw) -> Program {
    let layout = CellLayout {
        input: 1,
        output: 2,
        hidden: 1,
    };
    let mut p = ProgramBuilder::new(layout);
    let x = p.linear(p.cells(), &draw.weight(&[width, 4]), None).unwrap();
    let normal = p.rms_norm(x, &draw.weight(&[width]), 0.1).unwrap();
    let update = p.linear(normal, &draw.weight(&[3, width]), None).unwrap();
    p.finish(update).unwrap()
}

/// Lanes by the block and fewer, of one channel and of many, on grids of one band and of several.
#[test]
fn rms_norms_run_alike() {
    for width in [1, 7, 64] {
        for (size, rate) in [
            ((1, 1, 1), 1.0),
            ((2, 8, 8), 1.0),
            ((3, 7, 5), 0.5),
            ((1, 300, 60), 0.6),
        ] {
            let mut draw = Draw::new(width as u64, DType::F32);
            let program = normed(width, &mut draw);
            let rollout = Rollout::new(3).fire_rate(rate).key(Key::new(2));
            agree(&program, &draw.vars, size, &rollout);
        }
    }
}

/// Cells that are 0, infinite or not a number, and such as overflow when they are squared.
#[test]
fn an_rms_norm_hides_nothing() {
    let layout = CellLayout {
        input: 0,
        output: 2,
        hidden: 0,
    };
    let mut p = ProgramBuilder::new(layout);
    let update = p.rms_norm(p.cells(), &noise(&[2], 1), 0.0).unwrap();
    let program = p.finish(update).unwrap();
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let cells = [[0.0, 0.0], [nan, 1.0], [inf, 1.0], [1e30, -1e30], [1e-30, 0.0]];
    let cells = Tensor::new(&[[cells]], &device()).unwrap();
    let rollout = Rollout::new(1).memory(Memory::Nothing);
    let fused = bits(&rollout.run(&program, &cells).unwrap());
    let plain = bits(&rollout.plain().run(&program, &cells).unwrap());
    for (n, (fused, plain)) in fused.into_iter().zip(plain).enumerate() {
        let [fused, plain] = [fused, plain].map(f32::from_bits);
        let alike = fused.is_nan() && plain.is_nan() || fused == plain;
        assert!(alike, "channel {n}: {fused} for {plain}");
    }
}
