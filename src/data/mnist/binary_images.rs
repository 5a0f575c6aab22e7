//! Binary images in memory, for variational autoencoders.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::data::generated::{DIGIT_SIDE, digit};
use crate::data::sampling::shuffled;
use crate::error::{Error, Result, check};
use crate::random::Key;

/// Square images of zeros and ones, optionally with labels. Clones share the pixels.
#[derive(Clone, Debug)]
pub struct BinaryImages {
    side: usize,
    pixels: Arc<Vec<u8>>,
    labels: Option<Arc<Vec<u8>>>,
}

/// Training and test images.
#[derive(Clone, Debug)]
pub struct BinaryParts {
    /// Training images, validation images included.
    pub train: BinaryImages,
    /// Test images.
    pub test: BinaryImages,
    /// Name of the data set, such as `binarised MNIST`.
    pub name: &'static str,
}

impl BinaryImages {
    /// Images from memory: `pixels` are zeros and ones, `[N, side, side]`, with an optional label for each
    /// image.
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths do not agree, [`Error::Config`] for a value other than 0 and 1.
    pub fn new(side: usize, pixels: Vec<u8>, labels: Option<Vec<u8>>) -> Result<Self> {
        let each = side * side;
        if each == 0 || !pixels.len().is_multiple_of(each) {
            let expected = format!("[N, {side}, {side}] with no axis empty");
            return Err(Error::shape("pixels", expected, &[pixels.len()]));
        }
        let count = pixels.len() / each;
        if let Some(labels) = labels.as_ref().filter(|labels| labels.len() != count) {
            return Err(Error::shape(
                "labels",
                format!("[{count}], one an image"),
                &[labels.len()],
            ));
        }
        if let Some(value) = pixels.iter().find(|value| **value > 1) {
            return Err(Error::config("pixels", "zeros and ones", value));
        }
        Ok(Self {
            side,
            pixels: Arc::new(pixels),
            labels: labels.map(Arc::new),
        })
    }

    /// `count` random handwritten-like digits of 28x28 pixels, with labels, drawn by code.
    ///
    /// # Errors
    /// [`Error::Config`] if `count` is 0.
    pub fn digits(count: usize, seed: u64) -> Result<Self> {
        if count == 0 {
            return Err(Error::config("count", "at least 1 image", 0));
        }
        check::elements("count", &[count, DIGIT_SIDE, DIGIT_SIDE])?;
        let key = Key::new(seed).fold_in_name("digits");
        let drawn: Vec<(u8, Vec<u8>)> = (0..count as u64)
            .into_par_iter()
            .map(|image| digit(key.fold_in(image)))
            .collect();
        let (labels, images): (Vec<u8>, Vec<Vec<u8>>) = drawn.into_iter().unzip();
        Self::new(DIGIT_SIDE, images.concat(), Some(labels))
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.pixels.len() / (self.side * self.side)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pixels.is_empty()
    }

    /// Pixels along a side.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Image `index`, `[side, side]`, row by row; `None` past the end.
    pub fn image(&self, index: usize) -> Option<&[u8]> {
        let each = self.side * self.side;
        self.pixels.get(index.checked_mul(each)?..)?.get(..each)
    }

    /// The label of image `index`, if it is known.
    pub fn label(&self, index: usize) -> Option<u8> {
        self.labels.as_ref()?.get(index).copied()
    }

    /// The same images with a label for each.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is one for each.
    pub fn with_labels(&self, labels: Vec<u8>) -> Result<Self> {
        match labels.len() == self.len() {
            true => Ok(Self {
                labels: Some(Arc::new(labels)),
                ..self.clone()
            }),
            false => Err(Error::shape(
                "labels",
                format!("[{}], one an image", self.len()),
                &[labels.len()],
            )),
        }
    }

    /// The first `n` images, or all if there are fewer.
    pub fn take(&self, n: usize) -> Self {
        self.select(0..n.min(self.len()))
    }

    /// All but the first `n` images.
    pub fn skip(&self, n: usize) -> Self {
        self.select(n..self.len())
    }

    /// A random sample of `n` images without replacement, or all if there are fewer, in random order, since
    /// files may be sorted by label.
    pub fn sample(&self, n: usize, key: Key) -> Self {
        self.select(shuffled(self.len(), key).into_iter().take(n))
    }

