//! Row operations on cell vectors on the CPU: each is one pass over memory, with its own backward pass.
//!
//! Candle takes nine passes for a layer norm, and for the gradient of a bias a sum over a leading axis that
//! costs more than the layer itself. On other devices and for types other than f32 and f64, the callers
//! compose the same operations from Candle's.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, D, DType, Layout, Result, Shape, Tensor, WithDType,
};
use num_traits::Float;
use rayon::prelude::*;

/// Rows handled as one piece; sums over rows add the pieces in order, on any number of threads.
const PIECE: usize = 256;

/// Whether the operations of this module support `x`.
pub(crate) fn supported(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64)
}

/// `x + row` for each cell of `x` (`[.., C]`), `row` being `[C]`.
pub(crate) fn add_row(x: &Tensor, row: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&row.contiguous()?, AddRow)
}

/// `x * row` for each cell of `x` (`[.., C]`), `row` being `[C]`, or `[G, C]` with a row for each of G equal
/// parts of the cells.
pub(crate) fn mul_row(x: &Tensor, row: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&row.contiguous()?, MulRow)
}

/// Layer norm of `x` (`[.., C]`) over its last axis, with scale and shift (`[C]`).
pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    x.contiguous()?
        .apply_op3(&weight.contiguous()?, &bias.contiguous()?, Norm { eps })
}

/// The values of a contiguous storage.
pub(crate) fn values<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => candle_core::bail!("a row operation needs contiguous input"),
    }
}

/// Runs a generic function for the type of a storage.
macro_rules! by_type {
    ($storage:expr, $run:ident($($argument:expr),*)) => {
        match $storage {
            CpuStorage::F32(_) => $run::<f32>($($argument),*),
            CpuStorage::F64(_) => $run::<f64>($($argument),*),
            other => candle_core::bail!("row operations are for f32 and f64, not {other:?}"),
        }
    };
}
pub(crate) use by_type;

/// Combines each row of `x` with `row`, or, where `row` has several, with that of its part.
fn each_row<T: WithDType + Float>(
    (x, lx): (&CpuStorage, &Layout),
    (row, lrow): (&CpuStorage, &Layout),
    f: impl Fn(T, T) -> T + Sync,
) -> Result<(CpuStorage, Shape)> {
    let (x, row) = (values::<T>(x, lx)?, values::<T>(row, lrow)?);
    let columns = *lrow.shape().dims().last().unwrap_or(&1);
    let part = x.len() / (row.len() / columns);
    let mut y = vec![T::zero(); x.len()];
    for ((y, x), row) in y
        .chunks_mut(part)
        .zip(x.chunks(part))
        .zip(row.chunks_exact(columns))
    {
        let pieces = y
            .par_chunks_mut(PIECE * columns)
            .zip(x.par_chunks(PIECE * columns));
        pieces.for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(columns).zip(x.chunks_exact(columns)) {
                for ((y, &x), &r) in y.iter_mut().zip(x).zip(row) {
                    *y = f(x, r);
                }
            }
        });
    }
    Ok((T::to_cpu_storage_owned(y), lx.shape().clone()))
}

struct AddRow;

impl CustomOp2 for AddRow {
    fn name(&self) -> &'static str {
        "add-row"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        row: &CpuStorage,
        lrow: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn run<T: WithDType + Float>(
            x: (&CpuStorage, &Layout),
            row: (&CpuStorage, &Layout),
        ) -> Result<(CpuStorage, Shape)> {
            each_row::<T>(x, row, |x, r| x + r)
        }
        by_type!(x, run((x, lx), (row, lrow)))
    }

    fn bwd(
        &self,
        _: &Tensor,
        row: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let columns = grad.contiguous()?.apply_op1_no_bwd(&ColumnSums {
            columns: row.elem_count(),
            parts: 1,
        })?;
        Ok((Some(grad.clone()), Some(columns)))
    }
}

struct MulRow;

