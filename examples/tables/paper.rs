//! The numbers in the paper's tables.

use lnca_examples::args::ModelName;

/// The models in the order of the paper.
pub const MODELS: [ModelName; 5] = [
    ModelName::NafNet,
    ModelName::Restormer,
    ModelName::Vitca,
    ModelName::LatentVitca,
    ModelName::LatentNafca,
];

/// SSIM by data set, for the models in the order of [`MODELS`].
type Restoration = [(&'static str, [f64; 5]); 5];

const DENOISING: Restoration = [
    ("celeba", [0.958, 0.967, 0.942, 0.889, 0.837]),
    ("cifar10", [0.924, 0.918, 0.910, 0.855, 0.833]),
    ("tinyimagenet", [0.837, 0.880, 0.852, 0.802, 0.776]),
    ("renoir", [0.962, 0.965, 0.939, 0.877, 0.880]),
    ("sid", [0.752, 0.781, 0.647, 0.646, 0.652]),
];

const DEBLURRING: Restoration = [
    ("celeba", [0.986, 0.993, 0.941, 0.769, 0.745]),
    ("cifar10", [0.970, 0.977, 0.903, 0.752, 0.739]),
    ("tinyimagenet", [0.962, 0.975, 0.870, 0.672, 0.673]),
    ("gopro", [0.908, 0.934, 0.773, 0.739, 0.739]),
    ("realblur", [0.869, 0.918, 0.814, 0.772, 0.771]),
];

/// The paper's SSIM of a model on a data set, if there is one.
pub fn ssim(task: &str, data: &str, model: ModelName) -> Option<f64> {
    let table = match task {
        "denoise" => DENOISING,
        _ => DEBLURRING,
    };
    let plain = data.to_lowercase().replace(['-', '_', ' '], "");
    let (_, row) = table.into_iter().find(|(name, _)| *name == plain)?;
    Some(row[MODELS.iter().position(|known| *known == model)?])
}

/// Side of the images and size of a batch, for the nine configurations in the order of the paper.
pub const CONFIGURATIONS: [(usize, usize); 9] = [
    (32, 8),
    (32, 16),
    (32, 32),
    (64, 8),
    (64, 16),
    (64, 32),
    (128, 8),
    (128, 16),
    (128, 32),
];

/// A table of efficiency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Efficiency {
    /// Table 3: memory of training, GB
    #[value(name = "3")]
    Memory,
    /// Table 4: seconds of an epoch
    #[value(name = "4")]
    Training,
    /// Table 5: seconds of a batch
    #[value(name = "5")]
    Inference,
}

impl Efficiency {
    /// The number of the table.
    pub fn number(self) -> usize {
        3 + self as usize
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Memory => "memory of training, GB",
            Self::Training => "time of training, seconds an epoch (800 images, and 200 to validate)",
            Self::Inference => "time of inference, seconds a batch (64 steps)",
        }
    }

    /// A model's values on one A100, in the order of [`CONFIGURATIONS`]. Missing ones at the end did not fit.
    pub fn paper(self, model: ModelName) -> &'static [f64] {
        match (self, model) {
            (_, ModelName::Gated) => &[],
            (Self::Memory, ModelName::NafNet) => &[4.1, 4.1, 4.2, 4.2, 8.2, 8.8, 8.7, 19.6, 35.0],
            (Self::Memory, ModelName::Restormer) => &[4.4, 4.4, 8.5, 8.8, 16.8, 32.9, 32.8, 65.6],
            (Self::Memory, ModelName::Vitca) => &[8.7, 16.9, 33.8, 33.8, 65.6],
            (Self::Memory, ModelName::LatentVitca) => &[0.5, 1.1, 1.2, 2.2, 4.4, 4.7, 8.7, 16.9, 17.4],
            (Self::Memory, ModelName::LatentNafca) => &[0.5, 0.5, 1.1, 1.1, 2.1, 4.1, 4.1, 8.2, 16.4],
            (Self::Training, ModelName::NafNet) => &[25.1, 13.3, 7.9, 22.8, 13.0, 9.0, 28.8, 19.0, 15.7],
            (Self::Training, ModelName::Restormer) => &[21.7, 11.9, 7.9, 25.2, 18.9, 16.8, 59.9, 57.1],
            (Self::Training, ModelName::Vitca) => &[21.7, 18.5, 17.5, 69.9, 61.6],
            (Self::Training, ModelName::LatentVitca) => &[14.9, 8.9, 4.9, 16.6, 11.8, 8.4, 30.0, 21.8, 16.4],
            (Self::Training, ModelName::LatentNafca) => &[24.5, 14.5, 7.2, 17.1, 11.4, 7.4, 21.2, 14.8, 10.2],
            (Self::Inference, ModelName::NafNet) => &[0.25, 0.24, 0.25, 0.24, 0.24, 0.24, 0.24, 0.25, 0.25],
            (Self::Inference, ModelName::Restormer) => {
                &[0.56, 0.53, 0.54, 0.54, 0.55, 0.58, 0.58, 0.68, 0.93]
            }
            (Self::Inference, ModelName::Vitca) => &[1.47, 1.42, 1.45, 1.43, 1.46, 2.00, 2.01, 2.96, 5.17],
            (Self::Inference, ModelName::LatentVitca) => {
                &[1.45, 1.45, 1.46, 1.43, 1.43, 1.41, 1.43, 1.44, 1.42]
            }
            (Self::Inference, ModelName::LatentNafca) => {
                &[0.59, 0.60, 0.60, 0.59, 0.60, 0.59, 0.59, 0.60, 0.59]
            }
        }
    }
}
