//! `variational train`: trains a variational autoencoder.

use clap::{Parser, ValueEnum};
use lnca::io::{sheet, write_png};
use lnca::random::Key;
use lnca::train::{AdamConfig, VaeTrainer, VaeTrainerConfig};
use lnca::{DecoderConfig, Vae, VaeCard, VaeConfig};
use lnca_examples::args::{amount, at_once, count, rate, whole};
use lnca_examples::training::Training;
use lnca_examples::{Result, command_line};

use crate::data::Data;
use crate::drawings::{reconstructions, samples};

/// Trains a variational autoencoder
#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    data: Data,

    /// Decoder: an automaton that doubles, one that does not, or transposed convolutions
    #[arg(long, value_enum, default_value = "doubling")]
    decoder: DecoderName,

    /// Dimensions of the latent, channels of a cell; published: 256, and 128 for broadcast
    #[arg(long, value_name = "Z", default_value_t = 32, value_parser = whole::<1, 4096>)]
    latent: usize,

    /// Channels of the encoder's first convolution, of which the others have multiples; published: 32
    #[arg(long, value_name = "CHANNELS", default_value_t = 8, value_parser = whole::<1, 256>)]
    encoder: usize,

    /// Channels of the baseline's first grid, a multiple of 16; published: 512
    #[arg(long, value_name = "CHANNELS", default_value_t = 128, value_parser = whole::<1, 4096>)]
    width: usize,

    /// Steps after each doubling; published: 8
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = whole::<1, 1000>)]
    steps: usize,

    /// Residual blocks of the doubling automaton; published: 4
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = whole::<1, 256>)]
    blocks: usize,

    /// Fire rate of the broadcast automaton
    #[arg(long, value_name = "RATE", default_value_t = 1.0, allow_negative_numbers = true, value_parser = rate)]
    fire_rate: f64,

    /// Grids in the pool of the broadcast automaton; 0 is no pool
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = whole::<0, 10_000_000>)]
    pool: usize,

    /// Leave images from the pool out of the KL divergence: their grids were not seeded with their latents
    #[arg(long)]
    no_pool_kl: bool,

    /// Images in an update; published: 32, and 128 for broadcast
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_once)]
    batch: usize,

    /// Updates of the weights; published: 100000
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = count)]
    updates: usize,

    /// Learning rate of the first update, which falls to 0 along a cosine; published: 1e-4, constant
    /// [default: 3e-3, and 1e-3 for broadcast]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = rate)]
    learning_rate: Option<f64>,

    /// Constant learning rate
    #[arg(long)]
    constant: bool,

    /// Do not clip gradients, which have a norm of 10 at most by default. A reproduction clips the updates of
    /// Adam instead, by a norm that they never reach
    #[arg(long)]
    no_clip: bool,

    /// Weight of the KL divergence of the latents
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true, value_parser = amount)]
    beta: f64,

    #[command(flatten)]
    training: Training,
}

#[derive(Clone, Copy, ValueEnum)]
enum DecoderName {
    Doubling,
    Broadcast,
    Baseline,
}

impl Args {
    fn decoder(&self) -> DecoderConfig {
        match self.decoder {
            DecoderName::Doubling => DecoderConfig::Doubling {
                steps: self.steps,
                blocks: self.blocks,
            },
            DecoderName::Broadcast => DecoderConfig::Broadcast {
                steps: 36,
                fire_rate: self.fire_rate,
                output_bias: true,
            },
            DecoderName::Baseline => DecoderConfig::Baseline { width: self.width },
        }
    }

    fn trainer(&self) -> VaeTrainerConfig {
        let default = VaeTrainerConfig::default();
        VaeTrainerConfig {
            adam: AdamConfig {
                learning_rate: self.learning_rate.unwrap_or(match self.decoder {
                    DecoderName::Broadcast => 1e-3,
                    _ => 3e-3,
                }),
                clip: default.adam.clip.filter(|_| !self.no_clip),
                cosine_updates: (!self.constant).then_some(self.updates),
                ..default.adam
            },
            batch: self.batch,
            beta: self.beta,
            pool: self.pool,
            pool_kl: !self.no_pool_kl,
            seed: self.training.seed,
            ..default
        }
    }
}

pub fn train(args: &Args) -> Result<()> {
    let device = args.training.device.open()?;
    let folder = args.training.folder("variational")?;
    let images = args.data.load()?;
    let config = VaeConfig {
        size: images.train.side(),
        border: images.border,
        latent: args.latent,
        encoder: args.encoder,
        decoder: args.decoder(),
    };
    let card = VaeCard {
        data: images.name.into(),
        trained_by: format!("{} updates of {} images", args.updates, args.batch),
        made_by: command_line(),
        ..VaeCard::new(config)
    };
    let vae = Vae::new(card, args.training.seed, &device)?;
    if let Some(path) = &args.training.start {
        let start = Vae::load(path, &device)?;
        vae.weights().load(&start.weights().snapshot()?)?;
    }
    let mut trainer = VaeTrainer::new(&vae, images.train, args.trainer())?;
    let shown = images.test.sample(8, Key::new(0).fold_in_name("test"));
    args.training
        .run(folder, &mut trainer, args.updates, |_, snapshot| {
            vae.save(snapshot.model)?;
            let mut rows = reconstructions(&vae, &shown, 8, Key::new(0))?;
            rows.extend(samples(&vae, 16, Key::new(0))?);
            Ok(write_png(&sheet(&rows, 4), snapshot.preview)?)
        })
}
