//! Losses of growing patterns and textures.

use candle_core::{D, DType, Tensor};

use super::overflow::{OverflowNorm, overflow};
use super::style::{StyleLoss, fingerprint};
use super::term::Term;
use crate::error::{Error, Result, check};
use crate::random::Key;

/// A loss of the states of an automaton.
pub trait PatternLoss: Send + Sync {
    /// The terms of the loss of `cells` (`[B, H, W, C]`). Random draws come from `key`.
    fn terms(&self, cells: &Tensor, key: Key) -> Result<Vec<Term>>;

    /// The loss of each state, by which states are ranked.
    fn each(&self, cells: &Tensor) -> Result<Vec<f64>>;

    /// All settings, and enough of the target to identify it.
    fn settings(&self) -> serde_json::Value;

    /// An error if a setting is out of range; trainers ask for it before they start. By default none is.
    ///
    /// # Errors
    /// [`Error::Config`] that names the setting.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// The mean of squared differences between the first channels of states and an image: Growing NCA
/// (Mordvintsev et al. 2020).
#[derive(Clone, Debug)]
pub struct ImageLoss {
    target: Tensor,
}

impl ImageLoss {
    /// The loss for `target`, `[H, W, channels]`, for instance premultiplied RGBA.
    ///
    /// # Errors
    /// [`Error::Shape`] if it does not have three non-empty axes, [`Error::DType`] unless it holds
    /// floating-point numbers, [`Error::Config`] if it holds NaN or infinities.
    pub fn new(target: Tensor) -> Result<Self> {
        if target.rank() != 3 || target.elem_count() == 0 {
            return Err(Error::shape("target", "[H, W, channels]", target.dims()));
        }
        check::float("target", &target)?;
        check::finite_values("target", &target)?;
        Ok(Self { target })
    }

    /// The target, `[H, W, channels]`.
    pub fn target(&self) -> &Tensor {
        &self.target
    }

    /// The squared differences, `[B, H, W, channels]`.
    fn squares(&self, cells: &Tensor) -> Result<Tensor> {
        let (h, w, channels) = self.target.dims3()?;
        check::of_type("cells", cells, self.target.dtype())?;
        match *cells.dims() {
            [_, height, width, c] if (height, width) == (h, w) && c >= channels => Ok(cells
                .narrow(D::Minus1, 0, channels)?
                .broadcast_sub(&self.target.to_device(cells.device())?)?
                .sqr()?),
            _ => {
                let expected = format!("[B, {h}, {w}, {channels} or more]");
                Err(Error::shape("cells", expected, cells.dims()))
            }
        }
    }
}

impl PatternLoss for ImageLoss {
    fn terms(&self, cells: &Tensor, _: Key) -> Result<Vec<Term>> {
        Ok(vec![Term::new("image", 1.0, self.squares(cells)?.mean_all()?)])
    }

    fn each(&self, cells: &Tensor) -> Result<Vec<f64>> {
        let each = self.squares(cells)?.flatten_from(1)?.mean(1)?;
        Ok(each.to_dtype(DType::F64)?.to_vec1()?)
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!({ "loss": "image", "target": fingerprint(&self.target) })
    }
}

/// The distance of the colours of states from a style, plus the overflow of their values out of `[-1, 1]`:
/// texture NCA.
pub struct TextureLoss {
    style: Box<dyn StyleLoss>,
    scale: f64,
    overflow: f64,
    norm: OverflowNorm,
}

impl TextureLoss {
    /// The loss for `style`, for states whose RGB is `x scale + 0.5`. `overflow` is the weight of the
    /// overflow of all channels, divided by `norm`. Published for transport of VGG-16 features: scale 1,
    /// weight 1 and [`OverflowNorm::One`]. With [`PatchTransport`](super::PatchTransport), whose distance is
    /// a mean, [`OverflowNorm::Elements`] corresponds.
    pub fn new(style: impl StyleLoss + 'static, scale: f64, overflow: f64, norm: OverflowNorm) -> Self {
        Self {
            style: Box::new(style),
            scale,
            overflow,
            norm,
        }
    }

    /// The style.
    pub fn style(&self) -> &dyn StyleLoss {
        &*self.style
    }

    fn colours(&self, cells: &Tensor) -> Result<Tensor> {
        check::float("cells", cells)?;
        match *cells.dims() {
            [_, _, _, channels] if channels >= 3 => {
                Ok(cells.narrow(D::Minus1, 0, 3)?.affine(self.scale, 0.5)?)
            }
            _ => Err(Error::shape("cells", "[B, H, W, 3 or more]", cells.dims())),
        }
    }
}

impl PatternLoss for TextureLoss {
    fn terms(&self, cells: &Tensor, key: Key) -> Result<Vec<Term>> {
        let style = self.style.distance(&self.colours(cells)?, key)?;
        let mut terms = vec![Term::new("style", 1.0, style)];
        if self.overflow > 0.0 {
            let overflow = overflow(cells, -1.0, 1.0, self.norm)?;
            terms.push(Term::new("overflow", self.overflow, overflow));
        }
        Ok(terms)
    }

    fn each(&self, cells: &Tensor) -> Result<Vec<f64>> {
        let colours = self.colours(cells)?;
        let one = |image: usize| -> Result<f64> {
            let distance = self.style.distance(&colours.narrow(0, image, 1)?, Key::new(0))?;
            Ok(distance.to_dtype(DType::F64)?.to_scalar()?)
        };
        (0..cells.dim(0)?).map(one).collect()
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!({
            "loss": "texture", "style": self.style.settings(),
            "scale": self.scale, "overflow": self.overflow, "norm": self.norm,
        })
    }

    fn check(&self) -> Result<()> {
        check::finite("scale", self.scale)?;
        check::not_negative("overflow", self.overflow)
    }
}
