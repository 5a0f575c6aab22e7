//! Loading images from a folder of any supported layout.

use super::cifar;
use super::dataset::{Dataset, check_side};
use super::files::{Listing, ends_in, is_picture, walk};
use super::pairs::{Pair, are_paired, by_folders, by_words};
use super::tiles::{TileCounts, TilePairs, Tiles};
use crate::data::sampling::{Split, shuffled};
use crate::error::{Error, Result};
use crate::io::{Picture, ResizeMode, lanczos_resize};
use crate::random::Key;
use rayon::prelude::*;
use serde::{Deserialize, Serialize, Serializer};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// `(done, total)` in files, pairs or records; called from worker threads, possibly out of order.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// Layout of the images in a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Clean PNG and JPEG files at any depth, such as one folder per class.
    Folder,
    /// Clean and damaged PNG and JPEG files, distinguished by a word in their names or the names of their
    /// folders: `sharp/1.png` and `blur/1.png`, `7_GT.png` and `7_NOISY.png`, `a_mean.jpg` and `a_real.jpg`,
    /// and similar. The rest of the names must be equal.
    Pairs,
    /// Two folders with files of equal names. Paths are relative to the opened folder.
    PairFolders {
        /// Folder of the clean images.
        clean: PathBuf,
        /// Folder of the damaged ones.
        damaged: PathBuf,
    },
    /// CIFAR-10's binary batches: every `*.bin` file, or a single one.
    Cifar,
}

/// Part of a data set; see [`Dataset::split`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Every image.
    #[default]
    All,
    /// 64 %, for training.
    Train,
    /// 16 %, for validation.
    Validation,
    /// 20 %, for the test.
    Test,
}

/// Options of [`Dataset::open`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OpenOptions {
    /// Side of every image after resizing, in pixels, 1 to 4096.
    pub size: usize,
    /// Most photographs, pairs or records to read: a random sample, drawn by the seed.
    pub limit: Option<usize>,
    /// Seed of the sample and of the split.
    pub seed: u64,
    /// Which part of the images is returned.
    pub part: Part,
    /// The layout; with `None` it is detected.
    pub kind: Option<Kind>,
    /// How photographs are made square.
    pub fit: ResizeMode,
    /// How pairs are cut into tiles; with `None` photographs are resized as a whole. Folders of clean images
    /// are cut only into patches.
    pub tiles: Option<Tiles>,
    /// Whether photographs, clean ones and pairs, are cut into patches of `size` pixels at their own
    /// resolution, all of which are kept, instead of being shrunk. It replaces `tiles`.
    pub patches: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            size: 32,
            limit: None,
            seed: 0,
            part: Part::All,
            kind: None,
            fit: ResizeMode::Crop,
            tiles: Some(Tiles::default()),
            patches: false,
        }
    }
}

/// What was found and read, before a part was taken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadReport {
    /// The layout.
    pub kind: Kind,
    /// Photographs, pairs or records in the folder.
    pub found: usize,
    /// How many of these were selected: fewer with a limit.
    pub chosen: usize,
    /// Images read: tiles, if photographs were cut.
    pub images: usize,
    /// Files that could not be read, and why. The partner of such a file is skipped, too.
    #[serde(serialize_with = "shown")]
    pub skipped: Vec<(PathBuf, String)>,
    /// Counts of tiles; zeros if nothing was cut.
    pub tiles: TileCounts,
}

/// Names need not be UTF-8, which would be an error of serialisation.
fn shown<S: Serializer>(skipped: &[(PathBuf, String)], to: S) -> Result<S::Ok, S::Error> {
    let shown = skipped
        .iter()
        .map(|(path, reason)| (path.to_string_lossy(), reason));
    to.collect_seq(shown)
}

