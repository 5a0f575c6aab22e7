//! Digits: any bytes as the text of binarised MNIST.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lnca::data::BinaryImages;
use lnca_fuzz::files::{file, folder};

fuzz_target!(|bytes: &[u8]| {
    file("binarized_mnist_train.amat", bytes);
    file("binarized_mnist_test.amat", bytes);
    let _ = BinaryImages::open(folder(), 1);
});
