//! The arguments of `denoise` and `deblur`.

use std::path::{Path, PathBuf};

use candle_core::{Device, utils};
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use lnca::data::{Corruption, Kind};
use lnca::metric::SSIM_WINDOW;
use lnca::{ModelConfig, Recipe};
use serde::Serialize;
use serde_json::Value;

use super::Result;

/// What an example restores.
pub struct Task {
    /// Its name, as model files have it.
    pub name: &'static str,
    /// What it undoes.
    pub corruption: Corruption,
    /// What `--help` says first.
    pub about: &'static str,
}

/// Denoising.
pub const DENOISE: Task = Task {
    name: "denoise",
    corruption: Corruption::NOISE,
    about: "Trains a neural cellular automaton that takes noise out of images, and tests it: a table of SSIM and \
            PSNR, a contact sheet, loss curves, results as JSON and the model are written.\n\n\
            The noise is Gaussian with standard deviation 0.2, on half of the pixels in the test and on a share \
            that grows from a quarter to three quarters in training. Real pairs of images bring their own.",
};

/// Deblurring.
pub const DEBLUR: Task = Task {
    name: "deblur",
    corruption: Corruption::BLUR,
    about: "Trains a neural cellular automaton that takes motion blur out of images, and tests it: a table of SSIM \
            and PSNR, a contact sheet, loss curves, results as JSON and the model are written.\n\n\
            The blur is linear, at a random angle, 7 pixels long in the test and growing from 4 to 10 in training. \
            Real pairs of images bring their own.",
};

/// A run that says nothing of its length: what a laptop trains in about two minutes. Small batches make
/// more updates of the same time.
const QUICK: Schedule = Schedule {
    images: Some(1000),
    ae_epochs: 10,
    epochs: 8,
    end_to_end: 4,
    batch: 4,
};

/// With `--paper`: the paper's epochs and batches, on every image there is.
const PAPER: Schedule = Schedule {
    images: None,
    ae_epochs: 20,
    epochs: 20,
    end_to_end: 0,
    batch: 8,
};

/// Dead-leaves images made where no number is given.
const ALL_DEAD_LEAVES: usize = 5000;

struct Schedule {
    images: Option<usize>,
    ae_epochs: usize,
    /// Of the NCA.
    epochs: usize,
    /// Those of `epochs` in which all of a latent model learns.
    end_to_end: usize,
    batch: usize,
}

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

/// A published system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModelName {
    /// An attention-free NCA in latent space
    LatentNafca,
    /// An attention NCA in latent space
    LatentVitca,
    /// An attention NCA on pixels
    Vitca,
    /// A convolutional network of 116 million weights
    #[value(name = "nafnet")]
    NafNet,
    /// A network of 26 million weights with attention over channels
    Restormer,
}

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum DeviceName {
    /// The CPU
    Cpu,
    /// The first CUDA GPU
    Cuda,
}

impl DeviceName {
    /// The device, if this program can use it.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda if !utils::cuda_is_available() => {
                Err("`--device` is cuda, but this program was built without it: add `--features cuda`".into())
            }
            Self::Cuda => Ok(Device::new_cuda(0).map_err(|error| format!("`--device cuda`: {error}"))?),
        }
    }
}

