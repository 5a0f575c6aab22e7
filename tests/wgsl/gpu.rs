//! The GPU that tests run on, if there is one.

use std::sync::OnceLock;

use lnca::Gpu;

/// A GPU, or `None` where there is none; that is told.
pub fn gpu() -> Option<&'static Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    let found = || match Gpu::new() {
        Ok(gpu) => {
            eprintln!("on {}", gpu.name());
            Some(gpu)
        }
        Err(error) if std::env::var("LNCA_WGPU").is_ok_and(|value| value == "required") => {
            panic!("LNCA_WGPU is `required`: {error}")
        }
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    };
    GPU.get_or_init(found).as_ref()
}
