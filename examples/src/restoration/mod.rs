//! Everything that `denoise` and `deblur` do: train a model, test it, and show the result.
//!
//! | what | where |
//! | --- | --- |
//! | arguments, and the settings they give | [`args`], [`settings`] |
//! | images to train, validate and test on | [`images`] |
//! | the phases of training and the test | [`train`](fn@train) |
//! | scores of models and filters; `--eval` | [`evaluation`] |
//! | the folder of a run: resuming, log, curves | [`run_folder`], [`log`], [`curves`] |

pub mod args;
pub mod curves;
pub mod evaluation;
pub mod images;
pub mod log;
pub mod run_folder;
pub mod settings;
mod train;

use lnca::data::Corruption;
use serde_json::Value;

pub use args::Args;
pub use settings::Settings;
pub use train::{SHOWN_FILE, train};

use crate::Result;
use crate::output::print;

/// What an example restores.
pub struct Task {
    /// Its name in model files.
    pub name: &'static str,
    /// The corruption to undo.
    pub corruption: Corruption,
    /// The first paragraphs of `--help`.
    pub about: &'static str,
}

/// Denoising.
pub const DENOISE: Task = Task {
    name: "denoise",
    corruption: Corruption::NOISE,
    about: "Trains a neural cellular automaton that removes noise from images, and tests it. Writes a table of SSIM and \
            PSNR, a contact sheet, loss curves, results as JSON, and the model.\n\n\
            The noise is Gaussian with standard deviation 0.2, on half of the pixels in the test and on a share \
            that grows from a quarter to three quarters in training. Real pairs of images have noise of their own.",
};

/// Deblurring.
pub const DEBLUR: Task = Task {
    name: "deblur",
    corruption: Corruption::BLUR,
    about: "Trains a neural cellular automaton that removes motion blur from images, and tests it. Writes a table of \
            SSIM and PSNR, a contact sheet, loss curves, results as JSON, and the model.\n\n\
            The blur is linear, at a random angle, 7 pixels long in the test and growing from 4 to 10 in training. \
            Real pairs of images have blur of their own.",
};

/// Runs `denoise` or `deblur` with the arguments of this process.
///
/// # Errors
/// Whatever goes wrong, as a sentence for the user.
pub fn run(task: &Task) -> Result<()> {
    let args = Args::of(task);
    if args.kind.is_some() && args.data.is_empty() && args.test_data.is_none() {
        return Err("`--kind` is the layout of a folder, and needs --data or --test-data".into());
    }
    if args.sigma.is_some() && task.name != DENOISE.name {
        return Err("`--sigma` is a noise, and needs the example `denoise`".into());
    }
    if let Some(model) = &args.eval {
        return evaluation::eval(task, &args, model);
    }
    let results = train(task, &args)?;
    print(table(&results))?;
    print(format_args!(
        "\nIn {} after {:.0} s: sheet.png, curves.png, results.json, model.safetensors",
        args.out_dir(task).display(),
        results["seconds"]["this run in all"].as_f64().unwrap_or_default()
    ))
}

fn table(results: &Value) -> String {
    let images = format!("{} test images", results["images"]["test"]);
    let mut table = format!("\n{images:<20} {:>7} {:>9}", "SSIM", "PSNR, dB");
    for row in results["scores"].as_array().into_iter().flatten() {
        let score = |name: &str| row[name].as_f64().unwrap_or(f64::INFINITY);
        let name = row["name"].as_str().unwrap_or_default();
        table += &format!("\n{name:<20} {:>7.4} {:>9.2}", score("ssim"), score("psnr"));
    }
    table
}