impl Dataset {
    /// Reads the images in and below the folder `dir`, or a single CIFAR-10 file, in parallel.
    ///
    /// Files are sorted by name. Unreadable files are skipped, reported and logged, as long as one can be
    /// read. Names with a dot at the start, and others that systems leave in folders, are passed over.
    ///
    /// # Errors
    /// An error if the folder is missing or has no image, none can be read, an image of a pair has no partner
    /// or one of another size, a CIFAR-10 file is truncated, or an option is out of range.
    ///
    /// ```no_run
    /// use lnca::data::{Dataset, OpenOptions, Part};
    /// # fn main() -> lnca::Result<()> {
    /// let options = OpenOptions { part: Part::Train, ..OpenOptions::default() };
    /// let (train, report) = Dataset::open("celeba", &options, &|_, _| ())?;
    /// println!("{} images, {} files skipped", train.len(), report.skipped.len());
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(
        dir: impl AsRef<Path>,
        options: &OpenOptions,
        progress: Progress<'_>,
    ) -> Result<(Self, LoadReport)> {
        let dir = dir.as_ref();
        check_side(options.size)?;
        let (data, report) = load(dir, options, progress)?;
        for (path, reason) in &report.skipped {
            tracing::warn!(path = %path.display(), reason, "skipped an unreadable image");
        }
        if options.part == Part::All {
            return Ok((data, report));
        }
        let Split {
            train,
            validation,
            test,
        } = data.split(options.seed)?;
        let part = match options.part {
            Part::All => data,
            Part::Train => train,
            Part::Validation => validation,
            Part::Test => test,
        };
        Ok((part, report))
    }
}

fn load(dir: &Path, options: &OpenOptions, progress: Progress<'_>) -> Result<(Dataset, LoadReport)> {
    let is_file = !std::fs::metadata(dir).map_err(Error::io(dir))?.is_dir();
    let listing = match &options.kind {
        Some(Kind::PairFolders { .. }) => Listing::default(),
        _ if is_file => Listing {
            files: vec![PathBuf::new()],
            ..Listing::default()
        },
        _ => walk(dir)?,
    };
    let paths = &listing.files;
    let bins = || paths.iter().filter(|path| ends_in(&dir.join(path), &["bin"]));
    let kind = match &options.kind {
        Some(kind) => kind.clone(),
        None if is_file && bins().next().is_none() => {
            return Err(Error::file(
                dir,
                "expected a folder of images or a CIFAR-10 .bin file",
            ));
        }
        None if are_paired(&listing) => Kind::Pairs,
        None if paths.iter().any(|path| is_picture(path)) => Kind::Folder,
        None => Kind::Cifar,
    };
    let loading = Loading {
        dir,
        options,
        progress,
    };
    let (size, fit) = (options.size, options.fit);
    let read_pair = |pair: &Pair| pair_images(pair, dir, options);
    // Pairs have paths relative to the folder.
    let named = |error| match error {
        Error::File { path, reason } => Error::file(dir.join(path), reason),
        other => other,
    };
    match &kind {
        Kind::Folder => {
            let files: Vec<&PathBuf> = paths.iter().filter(|path| is_picture(path)).collect();
            loading.run(kind, files, |file| {
                let picture = Picture::read(dir.join(file))?;
                let mut images = match options.patches {
                    true => Tiles::patches(size).cut(&picture, &picture, size)?,
                    false => TilePairs {
                        clean: picture.square(size, fit)?,
                        ..TilePairs::default()
                    },
                };
                images.damaged.clear();
                Ok(images)
            })
        }
        Kind::Pairs => loading.run(kind, by_words(listing.files).map_err(named)?, read_pair),
        Kind::PairFolders { clean, damaged } => {
            let files = |folder: &Path| Ok::<_, Error>(walk(&dir.join(folder))?.files);
            let (clean, damaged) = ((&**clean, files(clean)?), (&**damaged, files(damaged)?));
            let pairs = by_folders(clean, damaged).map_err(named)?;
            loading.run(kind, pairs, read_pair)
        }
        Kind::Cifar => {
            // Joining an empty path would append a slash to the file's name.
            let files: Vec<PathBuf> = match is_file {
                true => vec![dir.to_path_buf()],
                false => bins().map(|path| dir.join(path)).collect(),
            };
            let images = cifar::read(&files)?;
            let side = cifar::SIDE;
            let records = images.chunks_exact(side * side * 3).collect();
            loading.run(kind, records, |record| {
                Ok(TilePairs {
                    clean: lanczos_resize(record, side, side, size, size)?,
                    ..TilePairs::default()
                })
            })
        }
    }
}

