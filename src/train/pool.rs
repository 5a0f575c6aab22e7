//! The pool: states left by earlier updates, to be evolved further.

use candle_core::Tensor;

use crate::data::shuffled;
use crate::error::{Error, Result};
use crate::io::safetensors::Tensors;
use crate::random::Key;

/// One state of the pool and its images, without a batch axis.
#[derive(Clone, Debug)]
pub struct PoolEntry {
    /// The target image: `[H, W, channels]`.
    pub clean: Tensor,
    /// The image it was seeded from: `[H, W, channels]`.
    pub corrupted: Tensor,
    /// The cells after the last rollout, without a gradient: `[h, w, C]`.
    pub cells: Tensor,
}

/// A pool with a limit on its number of states.
#[derive(Clone, Debug)]
pub struct Pool {
    entries: Vec<PoolEntry>,
    capacity: usize,
}

impl Pool {
    /// An empty pool.
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: Vec::new(),
            capacity,
        }
    }

    /// The states, in order.
    pub fn entries(&self) -> &[PoolEntry] {
        &self.entries
    }

    /// The number of states.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends a batch: images `[B, H, W, channels]`, cells `[B, h, w, C]`. The capacity is only enforced by
    /// [`Pool::shuffle`].
    pub fn append(&mut self, clean: &Tensor, corrupted: &Tensor, cells: &Tensor) -> Result<()> {
        for image in 0..cells.dim(0)? {
            let (clean, corrupted) = (one(clean, image)?, one(corrupted, image)?);
            let cells = one(cells, image)?;
            self.entries.push(PoolEntry {
                clean,
                corrupted,
                cells,
            });
        }
        Ok(())
    }

    /// The first `n` states as batches: clean, corrupted, cells.
    ///
    /// # Errors
    /// [`Error::Config`] if there are fewer, or `n` is 0.
    pub fn first(&self, n: usize) -> Result<(Tensor, Tensor, Tensor)> {
        let Some(first) = self.entries.get(..n).filter(|first| !first.is_empty()) else {
            return Err(Error::config(
                "n",
                format!("1 to the {} states there are", self.len()),
                n,
            ));
        };
        let stack = |part: fn(&PoolEntry) -> &Tensor| -> Result<Tensor> {
            Ok(Tensor::stack(&first.iter().map(part).collect::<Vec<_>>(), 0)?)
        };
        Ok((
            stack(|entry| &entry.clean)?,
            stack(|entry| &entry.corrupted)?,
            stack(|entry| &entry.cells)?,
        ))
    }

    /// Replaces the cells of the first n states by `cells`, `[n, h, w, C]`.
    pub fn write_back(&mut self, cells: &Tensor) -> Result<()> {
        for (image, entry) in self.entries.iter_mut().take(cells.dim(0)?).enumerate() {
            entry.cells = one(cells, image)?;
        }
        Ok(())
    }

    /// Drops the first `n` states, or all if there are fewer.
    pub fn drop_first(&mut self, n: usize) {
        self.entries.drain(..n.min(self.entries.len()));
    }

    /// Shuffles, then drops what exceeds the capacity.
    pub fn shuffle(&mut self, key: Key) -> Result<()> {
        self.permute(&shuffled(self.len(), key))
    }

    /// Moves state `order[j]` to place j, then drops what exceeds the capacity.
    ///
    /// # Errors
    /// [`Error::Config`] if `order` is not a permutation of the states.
    pub fn permute(&mut self, order: &[usize]) -> Result<()> {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..self.len()) {
            let expected = format!("a permutation of 0..{}", self.len());
            return Err(Error::config("order", expected, format!("{order:?}")));
        }
        let kept = order.iter().take(self.capacity);
        self.entries = kept.map(|&place| self.entries[place].clone()).collect();
        Ok(())
    }

    /// All states as tensors `clean`, `corrupted` and `cells`; no tensors if the pool is empty.
    pub fn state(&self) -> Result<Tensors> {
        if self.is_empty() {
            return Ok(Tensors::new());
        }
        let (clean, corrupted, cells) = self.first(self.len())?;
        Ok([("clean", clean), ("corrupted", corrupted), ("cells", cells)]
            .map(|(name, tensor)| (name.to_string(), tensor))
            .into())
    }

    /// Replaces all states by those that [`Pool::state`] gave.
    ///
    /// # Errors
    /// [`Error::Weight`] if one of the tensors is missing.
    pub fn restore(&mut self, mut state: Tensors) -> Result<()> {
        self.entries.clear();
        if state.is_empty() {
            return Ok(());
        }
        let mut take = |name: &str| {
            state.remove(name).ok_or_else(|| Error::Weight {
                key: format!("pool.{name}"),
                expected: "the states of the pool".into(),
                found: "nothing".into(),
            })
        };
        let (clean, corrupted, cells) = (take("clean")?, take("corrupted")?, take("cells")?);
        self.append(&clean, &corrupted, &cells)
    }
}

/// One image of a batch in its own storage. A view, or Candle's `copy`, would keep the storage of the whole
/// batch alive.
pub(super) fn one(batch: &Tensor, image: usize) -> Result<Tensor> {
    Ok(batch.get(image)?.detach().force_contiguous()?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Storage};

    use super::*;

    #[test]
    fn a_state_takes_the_memory_of_one_state() -> Result<()> {
        let batch = Tensor::arange(0f32, 48.0, &Device::Cpu)?.reshape((4, 2, 2, 3))?;
        let mut pool = Pool::new(8);
        pool.append(&batch, &batch, &batch)?;
        pool.write_back(&batch)?;
        for entry in pool.entries() {
            for tensor in [&entry.clean, &entry.corrupted, &entry.cells] {
                let (storage, _) = tensor.storage_and_layout();
                let Storage::Cpu(storage) = &*storage else {
                    return Err(Error::config("storage", "on the CPU", "elsewhere"));
                };
                assert_eq!(storage.as_slice::<f32>()?.len(), tensor.elem_count());
            }
        }
        Ok(())
    }
}
