//! An automaton as a page: one HTML file that runs it in a browser, on WebGPU or in plain JavaScript.

mod manifest;

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use candle_core::Tensor;
use serde_json::{Value, json};

use super::write_atomic;
use crate::error::{Error, Result, check};
use crate::program::{Op, Program};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const INTERPRETER: &str = include_str!("interpreter.js");
const GPU: &str = include_str!("gpu.js");
const APP: &str = include_str!("app.js");

/// The first cells of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// One living cell in the middle, as of [`CellLayout::single_cell`](crate::CellLayout::single_cell).
    Cell,
    /// All channels 0.
    Zeros,
}

/// How the output channels of cells become colours: `scale x + shift`, black at 0 and full at 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// Factor of each of the first three channels.
    pub scale: f64,
    /// What is added.
    pub shift: f64,
    /// Whether the fourth channel is an alpha by which the colours are multiplied already.
    pub alpha: bool,
}

/// The perception of a page's automaton, to be turned: gradients that the program applies to each channel of
/// the cells. Filters are `[identity, x-gradient, y-gradient, ..]` of nine taps each, not turned.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turning {
    pub square: Vec<f32>,
    pub hexagonal: Option<Vec<f32>>,
}

/// A page that runs an automaton: play, draw, cut, and see it heal.
///
/// It is one HTML file of its own: its content policy forbids any network, and it needs no server and no
/// build. With WebGPU the automaton runs by the WGSL of [`Shader`](crate::Shader), without it in plain
/// JavaScript, from the same list of operations; what is drawn at random is the same as in this library, bit
/// by bit.
///
/// ```
/// use lnca::prelude::*;
/// use lnca::io::{Page, Start};
///
/// # fn main() -> lnca::Result<()> {
/// let layout = CellLayout { input: 0, output: 4, hidden: 4 };
/// let mut p = ProgramBuilder::new(layout);
/// let near = p.neighbourhood(p.cells(), Padding::Circular)?; // 72 channels
/// let weight = Tensor::randn(0f32, 0.05, (8, 72), &Device::Cpu)?;
/// let update = p.linear(near, &weight, None)?;
/// let page = Page::new("Mine", p.finish(update)?, (64, 64))?.start(Start::Cell).fire_rate(0.5)?;
/// assert!(page.html()?.starts_with("<!doctype html>"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Page {
    title: String,
    about: String,
    program: Program,
    size: (usize, usize),
    fire_rate: f64,
    start: Start,
    view: View,
    turning: Option<Turning>,
}

impl Page {
    /// A page of `program` on a grid of height and width `size` that begins with zeros, every cell of which
    /// fires. Four output channels and more are shown as premultiplied RGBA, fewer as colours or grey.
    ///
    /// # Errors
    /// [`Error::Shape`] if a size is 0, or not that of a constant of the program; [`Error::Config`] if the
    /// cells with all that is computed for them take more than the 128 MiB that WebGPU grants, there is no
    /// output channel to show, or a weight is not finite.
    pub fn new(title: &str, program: Program, size: (usize, usize)) -> Result<Self> {
        let output = program.layout().output;
        check::channels("layout.output", output)?;
        crate::grid::sizes((1, size.0, size.1), program.layout().channels())?;
        manifest::of(&program, size)?;
        Ok(Self {
            title: title.into(),
            about: String::new(),
            program,
            size,
            fire_rate: 1.0,
            start: Start::Zeros,
            view: View {
                scale: 1.0,
                shift: 0.0,
                alpha: output >= 4,
            },
            turning: None,
        })
    }

    /// A sentence below the title.
    pub fn about(mut self, text: &str) -> Self {
        self.about = text.into();
        self
    }

    /// The first cells.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// How cells become colours.
    ///
    /// # Errors
    /// [`Error::Config`] if a number is not finite, or there is to be an alpha and no fourth output channel.
    pub fn view(mut self, view: View) -> Result<Self> {
        check::finite("scale", view.scale)?;
        check::finite("shift", view.shift)?;
        if view.alpha {
            check::count(
                "layout.output",
                self.program.layout().output,
                (4, check::MOST_CHANNELS),
            )?;
        }
        self.view = view;
        Ok(self)
    }

