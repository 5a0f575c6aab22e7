//! Programs: no bytes make the builder, the engine or plain operations panic, and both give the same.

#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use lnca_fuzz::programs::Case;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(case)) = Case::new(&mut Unstructured::new(bytes)) {
        if std::env::var_os("LNCA_SHOW").is_some() {
            println!("{case:#?}");
        }
        case.check();
    }
});
