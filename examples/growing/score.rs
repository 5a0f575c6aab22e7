//! `growing score`: how well a picture is grown, kept and healed.

use std::collections::BTreeMap;

use candle_core::Tensor;
use lnca::loss::{ImageLoss, PatternLoss};
use lnca::random::Key;
use lnca_examples::Result;
use lnca_examples::args::at_once;
use lnca_examples::film::damage;
use lnca_examples::output::print;

use crate::Source;
use crate::picture::Picture;

/// Steps at which the loss is read.
const STEPS: [usize; 6] = [32, 64, 80, 96, 150, 300];

/// Damage after step 200.
const CUTS: [&str; 4] = ["lower-half", "upper-half", "right-half", "centre"];

/// Measures how well a picture is grown, kept and healed: log10 of the loss, as a line of JSON
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    #[command(flatten)]
    picture: Picture,

    /// Runs to average over
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_once)]
    runs: usize,

    /// Seed of the update masks
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn score(args: &Args) -> Result<()> {
    let pattern = args.source.load("models/fish.safetensors")?;
    let (name, target) = args.picture.target()?;
    let size = (target.dim(0)?, target.dim(1)?);
    let loss = ImageLoss::new(target.to_device(pattern.weights().device())?)?;
    let log_loss = |cells: &Tensor| -> Result<f64> {
        let each = loss.each(cells)?;
        let mean = (each.iter().sum::<f64>() / each.len() as f64).log10();
        Ok((mean * 1000.0).round() / 1000.0)
    };
    let key = Key::new(args.seed);
    let advance = |cells: &Tensor, from: usize, to: usize| -> Result<Tensor> {
        Ok(pattern
            .rollout(to - from, key.fold_in(from as u64))
            .run(pattern.rule(), cells)?)
    };

    let mut cells = pattern.seed(args.runs, size)?;
    let mut whole = cells.clone();
    let (mut at, mut grown) = (0, BTreeMap::new());
    for step in [32, 64, 80, 96, 150, 200, 300] {
        cells = advance(&cells, at, step)?;
        at = step;
        if STEPS.contains(&step) {
            grown.insert(step, log_loss(&cells)?);
        }
        if step == 200 {
            whole = cells.clone();
        }
    }
    let mut healed = BTreeMap::new();
    for name in CUTS {
        let cut = damage(name)?.apply(&whole)?;
        let after = advance(&cut, 200, 300)?;
        let long_after = advance(&after, 300, 400)?;
        healed.insert(name, [log_loss(&cut)?, log_loss(&after)?, log_loss(&long_after)?]);
    }
    let score = serde_json::json!({
        "target": name, "model": pattern.card().target, "runs": args.runs,
        "log10_loss_at_step": grown, "log10_loss_0_100_200_steps_after_cut": healed,
    });
    print(score)
}