fn pair_images(pair: &Pair, dir: &Path, options: &OpenOptions) -> Result<TilePairs> {
    let (clean_path, damaged_path) = (dir.join(&pair.clean), dir.join(&pair.damaged));
    let (clean, damaged) = (Picture::read(&clean_path)?, Picture::read(&damaged_path)?);
    let size = |of: &Picture| format!("{}x{}", of.height, of.width);
    if size(&clean) != size(&damaged) {
        let expected = format!("{} as its clean partner {}", size(&clean), clean_path.display());
        let found = format!("{} of {}", damaged_path.display(), size(&damaged));
        return Err(Error::config("damaged image", expected, found));
    }
    let patches = options.patches.then(|| Tiles::patches(options.size));
    match patches.or(options.tiles) {
        Some(tiles) => tiles.cut(&clean, &damaged, options.size),
        None => Ok(TilePairs {
            clean: clean.square(options.size, options.fit)?,
            damaged: damaged.square(options.size, options.fit)?,
            counts: TileCounts::default(),
        }),
    }
}

struct Loading<'a> {
    dir: &'a Path,
    options: &'a OpenOptions,
    progress: Progress<'a>,
}

impl Loading<'_> {
    /// Reads all sources, or a sample, and concatenates their images in the order of the sources. Each source
    /// is its own group.
    fn run<S: Sync>(
        &self,
        kind: Kind,
        sources: Vec<S>,
        read: impl Fn(&S) -> Result<TilePairs> + Sync,
    ) -> Result<(Dataset, LoadReport)> {
        let found = sources.len();
        if found == 0 {
            let reason = "no PNG, JPEG or CIFAR-10 .bin file of the wanted layout here or below";
            return Err(Error::file(self.dir, reason));
        }
        let chosen = match self.options.limit {
            Some(0) => return Err(Error::config("limit", "at least 1 image", 0)),
            Some(limit) if limit < found => {
                let mut sample = shuffled(found, Key::new(self.options.seed).fold_in_name("limit"));
                sample.truncate(limit);
                sample.sort_unstable();
                sample
            }
            _ => (0..found).collect(),
        };
        let done = AtomicUsize::new(0);
        let results = chosen.par_iter().map(|&source| {
            let result = read(&sources[source]);
            (self.progress)(done.fetch_add(1, Ordering::Relaxed) + 1, chosen.len());
            match result {
                Ok(images) => Ok(Ok(images)),
                Err(Error::File { path, reason }) => Ok(Err((path, reason))),
                Err(Error::Io { path, source }) => Ok(Err((path, source.to_string()))),
                Err(fatal) => Err(fatal),
            }
        });
        let results: Vec<Result<TilePairs, (PathBuf, String)>> = results.collect::<Result<_>>()?;
        let bytes = self.options.size * self.options.size * 3;
        let (mut clean, mut damaged) = (Vec::new(), Vec::new());
        let (mut groups, mut skipped) = (Vec::new(), Vec::new());
        let mut tiles = TileCounts::default();
        for (group, result) in results.into_iter().enumerate() {
            match result {
                Ok(images) => {
                    groups.extend(std::iter::repeat_n(group, images.clean.len() / bytes));
                    clean.extend(images.clean);
                    damaged.extend(images.damaged);
                    tiles += images.counts;
                }
                Err(reason) => skipped.push(reason),
            }
        }
        if clean.is_empty() {
            let reason = match skipped.first() {
                Some((path, reason)) => format!(
                    "none of {} images could be used; the first, {}: {reason}",
                    chosen.len(),
                    path.display()
                ),
                None => format!(
                    "every tile was dropped: {} flat, {} redundant",
                    tiles.flat, tiles.redundant
                ),
            };
            return Err(Error::file(self.dir, reason));
        }
        let report = LoadReport {
            kind,
            found,
            chosen: chosen.len(),
            images: groups.len(),
            skipped,
            tiles,
        };
        let damaged = Some(damaged).filter(|damaged| !damaged.is_empty());
        let data = Dataset::new(self.options.size, clean, damaged, Some(groups))?;
        Ok((data, report))
    }
}

#[cfg(test)]
mod tests;
