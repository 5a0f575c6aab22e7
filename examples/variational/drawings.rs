//! What a model has learned, as rows of pictures.

use candle_core::Tensor;
use candle_nn::ops::sigmoid;
use lnca::data::BinaryImages;
use lnca::io::Picture;
use lnca::io::{Background, enlarged, pictures};
use lnca::model::vae::{Broadcast, Doubling};
use lnca::random::Key;
use lnca::{Damage, Vae};
use lnca_examples::Result;

/// Enlarged pictures of values in `[0, 1]`, `[B, H, W, 1]`.
fn shown(values: &Tensor) -> Result<Vec<Picture>> {
    let rgb = values.repeat((1, 1, 1, 3))?;
    let pictures = pictures(&rgb, Background::White)?;
    Ok(pictures.iter().map(|picture| enlarged(picture, 2)).collect())
}

/// Enlarged pictures of the images that latents decode to.
fn decoded(vae: &Vae, z: &Tensor, key: Key) -> Result<Vec<Picture>> {
    shown(&sigmoid(&vae.decode(z, key)?)?)
}

/// Rows of eight test images, each above a row of the images that the means of their latents decode to.
pub fn reconstructions(vae: &Vae, test: &BinaryImages, count: usize, key: Key) -> Result<Vec<Vec<Picture>>> {
    let chosen: Vec<usize> = (0..count.min(test.len())).collect();
    let mut rows = vec![];
    for chosen in chosen.chunks(8) {
        let images = test.batch(chosen, vae.weights().device())?;
        rows.push(shown(&images)?);
        rows.push(decoded(vae, &vae.encode(&images)?.mean, key)?);
    }
    Ok(rows)
}

/// Rows of eight images decoded from latents of the prior.
pub fn samples(vae: &Vae, count: usize, key: Key) -> Result<Vec<Vec<Picture>>> {
    let pictures = decoded(vae, &vae.prior(count, key)?, key)?;
    Ok(pictures.chunks(8).map(<[_]>::to_vec).collect())
}

/// Four rows, each of which interpolates between two latents in steps of an eighth.
pub fn interpolation(vae: &Vae, key: Key) -> Result<Vec<Vec<Picture>>> {
    let ends = vae.prior(8, key.fold_in_name("interpolation"))?;
    let row = |n: usize| -> Result<Vec<Picture>> {
        let (from, to) = (ends.narrow(0, 2 * n, 1)?, ends.narrow(0, 2 * n + 1, 1)?);
        let between = |i: usize| -> Result<Tensor> { Ok((&from + ((&to - &from)? * (i as f64 / 8.0))?)?) };
        let z = (0..8).map(between).collect::<Result<Vec<_>>>()?;
        decoded(vae, &Tensor::cat(&z, 0)?, key)
    };
    (0..4).map(row).collect()
}

/// A row for each doubling: the cells after it and after each step, on a black ground.
pub fn growth(vae: &Vae, decoder: &Doubling, key: Key) -> Result<Vec<Vec<Picture>>> {
    let z = vae.prior(1, key.fold_in_name("growth"))?;
    let size = vae.card().config.size;
    let canvas = |cells: &Tensor| -> Result<Picture> {
        let mut values = sigmoid(&cells.narrow(3, 0, 1)?)?;
        let edge = (size - cells.dim(1)?) / 2;
        for axis in [1, 2] {
            values = values.pad_with_zeros(axis, edge, edge)?;
        }
        Ok(shown(&values)?.remove(0))
    };
    let steps = vae.card().config.decoder.steps();
    let stages = decoder.growth(&z, &vae.rollout(steps, key))?;
    stages
        .iter()
        .map(|states| states.iter().map(canvas).collect())
        .collect()
}

/// Steps before the damage, and steps after it.
const RECOVERY: usize = 36;

/// Three rows of samples: intact, with a square of half their side erased, and recovered. Also the share of
/// the damage that is left: the squared difference of the recovered probabilities from the intact ones over
/// that of the damaged ones.
pub fn recovery(vae: &Vae, decoder: &Broadcast, count: usize, key: Key) -> Result<(Vec<Vec<Picture>>, f64)> {
    let key = key.fold_in_name("recovery");
    let seeds = decoder.seed(&vae.prior(count.max(11), key)?)?;
    let size = vae.card().config.size;
    let run = |cells: &Tensor, stage: u64| {
        // The damage comes one step later than the intact pictures.
        let steps = [RECOVERY, 1, RECOVERY - 1][stage as usize];
        vae.rollout(steps, key.fold_in(stage)).run(decoder.rule(), cells)
    };
    let intact = run(&seeds, 0)?;
    let later = run(&intact, 1)?;
    let mut grids = vec![];
    for n in 0..later.dim(0)? {
        let damage = Damage::random_square(size / 2, (size, size), key.fold_in(n as u64))?;
        grids.push(damage.apply(&later.get(n)?)?);
    }
    let damaged = Tensor::stack(&grids, 0)?;
    let recovered = run(&damaged, 2)?;
    let probabilities = |cells: &Tensor| -> Result<Tensor> { Ok(sigmoid(&decoder.logits(cells)?)?) };
    let stages = [
        probabilities(&intact)?,
        probabilities(&damaged)?,
        probabilities(&recovered)?,
    ];
    let apart = |other: &Tensor| -> Result<f64> {
        let gap = (&stages[0] - other)?.sqr()?.mean_all()?;
        Ok(f64::from(gap.to_scalar::<f32>()?))
    };
    let left = apart(&stages[2])? / apart(&stages[1])?;
    let rows = stages.iter().map(|stage| shown(&stage.narrow(0, 0, 11)?));
    Ok((rows.collect::<Result<_>>()?, left))
}
