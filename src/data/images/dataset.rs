//! Images in memory, and their batches for training and evaluation.

use crate::data::corrupt::Corruption;
use crate::data::generated::dead_leaves;
use crate::data::sampling::{Split, shuffled, split};
use crate::error::{Error, Result, check};
use crate::random::Key;
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// An error unless images may have this side.
pub(super) fn check_side(size: usize) -> Result<()> {
    match size {
        1..=4096 => Ok(()),
        _ => Err(Error::config("size", "1 to 4096 pixels a side", size)),
    }
}

/// Square 8-bit RGB images of one size: clean images and, for pairs of photographs, their damaged partners.
///
/// Clones and parts share the pixels.
#[derive(Clone, Debug)]
pub struct Dataset {
    store: Arc<Store>,
    /// Indices of the images of this data set, in its order.
    indices: Vec<usize>,
}

#[derive(Debug)]
struct Store {
    size: usize,
    clean: Vec<u8>,
    /// The damaged partner of each image, none, or of some.
    damaged: Option<Vec<u8>>,
    /// Whether an image has a partner, if only some have.
    paired: Option<Vec<bool>>,
    groups: Vec<usize>,
}

impl Dataset {
    /// A data set of images in memory with a side of `size` pixels.
    ///
    /// `clean` holds them one after another, each `[size, size, 3]`; `damaged`, if given, their damaged
    /// partners in the same order. `groups[i]` is the number of the photograph that image `i` was cut from;
    /// by default each image has its own.
    ///
    /// # Errors
    /// An error if there is no image, `size` is not 1 to 4096, or the lengths do not agree.
    pub fn new(
        size: usize,
        clean: Vec<u8>,
        damaged: Option<Vec<u8>>,
        groups: Option<Vec<usize>>,
    ) -> Result<Self> {
        check_side(size)?;
        let bytes = size * size * 3;
        if clean.is_empty() || !clean.len().is_multiple_of(bytes) {
            let expected = format!("[N, {size}, {size}, 3] with no axis empty");
            return Err(Error::shape("clean", expected, &[clean.len()]));
        }
        let len = clean.len() / bytes;
        if let Some(damaged) = damaged.as_ref().filter(|damaged| damaged.len() != clean.len()) {
            let expected = format!("as many values as `clean`, {}", clean.len());
            return Err(Error::shape("damaged", expected, &[damaged.len()]));
        }
        let groups = groups.unwrap_or_else(|| (0..len).collect());
        if groups.len() != len {
            return Err(Error::shape(
                "groups",
                format!("[{len}], one per image"),
                &[groups.len()],
            ));
        }
        Ok(Self {
            store: Arc::new(Store {
                size,
                clean,
                damaged,
                paired: None,
                groups,
            }),
            indices: (0..len).collect(),
        })
    }

    /// All images of `parts`, which may be clean images and pairs: to train on both. A clean image gets a
    /// synthetic corruption, a pair keeps its own. No two parts share a photograph.
    ///
    /// # Errors
    /// [`Error::Config`] if there are no images, or of different sizes.
    pub fn join(parts: &[Self]) -> Result<Self> {
        let Some(size) = parts.first().map(Self::size) else {
            return Err(Error::config("parts", "at least one", 0));
        };
        if let Some(other) = parts.iter().find(|part| part.size() != size) {
            let expected = format!("images of {size} pixels as the first part");
            return Err(Error::config("parts", expected, other.size()));
        }
        let (mut clean, mut damaged, mut paired, mut groups) = (vec![], vec![], vec![], vec![]);
        for part in parts {
            let next = groups.iter().max().map_or(0, |group| group + 1);
            for &index in &part.indices {
                let store = &part.store;
                let partner = store.partner(index);
                paired.push(partner.is_some());
                damaged.extend(partner.unwrap_or(store.image(&store.clean, index)));
                clean.extend(store.image(&store.clean, index));
                groups.push(next + store.groups[index]);
            }
        }
        let some = paired.iter().any(|paired| *paired);
        let all = paired.iter().all(|paired| *paired);
        let mut joined = Self::new(size, clean, some.then_some(damaged), Some(groups))?;
        if let (true, false, Some(store)) = (some, all, Arc::get_mut(&mut joined.store)) {
            store.paired = Some(paired);
        }
        Ok(joined)
    }

