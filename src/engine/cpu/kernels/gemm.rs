//! One matrix product for everything: `C = A B` or `C += A B`, with `B` and `C` along the lanes.

use pulp::{Arch, Simd, WithSimd};

use super::{LANES, View, gemm_bf16};
use crate::engine::job::Precision;

/// `c[m, n] = sum over k of a[m, k] b[k, n]`.
///
/// Element (i, j) of a matrix lies at `i * row + j` (of `a`: `i * a_row + j * a_column`). Rows of `b` and
/// `c` are read and written in whole vectors, that is up to `n` rounded up to [`LANES`].
pub(in crate::engine::cpu) struct Gemm<'a> {
    pub a: &'a [f32],
    pub a_row: usize,
    pub a_column: usize,
    /// `a` packed for the bf16 product, if it was packed before.
    pub packed: Option<&'a [u32]>,
    pub b: &'a [f32],
    pub b_row: usize,
    pub c: &'a mut [f32],
    pub c_row: usize,
    pub size: [usize; 3],
    pub end: End<'a>,
}

/// What is done with the sums.
#[derive(Clone, Copy)]
pub(in crate::engine::cpu) enum End<'a> {
    /// They are added to `c`.
    Add,
    /// They replace `c`, after a `bias` for each row and `plus` are added, and a ReLU is applied if `relu`.
    Store {
        bias: Option<&'a [f32]>,
        plus: Option<Plus<'a>>,
        relu: bool,
    },
}

/// What is added to sums: rows, or rows times a factor for each column.
#[derive(Clone, Copy)]
pub(in crate::engine::cpu) struct Plus<'a> {
    pub rows: View<'a>,
    pub times: Option<&'a [f32]>,
}

impl Plus<'_> {
    /// Panics unless there are `m` rows of `wide` columns.
    pub fn check(&self, m: usize, wide: usize) {
        let rows = (m - 1) * self.rows.stride + wide <= self.rows.data.len();
        assert!(rows, "plus is too short");
        assert!(
            self.times.is_none_or(|times| wide <= times.len()),
            "its factors are too few"
        );
    }
}

impl End<'_> {
    pub const STORE: Self = Self::Store {
        bias: None,
        plus: None,
        relu: false,
    };
}

impl Gemm<'_> {
    pub fn run(self, precision: Precision, arch: Arch) {
        let [m, k, n] = self.size;
        if m == 0 || n == 0 {
            return;
        }
        let wide = n.next_multiple_of(LANES);
        // These hold for every caller; the unsafe kernels below rely on them.
        assert!((m - 1) * self.c_row + wide <= self.c.len(), "c is too short");
        if let End::Store { plus: Some(plus), .. } = self.end {
            plus.check(m, wide);
        }
        if k > 0 {
            assert!((k - 1) * self.b_row + wide <= self.b.len(), "b is too short");
            let last = (m - 1) * self.a_row + (k - 1) * self.a_column;
            assert!(last < self.a.len(), "a is too short");
        }
        match precision {
            Precision::F32 | Precision::Tf32 => arch.dispatch(self),
            Precision::Bf16 => gemm_bf16::run(self, arch),
        }
    }
}

impl WithSimd for Gemm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let vectors = self.size[2].div_ceil(S::F32_LANES);
        let mut vector = 0;
        while vector < vectors {
            // Blocks of three vectors, or of two where a block of one would remain, or blocks are narrow.
            let width = match vectors - vector {
                1 => 1,
                2 | 4 => 2,
                _ if narrow::<S>() => 2,
                _ => 3,
            };
            match width {
                1 => self.columns::<S, 1>(simd, vector),
                2 => self.columns::<S, 2>(simd, vector),
                _ => self.columns::<S, 3>(simd, vector),
            }
            vector += width;
        }
    }
}

