//! The elementwise steps of Adam, in place: each intermediate tensor would be as large as the network.

use candle_core::{CpuStorage, DType, InplaceOp2, InplaceOp3, Layout, Result, Tensor, WithDType};
use num_traits::Float;
use rayon::prelude::*;

use crate::ops::rows::values;

/// Elements per task. Sums add their pieces in order, so they do not depend on the number of threads.
const PIECE: usize = 1 << 14;

fn supported(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64) && x.is_contiguous()
}

/// The Euclidean norm of `x`.
pub(super) fn norm(x: &Tensor) -> Result<f64> {
    fn sum<T: WithDType + Float>(x: &[T]) -> f64 {
        let piece = |piece: &[T]| {
            piece
                .iter()
                .map(|&value| WithDType::to_f64(value).powi(2))
                .sum::<f64>()
        };
        let pieces: Vec<f64> = x.par_chunks(PIECE).map(piece).collect();
        pieces.into_iter().sum()
    }
    if !supported(x) {
        return x.sqr()?.sum_all()?.sqrt()?.to_dtype(DType::F64)?.to_scalar();
    }
    let (storage, layout) = x.storage_and_layout();
    let sum = match &*storage {
        candle_core::Storage::Cpu(CpuStorage::F32(_)) => sum::<f32>(of(&storage, layout)?),
        _ => sum::<f64>(of(&storage, layout)?),
    };
    Ok(sum.sqrt())
}

fn of<'a, T: WithDType>(storage: &'a candle_core::Storage, layout: &Layout) -> Result<&'a [T]> {
    match storage {
        candle_core::Storage::Cpu(storage) => values(storage, layout),
        _ => candle_core::bail!("not on the CPU"),
    }
}

/// Runs a generic function on the mutable elements of a storage and its layout.
macro_rules! change {
    ($storage:expr, $layout:expr, $run:ident($($argument:expr),*)) => {{
        let Some((start, end)) = $layout.contiguous_offsets() else {
            candle_core::bail!("an operation in place needs contiguous values")
        };
        match $storage {
            CpuStorage::F32(elements) => $run::<f32>(&mut elements[start..end], $($argument),*),
            CpuStorage::F64(elements) => $run::<f64>(&mut elements[start..end], $($argument),*),
            other => candle_core::bail!("operations in place are for f32 and f64, not {other:?}"),
        }
    }};
}

/// `mean = beta mean + (1 - beta) scale x`, or with `(scale x)^2`.
pub(super) struct Mean {
    pub beta: f64,
    pub scale: f64,
    pub squares: bool,
}

impl Mean {
    pub fn follow(&self, mean: &mut Tensor, x: &Tensor) -> Result<()> {
        if supported(mean) && supported(x) {
            return mean.inplace_op2(x, self);
        }
        let x = (x * self.scale)?;
        let x = if self.squares { x.sqr()? } else { x };
        *mean = ((&*mean * self.beta)? + (x * (1.0 - self.beta))?)?.detach();
        Ok(())
    }
}

impl InplaceOp2 for Mean {
    fn name(&self) -> &'static str {
        "running-mean"
    }

    fn cpu_fwd(&self, mean: &mut CpuStorage, lm: &Layout, x: &CpuStorage, lx: &Layout) -> Result<()> {
        fn run<T: WithDType + Float>(mean: &mut [T], x: (&CpuStorage, &Layout), of: &Mean) -> Result<()> {
            let x = values::<T>(x.0, x.1)?;
            let (keep, scale) = (T::from_f64(of.beta), T::from_f64(of.scale));
            let share = T::from_f64(1.0 - of.beta);
            let pieces = mean.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE));
            pieces.for_each(|(mean, x)| {
                for (mean, &x) in mean.iter_mut().zip(x) {
                    let x = scale * x;
                    *mean = keep * *mean + share * if of.squares { x * x } else { x };
                }
            });
            Ok(())
        }
        change!(mean, lm, run((x, lx), self))
    }
}

/// `w -= rate m / (sqrt(v) + eps)`.
pub(super) struct Change {
    pub rate: f64,
    pub eps: f64,
}

impl Change {
    pub fn make(&self, w: &candle_core::Var, m: &Tensor, v: &Tensor) -> Result<()> {
        if supported(w) && supported(m) && supported(v) {
            return w.inplace_op3(m, v, self);
        }
        let change = ((m * self.rate)? / (v.sqrt()? + self.eps)?)?;
        w.set(&(w.as_detached_tensor() - change)?)
    }
}

impl InplaceOp3 for Change {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(
        &self,
        w: &mut CpuStorage,
        lw: &Layout,
        m: &CpuStorage,
        lm: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<()> {
        fn run<T: WithDType + Float>(
            w: &mut [T],
            m: (&CpuStorage, &Layout),
            v: (&CpuStorage, &Layout),
            of: &Change,
        ) -> Result<()> {
            let (m, v) = (values::<T>(m.0, m.1)?, values::<T>(v.0, v.1)?);
            let (rate, eps) = (T::from_f64(of.rate), T::from_f64(of.eps));
            let pieces = w
                .par_chunks_mut(PIECE)
                .zip(m.par_chunks(PIECE))
                .zip(v.par_chunks(PIECE));
            pieces.for_each(|((w, m), v)| {
                for ((w, &m), &v) in w.iter_mut().zip(m).zip(v) {
                    *w -= rate * m / (v.sqrt() + eps);
                }
            });
            Ok(())
        }
        change!(w, lw, run((m, lm), (v, lv), self))
    }
}
