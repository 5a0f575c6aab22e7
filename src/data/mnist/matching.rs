//! Labels of binarised images, found by the grey images that they were sampled from.

use std::path::Path;

use rayon::prelude::*;

use super::binary_images::{BinaryImages, BinaryParts};
use super::reader::{Images, read_grey};
use crate::error::{Error, Result};

impl BinaryParts {
    /// The same images with labels. The statically binarised images of MNIST have none, but each is a sample
    /// of a grey image: white pixels are not black there, and black ones not white. Of the images in `grey`,
    /// a folder of MNIST with grey levels and labels, the one with the greatest likelihood gives its label.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] if `grey` cannot be read, has no labels or images of another size, or
    /// if an image is a sample of none of them.
    pub fn labelled(self, grey: impl AsRef<Path>) -> Result<Self> {
        let dir = grey.as_ref();
        let (images, labels) = read_grey(dir)?;
        let origins = Origins::new(&images);
        let label = |part: &BinaryImages, name: &str| -> Result<BinaryImages> {
            if part.side() != images.side {
                let (expected, found) = (part.side(), images.side);
                let reason = format!("images of {found} pixels a side, expected {expected}");
                return Err(Error::file(dir, reason));
            }
            let indices = (0..part.len()).into_par_iter();
            let found = indices.map(|n| {
                let origin = part.image(n).and_then(|image| origins.of(image));
                let reason = || format!("no grey image of which {name} image {n} is a sample");
                origin
                    .map(|origin| labels[origin])
                    .ok_or_else(|| Error::file(dir, reason()))
            });
            part.with_labels(found.collect::<Result<_>>()?)
        };
        Ok(Self {
            train: label(&self.train, "training")?,
            test: label(&self.test, "test")?,
            name: self.name,
        })
    }
}

/// Grey images, as bits: which pixels may be white, and which must be.
struct Origins<'a> {
    grey: &'a Images,
    /// Words of an image.
    words: usize,
    may: Vec<u64>,
    must: Vec<u64>,
}

impl<'a> Origins<'a> {
    fn new(grey: &'a Images) -> Self {
        let each = grey.side * grey.side;
        let bits = |is: fn(u8) -> bool| {
            let images = grey.pixels.chunks_exact(each);
            images.flat_map(|image| packed(image, is)).collect()
        };
        Self {
            grey,
            words: each.div_ceil(64),
            may: bits(|value| value > 0),
            must: bits(|value| value == 255),
        }
    }

    /// The grey image that `image`, of zeros and ones, is most likely a sample of.
    fn of(&self, image: &[u8]) -> Option<usize> {
        let white: Vec<u64> = packed(image, |value| value > 0).collect();
        let grey = self
            .may
            .chunks_exact(self.words)
            .zip(self.must.chunks_exact(self.words));
        let fits = |(may, must): (&[u64], &[u64])| {
            let mut words = white.iter().zip(may).zip(must);
            words.all(|((white, may), must)| white & !may == 0 && must & !white == 0)
        };
        let fitting = grey.enumerate().filter(|(_, masks)| fits(*masks)).map(|(n, _)| n);
        let likelihood = |&n: &usize| {
            let grey = &self.grey.pixels[n * image.len()..][..image.len()];
            let chances = grey.iter().zip(image).map(|(&grey, &white)| {
                let white_chance = f64::from(grey) / 255.0;
                if white > 0 {
                    white_chance
                } else {
                    1.0 - white_chance
                }
            });
            chances.map(f64::ln).sum::<f64>()
        };
        fitting.max_by(|a, b| likelihood(a).total_cmp(&likelihood(b)))
    }
}

/// Whether each pixel is so, 64 of them to a word.
fn packed(image: &[u8], is: fn(u8) -> bool) -> impl Iterator<Item = u64> {
    image.chunks(64).map(move |pixels| {
        let bits = pixels.iter().enumerate();
        bits.fold(0, |word, (at, &pixel)| word | u64::from(is(pixel)) << at)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rand::Rng;

    use super::*;
    use crate::random::Key;

    /// The bytes of an IDX file.
    fn idx(sizes: &[u32], values: &[u8]) -> Vec<u8> {
        let head = [0, 0, 8, sizes.len() as u8];
        let sizes = sizes.iter().flat_map(|size| size.to_be_bytes());
        head.into_iter()
            .chain(sizes)
            .chain(values.iter().copied())
            .collect()
    }

    #[test]
    fn samples_get_the_labels_of_their_origins() -> Result<()> {
        let (side, count) = (9, 40);
        let mut rng = Key::new(3).rng();
        let mut level = || match rng.random_range(0..3) {
            0 => 0,
            1 => 255,
            _ => rng.random_range(1..255),
        };
        let grey: Vec<u8> = (0..count * side * side).map(|_| level()).collect();
        let labels: Vec<u8> = (0..count as u8).map(|n| n % 10).collect();
        let folder = tempfile::tempdir().unwrap();
        let [n, s] = [count as u32, side as u32];
        fs::write(
            folder.path().join("train-images-idx3-ubyte"),
            idx(&[n, s, s], &grey),
        )
        .unwrap();
        fs::write(folder.path().join("train-labels-idx1-ubyte"), idx(&[n], &labels)).unwrap();

        let order: Vec<usize> = (0..count).rev().collect();
        let images = order.iter().flat_map(|n| &grey[n * side * side..][..side * side]);
        let white: Vec<u8> = images
            .map(|&level| u8::from(rng.random_range(0..255u32) < u32::from(level)))
            .collect();
        let parts = |pixels: Vec<u8>| -> Result<BinaryParts> {
            Ok(BinaryParts {
                train: BinaryImages::new(side, pixels.clone(), None)?,
                test: BinaryImages::new(side, pixels, None)?,
                name: "samples",
            })
        };
        let labelled = parts(white.clone())?.labelled(folder.path())?;
        for (at, n) in order.into_iter().enumerate() {
            assert_eq!(labelled.test.label(at), Some(labels[n]));
        }

        let black = vec![0; side * side];
        let error = parts(black)?.labelled(folder.path()).unwrap_err().to_string();
        assert!(error.contains("training image 0"), "{error}");
        fs::remove_file(folder.path().join("train-labels-idx1-ubyte")).unwrap();
        let error = parts(white)?.labelled(folder.path()).unwrap_err().to_string();
        assert!(error.contains("labels"), "{error}");
        Ok(())
    }
}