impl Gemm<'_> {
    #[inline(always)]
    fn columns<S: Simd, const N: usize>(&mut self, simd: S, vector: usize) {
        let m = self.size[0];
        let mut row = 0;
        // As many accumulators as registers allow: 24 of 32, or 12 of 16.
        if S::REGISTER_COUNT >= 32 || N == 1 {
            while m - row >= 8 {
                self.block::<S, 8, N>(simd, row, vector);
                row += 8;
            }
        } else if narrow::<S>() {
            // Of the last eight rows, two would be too few to hide the latency of a sum.
            while m - row >= 6 && m - row != 8 {
                self.block::<S, 6, N>(simd, row, vector);
                row += 6;
            }
        }
        while m - row >= 4 {
            self.block::<S, 4, N>(simd, row, vector);
            row += 4;
        }
        while m - row >= 2 {
            self.block::<S, 2, N>(simd, row, vector);
            row += 2;
        }
        if row < m {
            self.block::<S, 1, N>(simd, row, vector);
        }
    }

    /// Rows `row..row + M` of `N` vectors of the result.
    #[inline(always)]
    fn block<S: Simd, const M: usize, const N: usize>(&mut self, simd: S, row: usize, vector: usize) {
        let k = self.size[1];
        let at = vector * S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); N]; M];
        if let End::Store { bias: Some(bias), .. } = self.end {
            // No iterator over the sums: where the compiler unrolls it late, they end up in memory.
            let bias = &bias[row..row + M];
            let mut i = 0;
            while i < M {
                let mut j = 0;
                while j < N {
                    sums[i][j] = simd.splat_f32s(bias[i]);
                    j += 1;
                }
                i += 1;
            }
        }
        // SAFETY: `run` has checked that all rows of the matrices and the factors of `plus`, whole vectors
        // wide, lie within their slices; `row + M` and `vector + N` are at most their numbers. `c` is
        // borrowed mutably, so it overlaps none of the others. Vectors are read and written unaligned.
        unsafe {
            let mut a = self.a.as_ptr().add(row * self.a_row);
            let mut b = self.b.as_ptr().add(at);
            let c = self.c.as_mut_ptr().add(row * self.c_row + at);
            for _ in 0..k {
                let mut near = [simd.splat_f32s(0.0); N];
                let mut j = 0;
                while j < N {
                    near[j] = b.add(j * S::F32_LANES).cast::<S::f32s>().read_unaligned();
                    j += 1;
                }
                let mut i = 0;
                while i < M {
                    let factor = simd.splat_f32s(*a.add(i * self.a_row));
                    let mut j = 0;
                    while j < N {
                        sums[i][j] = simd.mul_add_e_f32s(factor, near[j], sums[i][j]);
                        j += 1;
                    }
                    i += 1;
                }
                a = a.wrapping_add(self.a_column);
                b = b.wrapping_add(self.b_row);
            }
            let mut i = 0;
            while i < M {
                let mut j = 0;
                while j < N {
                    let to = c.add(i * self.c_row + j * S::F32_LANES).cast::<S::f32s>();
                    let mut sum = sums[i][j];
                    match self.end {
                        End::Add => sum = simd.add_f32s(to.read_unaligned(), sum),
                        End::Store { plus, relu, .. } => {
                            if let Some(Plus { rows, times }) = plus {
                                let at = at + j * S::F32_LANES;
                                let plus = rows.data.as_ptr().add((row + i) * rows.stride + at);
                                let plus = plus.cast::<S::f32s>().read_unaligned();
                                sum = match times {
                                    None => simd.add_f32s(sum, plus),
                                    Some(times) => {
                                        let times = times.as_ptr().add(at).cast::<S::f32s>();
                                        simd.mul_add_e_f32s(plus, times.read_unaligned(), sum)
                                    }
                                };
                            }
                            if relu {
                                // No maximum: on some processors it drops NaN.
                                let zero = simd.splat_f32s(0.0);
                                let off = simd.less_than_or_equal_f32s(sum, zero);
                                sum = simd.select_f32s(off, zero, sum);
                            }
                        }
                    }
                    to.write_unaligned(sum);
                    j += 1;
                }
                i += 1;
            }
        }
    }
}

/// Whether the twelve accumulators of sixteen registers are six rows of two vectors. Four rows of three are a
/// few percent faster, but their operands take all other registers, and a compiler that builds for no
/// processor in particular loads one of them early and keeps an accumulator in memory: a third slower.
const fn narrow<S: Simd>() -> bool {
    S::REGISTER_COUNT < 32 && !cfg!(target_feature = "avx2")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_three_loops_at_odd_sizes() {
        let mut archs = vec![Arch::Scalar, Arch::new()];
        #[cfg(target_arch = "x86_64")]
        archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
        let mut seed = 1u32;
        let mut next = || {
            seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
            (seed >> 8) as f32 / 8388608.0 - 1.0
        };
        for (m, k, n) in [
            (1usize, 1usize, 1usize),
            (9, 3, 17),
            (16, 5, 64),
            (7, 38, 33),
            (3, 0, 5),
            (23, 48, 100),
            (14, 6, 50),
        ] {
            let (b_row, c_row) = (n.next_multiple_of(LANES) + 16, n.next_multiple_of(LANES));
            let a: Vec<f32> = (0..m * k).map(|_| next()).collect();
            let b: Vec<f32> = (0..k * b_row).map(|_| next()).collect();
            let rows: Vec<f32> = (0..m * c_row).map(|_| next()).collect();
            let factors: Vec<f32> = (0..c_row).map(|_| next()).collect();
            let store = |times| End::Store {
                bias: None,
                plus: Some(Plus {
                    rows: View {
                        data: &rows,
                        stride: c_row,
                    },
                    times,
                }),
                relu: true,
            };
            let ends = [End::Add, store(None), store(Some(&factors[..]))];
            for (transposed, end) in ends.into_iter().flat_map(|end| [(false, end), (true, end)]) {
                for &arch in &archs {
                    let (a_row, a_column) = if transposed { (1, m) } else { (k, 1) };
                    let mut c = vec![0.5; m * c_row];
                    let gemm = Gemm {
                        a: &a,
                        a_row,
                        a_column,
                        packed: None,
                        b: &b,
                        b_row,
                        c: &mut c,
                        c_row,
                        size: [m, k, n],
                        end,
                    };
                    gemm.run(Precision::F32, arch);
                    for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                        let products = (0..k).map(|p| a[i * a_row + p * a_column] * b[p * b_row + j]);
                        let sum = products.sum::<f32>();
                        let expected = match end {
                            End::Add => 0.5 + sum,
                            End::Store { plus, .. } => {
                                let times = plus.and_then(|plus| plus.times).map_or(1.0, |times| times[j]);
                                (sum + rows[i * c_row + j] * times).max(0.0)
                            }
                        };
                        assert!(
                            (c[i * c_row + j] - expected).abs() < 1e-4,
                            "{m} {k} {n} at {i} {j}"
                        );
                    }
                }
            }
        }
    }
}
