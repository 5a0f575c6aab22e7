//! `variational evaluate`: the likelihood that a model gives to test images.

use clap::Parser;
use lnca::model::vae::Estimate;
use lnca::random::Key;
use lnca_examples::Result;
use lnca_examples::args::{MOST, at_once, count, whole};
use lnca_examples::output::print;
use lnca_examples::progress::bar;

use crate::{Source, rounded};

/// Measures bounds of the log-likelihood of test images, in nats, as a line of JSON
#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    /// Number of test images, always the same [default: all]
    #[arg(long, value_name = "N", value_parser = count)]
    images: Option<usize>,

    /// Number of the first of these, to test in parts
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole::<0, MOST>)]
    from: usize,

    /// Latents for each image; published: 128
    #[arg(long, value_name = "S", default_value_t = 128, value_parser = at_once)]
    samples: usize,

    /// Images at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_once)]
    batch: usize,
}

pub fn evaluate(args: &Args) -> Result<()> {
    let (vae, test, name) = args.source.load()?;
    let begin = args.from.min(test.len());
    let count = args.images.unwrap_or(test.len()).min(test.len() - begin);
    let bar = bar("images", count);
    let mut estimates: Vec<Estimate> = vec![];
    for first in (begin..begin + count).step_by(args.batch) {
        let chosen: Vec<usize> = (first..(begin + count).min(first + args.batch)).collect();
        let images = test.batch(&chosen, vae.weights().device())?;
        estimates.extend(vae.estimate(&images, args.samples, Key::new(args.source.seed), first)?);
        bar.inc(chosen.len() as u64);
    }
    bar.finish_and_clear();
    let mean = Estimate::mean(&estimates);
    let squares = estimates.iter().map(|e| (e.iwelbo - mean.iwelbo).powi(2));
    let error = squares.sum::<f64>().sqrt() / count.max(1) as f64;
    let config = &vae.card().config;
    let side = test.side() - 2 * config.border;
    let result = serde_json::json!({
        "data": name, "decoder": config.decoder.name(),
        "images": count, "samples": args.samples,
        "iwelbo": rounded(mean.iwelbo), "standard_error": rounded(error),
        format!("iwelbo_{side}x{side}"): rounded(mean.inner),
        "elbo": rounded(mean.elbo), "kl": rounded(mean.kl),
    });
    print(result)
}