impl CustomOp2 for MulRow {
    fn name(&self) -> &'static str {
        "mul-row"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        row: &CpuStorage,
        lrow: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn run<T: WithDType + Float>(
            x: (&CpuStorage, &Layout),
            row: (&CpuStorage, &Layout),
        ) -> Result<(CpuStorage, Shape)> {
            each_row::<T>(x, row, |x, r| x * r)
        }
        by_type!(x, run((x, lx), (row, lrow)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        row: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let columns = ColumnSums {
            columns: row.dim(D::Minus1)?,
            parts: row.elem_count() / row.dim(D::Minus1)?,
        };
        let row_grad = (x.detach() * grad)?.apply_op1_no_bwd(&columns)?;
        Ok((
            Some(mul_row(grad, &row.detach())?),
            Some(row_grad.reshape(row.shape())?),
        ))
    }
}

/// The sums of all rows of `[.., columns]` in each of `parts` equal parts.
struct ColumnSums {
    columns: usize,
    parts: usize,
}

impl CustomOp1 for ColumnSums {
    fn name(&self) -> &'static str {
        "column-sums"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: WithDType + Float>(
            x: &CpuStorage,
            layout: &Layout,
            (columns, parts): (usize, usize),
        ) -> Result<(CpuStorage, Shape)> {
            let x = values::<T>(x, layout)?;
            let mut all = Vec::with_capacity(parts * columns);
            for part in x.chunks(x.len() / parts) {
                let pieces = part.par_chunks(PIECE * columns).map(|piece| {
                    let mut sums = vec![T::zero(); columns];
                    piece.chunks_exact(columns).for_each(|row| add_to(&mut sums, row));
                    sums
                });
                all.extend(in_order(pieces.collect(), columns));
            }
            let shape = Shape::from(all.len());
            Ok((T::to_cpu_storage_owned(all), shape))
        }
        by_type!(x, run(x, layout, (self.columns, self.parts)))
    }
}

fn add_to<T: Float>(sums: &mut [T], row: &[T]) {
    for (sum, &value) in sums.iter_mut().zip(row) {
        *sum = *sum + value;
    }
}

fn in_order<T: Float>(pieces: Vec<Vec<T>>, len: usize) -> Vec<T> {
    let mut sums = vec![T::zero(); len];
    pieces.iter().for_each(|piece| add_to(&mut sums, piece));
    sums
}

/// Sum of `f` over the elements in eight lanes, so that the compiler may use vectors.
fn sum<T: Float>(len: usize, f: impl Fn(usize) -> T) -> T {
    let mut lanes = [T::zero(); 8];
    let whole = len / 8 * 8;
    for start in (0..whole).step_by(8) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum = *sum + f(start + lane);
        }
    }
    let tail = (whole..len).fold(T::zero(), |sum, i| sum + f(i));
    lanes.into_iter().fold(tail, |sum, lane| sum + lane)
}

struct Norm {
    eps: f64,
}

/// Mean and reciprocal deviation of a row.
fn statistics<T: WithDType + Float>(x: &[T], eps: f64) -> (T, T) {
    let len = T::from_f64(x.len() as f64);
    let mean = sum(x.len(), |i| x[i]) / len;
    let variance = sum(x.len(), |i| (x[i] - mean) * (x[i] - mean)) / len;
    (mean, (variance + T::from_f64(eps)).sqrt().recip())
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        weight: &CpuStorage,
        lweight: &Layout,
        bias: &CpuStorage,
        lbias: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn run<T: WithDType + Float>(
            (x, lx): (&CpuStorage, &Layout),
            (weight, lweight): (&CpuStorage, &Layout),
            (bias, lbias): (&CpuStorage, &Layout),
            eps: f64,
        ) -> Result<(CpuStorage, Shape)> {
            let x = values::<T>(x, lx)?;
            let (weight, bias) = (values::<T>(weight, lweight)?, values::<T>(bias, lbias)?);
            let mut y = vec![T::zero(); x.len()];
            let piece = PIECE * weight.len();
            y.par_chunks_mut(piece)
                .zip(x.par_chunks(piece))
                .for_each(|(y, x)| {
                    for (y, x) in y.chunks_exact_mut(weight.len()).zip(x.chunks_exact(weight.len())) {
                        let (mean, scale) = statistics(x, eps);
                        for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                            *y = (x - mean) * scale * w + b;
                        }
                    }
                });
            Ok((T::to_cpu_storage_owned(y), lx.shape().clone()))
        }
        by_type!(x, run((x, lx), (weight, lweight), (bias, lbias), self.eps))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (len, channels) = (x.elem_count(), weight.elem_count());
        let grads = NormGrad { eps: self.eps };
        let all = x
            .detach()
            .apply_op3_no_bwd(&weight.detach(), &grad.contiguous()?, &grads)?;
        Ok((
            Some(all.narrow(0, 0, len)?.reshape(x.shape())?),
            Some(all.narrow(0, len, channels)?),
            Some(all.narrow(0, len + channels, channels)?),
        ))
    }
}

