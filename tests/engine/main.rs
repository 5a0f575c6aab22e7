//! The engine computes what plain Candle operations compute, forwards and backwards, bit for bit the
//! same on any number of threads.

mod adjoint;
mod agreement;
#[path = "../common/device.rs"]
mod device;
mod norms;
mod not_finite;
#[path = "../common/programs.rs"]
mod programs;
mod random_programs;

/// Runs this test program again with the kernels for less capable processors.
#[test]
fn all_kernels_agree() {
    if std::env::var("LNCA_SIMD").is_ok() || !device::is_cpu() {
        return;
    }
    for kernels in ["portable", "avx2"] {
        let run = std::process::Command::new(std::env::current_exe().unwrap())
            .env("LNCA_SIMD", kernels)
            .args(["agreement::", "norms::", "not_finite::"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{kernels}: {said}");
        assert!(!said.contains(" 0 passed"), "{kernels}: {said}");
    }
}
