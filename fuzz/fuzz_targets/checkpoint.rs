//! Checkpoints: any bytes as the state of a training. A training that was resumed can go on.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lnca::train::Learner;
use lnca_fuzz::files::file;
use lnca_fuzz::training::learner;

fuzz_target!(|bytes: &[u8]| {
    let path = file("checkpoint.safetensors", bytes);
    let mut learner = learner().expect("a training");
    if learner.resume(&path).is_ok() {
        let _ = learner.update();
    }
});
