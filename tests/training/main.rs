//! Training end to end: that it learns, resumes as if never stopped, and fails as it should.

mod best;
#[path = "../common/mod.rs"]
mod common;
mod custom;
mod failures;
mod learner;
mod learning;
mod networks;
mod pattern;
mod photographs;
mod recipes;
mod resume;
mod setup;
mod shipped;
mod variational;
