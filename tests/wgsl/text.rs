//! The text of shaders, without a GPU.

use candle_core::DType;
use lnca::{AliveMask, CellLayout, Function, Padding, Program, ProgramBuilder, Shader};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage};

use crate::programs::{Case, library, noise};

/// An error unless the shader is valid and keeps within WebGPU's default limits.
fn check(what: &str, program: &Program) -> Shader {
    let shader = Shader::new(program);
    let module = naga::front::wgsl::parse_str(&shader.text)
        .unwrap_or_else(|error| panic!("{what}: {}\n{}", error.emit_to_string(&shader.text), shader.text));
    let validated = Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(&module);
    validated.unwrap_or_else(|error| panic!("{what}: {}", error.emit_to_string(&shader.text)));
    let names: Vec<&str> = module.entry_points.iter().map(|entry| &*entry.name).collect();
    assert_eq!(names, shader.kernels, "{what}");
    let stored = |space: AddressSpace| matches!(space, AddressSpace::Storage { .. });
    let bindings = module
        .global_variables
        .iter()
        .filter(|(_, global)| stored(global.space));
    assert!(bindings.count() <= 8, "{what}: storage buffers of a stage");
    for entry in &module.entry_points {
        assert_eq!(entry.stage, ShaderStage::Compute);
        assert!(entry.workgroup_size.iter().product::<u32>() <= 256, "{what}");
        let locals = entry.function.local_variables.iter();
        let bytes: u32 = locals.map(|(_, local)| bytes(&module, local.ty)).sum();
        assert!(
            bytes <= 8192,
            "{what}: {bytes} bytes of variables in {}",
            entry.name
        );
    }
    shader
}

fn bytes(module: &Module, ty: naga::Handle<naga::Type>) -> u32 {
    module.types[ty].inner.size(module.to_ctx())
}

#[test]
fn shaders_of_all_transitions_are_valid() {
    for case in library((5, 6), DType::F32) {
        let shader = check(&case.what, &case.program);
        let stores = ["nafca", "vitca", "gated"]
            .iter()
            .any(|name| case.what.starts_with(name));
        assert_eq!(shader.scratch > 0, stores, "{}: scratch", case.what);
        assert!(!shader.buries);
    }
}

#[test]
fn shaders_of_random_programs_are_valid() {
    for seed in 0..400 {
        let case = Case::random(seed, (4, 3), DType::F32);
        check(&case.what, &case.program);
        let rule = AliveMask {
            channel: 0,
            threshold: f64::NEG_INFINITY,
            padding: Padding::Circular,
        };
        let mortal = case.program.with_alive_mask(Some(rule)).unwrap();
        let shader = check(&case.what, &mortal);
        assert_eq!(shader.kernels.last().map(String::as_str), Some("bury"));
    }
}

/// A layer of `widths` after one another, each through a ReLU.
fn layers(widths: &[usize]) -> Program {
    let layout = CellLayout {
        input: 0,
        output: 3,
        hidden: 1,
    };
    let mut p = ProgramBuilder::new(layout);
    let mut x = p.cells();
    for (n, &width) in widths.iter().enumerate() {
        x = p.linear(x, &noise(&[width, x.width()], n as u64), None).unwrap();
        x = p.map(x, Function::Relu).unwrap();
    }
    let update = p.linear(x, &noise(&[4, x.width()], 99), None).unwrap();
    p.finish(update).unwrap()
}

#[test]
fn a_hidden_layer_that_only_feeds_the_next_is_not_stored() {
    // Its 5000 channels are more than an invocation has memory for, and need no scratch.
    let shader = check("one hidden layer", &layers(&[5000]));
    assert_eq!(shader.scratch, 0);
    assert!(!shader.text.contains("var values"), "nothing is stored");
    // Of two, one is stored, or the first would be computed for each channel of the second.
    let shader = check("two hidden layers", &layers(&[40, 50]));
    assert!(
        shader.text.contains("var values: array<f32, 5"),
        "{}",
        shader.text
    );
    // What does not fit is put in scratch.
    let shader = check("wide layers", &layers(&[3000, 3000, 3000]));
    assert!(shader.scratch >= 3000);
}

#[test]
fn grids_keep_within_the_limits_of_dispatches_and_bindings() {
    assert_eq!(Shader::groups(1), [1, 1]);
    assert_eq!(Shader::groups(64 * 65_535), [65_535, 1]);
    assert_eq!(Shader::groups(64 * 65_535 + 1), [65_535, 2]);
    let shader = Shader::new(&layers(&[8]));
    assert!(shader.check(8 << 20, 4).is_ok());
    let error = shader.check((8 << 20) + 1, 4).unwrap_err().to_string();
    assert!(error.contains("8388608"), "{error}");
    assert!(shader.check(usize::MAX, 4).is_err());
}