/// The gradients of a layer norm with respect to input, scale and shift, one after another.
struct NormGrad {
    eps: f64,
}

impl CustomOp3 for NormGrad {
    fn name(&self) -> &'static str {
        "layer-norm-gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        weight: &CpuStorage,
        lweight: &Layout,
        grad: &CpuStorage,
        lgrad: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn run<T: WithDType + Float>(
            (x, lx): (&CpuStorage, &Layout),
            (weight, lweight): (&CpuStorage, &Layout),
            (grad, lgrad): (&CpuStorage, &Layout),
            eps: f64,
        ) -> Result<(CpuStorage, Shape)> {
            let (x, grad) = (values::<T>(x, lx)?, values::<T>(grad, lgrad)?);
            let weight = values::<T>(weight, lweight)?;
            let channels = weight.len();
            let piece = PIECE * channels;
            let mut all = vec![T::zero(); x.len() + 2 * channels];
            let (dx, rest) = all.split_at_mut(x.len());
            let pieces = dx
                .par_chunks_mut(piece)
                .zip(x.par_chunks(piece))
                .zip(grad.par_chunks(piece));
            let sums = pieces.map(|((dx, x), grad)| {
                let mut sums = vec![T::zero(); 2 * channels];
                let rows = dx.chunks_exact_mut(channels).zip(x.chunks_exact(channels));
                for ((dx, x), grad) in rows.zip(grad.chunks_exact(channels)) {
                    norm_row_gradient((dx, x, grad), weight, &mut sums, eps);
                }
                sums
            });
            let sums = in_order(sums.collect(), 2 * channels);
            rest.copy_from_slice(&sums);
            let shape = Shape::from(all.len());
            Ok((T::to_cpu_storage_owned(all), shape))
        }
        by_type!(x, run((x, lx), (weight, lweight), (grad, lgrad), self.eps))
    }
}

/// With n the normalised row and h = grad * weight: `dx = (h - mean(h) - n mean(h n)) / deviation`; adds
/// `grad n` and `grad` to the sums for scale and shift.
fn norm_row_gradient<T: WithDType + Float>(
    (dx, x, grad): (&mut [T], &[T], &[T]),
    weight: &[T],
    sums: &mut [T],
    eps: f64,
) {
    let channels = weight.len();
    let (x, grad) = (&x[..channels], &grad[..channels]);
    let (mean, scale) = statistics(x, eps);
    let len = T::from_f64(channels as f64);
    let h = sum(channels, |i| grad[i] * weight[i]) / len;
    let hn = sum(channels, |i| grad[i] * weight[i] * (x[i] - mean)) * scale / len;
    let (scales, shifts) = sums.split_at_mut(channels);
    for i in 0..channels {
        let normal = (x[i] - mean) * scale;
        dx[i] = (grad[i] * weight[i] - h - normal * hn) * scale;
        scales[i] += grad[i] * normal;
        shifts[i] += grad[i];
    }
}
