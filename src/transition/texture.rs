//! The transition of texture NCA (Niklasson, Mordvintsev, Randazzo and Levin, Distill 2021).

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use super::TransitionFn;
use super::filters::{Lattice, perception};
use crate::error::{Error, Result, check};
use crate::grid::{CellLayout, Padding};
use crate::nn::Linear;
use crate::ops::{Function, stencil};
use crate::program::{Program, ProgramBuilder, Value};

/// Which parts of a [`Texture`] are rounded to 8 bits; gradients pass as if nothing were rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantisation {
    /// Nothing.
    #[default]
    None,
    /// Weights: each layer's are rounded to a grid from minus to plus their largest magnitude.
    Weights,
    /// Weights, and every value within the clipped range.
    Everything,
}

/// Sizes and variants of a [`Texture`]; the defaults are those published with sliced optimal transport
/// ("V3", June 2022).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextureConfig {
    /// Channels: none in, RGB out, 9 hidden.
    pub layout: CellLayout,
    /// Width of the hidden layer: 96.
    pub hidden_dim: usize,
    /// The lattice of the cells: square.
    pub lattice: Lattice,
    /// Rotation of the perception in radians: 0.
    pub angle: f64,
    /// Factor of the gradients and of the Laplacian: 1.
    pub filter_scale: f64,
    /// The border of the grid: a torus.
    pub padding: Padding,
    /// Whether the second layer has a bias: no.
    pub output_bias: bool,
    /// Perception, updates and states are clipped to plus and minus this, hidden values to 0 and this:
    /// unbounded. Cells must begin within it, and on the quantisation grid where states are rounded, as zeros
    /// do: cells that do not fire are left as they are.
    pub clip: Option<f32>,
    /// What is rounded to 8 bits: nothing.
    pub quantisation: Quantisation,
}

impl Default for TextureConfig {
    fn default() -> Self {
        Self {
            layout: CellLayout {
                input: 0,
                output: 3,
                hidden: 9,
            },
            hidden_dim: 96,
            lattice: Lattice::Square,
            angle: 0.0,
            filter_scale: 1.0,
            padding: Padding::Circular,
            output_bias: false,
            clip: None,
            quantisation: Quantisation::None,
        }
    }
}

impl TextureConfig {
    /// The rule of the models released with the article ("V1"): filters divided by 8, a second bias, all
    /// values clipped to 2. Trained with [`Quantisation::Everything`]; its RGB is `x / 2 + 0.5`.
    pub fn released() -> Self {
        Self {
            filter_scale: 1.0 / 8.0,
            output_bias: true,
            clip: Some(2.0),
            ..Self::default()
        }
    }
}

/// Perception by identity, both gradients and Laplacian on a torus, then a two-layer perceptron.
///
/// Weights: `hidden.weight` (`[hidden_dim, 4 C]`, column `4 c + f` for filter f of channel c), `hidden.bias`,
/// `output.weight` (`[update channels, hidden_dim]`) and, if there is one, `output.bias`. The output layer
/// starts at zero.
#[derive(Clone, Debug)]
pub struct Texture {
    config: TextureConfig,
    hidden: Linear,
    output: Linear,
    /// Sine and cosine of each cell's rotation of gradients, `[H, W, 2]`.
    directions: Option<Tensor>,
}

impl Texture {
    /// A transition with weights from `vb`.
    ///
    /// # Errors
    /// [`Error::Config`] if values are to be quantised but not clipped, or a size is 0.
    pub fn new(config: TextureConfig, vb: VarBuilder) -> Result<Self> {
        if config.clip.is_none() && config.quantisation == Quantisation::Everything {
            let expected = "none or weights, where values are not clipped";
            return Err(Error::config("quantisation", expected, "everything"));
        }
        config.layout.check_sizes()?;
        check::channels("hidden_dim", config.hidden_dim)?;
        check::finite("angle", config.angle)?;
        check::finite("filter_scale", config.filter_scale)?;
        if let Some(clip) = config.clip {
            check::positive("clip", clip.into())?;
        }
        let (channels, update) = (config.layout.channels(), config.layout.update_channels());
        let (input, hidden) = (4 * channels, config.hidden_dim);
        // V3 was published with PyTorch's default initialisation, bias included.
        let hidden_layer = Linear::uniform(input, hidden, true, vb.pp("hidden"))?;
        let layer = vb.pp("output");
        let bias = match config.output_bias {
            true => Some(layer.get_with_hints(update, "bias", Init::Const(0.0))?),
            false => None,
        };
        let output = Linear::new(
            layer.get_with_hints((update, hidden), "weight", Init::Const(0.0))?,
            bias,
        );
        Ok(Self {
            config,
            hidden: hidden_layer,
            output,
            directions: None,
        })
    }

