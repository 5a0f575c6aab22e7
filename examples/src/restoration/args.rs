//! The arguments of `denoise` and `deblur`.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser};
use lnca::data::{Corruption, Kind, OpenOptions};
use lnca::metric::SSIM_WINDOW;

use super::Task;
use crate::Result;
use crate::args::{MOST_SIDE, ModelName, OnDevice, at_once, count, end, rate, whole};

/// The last part of `--help`.
const DEFAULTS: &str = "\
DEFAULTS
  Without arguments the library's own model, a gated NCA on pixels, is trained from nothing on 1000 generated
  images for 10 epochs in batches of 8. That takes about two minutes on two CPU cores. The paper's models work in
  the latent space of an autoencoder: latent-nafca trains 10 epochs of the autoencoder, 4 of the NCA, and 4 of
  both together, in batches of 4, by the library's own recipe: cells are seeded with the input image, and the
  decoder is trained together with the automaton. With --end-to-end the encoder is trained too; if there are hours
  to spare, this gains most. --paper trains as the paper does, which takes hours on a CPU: 20 epochs a phase, in
  batches of 8, on whole data sets, with the decoder frozen. The other models cost more: latent-vitca about twice
  as much, vitca, nafnet and restormer 15 times as much or more.

FILES WRITTEN TO --out
  model.safetensors   the model, for `restore --model` and `--eval`; during training, the best of its phase so far
  sheet.png           test images: clean, corrupted, filtered, restored
  curves.png          training loss and validation SSIM
  results.json        arguments, counts, skipped files, scores, times and history
  shown.safetensors   the images of sheet.png
  log.jsonl           every batch and every epoch, written during training; where it cannot be, that is said
                      once, and the training goes on
  run.json, *.checkpoint.safetensors   what --resume needs; may be deleted after the run
  .lock               held while a run writes here: a second one is refused

THREADS
  All cores are used. RAYON_NUM_THREADS and CANDLE_NUM_THREADS in the environment limit that.";

/// The arguments.
#[derive(Parser)]
#[command(after_help = DEFAULTS, version)]
pub struct Args {
    /// Model to train
    #[arg(long, value_enum, default_value = "gated")]
    pub model: ModelName,

    /// Folder of images, split 64/16/20 into training, validation and test. May be given more than once:
    /// clean images and pairs are mixed [default: generated dead-leaves images]
    #[arg(long, value_name = "DIR")]
    pub data: Vec<PathBuf>,

    /// Layout of the folders: `folder` (clean PNG and JPEG files at any depth), `pairs` (clean and
    /// damaged files told apart by their names), `cifar` (CIFAR-10 .bin files), or `CLEAN:DAMAGED`, the
    /// names of two folders in it [default: detected]
    #[arg(long, value_name = "LAYOUT", value_parser = kind)]
    pub kind: Option<Kind>,

    /// Test on all images of this folder instead of the test split
    #[arg(long, value_name = "DIR")]
    pub test_data: Option<PathBuf>,

    /// Use at most N images (for pairs N tiles), a random sample [default: 1000; with --paper all, or
    /// 5000 generated ones]
    #[arg(long, value_name = "N", value_parser = count)]
    pub images: Option<usize>,

    /// Side of the images in pixels, to which they are cropped and resized
    #[arg(long, value_name = "PIXELS", default_value_t = 32, value_parser = side)]
    pub size: usize,

    /// Cut photographs into patches of --size pixels at their own resolution, instead of shrinking them
    #[arg(long)]
    pub patches: bool,

    /// Independent Gaussian noise on R, G and B instead of the paper's: its standard deviation in 8-bit
    /// steps, or `blind`: in training 0 to 50, 25 on average. For `denoise`
    #[arg(long, value_name = "STEPS", value_parser = sigma)]
    pub sigma: Option<Sigma>,

    /// Epochs of the NCA, and of the autoencoder unless --ae-epochs is given too [default: 10 of the gated
    /// model, 8 of others, or for a latent model 4 with --end-to-end 4; with --paper 20]
    #[arg(long, value_name = "N", value_parser = count)]
    pub epochs: Option<usize>,

    /// Epochs of the autoencoder [default: 10; with --paper 20]
    #[arg(long, value_name = "N", value_parser = count)]
    pub ae_epochs: Option<usize>,

    /// Epochs of encoder, NCA and decoder together, after those of --epochs, which are 0 by default if
    /// --start is given too [default: 4 for a latent model without --epochs, --start and --paper]
    #[arg(long, value_name = "N", value_parser = count, conflicts_with = "paper")]
    pub end_to_end: Option<usize>,

    /// Images in a batch [default: 4, of the gated model and with --paper 8]
    #[arg(long, value_name = "N", value_parser = at_once)]
    pub batch: Option<usize>,

    /// Learning rate of the NCA at the start of each of its phases [default: those of the recipe]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = rate)]
    pub learning_rate: Option<f64>,

    /// Train a latent model without its automaton, for --epochs: what the automaton contributes is its score
    /// less that of such a model, on the same data for as long
    #[arg(long, conflicts_with_all = ["end_to_end", "paper"])]
    pub bypass: bool,

