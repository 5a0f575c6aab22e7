//! Models of web pages: any bytes as JSON of a Growing NCA and of textures.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lnca::Pattern;
use lnca_fuzz::files::file;

fuzz_target!(|bytes: &[u8]| {
    let path = file("models.json", bytes);
    let _ = Pattern::released_growing(&path);
    for name in Pattern::released_texture_names(&path)
        .unwrap_or_default()
        .iter()
        .take(2)
    {
        let _ = Pattern::released_texture(&path, name);
    }
});
