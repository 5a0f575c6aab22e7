//! Scores of models and of classical filters, always on the same corrupted images.

use std::path::Path;
use std::time::Instant;

use candle_core::{Device, Tensor};
use lnca::data::{Batches, Corruption, Dataset};
use lnca::model::baseline::ClassicalFilter;
use lnca::random::Key;
use lnca::{Model, Scores, evaluate};
use serde::Serialize;

use super::images::{built_in, open};
use super::{Args, Settings, Task};
use crate::Result;
use crate::output::print;
use crate::progress::bar;

/// All images of `data` in batches, corrupted at the difficulty of the test and always in the same way. Real
/// pairs keep their own corruption.
pub fn test_batches(data: &Dataset, corruption: Corruption, batch: usize) -> Result<Batches> {
    let corruption = Some((corruption, corruption.test_difficulty()));
    Ok(data.evaluation_batches(batch, corruption, Key::new(0).fold_in_name("test"))?)
}

/// Restores a batch of test images, the first of which is number `first`.
pub fn restore(model: &Model, images: &Tensor, first: usize) -> lnca::Result<Tensor> {
    let rollout = model.rollout(Key::new(0).fold_in_name("test")).first_image(first);
    model.restore_by(images, &rollout)
}

/// Scores of `restore`, with a progress bar.
pub fn scores(
    name: &str,
    batches: &Batches,
    device: &Device,
    mut restore: impl FnMut(&Tensor, usize) -> lnca::Result<Tensor>,
) -> Result<Scores> {
    let bar = bar(name, batches.len());
    let scores = evaluate(batches, device, |images, first| {
        bar.inc(1);
        restore(images, first)
    })?;
    bar.finish_and_clear();
    Ok(scores)
}

/// The scores of an NCA after so many steps of one trajectory; after 0 steps its automaton is bypassed.
#[derive(Clone, Copy, Serialize)]
pub struct AtStep {
    pub steps: usize,
    pub ssim: f64,
    /// Infinite, and null in JSON, if images equal the clean ones.
    pub psnr: f64,
}

/// Where on a trajectory an NCA is scored.
const SCORED: [usize; 6] = [0, 1, 8, 16, 32, 64];

/// The scores of an NCA along its trajectory; none of a network. Update masks come from counters, so each
/// rollout begins as the shorter ones.
pub fn along_steps(model: &Model, batches: &Batches, device: &Device) -> Result<Vec<AtStep>> {
    if !model.card().config.is_nca() {
        return Ok(vec![]);
    }
    let at = |steps: usize| {
        let mut model = model.clone();
        model.card_mut().steps = steps;
        let name = format!("{steps} steps");
        let scores = scores(&name, batches, device, |images, first| {
            restore(&model, images, first)
        })?;
        Ok(AtStep {
            steps,
            ssim: scores.ssim,
            psnr: scores.psnr,
        })
    };
    SCORED.into_iter().map(at).collect()
}

/// The classical filter against `corruption` that has the best SSIM on validation images.
pub fn best_filter(validation: &Dataset, corruption: Corruption, batch: usize) -> Result<ClassicalFilter> {
    let batches = test_batches(validation, corruption, batch)?;
    let candidates = ClassicalFilter::candidates(&corruption);
    let bar = bar("filters", candidates.len());
    let mut best: Option<(f64, ClassicalFilter)> = None;
    for filter in candidates {
        let ssim = evaluate(&batches, &Device::Cpu, |images, _| filter.apply(images))?.ssim;
        if best.is_none_or(|(best, _)| ssim > best) {
            best = Some((ssim, filter));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(best.ok_or("there is no classical filter for this task")?.1)
}

/// The corruption that `model` is tested on: the one it was trained on, with a fixed standard deviation.
fn test_corruption(model: &Model, task: &Task) -> Corruption {
    match model.card().corruption {
        Some(Corruption::Gaussian { sigma, .. }) => Corruption::Gaussian { sigma, blind: false },
        Some(corruption) => corruption,
        None => task.corruption,
    }
}

/// What `--eval` prints. JSON has no infinity: an infinite PSNR becomes null.
#[derive(Serialize)]
struct Line {
    task: &'static str,
    model: &'static str,
    #[serde(flatten)]
    scores: Scores,
    steps: Vec<AtStep>,
    seconds: f64,
}

/// `--eval`: tests a saved model on all images of a folder, or on the built-in ones, and prints one line of
/// JSON.
pub fn eval(task: &Task, args: &Args, path: &Path) -> Result<()> {
    let device = args.device.open()?;
    let model = Model::load(path, &device)?;
    let trained = &model.card().task;
    if trained != task.name {
        let (path, name) = (path.display(), task.name);
        return Err(format!("{path}: a model of task `{trained}`, but this example is `{name}`").into());
    }
    let corruption = match args.sigma {
        Some(sigma) => sigma.corruption(),
        None => test_corruption(&model, task),
    };
    let settings = Settings::new(args);
    let data = match &args.data[..] {
        [] => built_in(settings.images.unwrap_or(1), args.size)?,
        folders => {
            let folders = folders.iter().map(|dir| Ok(open(dir, &args.reading(None, 0))?.0));
            Dataset::join(&folders.collect::<Result<Vec<_>>>()?)?
        }
    };
    let started = Instant::now();
    let batches = test_batches(&data, corruption, settings.batch)?;
    let scores = scores("evaluation", &batches, &device, |images, first| {
        restore(&model, images, first)
    })?;
    let line = Line {
        task: task.name,
        model: model.card().config.name(),
        scores,
        steps: along_steps(&model, &batches, &device)?,
        seconds: started.elapsed().as_secs_f64(),
    };
    print(serde_json::to_string(&line)?)
}
