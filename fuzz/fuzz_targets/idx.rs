//! Digits: any bytes as an IDX file, plain or gzipped.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lnca::data::BinaryImages;
use lnca_fuzz::files::{file, folder};

fuzz_target!(|bytes: &[u8]| {
    file("train-images-idx3-ubyte", bytes);
    file("t10k-images-idx3-ubyte", bytes);
    let _ = BinaryImages::open(folder(), 1);
});