/// Everything that decides which model a run makes. A run is resumed only under the same settings.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    pub model: &'static str,
    /// Whether the recipe is the paper's.
    pub paper: bool,
    pub data: Option<PathBuf>,
    pub kind: Option<String>,
    pub images: Option<usize>,
    pub size: usize,
    pub ae_epochs: usize,
    pub epochs: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_to_end: Option<usize>,
    pub batch: usize,
    pub learning_rate: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    pub seed: u64,
    pub device: &'static str,
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

    /// What follows from the arguments and the defaults.
    pub fn settings(&self) -> Settings {
        let schedule = if self.paper { PAPER } else { QUICK };
        let images = self.images.or(schedule.images);
        let (epochs, end_to_end) = match (self.epochs, self.end_to_end, &self.start) {
            (Some(epochs), end_to_end, _) => (epochs, end_to_end),
            (None, Some(end_to_end), Some(_)) => (0, Some(end_to_end)),
            (None, None, None) if self.model.is_latent() && schedule.end_to_end > 0 => {
                (schedule.epochs - schedule.end_to_end, Some(schedule.end_to_end))
            }
            (None, end_to_end, _) => (schedule.epochs, end_to_end),
        };
        Settings {
            model: self.config().name(),
            paper: self.paper,
            data: self.data.clone(),
            kind: self.kind.as_ref().map(kind_name),
            images: images.or_else(|| self.data.is_none().then_some(ALL_DEAD_LEAVES)),
            size: self.size,
            ae_epochs: self.ae_epochs.or(self.epochs).unwrap_or(schedule.ae_epochs),
            epochs,
            end_to_end,
            batch: self.batch.unwrap_or(schedule.batch),
            learning_rate: self.learning_rate,
            set: self.set.clone(),
            start: self.start.clone(),
            seed: self.seed,
            device: match self.device {
                DeviceName::Cpu => "cpu",
                DeviceName::Cuda => "cuda",
            },
        }
    }

    /// The folder for everything that is written.
    pub fn out_dir(&self, task: &Task) -> PathBuf {
        let default = || ["out", task.name].iter().collect();
        self.out.clone().unwrap_or_else(default)
    }

    /// The sizes of the model, as published.
    pub fn config(&self) -> ModelConfig {
        self.model.config()
    }
}

impl ModelName {
    /// Whether its automaton works in the latent space of an autoencoder.
    pub fn is_latent(self) -> bool {
        matches!(self, Self::LatentNafca | Self::LatentVitca)
    }

    /// Its sizes, as published.
    pub fn config(self) -> ModelConfig {
        match self {
            Self::LatentNafca => ModelConfig::latent_nafca(),
            Self::LatentVitca => ModelConfig::latent_vitca(),
            Self::Vitca => ModelConfig::vitca(),
            Self::NafNet => ModelConfig::nafnet(),
            Self::Restormer => ModelConfig::restormer(),
        }
    }
}

impl Settings {
    /// The recipe for `config` with what was asked to be different.
    pub fn recipe(&self, config: ModelConfig) -> Result<Recipe> {
        let mut recipe = match self.paper {
            true => Recipe::paper(config),
            false => Recipe::tuned(config),
        };
        if self.end_to_end.is_some() && recipe.end_to_end.is_none() {
            return Err(format!("`--end-to-end`: {} has no such phase", self.model).into());
        }
        if let Some(rate) = self.learning_rate {
            recipe.nca.adam.learning_rate = rate;
            if let Some(config) = &mut recipe.end_to_end {
                config.adam.learning_rate = rate;
            }
        }
        for set in &self.set {
            let (field, text) = set.split_once('=').unwrap_or((set, ""));
            let mut changed = serde_json::to_value(&recipe)?;
            let place = changed
                .pointer_mut(&format!("/{}", field.replace('.', "/")))
                .ok_or_else(|| format!("`--set {set}`: the recipe has no field `{field}`"))?;
            *place = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_string()));
            recipe = serde_json::from_value(changed).map_err(|error| format!("`--set {set}`: {error}"))?;
        }
        Ok(recipe)
    }

    /// The command that makes this model, with every default spelt out, and files and folders by their last names alone:
    /// it goes into model files, which travel.
    pub fn command(&self, task: &Task) -> String {
        let mut words = vec![task.name.to_string()];
        if let Ok(Value::Object(settings)) = serde_json::to_value(self) {
            for (name, value) in settings {
                match value {
                    Value::Null | Value::Bool(false) => {}
                    Value::Bool(true) => words.push(format!("--{name}")),
                    Value::String(text) => {
                        let last = Path::new(&text).file_name().map(|last| last.to_string_lossy());
                        words.push(format!("--{name} {}", last.as_deref().unwrap_or(&text)));
                    }
                    Value::Array(many) => words.extend(
                        many.iter()
                            .filter_map(Value::as_str)
                            .map(|one| format!("--{name} {one}")),
                    ),
                    value => words.push(format!("--{name} {value}")),
                }
            }
        }
        words.join(" ")
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

fn kind_name(kind: &Kind) -> String {
    match kind {
        Kind::Folder => "folder".into(),
        Kind::Pairs => "pairs".into(),
        Kind::Cifar => "cifar".into(),
        Kind::PairFolders { clean, damaged } => format!("{}:{}", clean.display(), damaged.display()),
    }
}

/// A whole number from 1.
pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("expected a whole number from 1".into()),
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
