//! Styles by features of VGG-16, with weights from a file of the user.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::sliced_transport::{directions, sliced_transport};
use super::style::{StyleLoss, as_sets, compress, fingerprint, gram_distance};
use crate::error::{Error, Result};
use crate::io::read_whole;
use crate::metric::gram;
use crate::ops::replace;
use crate::random::Key;

/// Layers: index in torchvision's list, output channels, and whether styles use the features; `None` is a
/// max-pool.
const LAYERS: [Option<(usize, usize, bool)>; 15] = [
    Some((0, 64, true)),
    Some((2, 64, false)),
    None,
    Some((5, 128, true)),
    Some((7, 128, false)),
    None,
    Some((10, 256, true)),
    Some((12, 256, false)),
    Some((14, 256, false)),
    None,
    Some((17, 512, true)),
    Some((19, 512, false)),
    Some((21, 512, false)),
    None,
    Some((24, 512, true)),
];

/// Channel means and standard deviations of its training images.
const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f64; 3] = [0.229, 0.224, 0.225];

/// The convolutions of VGG-16 (Simonyan and Zisserman 2014) up to `relu5_1`, frozen.
#[derive(Clone, Debug)]
pub struct Vgg16 {
    /// Weight and bias of each convolution, in order.
    convolutions: Vec<(Tensor, Tensor)>,
}

impl Vgg16 {
    /// Reads weights under torchvision's names, `features.0.weight` to `features.24.bias`, from a safetensors
    /// file; other tensors in it are ignored.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] if it cannot be read or is not a safetensors file, [`Error::Weight`]
    /// if a weight is missing or has another shape.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let bytes = read_whole(path)?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, device)
            .map_err(|error| Error::file(path, format!("not a safetensors file: {error}")))?;
        Self::new(|name| tensors.get(name).cloned())
    }

    /// Takes weights by torchvision's names from a function.
    ///
    /// # Errors
    /// [`Error::Weight`] if one is missing or has another shape.
    pub fn new(weight: impl Fn(&str) -> Option<Tensor>) -> Result<Self> {
        let take = |name: String, shape: &[usize]| match weight(&name) {
            Some(weight) if weight.dims() == shape => Ok(weight.to_dtype(DType::F32)?.detach()),
            found => Err(Error::Weight {
                key: name,
                expected: format!("shape {shape:?}"),
                found: found.map_or("nothing".into(), |weight| format!("shape {:?}", weight.dims())),
            }),
        };
        let mut channels = 3;
        let mut convolutions = vec![];
        for (layer, output, _) in LAYERS.into_iter().flatten() {
            let kernel = take(format!("features.{layer}.weight"), &[output, channels, 3, 3])?;
            let shift = take(format!("features.{layer}.bias"), &[output])?;
            convolutions.push((kernel, shift.reshape((1, output, 1, 1))?));
            channels = output;
        }
        Ok(Self { convolutions })
    }

    /// The features of five layers, `relu1_1` to `relu5_1`, of images `[B, H, W, 3]` in `[0, 1]`, each as
    /// `[B, pixels, channels]` at 1, 1/2, 1/4, 1/8 and 1/16 of the size.
    ///
    /// # Errors
    /// [`Error::Shape`] unless images have sides of 16 pixels or more.
    pub fn features(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let mut x = normalised(images)?.permute((0, 3, 1, 2))?.contiguous()?;
        let mut convolutions = self.convolutions.iter();
        let mut taps = vec![];
        for layer in LAYERS {
            let Some((_, _, tapped)) = layer else {
                x = halved(&x)?;
                continue;
            };
            if let Some((kernel, shift)) = convolutions.next() {
                // Not Candle's ReLU, which makes 0 of NaN.
                let sums = x.conv2d(kernel, 1, 1, 1, 1)?.broadcast_add(shift)?;
                x = replace(&sums, &sums.lt(0.0)?, 0.0)?;
            }
            if tapped {
                taps.push(as_sets(&x)?);
            }
        }
        Ok(taps)
    }
}

