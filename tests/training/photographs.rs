//! The denoiser of photographs that comes with the crate: it removes noise of any strength, and leaves what
//! is clean alone.

use candle_core::Tensor;
use lnca::data::{Corruption, dead_leaves};
use lnca::metric::psnr;
use lnca::model::baseline::ClassicalFilter;
use lnca::random::Key;
use lnca::{Model, Result};

use crate::common::device::{device, root};

fn images() -> Result<Tensor> {
    let pixels = (0..4).map(|image| dead_leaves(64, 80, Key::new(11).fold_in(image)));
    let pixels: Vec<Vec<u8>> = pixels.collect::<Result<_>>()?;
    let values: Vec<f32> = pixels.concat().iter().map(|&v| f32::from(v) / 255.0).collect();
    Ok(Tensor::from_vec(values, (4, 64, 80, 3), &device())?)
}

fn mean_psnr(a: &Tensor, b: &Tensor) -> Result<f64> {
    Ok(psnr(&a.clamp(0.0, 1.0)?, b)?.mean_all()?.to_scalar()?)
}

#[test]
fn noise_of_any_strength_is_removed_and_clean_images_stay() -> Result<()> {
    let model = Model::load(root().join("models/photographs.safetensors"), &device())?;
    let clean = images()?;
    let keys: Vec<Key> = (0..4).map(Key::new).collect();
    for (steps, gain) in [(15.0, 3.0), (25.0, 4.0), (50.0, 5.0)] {
        let noise = Corruption::Gaussian {
            sigma: steps / 255.0,
            blind: false,
        };
        let noisy = noise.apply(&clean, 1.0, &keys)?;
        let mut best = mean_psnr(&noisy, &clean)? + gain;
        for filter in ClassicalFilter::candidates(&noise) {
            best = best.max(mean_psnr(&filter.apply(&noisy)?, &clean)? + 0.5);
        }
        let restored = mean_psnr(&model.restore(&noisy, Key::new(0))?, &clean)?;
        assert!(
            restored > best,
            "noise of {steps}: {restored:.2} dB, expected {best:.2}"
        );
        // All of it is the automaton's work.
        let bypassed = model.restore_by(&noisy, &lnca::Rollout::new(0))?;
        assert_eq!(mean_psnr(&bypassed, &clean)?, mean_psnr(&noisy, &clean)?);
    }
    let kept = mean_psnr(&model.restore(&clean, Key::new(0))?, &clean)?;
    assert!(kept > 40.0, "clean images are kept to {kept:.2} dB");
    Ok(())
}
