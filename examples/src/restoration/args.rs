//! The arguments of `denoise` and `deblur`.

use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser};
use lnca::data::Kind;
use lnca::metric::SSIM_WINDOW;

use super::Task;
use crate::Result;
use crate::args::{DeviceName, ModelName, positive};

const DEFAULTS: &str = "\
DEFAULTS
  Without arguments a latent-nafca model is trained on 1000 generated images in batches of 4, 10 epochs
  of autoencoder, 4 of NCA and 4 of both, which takes about two minutes on two CPU cores: enough to see it work,
  too little for its best. The recipe is the library's own: cells start from their input, and the
  decoder learns along with the automaton. Given hours, --end-to-end adds a phase in which the encoder
  learns as well, and a latent model gains most. The paper trains 20 epochs a phase in batches of 8 on whole
  data sets, with the decoder frozen: --paper does that, and takes hours on a CPU. The other models
  cost more: latent-vitca about twice as much, vitca, nafnet and restormer 15 times and more.

FILES WRITTEN TO --out
  model.safetensors   the model, for `restore --model` and `--eval`; while it trains, the best of its phase so far
  sheet.png           test images: clean, corrupted, filtered, restored
  curves.png          loss and validation SSIM of the training
  results.json        arguments, counts, skipped files, scores, times and history
  shown.safetensors   the images of sheet.png
  log.jsonl           every batch and every epoch, written while it trains
  run.json, *.checkpoint.safetensors   what --resume needs; may be deleted after the run

THREADS
  All cores are used. RAYON_NUM_THREADS and CANDLE_NUM_THREADS in the environment limit that.";

/// See `--help`.
#[derive(Parser)]
#[command(after_help = DEFAULTS, version)]
pub struct Args {
    /// The system to train
    #[arg(long, value_enum, default_value = "latent-nafca")]
    pub model: ModelName,

    /// Folder of images to train and test on, split 64/16/20 into training, validation and test; without
    /// it, dead-leaves images are generated
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Layout of the folders: `folder` (clean PNG and JPEG files at any depth), `pairs` (clean and
    /// damaged files told apart by their names), `cifar` (CIFAR-10 .bin files), or `CLEAN:DAMAGED`, the
    /// names of two folders in it; found out unless given
    #[arg(long, value_name = "LAYOUT", value_parser = kind)]
    pub kind: Option<Kind>,

    /// Test on every image of this folder rather than on the test split
    #[arg(long, value_name = "DIR")]
    pub test_data: Option<PathBuf>,

    /// Use at most N images (for pairs N tiles), a random sample [default: 1000; with --paper all, or
    /// 5000 generated ones]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub images: Option<usize>,

    /// Side of the images in pixels, to which they are cropped and resized
    #[arg(long, value_name = "PIXELS", default_value_t = 32, value_parser = side)]
    pub size: usize,

    /// Epochs of the NCA, and of the autoencoder unless --ae-epochs is given too [default: 8, of a latent model 4 and
    /// --end-to-end 4; with --paper 20]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub epochs: Option<usize>,

    /// Epochs of the autoencoder [default: 10; with --paper 20]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub ae_epochs: Option<usize>,

    /// Epochs of encoder, NCA and decoder together, after the others; with --start there are no others unless --epochs is
    /// given [default: none where --epochs is given]
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "paper")]
    pub end_to_end: Option<usize>,

    /// Images in a batch [default: 4; with --paper 8]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub batch: Option<usize>,

    /// Learning rate of the NCA, in all of its phases, at their beginning [default: those of the recipe]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub learning_rate: Option<f64>,

    /// Change one field of the recipe, such as nca.average=0.999 or learning=everything; results.json of
    /// any run shows all fields. May be given more than once
    #[arg(long, value_name = "FIELD=VALUE", value_parser = field)]
    pub set: Vec<String>,

    /// Go on from this model rather than from random weights, on other images or for longer; its autoencoder is not
    /// trained before
    #[arg(long, value_name = "MODEL")]
    pub start: Option<PathBuf>,

    /// Seed of weights, images, split, order, corruption, steps, masks and pool
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Train by the recipe of the paper, and as long: 20 epochs a phase, on all images
    #[arg(long)]
    pub paper: bool,

    /// Folder for everything the run writes [default: out/ and the name of this example]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Go on with the run in --out, to the same result as if it had never stopped; without this, a run
    /// there starts anew
    #[arg(long)]
    pub resume: bool,

    /// Batches between checkpoints, besides the one after every epoch
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = positive)]
    pub checkpoint_every: usize,

    /// Where to compute
    #[arg(long, value_enum, default_value = "cpu")]
    pub device: DeviceName,

    /// Train nothing: test this model on every image of --data, at the difficulty of the test and always
    /// with the same corruption, and print one line of JSON. A PSNR that is infinite is null
    #[arg(
        long,
        value_name = "MODEL",
        requires = "data",
        conflicts_with_all = ["model", "test_data", "images", "epochs", "ae_epochs",
            "end_to_end", "learning_rate", "set", "start", "seed", "paper", "out",
            "resume", "checkpoint_every"]
    )]
    pub eval: Option<PathBuf>,
}

impl Args {
    /// The arguments of this process; ends it where they are wrong or ask for help.
    pub fn of(task: &Task) -> Self {
        let matches = Self::command().name(task.name).about(task.about).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// The arguments that these words make, the first of which is the name of the program.
    pub fn from_words(task: &Task, words: &[String]) -> Result<Self> {
        let matches = Self::command().name(task.name).try_get_matches_from(words)?;
        Ok(Self::from_arg_matches(&matches)?)
    }

    /// The folder for everything that is written.
    pub fn out_dir(&self, task: &Task) -> PathBuf {
        let default = || ["out", task.name].iter().collect();
        self.out.clone().unwrap_or_else(default)
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

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.0..=1.0).contains(&rate) => Ok(rate),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

fn field(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((field, value)) if !field.is_empty() && !value.is_empty() => Ok(text.to_string()),
        _ => Err("expected FIELD=VALUE".into()),
    }
}

fn side(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(side) if (SSIM_WINDOW..=4096).contains(&side) => Ok(side),
        _ => Err(format!(
            "expected {SSIM_WINDOW} (the window of SSIM) to 4096 pixels"
        )),
    }
}