/// The largest of each 2x2 values of `[B, C, H, W]`. Not Candle's max-pool, whose gradient is four times too
/// small.
fn halved(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let even = x.narrow(2, 0, h / 2 * 2)?.narrow(3, 0, w / 2 * 2)?.contiguous()?;
    Ok(even.reshape((b, c, h / 2, 2, w / 2, 2))?.max(5)?.max(3)?)
}

/// Images normalised as in the training of the network.
fn normalised(images: &Tensor) -> Result<Tensor> {
    if !matches!(*images.dims(), [_, h, w, 3] if h.min(w) >= 16) {
        let expected = "[B, 16 or more, 16 or more, 3]";
        return Err(Error::shape("images", expected, images.dims()));
    }
    let row = |values: [f64; 3]| Tensor::new(&values, images.device())?.to_dtype(images.dtype());
    Ok(images
        .broadcast_sub(&row(MEAN)?)?
        .broadcast_div(&row(DEVIATION)?)?)
}

/// How features are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VggComparison {
    /// Gram matrices ("V2").
    Gram,
    /// Gram matrices of compressed features, with which the released models were trained ("V1").
    CompressedGram,
    /// Sliced optimal transport with 32 directions, of the features and of the pixels ("V3").
    Transport,
}

/// A style by features of VGG-16.
#[derive(Clone, Debug)]
pub struct VggStyle {
    network: Vgg16,
    comparison: VggComparison,
    /// Gram matrices of the target, or its feature vectors.
    target: Vec<Tensor>,
    print: serde_json::Value,
}

/// Random directions per layer and update.
const DIRECTIONS: usize = 32;

impl VggStyle {
    /// The style of `target`, `[H, W, 3]`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless its sides have 16 pixels or more.
    pub fn new(network: Vgg16, comparison: VggComparison, target: &Tensor) -> Result<Self> {
        let mut style = Self {
            network,
            comparison,
            target: vec![],
            print: fingerprint(target),
        };
        // Pictures are read to the CPU, the network may be elsewhere.
        let target = match style.network.convolutions.first() {
            Some((kernel, _)) => target.to_device(kernel.device())?,
            None => target.clone(),
        };
        let target = style.statistics(&target.unsqueeze(0)?)?;
        style.target = target.into_iter().map(|set| set.detach()).collect();
        Ok(style)
    }

    fn statistics(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let mut features = self.network.features(images)?;
        match self.comparison {
            VggComparison::Gram => features.iter().map(gram).collect(),
            VggComparison::CompressedGram => features.iter().map(|set| gram(&compress(set)?)).collect(),
            VggComparison::Transport => {
                features.insert(0, normalised(images)?.flatten(1, 2)?);
                Ok(features)
            }
        }
    }
}

impl StyleLoss for VggStyle {
    fn name(&self) -> &'static str {
        match self.comparison {
            VggComparison::Gram => "Gram matrices of VGG-16",
            VggComparison::CompressedGram => "compressed Gram matrices of VGG-16",
            VggComparison::Transport => "sliced transport of VGG-16",
        }
    }

    fn distance(&self, images: &Tensor, key: Key) -> Result<Tensor> {
        let mut sum = Tensor::zeros((), images.dtype(), images.device())?;
        for (n, (found, target)) in self.statistics(images)?.iter().zip(&self.target).enumerate() {
            let distance = match self.comparison {
                VggComparison::Transport => {
                    let size = (found.dim(2)?, DIRECTIONS);
                    let key = key.fold_in(n as u64);
                    let directions = directions(size, key, found.dtype(), found.device())?;
                    sliced_transport(found, target, &directions)?
                }
                _ => gram_distance(found, target)?,
            };
            sum = (sum + distance)?;
        }
        Ok(sum)
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!({ "style": self.name(), "target": self.print })
    }
}
