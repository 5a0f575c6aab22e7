//! A demonstration on generated images.

use std::path::Path;

use candle_core::{Device, Tensor};
use lnca::Model;
use lnca::data::{Corruption, dead_leaves};
use lnca::io::{Background, pictures};
use lnca::metric::ssim;
use lnca::random::Key;
use lnca_examples::Result;
use lnca_examples::contact_sheet::{ContactSheet, Label};
use lnca_examples::output::print;

use crate::tiling::Tiling;

const IMAGES: u64 = 6;
const SIDE: usize = 64;

/// Corrupts generated images in the way the model was trained on, restores them, and shows both.
pub fn show(model: &Model, tiling: &Tiling) -> Result<()> {
    let corruption = match (model.card().corruption, model.card().task.as_str()) {
        (Some(Corruption::Gaussian { sigma, .. }), _) => Corruption::Gaussian { sigma, blind: false },
        (Some(corruption), _) => corruption,
        (None, "deblur") => Corruption::BLUR,
        (None, _) => Corruption::NOISE,
    };
    let key = Key::new(7);
    let clean = (0..IMAGES).map(|i| dead_leaves(SIDE, SIDE, key.fold_in(i)));
    let clean = batch(clean.collect::<lnca::Result<_>>()?)?;
    let keys: Vec<Key> = (0..IMAGES).map(|i| key.fold_in(IMAGES + i)).collect();
    let corrupted = corruption.apply(&clean, corruption.test_difficulty(), &keys)?;
    let restored: Vec<f32> = pictures(&corrupted, Background::White)?
        .iter()
        .map(|picture| tiling.restore(model, &picture.into()))
        .collect::<Result<Vec<_>>>()?
        .concat();
    let restored = Tensor::from_vec(restored, corrupted.shape(), &Device::Cpu)?;

    let mut rows = vec![(Label::new("clean"), clean.clone())];
    for (name, images) in [("corrupted", corrupted), ("restored", restored)] {
        let score = ssim(&images, &clean)?.mean_all()?.to_scalar::<f64>()?;
        print(format_args!("{name:>10}  SSIM {score:.4}"))?;
        rows.push((Label::with_ssim(name, Some(score)), images));
    }
    let card = model.card();
    let title = format!("{} with {}, {} steps", card.task, card.config.name(), card.steps);
    let path = Path::new("out/restore/before_after.png");
    ContactSheet { title, rows }.save(path)?;
    print(path.display())
}

/// Images in `[0, 1]` from their 8-bit pixels.
fn batch(images: Vec<Vec<u8>>) -> Result<Tensor> {
    let values = images.concat().into_iter().map(|value| f32::from(value) / 255.0);
    let shape = (images.len(), SIDE, SIDE, 3);
    Ok(Tensor::from_vec(values.collect(), shape, &Device::Cpu)?)
}
