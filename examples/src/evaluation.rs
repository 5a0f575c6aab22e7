//! Evaluation: scores of a model and of what it is compared with, always on the same corrupted images.

use candle_core::{Device, Tensor};
use lnca::data::{Batches, Corruption, Dataset, Kind, LoadReport, OpenOptions};
use lnca::model::baseline::ClassicalFilter;
use lnca::random::Key;
use lnca::{Model, Scores, evaluate};
use serde::Serialize;
use std::path::Path;
use std::time::Instant;

use super::Result;
use super::args::{Args, Task};
use super::progress::bar;

/// The batches of a test: every image, at the corruption's test difficulty, the same ones every time.
/// Real pairs have their damage already.
pub fn test_batches(data: &Dataset, corruption: Corruption, batch: usize) -> Result<Batches> {
    let corruption = Some((corruption, corruption.test_difficulty()));
    Ok(data.evaluation_batches(batch, corruption, Key::new(0).fold_in_name("test"))?)
}

/// A batch whose first image is image `first`, restored by `model`.
pub fn restore(model: &Model, images: &Tensor, first: usize) -> lnca::Result<Tensor> {
    let rollout = model.rollout(Key::new(0).fold_in_name("test")).first_image(first);
    model.restore_by(images, &rollout)
}

/// Scores of `restore` under a progress bar.
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

/// The filter among the candidates for `corruption` with the best SSIM on validation images.
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

/// Reads a folder under a progress bar, and says what was found and what was skipped.
pub fn open(
    dir: &Path,
    kind: Option<Kind>,
    size: usize,
    limit: Option<usize>,
    seed: u64,
) -> Result<(Dataset, LoadReport)> {
    let options = OpenOptions {
        size,
        limit,
        seed,
        kind,
        ..OpenOptions::default()
    };
    let bar = bar("reading", 0);
    let loaded = Dataset::open(dir, &options, &|done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let (data, report) = loaded?;
    let LoadReport {
        chosen,
        found,
        images,
        skipped,
        ..
    } = &report;
    let what = match report.kind {
        Kind::Folder => "files",
        Kind::Cifar => "records",
        _ => "pairs",
    };
    let dir = dir.display();
    eprintln!(
        "{dir}: {chosen} of {found} {what} chosen, {} skipped, {images} images of {size}x{size}",
        skipped.len()
    );
    if report.tiles.cut > 0 {
        let tiles = report.tiles;
        eprintln!(
            "  {} tiles cut, {} flat and {} redundant ones dropped",
            tiles.cut, tiles.flat, tiles.redundant
        );
    }
    for (path, reason) in skipped.iter().take(5) {
        eprintln!("  skipped {}: {reason}", path.display());
    }
    if skipped.len() > 5 {
        eprintln!("  and {} more", skipped.len() - 5);
    }
    Ok((data, report))
}

/// What `--eval` prints. JSON knows no infinity: an infinite PSNR is written as null.
#[derive(Serialize)]
struct Line {
    task: &'static str,
    model: &'static str,
    #[serde(flatten)]
    scores: Scores,
    seconds: f64,
}

/// `--eval`: tests a saved model and prints one line of JSON.
pub fn eval(task: &Task, args: &Args, path: &Path, dir: &Path) -> Result<()> {
    let device = args.device.open()?;
    let model = Model::load(path, &device)?;
    let of = &model.card().task;
    if of != task.name {
        let path = path.display();
        return Err(format!(
            "{path}: is a model of task `{of}`, and this example is `{}`",
            task.name
        )
        .into());
    }
    let (data, _) = open(dir, args.kind.clone(), args.size, None, 0)?;
    let started = Instant::now();
    let batches = test_batches(&data, task.corruption, args.settings().batch)?;
    let scores = scores("evaluation", &batches, &device, |images, first| {
        restore(&model, images, first)
    })?;
    let line = Line {
        task: task.name,
        model: model.card().config.name(),
        scores,
        seconds: started.elapsed().as_secs_f64(),
    };
    println!("{}", serde_json::to_string(&line)?);
    Ok(())
}