    /// The probability that a cell takes its update in a step.
    ///
    /// # Errors
    /// [`Error::Config`] unless it is in `[0, 1]`.
    pub fn fire_rate(mut self, rate: f64) -> Result<Self> {
        crate::grid::draws::check_rate("fire_rate", rate)?;
        self.fire_rate = rate;
        Ok(self)
    }

    pub(crate) fn turning(mut self, turning: Turning) -> Self {
        self.turning = Some(turning);
        self
    }

    /// The page: a whole HTML file.
    ///
    /// # Errors
    /// As [`Page::new`].
    pub fn html(&self) -> Result<String> {
        // A `<` could end the element that holds it.
        let manifest = self.manifest()?.to_string().replace('<', "\\u003c");
        let weights = self.program.params.iter().map(Tensor::elem_count).sum::<usize>();
        let footer = format!(
            "Made by lnca {}: {weights} weights in f32. Nothing that is drawn here leaves this page, whose content \
             policy forbids any network.",
            env!("CARGO_PKG_VERSION")
        );
        let mut html = PAGE.to_string();
        for (name, text) in [
            ("title", escaped(&self.title)),
            ("about", escaped(&self.about)),
            ("footer", escaped(&footer)),
            ("style", STYLE.into()),
            ("interpreter", INTERPRETER.into()),
            ("gpu", GPU.into()),
            ("app", APP.into()),
            ("manifest", manifest),
        ] {
            html = html.replace(&format!("{{{{{name}}}}}"), &text);
        }
        Ok(html)
    }

    /// Writes the page to `path`, atomically.
    ///
    /// # Errors
    /// As [`Page::new`], and [`Error::Io`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write_atomic(path, self.html()?.as_bytes())
    }

    /// Writes what an engine of one's own needs into the folder `path`: `automaton.wgsl`, `weights.bin` (f32,
    /// little-endian) and `manifest.json`, as `docs/browser.md` describes them.
    ///
    /// # Errors
    /// As [`Page::new`], and [`Error::Io`] if a file cannot be written.
    pub fn save_wgsl(&self, path: impl AsRef<Path>) -> Result<()> {
        let folder = path.as_ref();
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let mut manifest = self.manifest()?;
        let mut taken = |name: &str| manifest.pointer_mut(name).map(Value::take);
        let text = taken("/shader/text");
        let weights = taken("/weights");
        let weights = weights.as_ref().and_then(Value::as_str).unwrap_or_default();
        let weights = BASE64_STANDARD.decode(weights).unwrap_or_default();
        manifest["shader"]["text"] = json!("automaton.wgsl");
        manifest["weights"] = json!("weights.bin");
        let text = text.as_ref().and_then(Value::as_str).unwrap_or_default();
        write_atomic(folder.join("automaton.wgsl"), text.as_bytes())?;
        write_atomic(folder.join("weights.bin"), &weights)?;
        write_atomic(folder.join("manifest.json"), format!("{manifest:#}\n").as_bytes())
    }

    fn manifest(&self) -> Result<Value> {
        let mut manifest = manifest::of(&self.program, self.size)?;
        manifest["title"] = json!(self.title);
        manifest["fire_rate"] = json!(self.fire_rate);
        manifest["start"] = match self.start {
            Start::Cell => json!("cell"),
            Start::Zeros => json!("zeros"),
        };
        let View { scale, shift, alpha } = self.view;
        manifest["view"] = json!({ "scale": scale, "shift": shift, "alpha": alpha });
        if let (Some(turning), Some((kernel, _))) = (&self.turning, filters(&self.program)) {
            manifest["perception"] = json!({
                "param": kernel,
                "square": turning.square,
                "hexagonal": turning.hexagonal,
            });
        }
        Ok(manifest)
    }
}

/// The kernel by which a program perceives its cells, and its filters of the first channel.
pub(crate) fn filters(program: &Program) -> Option<(usize, &Tensor)> {
    let kernel = program.nodes.iter().find_map(|node| match node.op {
        Op::Depthwise { x: 0, kernel, .. } => Some(kernel),
        _ => None,
    })?;
    Some((kernel, &program.params[kernel]))
}

/// Text between tags.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
