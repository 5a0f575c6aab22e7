//! The files of a run: any bytes as its settings and as its log.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lnca_examples::restoration::log::Log;
use lnca_examples::restoration::run_folder::RunFolder;
use lnca_examples::restoration::{Args, DENOISE, Settings};
use lnca_fuzz::files::{file, folder};

fuzz_target!(|bytes: &[u8]| {
    let log = file("log.jsonl", bytes);
    if let Ok(log) = Log::open(&log) {
        log.epochs("nca");
    }
    file("run.json", bytes);
    let args = Args::from_words(&DENOISE, &["denoise".to_string()]).expect("the defaults");
    let run = RunFolder::take(folder()).expect("no other process is there");
    let _ = run.prepare(&Settings::new(&args), true);
});
