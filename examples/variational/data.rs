//! Binary images to train and to test on.

use std::path::PathBuf;

use lnca::data::BinaryImages;
use lnca_examples::Result;

/// Numbers of built-in digits to train and to test on.
const DIGITS: (usize, usize) = (10_000, 1000);

/// The images
#[derive(clap::Args)]
pub struct Data {
    /// Folder of MNIST: binarised (.amat or idx) or with grey levels (idx), plain or gzipped [default:
    /// built-in digits]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Folder of MNIST with grey levels and labels, which are given to the binarised images that are samples
    /// of these
    #[arg(long, value_name = "DIR", requires = "data")]
    labels: Option<PathBuf>,

    /// Seed of the built-in digits, and of the binarisation of grey levels
    #[arg(long, default_value_t = 0)]
    data_seed: u64,
}

/// Images with a border that makes their side a power of two, which doubling from one cell can reach.
pub struct Images {
    pub train: BinaryImages,
    pub test: BinaryImages,
    /// What they are.
    pub name: &'static str,
    /// Width of the border in pixels.
    pub border: usize,
}

impl Data {
    pub fn load(&self) -> Result<Images> {
        let (train, test, name) = match &self.data {
            Some(dir) => {
                let mut parts = BinaryImages::open(dir, self.data_seed)?;
                if let Some(grey) = &self.labels {
                    parts = parts.labelled(grey)?;
                }
                (parts.train, parts.test, parts.name)
            }
            None => {
                let all = BinaryImages::digits(DIGITS.0 + DIGITS.1, self.data_seed)?;
                (all.take(DIGITS.0), all.skip(DIGITS.0), "built-in digits")
            }
        };
        let side = train.side();
        let border = (side.next_power_of_two() - side) / 2;
        Ok(Images {
            train: train.padded(border)?,
            test: test.padded(border)?,
            name,
            border,
        })
    }
}
