//! The costs of steps that `docs/gpu.md` tells are those of the plans.

use std::path::PathBuf;

use lnca::cuda::{Cost, costs};

use crate::programs::Case;
use crate::transitions::shipped;

/// What an H100 does a second at best, as measured with large copies and products: bytes, and multiplications
/// in three products of TF32.
const BYTES: f64 = 3.0e12;
const MULTIPLICATIONS: f64 = 133e12 / 2.0;
/// Seconds that a kernel takes at least in a chain of kernels.
const KERNEL: f64 = 2e-6;

/// Seconds below which a step of so many cells cannot be.
fn floor(cost: &Cost, cells: f64) -> f64 {
    let bytes = 4.0 * cost.floats as f64 * cells / BYTES;
    let products = cost.multiplications as f64 * cells / MULTIPLICATIONS;
    bytes.max(products).max(KERNEL * cost.kernels as f64)
}

fn plans(cases: &[(String, [Cost; 2])]) -> Vec<String> {
    let row = |what: &str, direction: &str, cost: &Cost| {
        let Cost {
            kernels,
            multiplications,
            floats,
            scratch,
            shared,
        } = cost;
        format!(
            "| {what} | {direction} | {kernels} | {multiplications} | {} | {} | {} |",
            4 * floats,
            4 * scratch,
            4 * shared
        )
    };
    let rows = |(what, [forward, backward]): &(String, [Cost; 2])| {
        [row(what, "forward", forward), row(what, "backward", backward)]
    };
    cases.iter().flat_map(rows).collect()
}

/// A workload: its name, transition, cells, steps, and whether it trains.
const WORKLOADS: [(&str, &str, usize, usize, bool); 11] = [
    ("W1_infer_b8_64", "growing", 8 * 64 * 64, 64, false),
    ("W1_infer_b1_256", "growing", 256 * 256, 64, false),
    ("W2_train_b8_72", "growing", 8 * 72 * 72, 64, true),
    ("W3_infer_b8_32", "vitca", 8 * 32 * 32, 64, false),
    ("W3_train_b8_32", "vitca", 8 * 32 * 32, 20, true),
    ("W4_infer_b8_8", "nafca", 8 * 8 * 8, 64, false),
    ("W4_infer_b32_32", "nafca", 32 * 32 * 32, 64, false),
    ("W4_train_b8_8", "nafca", 8 * 8 * 8, 20, true),
    ("W4_train_b32_32", "nafca", 32 * 32 * 32, 20, true),
    ("W5_infer_b8_8", "latent vitca", 8 * 8 * 8, 64, false),
    ("W5_train_b8_8", "latent vitca", 8 * 8 * 8, 20, true),
];

fn floors(cases: &[(String, [Cost; 2])]) -> Vec<String> {
    let row = |&(name, transition, cells, steps, trains): &(&str, &str, usize, usize, bool)| {
        let (_, [forward, backward]) = cases.iter().find(|(what, _)| what == transition).unwrap();
        let mut kernels = forward.kernels;
        let mut seconds = floor(forward, cells as f64);
        if trains {
            kernels += backward.kernels;
            seconds += floor(backward, cells as f64);
        }
        format!(
            "| {name} | {} | {:.2} |",
            kernels * steps,
            1e3 * seconds * steps as f64
        )
    };
    WORKLOADS.iter().map(row).collect()
}

#[test]
fn the_page_tells_what_steps_cost() {
    let of = |case: Case| (case.what, costs(&case.program));
    let cases: Vec<(String, [Cost; 2])> = shipped().into_iter().map(of).collect();
    let rows = [plans(&cases), floors(&cases)].concat();
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/gpu.md");
    let page = std::fs::read_to_string(page).unwrap_or_default();
    let found = |row: &String| page.lines().any(|line| line.starts_with(row.as_str()));
    let missing: Vec<&String> = rows.iter().filter(|row| !found(row)).collect();
    assert!(missing.is_empty(), "docs/gpu.md lacks these rows: {missing:#?}");
}
