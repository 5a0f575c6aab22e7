//! Style losses: distances between textures, independent of positions.

use candle_core::{D, DType, Device, Tensor};

use super::sliced_transport::{directions, sliced_transport};
use crate::error::{Error, Result, check};
use crate::ops::gather;
use crate::random::Key;

/// A distance between the textures of images.
pub trait StyleLoss: Send + Sync {
    /// Its name, for reports.
    fn name(&self) -> &'static str;

    /// The distance of `images` (`[B, H, W, 3]`, about `[0, 1]`) from the style, a scalar. Random draws come
    /// from `key`.
    fn distance(&self, images: &Tensor, key: Key) -> Result<Tensor>;

    /// All settings, and enough of the style to identify it.
    fn settings(&self) -> serde_json::Value;
}

/// `sqrt(x + 1) - 1`, which compresses large non-negative features (Niklasson et al. 2021).
pub fn compress(features: &Tensor) -> Result<Tensor> {
    Ok(((features + 1.0)?.sqrt()? - 1.0)?)
}

/// The mean of squared differences between Gram matrices `[B, C, C]` and a target `[1, C, C]`.
pub fn gram_distance(grams: &Tensor, target: &Tensor) -> Result<Tensor> {
    Ok(grams.broadcast_sub(target)?.sqr()?.mean_all()?)
}

/// Multi-scale patch transport: sliced optimal transport between the 5x5 patches of images and of a target,
/// on the levels of a sharpened pyramid. It needs no network.
///
/// Like the loss of μNCA (Mordvintsev and Niklasson 2021), but with sliced instead of Sinkhorn transport.
/// Images wrap around at their borders, the target does not.
#[derive(Clone, Debug)]
pub struct PatchTransport {
    /// Patches of each level, `[1, M, 75]`.
    target: Vec<Tensor>,
    directions: usize,
    print: serde_json::Value,
}

/// Side of a patch in pixels.
const PATCH: usize = 5;

impl PatchTransport {
    /// The style of `target` (`[H, W, 3]`), on at most `levels` levels, as far as its size allows, with this
    /// many new random directions per update. 4 or 5 levels are published; 48 directions are enough.
    ///
    /// # Errors
    /// [`Error::Shape`] unless its sides have 5 pixels or more, [`Error::Config`] if `levels` or `directions`
    /// is 0.
    pub fn new(target: &Tensor, levels: usize, directions: usize) -> Result<Self> {
        let fits = matches!(*target.dims(), [h, w, 3] if h.min(w) >= PATCH);
        if !fits {
            return Err(Error::shape("target", "[5 or more, 5 or more, 3]", target.dims()));
        }
        check::float("target", target)?;
        check::finite_values("target", target)?;
        check::elements("directions", &[3 * PATCH * PATCH, directions])?;
        if levels == 0 || directions == 0 {
            let found = format!("{levels} levels, {directions} directions");
            return Err(Error::config("levels, directions", "at least 1 each", found));
        }
        let mut patches = vec![];
        let mut image = target.unsqueeze(0)?.detach();
        while patches.len() < levels && image.dim(1)?.min(image.dim(2)?) >= PATCH {
            let (blurred, sharp) = sharpened(&image, Border::Reflecting)?;
            patches.push(patches_of(&sharp, Border::Reflecting)?);
            image = halved(&blurred)?;
        }
        Ok(Self {
            target: patches,
            directions,
            print: fingerprint(target),
        })
    }
}

impl StyleLoss for PatchTransport {
    fn name(&self) -> &'static str {
        "multi-scale patch transport (no network)"
    }

    fn distance(&self, images: &Tensor, key: Key) -> Result<Tensor> {
        check::float("images", images)?;
        let mut image = images.clone();
        let mut sum = Tensor::zeros((), images.dtype(), images.device())?;
        for (level, target) in self.target.iter().enumerate() {
            let (b, h, w, _) = image.dims4()?;
            let (blurred, sharp) = sharpened(&image, Border::Circular)?;
            let patches = patches_of(&sharp, Border::Circular)?;
            let size = (3 * PATCH * PATCH, self.directions);
            let directions = directions(size, key.fold_in(level as u64), image.dtype(), image.device())?;
            let target = target.to_device(image.device())?.to_dtype(image.dtype())?;
            let distance = sliced_transport(&patches, &target, &directions)?;
            // The mean over images, patches and directions, times the values of a patch.
            let scale = size.0 as f64 / (b * h * w * self.directions) as f64;
            sum = (sum + (distance * scale)?)?;
            image = halved(&blurred)?;
        }
        Ok((sum / self.target.len() as f64)?)
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!({
            "style": self.name(),
            "levels": self.target.len(),
            "directions": self.directions,
            "target": self.print,
        })
    }
}

