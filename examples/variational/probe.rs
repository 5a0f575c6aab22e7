//! `variational probe`: what single cells know of their digit.

use candle_core::{DType, Tensor};
use candle_nn::{Linear, Module};
use clap::Parser;
use lnca::data::BinaryImages;
use lnca::model::vae::{Broadcast, Decoder};
use lnca::random::Key;
use lnca::train::{Adam, AdamConfig};
use lnca::{Vae, Weights};
use lnca_examples::Result;
use lnca_examples::args::count;
use lnca_examples::output::print;
use lnca_examples::progress::bar;
use rand::Rng;

use crate::{Source, rounded};

/// Cells in an update of the classifier.
const BATCH: usize = 4096;

/// Learning rate of the classifier at the start.
const LEARNING_RATE: f64 = 1e-2;

/// Classifies single cells of a broadcast automaton by the digit they are part of, with a linear classifier
#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    /// Test images; the classifier is fitted to four fifths of them
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = count)]
    images: usize,

    /// Updates of the classifier
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = count)]
    updates: usize,
}

pub fn probe(args: &Args) -> Result<()> {
    let (vae, test, name) = args.source.load()?;
    let Decoder::Broadcast(decoder) = vae.decoder() else {
        let decoder = vae.card().config.decoder.name();
        let problem = format!("the decoder is {decoder}, expected one trained with `--decoder broadcast`");
        return Err(problem.into());
    };
    let count = args.images.min(test.len());
    let labels: Option<Vec<u8>> = (0..count).map(|n| test.label(n)).collect();
    let labels =
        labels.ok_or_else(|| format!("{name} has no labels: use digits or MNIST with grey levels"))?;
    let key = Key::new(args.source.seed).fold_in_name("probe");
    let cells = grown(&vae, decoder, &test, count, key)?;
    // Split by image: cells of one image are alike.
    let fitted = (count * 4 / 5).max(1);
    let classifier = fit(args, &cells.narrow(0, 0, fitted)?, &labels, key)?;
    let (cells_fitted, _) = accuracy(&classifier, &cells, &labels, 0..fitted)?;
    let (cells_held, images_held) = accuracy(&classifier, &cells, &labels, fitted..count)?;
    let result = serde_json::json!({
        "data": name, "images_fitted": fitted, "images_held_out": count - fitted,
        "cells_right_of_fitted_images": rounded(cells_fitted),
        "cells_right_of_held_out_images": rounded(cells_held),
        "held_out_images_right_by_majority": rounded(images_held),
    });
    print(result)
}

/// The cells that the first `count` images are grown to, `[count, H * W, C]`.
fn grown(vae: &Vae, decoder: &Broadcast, test: &BinaryImages, count: usize, key: Key) -> Result<Tensor> {
    let mut grids = vec![];
    for first in (0..count).step_by(50) {
        let chosen: Vec<usize> = (first..count.min(first + 50)).collect();
        let posterior = vae.encode(&test.batch(&chosen, vae.weights().device())?)?;
        let noise = vae.prior(chosen.len(), key.fold_in(first as u64))?.unsqueeze(1)?;
        let seed = decoder.seed(&posterior.sample(&noise)?.squeeze(1)?)?;
        let steps = vae.card().config.decoder.steps();
        let rollout = vae.rollout(steps, key.fold_in(first as u64));
        grids.push(rollout.run(decoder.rule(), &seed)?.detach());
    }
    Ok(Tensor::cat(&grids, 0)?.flatten(1, 2)?)
}

/// Fits a linear classifier to cells, `[images, H * W, C]`.
fn fit(args: &Args, cells: &Tensor, labels: &[u8], key: Key) -> Result<Linear> {
    let (images, area, channels) = cells.dims3()?;
    let cells = cells.flatten(0, 1)?;
    let device = cells.device();
    let weights = Weights::new(args.source.seed, DType::F32, device);
    let classifier = candle_nn::linear(channels, 10, weights.builder())?;
    let config = AdamConfig {
        learning_rate: LEARNING_RATE,
        cosine_updates: Some(args.updates),
        normalise: false,
        ..AdamConfig::default()
    };
    let mut adam = Adam::new(weights.vars(), config)?;
    let bar = bar("probe", args.updates);
    for update in 0..args.updates {
        let mut rng = key.fold_in_name("cells").fold_in(update as u64).rng();
        let drawn: Vec<u32> = (0..BATCH)
            .map(|_| rng.random_range(0..(images * area) as u32))
            .collect();
        let digits = drawn.iter().map(|&cell| u32::from(labels[cell as usize / area]));
        let digits = Tensor::new(digits.collect::<Vec<_>>(), device)?;
        let seen = cells.index_select(&Tensor::new(drawn, device)?, 0)?;
        let loss = candle_nn::loss::cross_entropy(&classifier.forward(&seen)?, &digits)?;
        adam.step(&loss.backward()?)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(classifier)
}

/// The share of cells that are classified right, and the share of images whose majority of cells is.
fn accuracy(
    classifier: &Linear,
    cells: &Tensor,
    labels: &[u8],
    images: std::ops::Range<usize>,
) -> Result<(f64, f64)> {
    let count = images.len().max(1) as f64;
    let (mut right_cells, mut right_images) = (0, 0);
    for n in images {
        let label = usize::from(labels[n]);
        let votes = classifier.forward(&cells.get(n)?)?.argmax(1)?.to_vec1::<u32>()?;
        let mut counts = [0; 10];
        votes.iter().for_each(|&vote| counts[vote as usize] += 1);
        right_cells += counts[label];
        let elected = (0..10).max_by_key(|&digit| counts[digit]);
        right_images += usize::from(elected == Some(label));
    }
    let area = cells.dim(1)? as f64;
    Ok((f64::from(right_cells) / count / area, right_images as f64 / count))
}
