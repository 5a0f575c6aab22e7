//! Cells: which channels of a grid `[B, H, W, C]` are input, output and hidden, and how it starts.

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, check};

/// Channel layout of a cell, in the order **input | output | hidden**.
///
/// Input channels never change during a rollout; an update covers the output and hidden channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellLayout {
    /// Channels that hold what the automaton reads (an image, a latent); may be 0.
    pub input: usize,
    /// Channels that hold the result.
    pub output: usize,
    /// Channels that the automaton uses freely as memory.
    pub hidden: usize,
}

/// What the output channels hold before the first step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStart {
    /// 0.5: the published seed of ViTCA and of the latent automata.
    #[default]
    Half,
    /// The input: the automaton only has to learn the difference from it.
    Input,
}

impl CellLayout {
    /// All channels of a cell.
    pub fn channels(&self) -> usize {
        self.input.saturating_add(self.update_channels())
    }

    /// Channels that a transition updates: output and hidden.
    pub fn update_channels(&self) -> usize {
        self.output.saturating_add(self.hidden)
    }

    /// Cells with the given `input` (`[B, H, W, input]`), hidden channels 0: `[B, H, W, C]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `input` does not fit; [`Error::Config`] if the output is to start as the input
    /// but has other channels; [`Error::DType`] unless `input` holds floating-point numbers.
    pub fn seed(&self, input: &Tensor, start: OutputStart) -> Result<Tensor> {
        let &[b, h, w, channels] = input.dims() else {
            return Err(Error::shape("input", "[B, H, W, input]", input.dims()));
        };
        if channels != self.input {
            let expected = format!("[B, H, W, {}]", self.input);
            return Err(Error::shape("input", expected, input.dims()));
        }
        check::float("input", input)?;
        check::elements("layout", &[b, h, w, self.channels()])?;
        // Without empty parts: on CUDA, filling a tensor of no elements is an error.
        let constant = |value: f32, channels: usize| -> Result<Option<Tensor>> {
            if channels == 0 {
                return Ok(None);
            }
            let part = Tensor::full(value, (b, h, w, channels), input.device())?;
            Ok(Some(part.to_dtype(input.dtype())?))
        };
        let output = match start {
            OutputStart::Half => constant(0.5, self.output)?,
            OutputStart::Input if self.output == self.input => Some(input.clone()),
            OutputStart::Input => {
                let expected = format!("{}, the input channels, to start as the input", self.input);
                return Err(Error::config("layout.output", expected, self.output));
            }
        };
        let hidden = constant(0.0, self.hidden)?;
        let parts: Vec<Tensor> = [Some(input.clone()), output, hidden]
            .into_iter()
            .flatten()
            .collect();
        Ok(Tensor::cat(&parts, 3)?)
    }

    /// Empty grids with one living cell each, at `[height / 2, width / 2]`: `[B, H, W, C]`.
    ///
    /// The first three channels of that cell are 0 and all others 1: black and opaque where the
    /// layout starts with premultiplied RGBA. This is the seed of Growing NCA (Mordvintsev et al. 2020).
    ///
    /// # Errors
    /// [`Error::Shape`] if a size is 0, or all are more than 2^34 elements or than there is memory for.
    pub fn single_cell(
        &self,
        (batch, height, width): (usize, usize, usize),
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let channels = self.channels();
        sizes((batch, height, width), channels)?;
        let mut cells = vec![0f32; height * width * channels];
        let first = (height / 2 * width + width / 2) * channels;
        cells[first..first + channels]
            .iter_mut()
            .skip(3)
            .for_each(|value| *value = 1.0);
        let cells = Tensor::from_vec(cells, (1, height, width, channels), device)?.to_dtype(dtype)?;
        Ok(cells.repeat((batch, 1, 1, 1))?)
    }

    /// The input channels of `cells`: `[B, H, W, input]`.
    pub fn input(&self, cells: &Tensor) -> Result<Tensor> {
        self.check(cells)?;
        Ok(cells.narrow(3, 0, self.input)?)
    }

    /// The output channels of `cells`: `[B, H, W, output]`.
    pub fn output(&self, cells: &Tensor) -> Result<Tensor> {
        self.check(cells)?;
        Ok(cells.narrow(3, self.input, self.output)?)
    }

    /// The hidden channels of `cells`: `[B, H, W, hidden]`.
    pub fn hidden(&self, cells: &Tensor) -> Result<Tensor> {
        self.check(cells)?;
        Ok(cells.narrow(3, self.input + self.output, self.hidden)?)
    }

    /// An error unless there are channels, some of them updated, and not too many.
    pub(crate) fn check_sizes(&self) -> Result<()> {
        if self.update_channels() == 0 {
            return Err(Error::config("layout", "an output or hidden channel", "neither"));
        }
        check::channels("layout", self.channels())
    }

    /// Batch, height and width of `cells`; an error unless it is a non-empty grid of this layout.
    pub fn check(&self, cells: &Tensor) -> Result<(usize, usize, usize)> {
        match *cells.dims() {
            [b, h, w, c] if c == self.channels() && cells.elem_count() > 0 => Ok((b, h, w)),
            _ => {
                let expected = format!("[B, H, W, {}] with no empty axis", self.channels());
                Err(Error::shape("cells", expected, cells.dims()))
            }
        }
    }
}

/// An error unless there are cells of these sizes, and not too many.
pub(crate) fn sizes((batch, height, width): (usize, usize, usize), channels: usize) -> Result<()> {
    let (name, dims) = ("(batch, height, width)", [batch, height, width]);
    if dims.contains(&0) {
        return Err(Error::shape(name, "at least 1 each", &dims));
    }
    if channels == 0 {
        return Err(Error::config("layout", "at least 1 channel", 0));
    }
    let cells = || check::elements(name, &[batch, height, width, channels]);
    cells().map(|_| ()).map_err(|error| match error {
        Error::Shape { expected, .. } => {
            Error::shape(name, format!("{expected}, with {channels} channels"), &dims)
        }
        other => other,
    })
}

/// Every cell of `x` (`[B, H, W, C]`) divided into four copies of itself: `[B, 2 H, 2 W, C]`.
///
/// # Errors
/// [`Error::Shape`] for another rank.
pub fn doubled(x: &Tensor) -> Result<Tensor> {
    let &[b, h, w, c] = x.dims() else {
        return Err(Error::shape("x", "[B, H, W, C]", x.dims()));
    };
    check::elements("x", &[b, h, 2, w, 2, c])?;
    // Candle's own upsampling loses the gradients of other readers of its input.
    let x = x.reshape((b, h, 1, w, 1, c))?.broadcast_as((b, h, 2, w, 2, c))?;
    Ok(x.reshape((b, 2 * h, 2 * w, c))?)
}
