//! A transition of your own, trained with a pool of states to remove noise from images.
//!
//! ```sh
//! cargo run --release --example custom_transition    # about a minute
//! ```

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use candle_nn::Init;
use clap::Parser;
use lnca::data::{Corruption, Dataset};
use lnca::nn::Linear;
use lnca::random::Key;
use lnca::train::PoolTrainerConfig;
use lnca::{
    CellLayout, Fit, Padding, PlainNca, PoolTrainer, Restorer, Rollout, Step, TrainingData, TransitionFn,
    Weights, evaluate, neighbourhood,
};
use lnca_examples::Result;
use lnca_examples::args::{OnDevice, parse};
use lnca_examples::contact_sheet::{ContactSheet, Label};
use lnca_examples::output::print;
use lnca_examples::progress::TrainingProgress;

/// A whole new automaton: a perceptron of two layers on the 3x3 neighbourhood of a cell.
#[derive(Clone)]
struct Perceptron {
    hidden: Linear,
    output: Linear,
}

impl Perceptron {
    /// The noisy image, the restored image, and six hidden channels for what cells tell each other.
    const LAYOUT: CellLayout = CellLayout {
        input: 3,
        output: 3,
        hidden: 6,
    };

    fn new(width: usize, weights: &Weights) -> Result<Self> {
        let vb = weights.builder();
        Ok(Self {
            hidden: Linear::glorot(9 * Self::LAYOUT.channels(), width, vb.pp("hidden"))?,
            // Zeros: an automaton that does nothing at first is easy to train.
            output: Linear::with_init(
                width,
                Self::LAYOUT.update_channels(),
                Init::Const(0.0),
                vb.pp("output"),
            )?,
        })
    }
}

impl TransitionFn for Perceptron {
    fn layout(&self) -> CellLayout {
        Self::LAYOUT
    }

    fn update(&self, cells: &Tensor, _: &Step) -> lnca::Result<Tensor> {
        let seen = neighbourhood(cells, Padding::Zero)?.flatten_from(3)?; // [B, H, W, 9 * 12]
        self.output.forward(&self.hidden.forward(&seen)?.relu()?) // [B, H, W, 9]
    }
}

/// Trains a transition of its own, a perceptron, with a pool of states to remove noise from images, for
/// about a minute, and writes images before and after to out/custom_transition.png.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    device: OnDevice,
}

fn main() -> ExitCode {
    lnca_examples::exit(run(parse::<Args>().device))
}

fn run(device: OnDevice) -> Result<()> {
    let device = device.open()?;
    let weights = Weights::new(0, DType::F32, &device);
    let restorer: Arc<dyn Restorer> = Arc::new(PlainNca::new(Perceptron::new(48, &weights)?)?);
    let config = PoolTrainerConfig {
        pool: 256,
        steps: 4..=12,
        validation_steps: 16,
        ..PoolTrainerConfig::vitca()
    };
    let rollout = Rollout::new(config.validation_steps)
        .fire_rate(config.fire_rate)
        .key(Key::new(1));

    let parts = Dataset::dead_leaves(400, 32, 0)?.split(0)?;
    let noise = Corruption::NOISE;
    let data = TrainingData {
        train: parts.train,
        validation: parts.validation,
        corruption: Some(noise),
        curriculum: None,
    };
    let fit = Fit {
        epochs: 12,
        ..Fit::default()
    };
    let mut trainer = PoolTrainer::new(restorer.clone(), &weights, config)?;
    let mut progress = TrainingProgress::new(fit.epochs);
    fit.run(&mut trainer, &data, &mut |event| progress.show(event))?;
    progress.finish();

    let test = |batch| {
        parts
            .test
            .evaluation_batches(batch, Some((noise, noise.test_difficulty())), Key::new(2))
    };
    let scores = evaluate(&test(8)?, &device, |images, first| {
        restorer.restore(images, &rollout.clone().first_image(first))
    })?;
    print(format_args!(
        "{} test images: SSIM {:.4} before, {:.4} after",
        scores.images, scores.ssim_corrupted, scores.ssim
    ))?;

    let shown = test(8)?.get(0, &device)?;
    let restored = restorer.restore(&shown.corrupted, &rollout)?;
    let path = Path::new("out/custom_transition.png");
    ContactSheet {
        title: format!("A transition of your own: {} test images", scores.images),
        rows: vec![
            (Label::new("clean"), shown.clean),
            (
                Label::with_ssim("corrupted", Some(scores.ssim_corrupted)),
                shown.corrupted,
            ),
            (Label::with_ssim("restored", Some(scores.ssim)), restored),
        ],
    }
    .save(path)?;
    print(path.display())
}
