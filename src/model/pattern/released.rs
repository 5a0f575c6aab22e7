//! Loaders of the models that the authors of the Distill articles published on their pages.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::{Pattern, PatternCard, PatternConfig};
use crate::error::{Error, Result};
use crate::grid::CellLayout;
use crate::io::safetensors::Tensors;
use crate::nn::Weights;
use crate::transition::{GrowingConfig, TextureConfig};

/// A layer of a Growing NCA: bytes `[in_ch + 1, out_ch]`, the bias last.
#[derive(Deserialize)]
struct GrowingLayer {
    data_b64: String,
    in_ch: usize,
    out_ch: usize,
    weight_scale: f64,
    bias_scale: f64,
}

/// Layers of many texture NCAs, each a tile of one picture.
#[derive(Deserialize)]
struct TextureFile {
    model_names: Vec<String>,
    layers: Vec<TextureLayer>,
}

#[derive(Deserialize)]
struct TextureLayer {
    scale: f64,
    data: String,
    /// Inputs + 1 (the bias), outputs.
    shape: (usize, usize),
    /// Tiles in a row and in a column.
    layout: (usize, usize),
}

impl Pattern {
    /// Reads a model of the web page of "Growing Neural Cellular Automata" (Distill 2020): JSON with two
    /// layers of 8-bit weights. It runs with the rule of the article's training code, on 72x72 cells.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] if it cannot be read or has another format.
    pub fn released_growing(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let wrong =
            |reason: String| Error::file(path, format!("not a Growing NCA of the web page: {reason}"));
        let layers: Vec<GrowingLayer> = json(path)?;
        let [first, second] = &layers[..] else {
            return Err(wrong(format!("{} layers, expected 2", layers.len())));
        };
        let channels = second.out_ch;
        if Some(first.in_ch) != channels.checked_mul(3) || second.in_ch != first.out_ch || channels < 4 {
            let found = [first.in_ch, first.out_ch, second.in_ch, second.out_ch];
            return Err(wrong(format!("layers of {found:?} channels in and out")));
        }
        let config = GrowingConfig {
            layout: CellLayout {
                input: 0,
                output: 4,
                hidden: channels - 4,
            },
            hidden_dim: first.out_ch,
            ..GrowingConfig::default()
        };
        let mut values = Tensors::new();
        for (name, layer) in [("hidden", first), ("output", second)] {
            let bytes = BASE64_STANDARD
                .decode(&layer.data_b64)
                .map_err(|error| wrong(error.to_string()))?;
            let (inputs, outputs) = (layer.in_ch, layer.out_ch);
            let expected = inputs.saturating_add(1).saturating_mul(outputs);
            if bytes.len() != expected {
                return Err(wrong(format!(
                    "{} bytes in a layer, expected {expected}",
                    bytes.len()
                )));
            }
            // Rows of the first layer are ordered filter by filter.
            let filters = if name == "hidden" { 3 } else { 1 };
            let weight = |byte: u8, scale: f64| (f64::from(byte) / 255.0 - 0.5) * scale;
            let at = |row: usize, output: usize| bytes[row * outputs + output];
            insert(&mut values, name, (inputs, outputs), filters, |row, output| {
                let scale = if row == inputs {
                    layer.bias_scale
                } else {
                    layer.weight_scale
                };
                weight(at(row, output), scale)
            })?;
        }
        let mut card = PatternCard::new(PatternConfig::Growing(config), (72, 72));
        card.target = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        card.trained_by = "its authors".into();
        card.made_by =
            "Mordvintsev, Randazzo, Niklasson and Levin, Growing Neural Cellular Automata, Distill 2020, \
                        CC-BY 4.0; decoded from 8 bits"
                .into();
        Self::with_weights(card, Weights::given(values, DType::F32, &Device::Cpu))
    }