    /// Its sizes and variants.
    pub fn config(&self) -> &TextureConfig {
        &self.config
    }

    /// The same rule with the perception of each cell rotated: `directions` (`[H, W, 2]`) holds a unit vector
    /// for each cell, column component first; (0, 1) means no rotation. The pattern then follows the field.
    ///
    /// # Errors
    /// [`Error::Shape`] if it does not have that shape.
    pub fn directed(&self, directions: &Tensor) -> Result<Self> {
        if directions.rank() != 3 || directions.dim(2)? != 2 {
            return Err(Error::shape("directions", "[H, W, 2]", directions.dims()));
        }
        check::float("directions", directions)?;
        Ok(Self {
            directions: Some(directions.clone()),
            ..self.clone()
        })
    }

    /// The perception of each cell: `[B, H, W, C]` to `[B, H, W, 4 C]`; feature `4 c + f` is filter f of
    /// channel c, filters in the order identity, x-gradient, y-gradient, Laplacian. Before directions and
    /// clipping.
    pub fn perceive(&self, cells: &Tensor) -> Result<Tensor> {
        self.config.layout.check(cells)?;
        check::float("cells", cells)?;
        let channels = self.config.layout.channels();
        let filters = self.filters(cells)?.reshape((1, 4, 9))?;
        let each = filters.broadcast_as((channels, 4, 9))?.contiguous()?;
        stencil(cells, &each, self.config.padding)
    }

    /// Colours of cells, `[B, H, W, 3]`, in `[0, 1]` apart from overshoots: `x + 0.5`, and `x / clip + 0.5`
    /// where values are clipped.
    ///
    /// # Errors
    /// [`Error::Shape`] if the cells do not fit the layout, or have fewer than 3 channels.
    pub fn rgb(&self, cells: &Tensor) -> Result<Tensor> {
        self.config.layout.check(cells)?;
        check::float("cells", cells)?;
        if self.config.layout.channels() < 3 {
            let found = self.config.layout.channels();
            return Err(Error::config(
                "layout",
                "3 channels or more, to show colours",
                found,
            ));
        }
        let scale = match self.config.clip {
            Some(clip) => 1.0 / f64::from(clip),
            None => 1.0,
        };
        Ok(cells.narrow(3, 0, 3)?.affine(scale, 0.5)?)
    }

    fn filters(&self, like: &Tensor) -> Result<Tensor> {
        let TextureConfig {
            lattice,
            angle,
            filter_scale,
            ..
        } = self.config;
        perception(lattice, angle, filter_scale, true, like)
    }

    /// Kernel and bias of a layer, rounded if weights are quantised.
    fn weights(&self, layer: &Linear) -> Result<(Tensor, Option<Tensor>)> {
        let (weight, bias) = (layer.weight(), layer.bias());
        if self.config.quantisation == Quantisation::None {
            return Ok((weight.clone(), bias.cloned()));
        }
        // One quantisation grid for the layer, bias included.
        let largest = |x: &Tensor| -> Result<f64> {
            let largest = x.detach().abs()?.flatten_all()?.max(0)?;
            Ok(largest.to_dtype(candle_core::DType::F64)?.to_scalar()?)
        };
        let bound = match bias {
            Some(bias) => largest(weight)?.max(largest(bias)?),
            None => largest(weight)?,
        };
        if bound == 0.0 {
            return Ok((weight.clone(), bias.cloned()));
        }
        let function = Function::quantise(-bound as f32, bound as f32);
        Ok((
            function.of(weight)?,
            bias.map(|bias| function.of(bias)).transpose()?,
        ))
    }

    /// The features of a cell, and the first kernel with its columns in the same order.
    fn seen(&self, p: &mut ProgramBuilder, cells: &Tensor, weight: Tensor) -> Result<(Value, Tensor)> {
        let (filters, padding) = (self.filters(cells)?, self.config.padding);
        let x = p.cells();
        let Some(directions) = &self.directions else {
            return Ok((p.stencil(x, &filters, padding)?, weight));
        };
        let (h, w) = (cells.dim(1)?, cells.dim(2)?);
        if directions.dims() != [h, w, 2] {
            let expected = format!("[{h}, {w}, 2], that of the cells");
            return Err(Error::shape("directions", expected, directions.dims()));
        }
        let (sin, cos) = (directions.narrow(2, 0, 1)?, directions.narrow(2, 1, 1)?);
        let table = Tensor::cat(&[&cos, &sin, &sin.neg()?], 2)?.to_dtype(cells.dtype())?;
        let table = p.constant(&table)?;
        let (cos, sin) = (p.slice(table, 0, 1)?, p.slice(table, 1, 1)?);
        let minus_sin = p.slice(table, 2, 1)?;
        let mut filter = |n: usize| p.stencil(x, &filters.narrow(0, n, 1)?, padding);
        let (gx, gy, laplacian) = (filter(1)?, filter(2)?, filter(3)?);
        let mut turned = |a: Value, b: Value| {
            let (a, b) = (p.mul(gx, a)?, p.mul(gy, b)?);
            p.add(a, b)
        };
        let (x_turned, y_turned) = (turned(cos, minus_sin)?, turned(sin, cos)?);
        let seen = p.concat(&[x, x_turned, y_turned, laplacian])?;
        let (hidden, channels) = (self.config.hidden_dim, self.config.layout.channels());
        let weight = weight.reshape((hidden, channels, 4))?.transpose(1, 2)?;
        Ok((seen, weight.flatten_from(1)?))
    }

