//! Model files: any bytes as a file, and any text as the card of a file without tensors, as a model, a
//! pattern and a variational autoencoder.

#![no_main]

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use libfuzzer_sys::fuzz_target;
use lnca::{Model, Pattern, Vae};
use lnca_fuzz::files::file;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return load(bytes);
    };
    let header = HashMap::from([("lnca".to_string(), text.to_string())]);
    let tensors: HashMap<String, Tensor> = HashMap::new();
    load(&safetensors::serialize(&tensors, Some(header)).expect("a file without tensors"));
});

fn load(bytes: &[u8]) {
    let path = file("model.safetensors", bytes);
    let _ = Model::load(&path, &Device::Cpu);
    let _ = Pattern::load(&path, &Device::Cpu);
    let _ = Vae::load(&path, &Device::Cpu);
}
