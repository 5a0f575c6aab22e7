//! Depthwise 3x3 filters on the CPU: one pass over memory in the forward pass, and one for each gradient.
//!
//! Composed of Candle's operations they take eighteen passes, and as many again, with sums over all cells,
//! for the gradient of the kernel.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, WithDType};
use num_traits::Float;
use rayon::prelude::*;

use super::rows::{by_type, supported, values};
use super::stencil;
use crate::error;
use crate::grid::Padding;

/// 3x3 filters of `kernel` (`[C, 9]`, not flipped), one a channel of `x` (`[B, H, W, C]`), over a border of
/// zeros.
pub(crate) fn depthwise(x: &Tensor, kernel: &Tensor) -> error::Result<Tensor> {
    match supported(x) {
        true => Ok(fast(x, &kernel.t()?)?),
        false => stencil(x, &kernel.unsqueeze(1)?, Padding::Zero),
    }
}

/// 3x3 filters of `kernel` (`[9, C]`, taps in row-major order, not flipped) on `x` (`[B, H, W, C]`), over a
/// border of zeros.
fn fast(x: &Tensor, kernel: &Tensor) -> Result<Tensor> {
    x.contiguous()?
        .apply_op2(&kernel.contiguous()?, Depthwise { mirrored: false })
}

/// The filters, or, with mirrored taps, their gradient with respect to the input.
struct Depthwise {
    mirrored: bool,
}

/// The taps of an output row that lie inside the grid. For each: its number, its input row, and its first
/// output column, first input column and number of columns inside the grid.
fn runs((h, w): (usize, usize), row: usize) -> impl Iterator<Item = (usize, usize, usize, usize, usize)> {
    (0..9).filter_map(move |tap| {
        let from = (row + tap / 3).checked_sub(1).filter(|&from| from < h)?;
        let (to, column, columns) = match tap % 3 {
            0 => (1, 0, w - 1),
            1 => (0, 0, w),
            _ => (0, 1, w - 1),
        };
        (columns > 0).then_some((tap, from, to, column, columns))
    })
}

/// The sum of each cell's neighbours times their taps; with `mirrored` taps the gradient of `x`.
fn filter<T: WithDType + Float>(
    x: &[T],
    kernel: &[T],
    (h, w, c): (usize, usize, usize),
    mirrored: bool,
) -> Vec<T> {
    let mut y = vec![T::zero(); x.len()];
    y.par_chunks_mut(w * c).enumerate().for_each(|(line, y)| {
        let (image, row) = (line / h, line % h);
        for (tap, from, to, column, columns) in runs((h, w), row) {
            let x = &x[((image * h + from) * w + column) * c..][..columns * c];
            let tap = if mirrored { 8 - tap } else { tap };
            let kernel = &kernel[tap * c..][..c];
            let y = &mut y[to * c..][..columns * c];
            for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                for ((y, &x), &k) in y.iter_mut().zip(x).zip(kernel) {
                    *y += x * k;
                }
            }
        }
    });
    y
}

impl CustomOp2 for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        kernel: &CpuStorage,
        lk: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn run<T: WithDType + Float>(
            (x, lx): (&CpuStorage, &Layout),
            (kernel, lk): (&CpuStorage, &Layout),
            mirrored: bool,
        ) -> Result<(CpuStorage, Shape)> {
            let (_, h, w, c) = lx.shape().dims4()?;
            let y = filter::<T>(values(x, lx)?, values(kernel, lk)?, (h, w, c), mirrored);
            Ok((T::to_cpu_storage_owned(y), lx.shape().clone()))
        }
        by_type!(x, run((x, lx), (kernel, lk), self.mirrored))
    }

    fn bwd(
        &self,
        x: &Tensor,
        kernel: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let dx = grad.apply_op2_no_bwd(&kernel.detach(), &Depthwise { mirrored: true })?;
        let dk = x.detach().apply_op2_no_bwd(&grad, &OfKernel)?;
        Ok((Some(dx), Some(dk)))
    }
}

struct OfKernel;

impl CustomOp2 for OfKernel {
    fn name(&self) -> &'static str {
        "depthwise-kernel-gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        grad: &CpuStorage,
        lg: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn run<T: WithDType + Float>(
            (x, lx): (&CpuStorage, &Layout),
            (grad, lg): (&CpuStorage, &Layout),
        ) -> Result<(CpuStorage, Shape)> {
            let (b, h, w, c) = lx.shape().dims4()?;
            let (x, grad) = (values::<T>(x, lx)?, values::<T>(grad, lg)?);
            // One sum for each image, added in order: the same bits on any number of threads.
            let sums: Vec<Vec<T>> = (0..b)
                .into_par_iter()
                .map(|image| {
                    let mut sum = vec![T::zero(); 9 * c];
                    for row in 0..h {
                        for (tap, from, to, column, columns) in runs((h, w), row) {
                            let x = &x[((image * h + from) * w + column) * c..][..columns * c];
                            let grad = &grad[((image * h + row) * w + to) * c..][..columns * c];
                            let sum = &mut sum[tap * c..][..c];
                            for (x, grad) in x.chunks_exact(c).zip(grad.chunks_exact(c)) {
                                for ((sum, &x), &grad) in sum.iter_mut().zip(x).zip(grad) {
                                    *sum += x * grad;
                                }
                            }
                        }
                    }
                    sum
                })
                .collect();
            let mut all = vec![T::zero(); 9 * c];
            for sum in sums {
                all.iter_mut().zip(sum).for_each(|(all, sum)| *all += sum);
            }
            Ok((T::to_cpu_storage_owned(all), Shape::from((9, c))))
        }
        by_type!(x, run((x, lx), (grad, lg)))
    }
}
