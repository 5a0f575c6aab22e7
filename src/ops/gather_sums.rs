//! Rows of a tensor gathered by index, and sums of them.
//!
//! On a CPU this is one pass over memory, and one for the gradient. Candle would take three: copy all rows to
//! append a row of zeros, copy the gathered rows, and sum over an axis that is not the last.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType};
use num_traits::Float;
use rayon::prelude::*;

use super::rows::{by_type, supported, values};
use crate::error;

/// Sums of rows of `x` (`[B, N, C]`), one sum for every `each` consecutive entries of `index`; `None` adds
/// nothing: `[B, index.len() / each, C]`.
pub(crate) fn gather_sums(x: &Tensor, index: Vec<Option<usize>>, each: usize) -> error::Result<Tensor> {
    if supported(x) {
        return Ok(sum_rows(x, Picks::new(&index, each))?);
    }
    let (b, _, c) = x.dims3()?;
    let results = index.len() / each;
    Ok(gather(x, index)?.reshape((b, results, each, c))?.sum(2)?)
}

/// Rows of `x` (`[B, N, C]`) picked by `index`, zeros where it is `None`: `[B, index.len(), C]`.
pub(crate) fn gather(x: &Tensor, index: Vec<Option<usize>>) -> error::Result<Tensor> {
    if supported(x) {
        return Ok(sum_rows(x, Picks::new(&index, 1))?);
    }
    let (_, n, _) = x.dims3()?;
    let outside =
        u32::try_from(n).map_err(|_| error::Error::shape("x", "fewer than 2^32 cells", x.dims()))?;
    let needs_zero = index.iter().any(Option::is_none);
    let index: Vec<u32> = index
        .into_iter()
        .map(|row| row.map_or(outside, |row| row as u32))
        .collect();
    let index = Tensor::new(index, x.device())?;
    let x = if needs_zero {
        x.pad_with_zeros(1, 0, 1)?
    } else {
        x.clone()
    };
    // Appending to a view may make a view, which `index_select` refuses.
    Ok(x.contiguous()?.index_select(&index, 1)?)
}

/// Elements that a thread processes at a time.
const PIECE: usize = 1 << 14;

/// For each result the list of rows that are summed; it may be empty.
struct Picks {
    /// Where each list begins in `rows`, and where the last ends.
    starts: Vec<u32>,
    rows: Vec<u32>,
}

impl Picks {
    /// The picks of an index in lists of `each` entries, without those that are `None`.
    fn new(index: &[Option<usize>], each: usize) -> Self {
        let mut picks = Self {
            starts: vec![0],
            rows: Vec::with_capacity(index.len()),
        };
        for list in index.chunks(each) {
            picks.rows.extend(list.iter().flatten().map(|&row| row as u32));
            picks.starts.push(picks.rows.len() as u32);
        }
        picks
    }

    fn lists(&self) -> impl IndexedParallelIterator<Item = &[u32]> {
        let starts = self.starts.par_windows(2);
        starts.map(|ends| &self.rows[ends[0] as usize..ends[1] as usize])
    }

    fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The transpose: for each of `n` rows the results that it is added to, in order.
    fn turned(&self, n: usize) -> Self {
        let mut starts = vec![0u32; n + 1];
        self.rows.iter().for_each(|&row| starts[row as usize + 1] += 1);
        for row in 0..n {
            starts[row + 1] += starts[row];
        }
        let (mut free, mut rows) = (starts.clone(), vec![0; self.rows.len()]);
        for (result, ends) in self.starts.windows(2).enumerate() {
            for &row in &self.rows[ends[0] as usize..ends[1] as usize] {
                let to = &mut free[row as usize];
                rows[*to as usize] = result as u32;
                *to += 1;
            }
        }
        Self { starts, rows }
    }
}

