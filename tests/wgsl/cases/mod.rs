//! What reads golden cases, shared with `tests/golden.rs`.

#![allow(dead_code)]

#[path = "../../golden_cases/case.rs"]
pub mod case;
#[path = "../../golden_cases/cells.rs"]
pub mod cells;
#[path = "../../golden_cases/check.rs"]
pub mod check;
#[path = "../../golden_cases/growing.rs"]
pub mod growing;
#[path = "../../golden_cases/weights.rs"]
pub mod weights;

/// Where cases of training lie, which are not read here.
fn default_folder() -> std::path::PathBuf {
    std::path::PathBuf::new()
}
