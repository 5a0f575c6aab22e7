//! A trained automaton as a page for a browser.
//!
//! ```sh
//! cargo run --release --example export                                       # out/lizard.html
//! cargo run --release --example export -- models/bubbles.safetensors bubbles.html
//! cargo run --release --example export -- models/lizard.safetensors --wgsl out/lizard
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::Device;
use clap::Parser;
use lnca::Pattern;
use lnca_examples::args::{parse, side};
use lnca_examples::{Result, note, shipped};

/// Writes a page that runs an automaton in a browser, or its shaders alone.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Model of a growing picture or a texture [default: the shipped lizard]
    model: Option<PathBuf>,

    /// The page [default: out/NAME.html]
    page: Option<PathBuf>,

    /// Writes shaders, weights and a manifest into this folder, in place of a page
    #[arg(long, value_name = "FOLDER", conflicts_with = "page")]
    wgsl: Option<PathBuf>,

    /// The title of the page [default: the name of the model]
    #[arg(long)]
    title: Option<String>,

    /// Cells along a side of the grid [default: as in training]
    #[arg(long, value_name = "CELLS", value_parser = side)]
    size: Option<usize>,
}

fn main() -> ExitCode {
    lnca_examples::exit(run(&parse()))
}

fn run(args: &Args) -> Result<()> {
    let model = match &args.model {
        Some(model) => model.clone(),
        None => shipped("models/lizard.safetensors"),
    };
    let pattern = Pattern::load(&model, &Device::Cpu)?;
    let name = model
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .to_string();
    let title = args.title.clone().unwrap_or_else(|| capitalised(&name));
    let size = args.size.map_or(pattern.card().size, |side| (side, side));
    let page = pattern.page(&title, size)?;
    if let Some(folder) = &args.wgsl {
        page.save_wgsl(folder)?;
        note!("wrote {}", folder.display());
        return Ok(());
    }
    let path = args.page.clone();
    let path = path.unwrap_or_else(|| Path::new("out").join(format!("{name}.html")));
    page.save(&path)?;
    let bytes = page.html()?.len();
    note!(
        "wrote {} ({} kB): open it in a browser",
        path.display(),
        bytes.div_ceil(1000)
    );
    Ok(())
}

fn capitalised(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or(String::new(), |first| {
        first.to_uppercase().chain(letters).collect()
    })
}