    /// `count` dead-leaves images with a side of `size` pixels, which need no file.
    ///
    /// # Errors
    /// [`Error::Config`] if `count` or `size` is 0, or `size` is above 4096; [`Error::Shape`] for more images
    /// than there is memory for.
    pub fn dead_leaves(count: usize, size: usize, seed: u64) -> Result<Self> {
        if count == 0 {
            return Err(Error::config("count", "at least 1 image", count));
        }
        check_side(size)?;
        check::elements("count", &[count, size, size, 3])?;
        let key = Key::new(seed).fold_in_name("dead leaves");
        let images: Vec<Vec<u8>> = (0..count as u64)
            .into_par_iter()
            .map(|image| dead_leaves(size, size, key.fold_in(image)))
            .collect::<Result<_>>()?;
        Self::new(size, images.concat(), None, None)
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there is no image, as after `take(0)`.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Side of every image, in pixels.
    pub fn size(&self) -> usize {
        self.store.size
    }

    /// Whether every clean image has a damaged partner.
    pub fn is_paired(&self) -> bool {
        self.store.damaged.is_some() && self.store.paired.is_none()
    }

    /// Clean image `index`, `[size, size, 3]`; `None` past the end.
    pub fn clean(&self, index: usize) -> Option<&[u8]> {
        Some(self.store.image(&self.store.clean, *self.indices.get(index)?))
    }

    /// The damaged partner of image `index`; `None` past the end or if the data are not paired.
    pub fn damaged(&self, index: usize) -> Option<&[u8]> {
        self.store.partner(*self.indices.get(index)?)
    }

    /// The number of the photograph that image `index` was cut from; `None` past the end.
    pub fn group(&self, index: usize) -> Option<usize> {
        Some(self.store.groups[*self.indices.get(index)?])
    }

    /// The first `n` images, or all if there are fewer.
    pub fn take(mut self, n: usize) -> Self {
        self.indices.truncate(n);
        self
    }

    /// Splits into training, validation and test images as [`split`]: no photograph has tiles in two parts.
    /// The same seed gives the same parts.
    ///
    /// # Errors
    /// [`Error::Config`] if the images come from fewer than three photographs.
    pub fn split(&self, seed: u64) -> Result<Split<Self>> {
        let groups: Vec<usize> = self.indices.iter().map(|&i| self.store.groups[i]).collect();
        let parts = split(&groups, Key::new(seed).fold_in_name("split"))?;
        let part = |places: Vec<usize>| Self {
            store: self.store.clone(),
            indices: places.into_iter().map(|place| self.indices[place]).collect(),
        };
        Ok(Split {
            train: part(parts.train),
            validation: part(parts.validation),
            test: part(parts.test),
        })
    }

    /// The batches of training epoch `epoch`, shuffled for each epoch, without the last incomplete batch.
    ///
    /// The corruption (with its difficulty) of an image depends on the key, the epoch and the image only.
    /// With `None`, corrupted images equal the clean ones. Pairs ignore it.
    ///
    /// # Errors
    /// [`Error::Config`] if `batch_size` is 0 or above the number of images.
    pub fn training_batches(
        &self,
        epoch: usize,
        batch_size: usize,
        corruption: Option<(Corruption, f64)>,
        key: Key,
    ) -> Result<Batches> {
        if !(1..=self.len()).contains(&batch_size) {
            let expected = format!("1 to the {} images there are", self.len());
            return Err(Error::config("batch_size", expected, batch_size));
        }
        let epoch = epoch as u64;
        let mut order = shuffled(self.len(), key.fold_in_name("order").fold_in(epoch));
        order.truncate(self.len() / batch_size * batch_size);
        order.iter_mut().for_each(|place| *place = self.indices[*place]);
        Ok(Batches {
            store: self.store.clone(),
            order,
            batch_size,
            corruption,
            key: key.fold_in_name("corruption").fold_in(epoch),
        })
    }

    /// All images in their order, for validation or test: the last batch may be smaller.
    ///
    /// The corruption of an image depends on the key and the image only, so the same key gives the same
    /// images with any batch size. Paired data ignore it.
    ///
    /// # Errors
    /// [`Error::Config`] if `batch_size` is 0.
    pub fn evaluation_batches(
        &self,
        batch_size: usize,
        corruption: Option<(Corruption, f64)>,
        key: Key,
    ) -> Result<Batches> {
        if batch_size == 0 {
            return Err(Error::config("batch_size", "at least 1", batch_size));
        }
        Ok(Batches {
            store: self.store.clone(),
            order: self.indices.clone(),
            batch_size,
            corruption,
            key: key.fold_in_name("evaluation"),
        })
    }
}

impl Store {
    fn image<'a>(&self, images: &'a [u8], index: usize) -> &'a [u8] {
        let bytes = self.size * self.size * 3;
        &images[index * bytes..][..bytes]
    }

    /// The damaged partner of image `index`, if it has one.
    fn partner(&self, index: usize) -> Option<&[u8]> {
        let damaged = self.damaged.as_ref()?;
        let paired = self.paired.as_ref().is_none_or(|paired| paired[index]);
        paired.then(|| self.image(damaged, index))
    }

    /// Images as `[B, size, size, 3]`, f32 in `[0, 1]`, on the CPU.
    fn tensor(&self, images: &[u8], indices: &[usize]) -> Result<Tensor> {
        let pixels = indices.iter().flat_map(|&index| self.image(images, index));
        let values: Vec<f32> = pixels.map(|&value| f32::from(value) / 255.0).collect();
        let shape = (indices.len(), self.size, self.size, 3);
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}