/// The sums of picked rows of `x` (`[B, N, C]`), the same rows in each of the B parts: `[B, picks.len(), C]`.
fn sum_rows(x: &Tensor, picks: Picks) -> Result<Tensor> {
    let (_, n, _) = x.dims3()?;
    if n > u32::MAX as usize || picks.starts.len() > u32::MAX as usize {
        candle_core::bail!("sums of rows of {:?}, expected fewer than 2^32 rows", x.dims());
    }
    if let Some(row) = picks.rows.iter().find(|&&row| row as usize >= n) {
        candle_core::bail!("row {row} of {n}");
    }
    let picks = Arc::new(picks);
    x.contiguous()?.apply_op1(SumRows { picks })
}

struct SumRows {
    picks: Arc<Picks>,
}

impl CustomOp1 for SumRows {
    fn name(&self) -> &'static str {
        "sum-rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: WithDType + Float>(
            x: &CpuStorage,
            layout: &Layout,
            picks: &Picks,
        ) -> Result<(CpuStorage, Shape)> {
            let ((b, n, c), x) = (layout.shape().dims3()?, values::<T>(x, layout)?);
            let shape = Shape::from((b, picks.len(), c));
            let mut y = vec![T::zero(); shape.elem_count()];
            if !y.is_empty() {
                for (part, y) in y.chunks_exact_mut(picks.len() * c).enumerate() {
                    let x = &x[part * n * c..][..n * c];
                    let rows = y.par_chunks_exact_mut(c).zip(picks.lists());
                    rows.with_min_len(PIECE.div_ceil(c)).for_each(|(y, list)| {
                        for &row in list {
                            let x = &x[row as usize * c..][..c];
                            y.iter_mut().zip(x).for_each(|(y, &x)| *y += x);
                        }
                    });
                }
            }
            Ok((T::to_cpu_storage_owned(y), shape))
        }
        by_type!(x, run(x, layout, &self.picks))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let picks = Arc::new(self.picks.turned(x.dim(1)?));
        let back = grad.contiguous()?.apply_op1_no_bwd(&SumRows { picks })?;
        Ok(Some(back))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;

    #[test]
    fn rows_may_be_picked_often_or_not_at_all() -> Result<()> {
        let x = Var::from_tensor(&Tensor::new(
            &[[[1f64, 10.], [2., 20.], [3., 30.]]],
            &Device::Cpu,
        )?)?;
        let index = [Some(2), Some(0), Some(2), Some(2), None, None, Some(1), None];
        let y = sum_rows(&x, Picks::new(&index, 2))?;
        assert_eq!(y.to_vec3::<f64>()?, [[[4., 40.], [6., 60.], [0., 0.], [2., 20.]]]);
        let weight = Tensor::new(&[[[1f64, 5.], [2., 6.], [3., 7.], [4., 8.]]], &Device::Cpu)?;
        let grads = (y * weight)?.sum_all()?.backward()?;
        let grad = grads.get(&x).map(Tensor::to_vec3::<f64>).transpose()?;
        assert_eq!(grad, Some(vec![vec![vec![1., 5.], vec![4., 8.], vec![5., 17.]]]));
        let none = Tensor::zeros((2, 0, 3), DType::F32, &Device::Cpu)?;
        assert_eq!(sum_rows(&none, Picks::new(&[None], 1))?.dims(), [2, 1, 3]);
        assert!(sum_rows(&none, Picks::new(&[Some(0)], 1)).is_err());
        Ok(())
    }

    #[test]
    fn rows_of_views_are_gathered_by_candle_operations_too() -> error::Result<()> {
        let x = Tensor::arange(0f64, 24.0, &Device::Cpu)?.reshape((2, 3, 4))?;
        let views = [
            x.clone(),
            x.transpose(1, 2)?,
            x.permute((2, 1, 0))?,
            x.narrow(2, 1, 2)?,
        ];
        let values = |x: &Tensor| x.to_dtype(DType::F64)?.to_vec3::<f64>();
        for view in views {
            for index in [vec![Some(2), None, Some(0)], vec![Some(1), Some(1)]] {
                let fast = gather(&view, index.clone())?;
                // A type that has no fast path, transposed in memory.
                let halves = view.transpose(1, 2)?.to_dtype(DType::F16)?.transpose(1, 2)?;
                assert_eq!(values(&gather(&halves, index)?)?, values(&fast)?);
            }
        }
        Ok(())
    }
}
