//! `variational pictures`: draws what a model has learned.

use std::path::PathBuf;

use clap::Parser;
use lnca::io::Picture;
use lnca::io::{sheet, write_png};
use lnca::model::vae::Decoder;
use lnca::random::Key;
use lnca_examples::args::at_once;
use lnca_examples::output::print;
use lnca_examples::{Result, note};

use crate::drawings::{growth, interpolation, reconstructions, recovery, samples};
use crate::{Source, rounded};

/// Draws reconstructions, samples, interpolations of latents, growth, and recovery from damage
#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    source: Source,

    /// Samples to average recovery from damage over
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_once)]
    recoveries: usize,

    /// Folder for the pictures [default: that of the model]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn draw(args: &Args) -> Result<()> {
    let (vae, test, _) = args.source.load()?;
    let folder = match (&args.out, args.source.model.parent()) {
        (Some(out), _) => out.clone(),
        (None, Some(parent)) => parent.to_path_buf(),
        (None, None) => PathBuf::new(),
    };
    let write = |name: &str, rows: &[Vec<Picture>]| -> Result<()> {
        let path = folder.join(name);
        write_png(&sheet(rows, 4), &path)?;
        note!("{}", path.display());
        Ok(())
    };
    let key = Key::new(args.source.seed);
    write("reconstructions.png", &reconstructions(&vae, &test, 16, key)?)?;
    write("samples.png", &samples(&vae, 32, key)?)?;
    write("interpolation.png", &interpolation(&vae, key)?)?;
    match vae.decoder() {
        Decoder::Doubling(decoder) => write("growth.png", &growth(&vae, decoder, key)?)?,
        Decoder::Broadcast(decoder) => {
            let (rows, left) = recovery(&vae, decoder, args.recoveries, key)?;
            write("recovery.png", &rows)?;
            let result = serde_json::json!({"samples": args.recoveries, "damage_left": rounded(left)});
            print(result)?;
        }
        _ => {}
    }
    Ok(())
}
