//! CIFAR-10's batches: any bytes as a file of records.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lnca::data::{Dataset, Kind, OpenOptions};
use lnca_fuzz::files::file;

fuzz_target!(|bytes: &[u8]| {
    let path = file("batch.bin", bytes);
    let options = OpenOptions {
        size: 4,
        limit: Some(2),
        kind: Some(Kind::Cifar),
        ..OpenOptions::default()
    };
    let _ = Dataset::open(path, &options, &|_, _| ());
});