/// How images continue beyond their border.
#[derive(Clone, Copy, PartialEq)]
enum Border {
    Circular,
    Reflecting,
}

impl Border {
    fn coordinate(self, at: isize, len: usize) -> usize {
        match self {
            Self::Circular => at.rem_euclid(len as isize) as usize,
            Self::Reflecting => {
                let last = len as isize - 1;
                (last - (last - at.abs()).abs()).clamp(0, last) as usize
            }
        }
    }
}

/// `image` (`[B, H, W, C]`) blurred by `[1 4 6 4 1] / 16` along both axes, and sharpened by twice the
/// difference.
fn sharpened(image: &Tensor, border: Border) -> Result<(Tensor, Tensor)> {
    let mut blurred = image.clone();
    for axis in [1, 2] {
        let len = image.dim(axis)?;
        let mut sum: Option<Tensor> = None;
        for (offset, weight) in (-2..=2).zip([1.0, 4.0, 6.0, 4.0, 1.0]) {
            let index = (0..len as isize).map(|at| border.coordinate(at + offset, len) as u32);
            let index = Tensor::from_iter(index, image.device())?;
            let tap = (blurred.index_select(&index, axis)? * (weight / 16.0))?;
            sum = Some(match sum {
                Some(sum) => (sum + tap)?,
                None => tap,
            });
        }
        blurred = sum.unwrap_or(blurred);
    }
    let sharp = (image + ((image - &blurred)? * 2.0)?)?;
    Ok((blurred, sharp))
}

/// Every second pixel along both axes.
fn halved(image: &Tensor) -> Result<Tensor> {
    let mut image = image.clone();
    for axis in [1, 2] {
        let index = (0..image.dim(axis)? as u32).step_by(2);
        image = image.index_select(&Tensor::from_iter(index, image.device())?, axis)?;
    }
    Ok(image)
}

/// All patches of `image` (`[B, H, W, C]`), `[B, patches, 25 C]`: around every pixel if the image wraps
/// around, otherwise those inside the image.
fn patches_of(image: &Tensor, border: Border) -> Result<Tensor> {
    let (b, h, w, c) = image.dims4()?;
    let half = PATCH as isize / 2;
    let inside = |len: usize| match border {
        Border::Circular => 0..len,
        Border::Reflecting => half as usize..len - half as usize,
    };
    let mut index = Vec::with_capacity(h * w * PATCH * PATCH);
    for (row, column) in inside(h).flat_map(|row| inside(w).map(move |column| (row, column))) {
        for (dy, dx) in (-half..=half).flat_map(|dy| (-half..=half).map(move |dx| (dy, dx))) {
            let y = border.coordinate(row as isize + dy, h);
            let x = border.coordinate(column as isize + dx, w);
            index.push(Some(y * w + x));
        }
    }
    let patches = gather(&image.reshape((b, h * w, c))?, index)?;
    Ok(patches.reshape((b, inside(h).len() * inside(w).len(), PATCH * PATCH * c))?)
}

/// Features `[B, C, H, W]` as sets of vectors `[B, H W, C]`.
pub(super) fn as_sets(features: &Tensor) -> Result<Tensor> {
    Ok(features.flatten_from(2)?.transpose(1, D::Minus1)?.contiguous()?)
}

/// Identifies an image in settings: its shape and the sum of its values.
pub(super) fn fingerprint(image: &Tensor) -> serde_json::Value {
    // On the CPU, so that a training may be resumed on another device.
    let sum = image
        .to_device(&Device::Cpu)
        .and_then(|image| image.to_dtype(DType::F64))
        .and_then(|image| image.sum_all()?.to_scalar::<f64>());
    serde_json::json!({ "shape": image.dims(), "sum": sum.ok() })
}