    /// Values clipped to `[low, clip]`, and rounded if everything is quantised.
    fn bounded(&self, p: &mut ProgramBuilder, x: Value, low: f32) -> Result<Value> {
        let Some(clip) = self.config.clip else {
            return Ok(x);
        };
        let min = low * clip;
        p.map(
            x,
            match self.config.quantisation {
                Quantisation::Everything => Function::quantise(min, clip),
                _ => Function::Clamp { min, max: clip },
            },
        )
    }
}

impl TransitionFn for Texture {
    fn layout(&self) -> CellLayout {
        self.config.layout
    }

    fn program(&self, cells: &Tensor) -> Result<Option<Program>> {
        check::as_other("cells", cells, "the weights", self.hidden.weight())?;
        let mut p = ProgramBuilder::new(self.config.layout);
        let (weight, bias) = self.weights(&self.hidden)?;
        let (seen, weight) = self.seen(&mut p, cells, weight)?;
        let seen = self.bounded(&mut p, seen, -1.0)?;
        let hidden = p.linear(seen, &weight, bias.as_ref())?;
        let hidden = p.map(hidden, Function::Relu)?;
        let hidden = self.bounded(&mut p, hidden, 0.0)?;
        let (weight, bias) = self.weights(&self.output)?;
        let update = p.linear(hidden, &weight, bias.as_ref())?;
        let update = match self.config.clip {
            None => update,
            Some(_) => {
                // The state itself is clipped: the update loses the part that would lead out of bounds, which
                // is exactly 0 within them.
                let update = self.bounded(&mut p, update, -1.0)?;
                let (input, channels) = (self.config.layout.input, self.config.layout.update_channels());
                let own = p.slice(p.cells(), input, channels)?;
                let sum = p.add(own, update)?;
                let bounded = self.bounded(&mut p, sum, -1.0)?;
                let minus = Tensor::full(-1f32, channels, cells.device())?.to_dtype(cells.dtype())?;
                let minus_sum = p.affine(sum, Some(&minus), None)?;
                let beyond = p.add(bounded, minus_sum)?;
                p.add(update, beyond)?
            }
        };
        Ok(Some(p.finish(update)?))
    }
}

/// Unit vectors that point away from the middle of a grid: `[height, width, 2]`, for [`Texture::directed`].
pub fn polar_directions(height: usize, width: usize, like: &Tensor) -> Result<Tensor> {
    field(height, width, like, |x, y| (x - 0.5, y - 0.5))
}

/// Unit vectors along the field lines of two poles, at a quarter and three quarters of a grid's diagonal:
/// `[height, width, 2]`, for [`Texture::directed`].
pub fn bipolar_directions(height: usize, width: usize, like: &Tensor) -> Result<Tensor> {
    field(height, width, like, |x, y| {
        let (from, to) = ((x - 0.25, y - 0.25), (0.75 - x, 0.75 - y));
        let cube = |v: (f64, f64)| v.0.hypot(v.1).powi(3).max(1e-9);
        (
            from.0 / cube(from) + to.0 / cube(to),
            from.1 / cube(from) + to.1 / cube(to),
        )
    })
}

/// Unit vectors along `direction(x, y)`, with each cell's place in `[0, 1]`.
fn field(
    height: usize,
    width: usize,
    like: &Tensor,
    direction: impl Fn(f64, f64) -> (f64, f64),
) -> Result<Tensor> {
    check::float("like", like)?;
    let mut values = Vec::with_capacity(check::elements("(height, width)", &[height, width, 2])?);
    for (row, column) in (0..height).flat_map(|row| (0..width).map(move |column| (row, column))) {
        let along = |at: usize, of: usize| (at as f64 + 0.5) / of as f64;
        let (x, y) = direction(along(column, width), along(row, height));
        let length = x.hypot(y);
        match length > 0.0 {
            true => values.extend([x / length, y / length]),
            false => values.extend([0.0, 1.0]),
        }
    }
    let values = Tensor::from_vec(values, (height, width, 2), like.device())?;
    Ok(values.to_dtype(like.dtype())?)
}