    /// Names of the models in a `models.json` of "Self-Organising Textures" (Distill 2021).
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] if it cannot be read or has another format.
    pub fn released_texture_names(path: impl AsRef<Path>) -> Result<Vec<String>> {
        Ok(json::<TextureFile>(path.as_ref())?.model_names)
    }

    /// Reads one model of a `models.json` of "Self-Organising Textures" (Distill 2021) by its name or the
    /// part after the last `/`. It runs as it was trained, on 128x128 cells, but without quantisation.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] if the file cannot be read or has another format; [`Error::Config`]
    /// if there is no model of that name.
    pub fn released_texture(path: impl AsRef<Path>, name: &str) -> Result<Self> {
        let path = path.as_ref();
        let wrong = |reason: String| Error::file(path, format!("not a file of texture models: {reason}"));
        let file: TextureFile = json(path)?;
        let is_it = |known: &String| known == name || known.rsplit('/').next() == Some(name);
        let Some(model) = file.model_names.iter().position(is_it) else {
            let some = file
                .model_names
                .iter()
                .take(5)
                .cloned()
                .collect::<Vec<_>>()
                .join(", ");
            let expected = format!(
                "one of the {} names of the file, such as {some}",
                file.model_names.len()
            );
            return Err(Error::config("name", expected, name));
        };
        let [first, second] = &file.layers[..] else {
            return Err(wrong(format!("{} layers, expected 2", file.layers.len())));
        };
        let sizes = (first.shape.0.wrapping_sub(1), second.shape.0.wrapping_sub(1));
        let channels = second.shape.1;
        if sizes != (channels.saturating_mul(4), first.shape.1) || channels < 3 {
            return Err(wrong(format!(
                "layers of shapes {:?} and {:?}",
                first.shape, second.shape
            )));
        }
        let config = TextureConfig {
            layout: CellLayout {
                input: 0,
                output: 3,
                hidden: channels - 3,
            },
            hidden_dim: first.shape.1,
            ..TextureConfig::released()
        };
        let mut values = Tensors::new();
        for (name, layer) in [("hidden", first), ("output", second)] {
            let text = layer.data.rsplit(',').next().unwrap_or_default();
            let bytes = BASE64_STANDARD
                .decode(text)
                .map_err(|error| wrong(error.to_string()))?;
            let picture = image::load_from_memory(&bytes)
                .map_err(|error| wrong(error.to_string()))?
                .into_rgba8();
            let (rows, outputs) = layer.shape;
            let (left, top) = (
                (model % layer.layout.0.max(1)).saturating_mul(outputs / 4),
                (model / layer.layout.0.max(1)).saturating_mul(rows),
            );
            let (width, height) = (picture.width() as usize, picture.height() as usize);
            if left.saturating_add(outputs / 4) > width
                || top.saturating_add(rows) > height
                || outputs % 4 != 0
            {
                let expected = format!("a tile of {rows}x{} at ({top}, {left})", outputs / 4);
                return Err(wrong(format!(
                    "a picture of {height}x{width}, expected {expected}"
                )));
            }
            let pixels = picture.as_raw();
            let filters = if name == "hidden" { 4 } else { 1 };
            insert(&mut values, name, (rows - 1, outputs), filters, |row, output| {
                let byte = pixels[((top + row) * width + left) * 4 + output];
                (f64::from(byte) - 127.0) / 255.0 * layer.scale
            })?;
        }
        let mut card = PatternCard::new(PatternConfig::Texture(config), (128, 128));
        card.target = name.into();
        card.trained_by = "its authors".into();
        card.made_by =
            "Niklasson, Mordvintsev, Randazzo and Levin, Self-Organising Textures, Distill 2021; decoded \
                        from 8 bits"
                .into();
        Self::with_weights(card, Weights::given(values, DType::F32, &Device::Cpu))
    }
}

fn json<D: serde::de::DeserializeOwned>(path: &Path) -> Result<D> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text).map_err(|error| Error::file(path, format!("is of another kind: {error}")))
}

/// Adds weight and bias of a layer from `at(row, output)`, whose last row is the bias. Rows ordered filter by
/// filter are reordered channel by channel.
fn insert(
    values: &mut Tensors,
    name: &str,
    (inputs, outputs): (usize, usize),
    filters: usize,
    at: impl Fn(usize, usize) -> f64,
) -> Result<()> {
    let channels = inputs / filters;
    let column = |input: usize| input % filters * channels + input / filters;
    let columns = (0..outputs).flat_map(|output| (0..inputs).map(move |input| (input, output)));
    let weight: Vec<f32> = columns
        .map(|(input, output)| at(column(input), output) as f32)
        .collect();
    let bias: Vec<f32> = (0..outputs).map(|output| at(inputs, output) as f32).collect();
    let weight = Tensor::from_vec(weight, (outputs, inputs), &Device::Cpu)?;
    values.insert(format!("{name}.weight"), weight);
    values.insert(
        format!("{name}.bias"),
        Tensor::from_vec(bias, outputs, &Device::Cpu)?,
    );
    Ok(())
}
