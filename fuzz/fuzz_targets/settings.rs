//! Settings: any text after `--set`, and any words as arguments of `denoise`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lnca_examples::restoration::{Args, DENOISE, Settings};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut words = vec!["denoise".to_string()];
    for (i, word) in text.split('\n').take(4).enumerate() {
        match i {
            0 => words.extend(["--set".into(), word.into()]),
            _ => words.push(word.into()),
        }
    }
    let Ok(args) = Args::from_words(&DENOISE, &words) else {
        return;
    };
    let settings = Settings::new(&args);
    settings.command(&DENOISE);
    let _ = settings.recipe(args.model.config());
});