/// A batch of clean and corrupted images.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Clean images, the targets: `[B, H, W, 3]`, f32 in `[0, 1]`.
    pub clean: Tensor,
    /// Corrupted images, the inputs: same shape, dtype and range.
    pub corrupted: Tensor,
}

/// The batches of one pass over a data set, by index. A batch is the same each time it is read.
#[derive(Clone, Debug)]
pub struct Batches {
    store: Arc<Store>,
    order: Vec<usize>,
    batch_size: usize,
    corruption: Option<(Corruption, f64)>,
    key: Key,
}

impl Batches {
    /// Number of batches.
    pub fn len(&self) -> usize {
        self.order.len().div_ceil(self.batch_size)
    }

    /// Whether there is no batch.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Batch `index`, from 0, on `device`.
    ///
    /// # Errors
    /// An error if `index` is past the end, the difficulty is out of range, or the device has no memory.
    pub fn get(&self, index: usize, device: &Device) -> Result<Batch> {
        let Some(indices) = self.order.chunks(self.batch_size).nth(index) else {
            return Err(Error::config(
                "index",
                format!("below the {} batches", self.len()),
                index,
            ));
        };
        let clean = self.store.tensor(&self.store.clean, indices)?;
        let synthetic = || match self.corruption {
            Some((corruption, difficulty)) => {
                let keys: Vec<Key> = indices.iter().map(|&i| self.key.fold_in(i as u64)).collect();
                corruption.apply(&clean, difficulty, &keys)
            }
            None => Ok(clean.clone()),
        };
        let corrupted = match (&self.store.damaged, &self.store.paired) {
            (None, _) => synthetic()?,
            (Some(damaged), None) => self.store.tensor(damaged, indices)?,
            (Some(damaged), Some(paired)) => {
                let real: Vec<u8> = indices.iter().map(|&i| u8::from(paired[i])).collect();
                let real = Tensor::from_vec(real, (indices.len(), 1, 1, 1), &Device::Cpu)?;
                let damaged = self.store.tensor(damaged, indices)?;
                real.broadcast_as(clean.shape())?
                    .where_cond(&damaged, &synthetic()?)?
            }
        };
        Ok(Batch {
            clean: clean.to_device(device)?,
            corrupted: corrupted.to_device(device)?,
        })
    }