    /// Change one field of the recipe, as in nca.average=0.999 or learning=everything; results.json of any
    /// run shows all fields. May be given more than once
    #[arg(long, value_name = "FIELD=VALUE", value_parser = field)]
    pub set: Vec<String>,

    /// Start from this model instead of random weights; the phase of the autoencoder is skipped
    #[arg(long, value_name = "MODEL")]
    pub start: Option<PathBuf>,

    /// Seed of weights, images, split, order, corruption, steps, masks and pool
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Train with the recipe of the paper, for as long: 20 epochs a phase, on all images
    #[arg(long)]
    pub paper: bool,

    /// Folder for everything the run writes [default: out/ and the name of this example]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Resume the run in --out, with the same result as if it had never stopped; without this, a run there
    /// starts over
    #[arg(long)]
    pub resume: bool,

    /// Batches between two checkpoints; there is also one after every epoch
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = count)]
    pub checkpoint_every: usize,

    #[command(flatten)]
    pub device: OnDevice,

    /// Do not train: test this model on all images of --data, after 0, 1, 8, 16, 32 and 64 steps too
    /// [default: the generated ones that a run without
    /// arguments is tested on], always with the same corruption, and print a line of JSON. An infinite PSNR
    /// is null
    #[arg(
        long,
        value_name = "MODEL",
        conflicts_with_all = ["model", "test_data", "images", "epochs", "ae_epochs",
            "end_to_end", "learning_rate", "set", "start", "seed", "paper", "out",
            "resume", "checkpoint_every"]
    )]
    pub eval: Option<PathBuf>,
}

impl Args {
    /// The arguments of this process. It ends here if they are wrong or ask for help.
    pub fn of(task: &Task) -> Self {
        let matches = Self::command()
            .name(task.name)
            .about(task.about)
            .try_get_matches();
        matches
            .and_then(|matches| Self::from_arg_matches(&matches))
            .unwrap_or_else(|error| end(&error))
    }

    /// The arguments in `words`, the first of which is the name of the program.
    ///
    /// # Errors
    /// They are wrong.
    pub fn from_words(task: &Task, words: impl IntoIterator<Item: Clone + Into<OsString>>) -> Result<Self> {
        let matches = Self::command().name(task.name).try_get_matches_from(words)?;
        Ok(Self::from_arg_matches(&matches)?)
    }

    /// How folders are read: at most `limit` files of each, drawn by the seed.
    pub fn reading(&self, limit: Option<usize>, seed: u64) -> OpenOptions {
        OpenOptions {
            size: self.size,
            limit,
            seed,
            kind: self.kind.clone(),
            patches: self.patches,
            ..OpenOptions::default()
        }
    }

    /// The corruption to undo: the task's, or that of `--sigma`.
    pub fn corruption(&self, task: &Task) -> Corruption {
        self.sigma.map_or(task.corruption, Sigma::corruption)
    }

    /// The folder for everything that is written.
    pub fn out_dir(&self, task: &Task) -> PathBuf {
        let default = || ["out", task.name].iter().collect();
        self.out.clone().unwrap_or_else(default)
    }
}

/// What `--sigma` says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sigma {
    /// A standard deviation in 8-bit steps.
    Steps(f64),
    /// One that differs from image to image.
    Blind,
}

impl Sigma {
    /// The corruption.
    pub fn corruption(self) -> Corruption {
        let (steps, blind) = match self {
            Self::Steps(steps) => (steps, false),
            Self::Blind => (25.0, true),
        };
        Corruption::Gaussian {
            sigma: steps / 255.0,
            blind,
        }
    }
}

impl fmt::Display for Sigma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "{steps}"),
            Self::Blind => write!(f, "blind"),
        }
    }
}

fn sigma(text: &str) -> Result<Sigma, String> {
    match text.parse() {
        _ if text == "blind" => Ok(Sigma::Blind),
        Ok(steps) if (0.0..=255.0).contains(&steps) => Ok(Sigma::Steps(steps)),
        _ => Err("expected a number from 0 to 255, or blind".into()),
    }
}

fn kind(text: &str) -> Result<Kind, String> {
    match text {
        "folder" => Ok(Kind::Folder),
        "pairs" => Ok(Kind::Pairs),
        "cifar" => Ok(Kind::Cifar),
        _ => match text.split_once(':') {
            Some((clean, damaged)) if !clean.is_empty() && !damaged.is_empty() => Ok(Kind::PairFolders {
                clean: clean.into(),
                damaged: damaged.into(),
            }),
            _ => Err("expected folder, pairs, cifar or CLEAN:DAMAGED".into()),
        },
    }
}

fn field(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((field, value)) if !field.is_empty() && !value.is_empty() => Ok(text.to_string()),
        _ => Err("expected FIELD=VALUE".into()),
    }
}

fn side(text: &str) -> Result<usize, String> {
    whole::<SSIM_WINDOW, MOST_SIDE>(text)
        .map_err(|error| format!("{error} pixels, and not below the window of SSIM"))
}