    fn select(&self, indices: impl Iterator<Item = usize>) -> Self {
        let indices: Vec<usize> = indices.collect();
        let images = indices.iter().filter_map(|&index| self.image(index));
        let labels = |labels: &Arc<Vec<u8>>| Arc::new(indices.iter().map(|&index| labels[index]).collect());
        Self {
            side: self.side,
            pixels: Arc::new(images.flatten().copied().collect()),
            labels: self.labels.as_ref().map(labels),
        }
    }

    /// The same images with `border` black pixels added on every side.
    ///
    /// # Errors
    /// [`Error::Shape`] for more pixels than 2^34, or than there is memory for.
    pub fn padded(&self, border: usize) -> Result<Self> {
        let side = self.side.saturating_add(border.saturating_mul(2));
        check::elements("border", &[self.len(), side, side])?;
        let mut pixels = vec![0; self.len() * side * side];
        for (row, line) in self.pixels.chunks_exact(self.side).enumerate() {
            let (image, row) = (row / self.side, row % self.side);
            let start = (image * side + row + border) * side + border;
            pixels[start..start + self.side].copy_from_slice(line);
        }
        Ok(Self {
            side,
            pixels: Arc::new(pixels),
            labels: self.labels.clone(),
        })
    }

    /// The images with these indices as a tensor of zeros and ones, `[B, side, side, 1]`, f32.
    ///
    /// # Errors
    /// [`Error::Config`] if an index is out of range or `indices` is empty.
    pub fn batch(&self, indices: &[usize], device: &Device) -> Result<Tensor> {
        if indices.is_empty() {
            return Err(Error::config("indices", "at least one image", 0));
        }
        let mut values = Vec::with_capacity(indices.len() * self.side * self.side);
        for &index in indices {
            let Some(image) = self.image(index) else {
                let expected = format!("below the number of images, {}", self.len());
                return Err(Error::config("index", expected, index));
            };
            values.extend(image.iter().map(|&value| f32::from(value)));
        }
        let shape = (indices.len(), self.side, self.side, 1);
        Ok(Tensor::from_vec(values, shape, device)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_moves_images_and_keeps_them() -> Result<()> {
        let images = BinaryImages::new(2, vec![1, 0, 0, 1, 1, 1, 0, 0], Some(vec![3, 4]))?;
        let padded = images.padded(1)?;
        assert_eq!((padded.len(), padded.side(), padded.label(1)), (2, 4, Some(4)));
        assert_eq!(
            padded.image(1),
            Some(&[0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0][..])
        );
        assert_eq!(padded.batch(&[1, 0], &Device::Cpu)?.dims(), [2, 4, 4, 1]);
        assert_eq!((images.take(1).len(), images.take(9).len()), (1, 2));
        let last = images.skip(1);
        assert_eq!(
            (last.len(), last.label(0), last.image(0)),
            (1, Some(4), images.image(1))
        );
        assert!(images.skip(2).is_empty() && images.skip(3).is_empty());
        let both = images.sample(5, Key::new(1));
        let mut labels = [both.label(0), both.label(1)];
        labels.sort();
        assert_eq!((both.len(), labels), (2, [Some(3), Some(4)]));
        let which = usize::from(both.label(0) == Some(4));
        assert_eq!(both.image(0), images.image(which));
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_an_error() -> Result<()> {
        assert!(matches!(
            BinaryImages::new(2, vec![0; 5], None),
            Err(Error::Shape { .. })
        ));
        assert!(matches!(
            BinaryImages::new(0, vec![], None),
            Err(Error::Shape { .. })
        ));
        assert!(matches!(
            BinaryImages::new(2, vec![2; 4], None),
            Err(Error::Config { .. })
        ));
        let labels = Some(vec![1, 2]);
        assert!(matches!(
            BinaryImages::new(2, vec![0; 4], labels),
            Err(Error::Shape { .. })
        ));
        let images = BinaryImages::digits(3, 1)?;
        for wrong in [&[3][..], &[usize::MAX], &[]] {
            assert!(matches!(
                images.batch(wrong, &Device::Cpu),
                Err(Error::Config { .. })
            ));
        }
        assert!(BinaryImages::digits(0, 1).is_err());
        Ok(())
    }
}