    /// All batches in order, on `device`.
    pub fn iter<'a>(&'a self, device: &'a Device) -> impl ExactSizeIterator<Item = Result<Batch>> + 'a {
        (0..self.len()).map(move |index| self.get(index, device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOISE: Option<(Corruption, f64)> = Some((Corruption::NOISE, 0.5));

    fn data(count: usize) -> Dataset {
        Dataset::dead_leaves(count, 8, 1).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn all(batches: &Batches) -> (Vec<f32>, Vec<f32>) {
        let batches: Vec<Batch> = batches.iter(&Device::Cpu).collect::<Result<_>>().unwrap();
        let join = |part: fn(&Batch) -> &Tensor| batches.iter().flat_map(|b| values(part(b))).collect();
        (join(|b| &b.clean), join(|b| &b.corrupted))
    }

    #[test]
    fn clean_images_and_pairs_are_joined() -> Result<()> {
        let clean = data(3);
        let flat = |value: u8| vec![value; 2 * 8 * 8 * 3];
        let pairs = Dataset::new(8, flat(100), Some(flat(50)), Some(vec![0, 0]))?;
        let joined = Dataset::join(&[clean.clone(), pairs.clone()])?;
        assert_eq!((joined.len(), joined.is_paired()), (5, false));
        assert!(joined.damaged(2).is_none() && joined.damaged(3) == pairs.damaged(0));
        let groups: Vec<_> = (0..5).filter_map(|image| joined.group(image)).collect();
        assert_eq!(groups, [0, 1, 2, 3, 3]);
        let batch = joined
            .evaluation_batches(5, NOISE, Key::new(2))?
            .get(0, &Device::Cpu)?;
        let alone = clean
            .evaluation_batches(3, NOISE, Key::new(2))?
            .get(0, &Device::Cpu)?;
        assert_eq!(
            values(&batch.corrupted.narrow(0, 0, 3)?),
            values(&alone.corrupted)
        );
        assert!(
            values(&batch.corrupted.narrow(0, 3, 2)?)
                .iter()
                .all(|v| *v == 50.0 / 255.0)
        );
        assert!(Dataset::join(&[pairs.clone(), pairs])?.is_paired());
        assert!(Dataset::join(&[clean, Dataset::dead_leaves(1, 9, 0)?]).is_err());
        assert!(Dataset::join(&[]).is_err());
        Ok(())
    }

    #[test]
    fn evaluation_does_not_depend_on_the_batch_size() -> Result<()> {
        let data = data(7);
        let by_three = data.evaluation_batches(3, NOISE, Key::new(2))?;
        assert_eq!(by_three.len(), 3);
        assert_eq!(by_three.get(2, &Device::Cpu)?.clean.dims(), [1, 8, 8, 3]);
        let by_five = data.evaluation_batches(5, NOISE, Key::new(2))?;
        assert_eq!(all(&by_three), all(&by_five));
        let other = data.evaluation_batches(5, NOISE, Key::new(3))?;
        assert_ne!(all(&by_three).1, all(&other).1);
        // A part's images are corrupted as in the whole.
        let part = data.clone().take(4).evaluation_batches(4, NOISE, Key::new(2))?;
        assert_eq!(all(&part).1, all(&by_three).1[..4 * 192]);
        Ok(())
    }

    #[test]
    fn a_training_epoch_shuffles_drops_the_rest_and_can_be_entered_anywhere() -> Result<()> {
        let data = data(10);
        let epoch = |epoch| data.training_batches(epoch, 4, NOISE, Key::new(2));
        let (first, again, second) = (epoch(0)?, epoch(0)?, epoch(1)?);
        assert_eq!(first.len(), 2);
        assert_eq!(
            values(&first.get(1, &Device::Cpu)?.corrupted),
            values(&again.get(1, &Device::Cpu)?.corrupted)
        );
        assert_ne!(first.order, second.order);
        let whole = |epoch| data.training_batches(epoch, 10, NOISE, Key::new(2));
        let mut order = whole(0)?.order;
        order.sort_unstable();
        assert_eq!(order, (0..10).collect::<Vec<_>>());
        // The same image is corrupted differently in another epoch.
        let of_image = |batches: Batches, image: usize| {
            let place = batches.order.iter().position(|&i| i == image).unwrap();
            all(&batches).1[place * 192..][..192].to_vec()
        };
        assert_ne!(of_image(whole(0)?, 3), of_image(whole(1)?, 3));
        assert!(first.get(2, &Device::Cpu).is_err());
        assert!(data.training_batches(0, 11, NOISE, Key::new(2)).is_err());
        assert!(data.training_batches(0, 0, NOISE, Key::new(2)).is_err());
        assert!(data.evaluation_batches(0, NOISE, Key::new(2)).is_err());
        Ok(())
    }

    #[test]
    fn real_damage_is_used_as_it_is() -> Result<()> {
        let data = Dataset::new(1, vec![0, 0, 0, 51, 51, 51], Some(vec![255; 6]), None)?;
        let batch = data
            .evaluation_batches(2, NOISE, Key::new(0))?
            .get(0, &Device::Cpu)?;
        assert_eq!(values(&batch.clean), [0.0, 0.0, 0.0, 0.2, 0.2, 0.2]);
        assert_eq!(values(&batch.corrupted), [1.0; 6]);
        assert!(data.is_paired());
        Ok(())
    }

    #[test]
    fn a_split_keeps_photographs_whole_through_a_take() -> Result<()> {
        let groups = (0..40).map(|i| i / 4).collect();
        let data = Dataset::new(1, vec![7; 120], None, Some(groups))?;
        let parts = data.clone().take(38).split(5)?;
        let groups = |part: &Dataset| (0..part.len()).filter_map(|i| part.group(i)).collect::<Vec<_>>();
        let (train, test) = (groups(&parts.train), groups(&parts.test));
        assert!(train.iter().all(|group| !test.contains(group)));
        assert_eq!(train.len() + test.len() + parts.validation.len(), 38);
        assert!(data.take(4).split(5).is_err());
        Ok(())
    }

    #[test]
    fn lengths_that_do_not_agree_are_errors() {
        assert!(Dataset::new(2, vec![0; 13], None, None).is_err());
        assert!(Dataset::new(2, vec![], None, None).is_err());
        assert!(Dataset::new(0, vec![0; 12], None, None).is_err());
        assert!(Dataset::new(2, vec![0; 12], Some(vec![0; 24]), None).is_err());
        assert!(Dataset::new(2, vec![0; 12], None, Some(vec![0, 1])).is_err());
        assert!(Dataset::dead_leaves(0, 8, 0).is_err());
        assert!(Dataset::dead_leaves(1, 0, 0).is_err());
    }
}
