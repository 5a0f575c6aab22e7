//! Exported pages: whole and self-contained, and right in plain JavaScript, which node runs.

use std::fs;
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use candle_core::{DType, Device, Tensor};
use lnca::io::{Page, Start, View};
use lnca::random::Key;
use lnca::{Pattern, Program, Rollout, TransitionFn};
use serde_json::{Value, json};

use crate::programs::{Case, library, noise};

fn shipped(name: &str) -> Pattern {
    let file = format!("{}/models/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    Pattern::load(file, &Device::Cpu).unwrap()
}

fn encoded(cells: &Tensor) -> String {
    let values: Vec<f32> = cells.flatten_all().unwrap().to_vec1().unwrap();
    let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    BASE64_STANDARD.encode(bytes)
}

/// What the interpreter is to compute, and with what.
struct Given {
    what: String,
    page: Page,
    program: Program,
    cells: Tensor,
    steps: usize,
    rate: f64,
}

/// The differences that node prints, one for each; `None` where there is no node.
fn interpreted(all: &[Given]) -> Option<Vec<f64>> {
    let folder = tempfile::tempdir().unwrap();
    let key = Key::new(7 << 33 | 5);
    let case = |(n, given): (usize, &Given)| -> Value {
        let file = folder.path().join(format!("{n}.html"));
        given.page.save(&file).unwrap();
        let rollout = Rollout::new(given.steps).fire_rate(given.rate).key(key);
        let expected = rollout.run(&given.program, &given.cells).unwrap();
        json!({
            "page": file, "cells": encoded(&given.cells), "expected": encoded(&expected),
            "steps": given.steps, "rate": given.rate, "key": [5, 14],
        })
    };
    let cases: Vec<Value> = all.iter().enumerate().map(case).collect();
    let list = folder.path().join("cases.json");
    fs::write(&list, json!(cases).to_string()).unwrap();
    let script = format!("{}/tests/wgsl/interpret.js", env!("CARGO_MANIFEST_DIR"));
    let Ok(run) = Command::new("node").arg(script).arg(&list).output() else {
        assert!(std::env::var("LNCA_WGPU").is_err(), "there is no node");
        eprintln!("skipped: there is no node");
        return None;
    };
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let said = String::from_utf8(run.stdout).unwrap();
    Some(said.lines().map(|line| line.parse().unwrap()).collect())
}

fn assert_interpreted(all: &[Given]) {
    let Some(found) = interpreted(all) else { return };
    assert_eq!(found.len(), all.len());
    for (Given { what, steps, .. }, error) in all.iter().zip(found) {
        assert!(error <= 1e-4, "{what}: {error} after {steps} steps");
    }
}

fn given(what: &str, program: &Program, size: (usize, usize), steps: usize) -> Given {
    let cells = noise(&[1, size.0, size.1, TransitionFn::layout(program).channels()], 3);
    Given {
        what: what.into(),
        page: Page::new(what, program.clone(), size).unwrap(),
        program: program.clone(),
        cells: (cells * 0.5).unwrap(),
        steps,
        rate: 0.6,
    }
}

#[test]
fn shipped_patterns_are_interpreted() {
    let mut all = vec![];
    for name in ["lizard", "fish", "bubbles", "weave"] {
        let (pattern, size) = (shipped(name), (13, 17));
        let cells = pattern.seed(1, size).unwrap();
        let rule = pattern.rule();
        let program = rule.program(&cells).unwrap().unwrap();
        all.push(Given {
            what: name.into(),
            page: pattern.page(name, size).unwrap(),
            program: program.with_alive_mask(rule.alive_mask()).unwrap(),
            cells,
            steps: 32,
            rate: 0.5,
        });
    }
    assert_interpreted(&all);
}

#[test]
fn all_operations_are_interpreted() {
    let size = (5, 4);
    let mut all = vec![];
    for case in library(size, DType::F32) {
        all.push(given(&case.what, &case.program, size, 3));
    }
    for seed in 0..150 {
        let case = Case::random(seed, size, DType::F32);
        all.push(given(&case.what, &case.program, size, 3));
    }
    assert_interpreted(&all);
}

#[test]
fn pages_hold_everything_and_reach_nothing() {
    for name in ["lizard", "bubbles"] {
        let pattern = shipped(name);
        let html = pattern
            .page("<A> & B", pattern.card().size)
            .unwrap()
            .html()
            .unwrap();
        assert!(html.len() < 150_000, "{} bytes", html.len());
        assert!(html.contains("<h1>&lt;A&gt; &amp; B</h1>") && !html.contains("{{"));
        assert!(html.contains("default-src 'none'"));
        for reaching in [
            "http:",
            "https:",
            "src=",
            "fetch(",
            "XMLHttpRequest",
            "WebSocket",
            "import(",
        ] {
            assert!(!html.contains(reaching), "{name}: {reaching}");
        }
    }
}

#[test]
fn shaders_are_written_alone() {
    let folder = tempfile::tempdir().unwrap();
    let pattern = shipped("weave");
    pattern
        .page("weave", (32, 32))
        .unwrap()
        .save_wgsl(folder.path())
        .unwrap();
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let manifest: Value = serde_json::from_slice(&read("manifest.json")).unwrap();
    let text = String::from_utf8(read("automaton.wgsl")).unwrap();
    for kernel in manifest["shader"]["kernels"].as_array().unwrap() {
        assert!(text.contains(&format!("fn {}(", kernel.as_str().unwrap())));
    }
    let program = pattern
        .rule()
        .program(&pattern.seed(1, (32, 32)).unwrap())
        .unwrap()
        .unwrap();
    let weights: usize = program.weights().iter().map(Tensor::elem_count).sum();
    assert_eq!(read("weights.bin").len(), 4 * weights);
    assert_eq!(manifest["weights"], "weights.bin");
}

#[test]
fn what_cannot_be_a_page_is_refused() {
    let case = library((5, 4), DType::F32)
        .into_iter()
        .find(|case| case.what.ends_with("directed"));
    let program = case.unwrap().program;
    let page = |size| Page::new("title", program.clone(), size);
    let error = page((4, 5)).unwrap_err().to_string();
    assert!(error.contains("[5, 4]"), "{error}");
    assert!(page((0, 4)).is_err());
    assert!(page((5, 4)).unwrap().start(Start::Cell).fire_rate(1.5).is_err());
    let view = View {
        scale: 1.0,
        shift: f64::NAN,
        alpha: false,
    };
    assert!(page((5, 4)).unwrap().view(view).is_err());
    let alpha = View {
        shift: 0.0,
        alpha: true,
        ..view
    };
    assert!(
        page((5, 4)).unwrap().view(alpha).is_err(),
        "there are three output channels"
    );
    assert!(shipped("lizard").page("large", (4096, 4096)).is_err());
}

/// Writes what `.ci/browser.js` opens into the folder that `LNCA_PAGES` names: pages, and the cells that the
/// engine computes.
#[test]
fn pages_are_written_for_a_browser() {
    let Some(folder) = std::env::var_os("LNCA_PAGES").map(std::path::PathBuf::from) else {
        eprintln!("skipped: LNCA_PAGES names no folder");
        return;
    };
    for name in ["lizard", "bubbles"] {
        let (pattern, steps) = (shipped(name), 32);
        let size = pattern.card().size;
        let page = pattern.page(name, size).unwrap();
        page.save(folder.join(format!("{name}.html"))).unwrap();
        let rollout = pattern.rollout(steps, Key::new(0));
        let cells = rollout
            .run(pattern.rule(), &pattern.seed(1, size).unwrap())
            .unwrap();
        let expected = json!({ "steps": steps, "cells": encoded(&cells) });
        fs::write(folder.join(format!("{name}.json")), expected.to_string()).unwrap();
    }
}
