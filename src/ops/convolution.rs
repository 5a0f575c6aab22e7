//! Convolutions and transposed convolutions of any size, stride and padding, over cells `[B, H, W, C]`.
//!
//! Both are made of gathers and one matrix product, whose gradients Candle computes correctly.

use candle_core::Tensor;

use crate::error::Result;
use crate::ops::{gather, gather_sums, matmul};

/// How a kernel moves along one axis: from `len` values to `out` of them. The transposed convolution maps
/// `out` values to `len`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub len: usize,
    pub out: usize,
    pub kernel: usize,
    pub stride: usize,
    /// Zeros before the first value.
    pub before: usize,
}

impl Window {
    /// TensorFlow's "same" padding: an odd total puts its larger half after.
    pub fn same(len: usize, kernel: usize, stride: usize) -> Self {
        let out = len.div_ceil(stride);
        let total = ((out - 1) * stride + kernel).saturating_sub(len);
        Self {
            len,
            out,
            kernel,
            stride,
            before: total / 2,
        }
    }

    /// `padding` zeros on both sides, of an axis that is not shorter than the kernel with them.
    pub fn padded(len: usize, kernel: usize, stride: usize, padding: usize) -> Self {
        Self {
            len,
            out: (len + 2 * padding - kernel) / stride + 1,
            kernel,
            stride,
            before: padding,
        }
    }

    /// The value that a tap of the kernel reads, `None` beyond the border.
    fn source(&self, at: usize, tap: usize) -> Option<usize> {
        (at * self.stride + tap)
            .checked_sub(self.before)
            .filter(|&source| source < self.len)
    }

    /// For each of the `len` values, the (output, tap) pairs that read it.
    fn senders(&self) -> Vec<Vec<(usize, usize)>> {
        let seen_by = |value: usize| {
            let sender = move |tap: usize| {
                let from = (value + self.before).checked_sub(tap)?;
                let at = from / self.stride;
                (from.is_multiple_of(self.stride) && at < self.out).then_some((at, tap))
            };
            (0..self.kernel).filter_map(sender).collect()
        };
        (0..self.len).map(seen_by).collect()
    }
}

/// `x` (`[B, rows.len, columns.len, in]`) by `kernel` (`[out, in, k, k]`, not flipped): `[B, rows.out,
/// columns.out, out]`.
pub(crate) fn convolve(x: &Tensor, kernel: &Tensor, (rows, columns): (Window, Window)) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let taps = rows.kernel * columns.kernel;
    let mut index = Vec::with_capacity(taps * rows.out * columns.out);
    for (row, column) in grid(rows.out, columns.out) {
        for (down, right) in grid(rows.kernel, columns.kernel) {
            let near = (rows.source(row, down), columns.source(column, right));
            index.push(near.0.zip(near.1).map(|(row, column)| row * w + column));
        }
    }
    let patches = gather(&x.reshape((b, h * w, c))?, index)?;
    let patches = patches.reshape((b * rows.out * columns.out, taps * c))?;
    let kernel = kernel.permute((2, 3, 1, 0))?.reshape((taps * c, ()))?;
    Ok(matmul(&patches, &kernel)?.reshape((b, rows.out, columns.out, ()))?)
}

/// `x` (`[B, rows.out, columns.out, in]`) by the transposed convolution of `kernel` (`[in, out, k, k]`):
/// `[B, rows.len, columns.len, out]`.
///
/// Each cell makes one product for each tap; each output gathers those that reach it.
pub(crate) fn convolve_transposed(
    x: &Tensor,
    kernel: &Tensor,
    (rows, columns): (Window, Window),
) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let (out, taps) = (kernel.dim(1)?, rows.kernel * columns.kernel);
    let kernel = kernel.permute((0, 2, 3, 1))?.reshape((c, taps * out))?;
    let sent = matmul(&x.reshape((b * h * w, c))?, &kernel)?;
    let sent = sent.reshape((b, h * w * taps, out))?;
    let (from_rows, from_columns) = (rows.senders(), columns.senders());
    let reach = (
        rows.kernel.div_ceil(rows.stride),
        columns.kernel.div_ceil(columns.stride),
    );
    let mut index = Vec::with_capacity(rows.len * columns.len * reach.0 * reach.1);
    for (row, column) in grid(rows.len, columns.len) {
        for (n, m) in grid(reach.0, reach.1) {
            let from = (from_rows[row].get(n), from_columns[column].get(m));
            index.push(from.0.zip(from.1).map(|((row, down), (column, right))| {
                (row * w + column) * taps + down * columns.kernel + right
            }));
        }
    }
    let received = gather_sums(&sent, index, reach.0 * reach.1)?;
    Ok(received.reshape((b, rows.len, columns.len, out))?)
}

fn grid(rows: usize, columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |row| (0..columns).map(move |column| (row, column)))
}
