//! Images to train, validate and test on.

use std::path::Path;

use lnca::TrainingData;
use lnca::data::{Dataset, Kind, LoadReport, OpenOptions, Split};

use super::{Args, Settings, Task};
use crate::progress::bar;
use crate::{Result, note};

/// The images of a run.
pub struct Images {
    /// Those to train and to validate on, without a curriculum.
    pub training: TrainingData,
    /// Those to test on.
    pub test: Dataset,
    /// What was found in each folder of images.
    pub report: Vec<LoadReport>,
    /// What was found in the folder of test images, if there is one.
    pub test_report: Option<LoadReport>,
}

impl Images {
    /// Reads or generates the images that the arguments ask for, and splits them.
    ///
    /// # Errors
    /// A folder cannot be read; there are too few images to split, or fewer to train on than a batch holds.
    pub fn load(task: &Task, args: &Args, settings: &Settings) -> Result<Self> {
        let (size, seed) = (settings.size, settings.seed);
        let (mut folders, mut report) = (vec![], vec![]);
        for dir in &args.data {
            let (data, found) = open(dir, &args.reading(settings.images, seed))?;
            folders.push(data);
            report.push(found);
        }
        if folders.is_empty() {
            folders.push(generated(settings.images.unwrap_or(1), size, seed)?);
        }
        let parts = folders.into_iter().map(|data| split(data, settings.images, seed));
        let parts = joined(&parts.collect::<Result<Vec<_>>>()?)?;
        let (test, test_report) = match &args.test_data {
            Some(dir) => {
                let (data, report) = open(dir, &args.reading(None, 0))?;
                (data, Some(report))
            }
            None => (parts.test, None),
        };
        let (train, validation, batch) = (parts.train.len(), parts.validation.len(), settings.batch);
        note!(
            "images: {train} to train, {validation} to validate, {} to test",
            test.len()
        );
        if batch > train {
            return Err(
                format!("`--batch` is {batch}, but there are only {train} images to train on").into(),
            );
        }
        Ok(Self {
            training: TrainingData {
                train: parts.train,
                validation: parts.validation,
                corruption: Some(args.corruption(task)),
                curriculum: None,
            },
            test,
            report,
            test_report,
        })
    }
}

/// Reads a folder with a progress bar, and reports what was found and what was skipped.
///
/// # Errors
/// The folder cannot be read, or has no image.
pub fn open(dir: &Path, options: &OpenOptions) -> Result<(Dataset, LoadReport)> {
    let bar = bar("reading", 0);
    let loaded = Dataset::open(dir, options, &|done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let (data, report) = loaded?;
    print(dir, options.size, &report);
    Ok((data, report))
}

fn print(dir: &Path, size: usize, report: &LoadReport) {
    let LoadReport {
        chosen,
        found,
        images,
        skipped,
        tiles,
        ..
    } = report;
    let what = match report.kind {
        Kind::Folder => "files",
        Kind::Cifar => "records",
        _ => "pairs",
    };
    let dir = dir.display();
    note!(
        "{dir}: {chosen} of {found} {what} chosen, {} skipped, {images} images of {size}x{size}",
        skipped.len()
    );
    if tiles.cut > 0 {
        let (cut, flat, redundant) = (tiles.cut, tiles.flat, tiles.redundant);
        note!("  {cut} tiles cut; {flat} flat and {redundant} redundant ones dropped");
    }
    for (path, reason) in skipped.iter().take(5) {
        note!("  skipped {}: {reason}", path.display());
    }
    if skipped.len() > 5 {
        note!("  and {} more", skipped.len() - 5);
    }
}

/// The images that a run without arguments is tested on.
///
/// # Errors
/// `size` is out of range.
pub fn built_in(images: usize, size: usize) -> Result<Dataset> {
    Ok(split(generated(images, size, 0)?, Some(images), 0)?.test)
}

/// Most bytes of generated images, which are all in memory.
const MOST_BYTES: usize = 16 << 30;

fn generated(count: usize, size: usize, seed: u64) -> Result<Dataset> {
    let most = MOST_BYTES / (3 * size * size).max(1);
    if count > most {
        let problem =
            format!("`--images` is {count}, expected at most {most} generated ones of `--size` {size}");
        return Err(problem.into());
    }
    let bar = bar("dead leaves", 1);
    let data = Dataset::dead_leaves(count, size, seed)?;
    bar.finish_and_clear();
    Ok(data)
}

/// The parts of several data sets as those of one.
fn joined(folders: &[Split<Dataset>]) -> Result<Split<Dataset>> {
    let join = |part: fn(&Split<Dataset>) -> &Dataset| {
        let parts: Vec<Dataset> = folders.iter().map(|folder| part(folder).clone()).collect();
        Dataset::join(&parts)
    };
    Ok(Split {
        train: join(|folder| &folder.train)?,
        validation: join(|folder| &folder.validation)?,
        test: join(|folder| &folder.test)?,
    })
}

/// Splits by photograph, then keeps of each part its share of `limit`, because one photograph may give many
/// tiles.
fn split(data: Dataset, limit: Option<usize>, seed: u64) -> Result<Split<Dataset>> {
    let images = limit.unwrap_or(data.len());
    let parts = data
        .split(seed)
        .map_err(|error| format!("the images cannot be split into training, validation and test: {error}"))?;
    let seen = images * 4 / 5;
    let train = seen * 4 / 5;
    Ok(Split {
        train: parts.train.take(train.max(1)),
        validation: parts.validation.take((seen - train).max(1)),
        test: parts.test.take((images - seen).max(1)),
    })
}
