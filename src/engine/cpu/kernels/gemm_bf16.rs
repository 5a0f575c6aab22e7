//! The matrix product with operands rounded to bf16 and sums in f32, on AVX512-BF16 where the processor has
//! it.

use std::cell::RefCell;

use pulp::Arch;

use super::LANES;
use super::gemm::{End, Gemm, Plus};

/// `x` rounded to the nearest bf16, ties to even, as the upper half of its bits. NaN stays NaN.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let even = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
    (if x.is_nan() { bits | 0x0040_0000 } else { even }) & 0xFFFF_0000
}

thread_local! {
    static PACKED: RefCell<[Vec<u32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Two consecutive values in the order that the processor multiplies them in.
#[inline(always)]
fn pair(first: f32, second: f32) -> u32 {
    (rounded(first) >> 16) | rounded(second)
}

/// Whether the processor has bf16 instructions, for which weights are packed once.
pub(in crate::engine::cpu) fn is_native(arch: Arch) -> bool {
    #[cfg(target_arch = "x86_64")]
    return matches!(arch, Arch::V4(_)) && std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Runs a product whose sizes were checked.
pub(in crate::engine::cpu) fn run(gemm: Gemm, arch: Arch) {
    #[cfg(target_arch = "x86_64")]
    if is_native(arch) {
        PACKED.with_borrow_mut(|[a, b]| {
            let a = match gemm.packed {
                Some(packed) => packed,
                None => {
                    native::pack_rows(&gemm, a);
                    a
                }
            };
            native::pack_columns(&gemm, b);
            native::run(gemm, a, b);
        });
        return;
    }
    by_rounding(gemm, arch);
}

/// Packs a matrix of `m` rows as the first operand, in pairs along k: `[m, pairs]`, with a zero at the end if
/// k is odd. Element (i, j) lies at `i * row + j * column`.
pub(in crate::engine::cpu) fn pack(
    a: &[f32],
    (row, column): (usize, usize),
    (m, k): (usize, usize),
) -> Vec<u32> {
    let mut packed = Vec::with_capacity(m * k.div_ceil(2));
    for i in 0..m {
        let of = |k: usize| a[i * row + k * column];
        packed.extend((0..k / 2).map(|p| pair(of(2 * p), of(2 * p + 1))));
        if k % 2 == 1 {
            packed.push(pair(of(k - 1), 0.0));
        }
    }
    packed
}

/// The product on processors without bf16 instructions: operands are rounded, then multiplied in f32.
fn by_rounding(gemm: Gemm, arch: Arch) {
    let [m, k, n] = gemm.size;
    let wide = n.next_multiple_of(LANES);
    let value = |x: f32| f32::from_bits(rounded(x));
    let mut a = Vec::with_capacity(m * k);
    for i in 0..m {
        a.extend((0..k).map(|p| value(gemm.a[i * gemm.a_row + p * gemm.a_column])));
    }
    let mut b = Vec::with_capacity(k * wide);
    for p in 0..k {
        b.extend(gemm.b[p * gemm.b_row..][..wide].iter().map(|&x| value(x)));
    }
    arch.dispatch(Gemm {
        a: &a,
        a_row: k,
        a_column: 1,
        b: &b,
        b_row: wide,
        packed: None,
        ..gemm
    });
}

#[cfg(target_arch = "x86_64")]
mod native {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_loadu_si512, _mm512_max_ps, _mm512_permutexvar_epi16, _mm512_set1_epi32,
        _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps, _mm512_storeu_si512,
    };

    use super::{End, Gemm, LANES, Plus, pack};

    /// Packs the first operand of `gemm`, anew for this product.
    pub fn pack_rows(gemm: &Gemm, packed: &mut Vec<u32>) {
        let [m, k, _] = gemm.size;
        let pairs = k.div_ceil(2);
        if gemm.a_column != 1 || k % 2 == 1 {
            *packed = pack(gemm.a, (gemm.a_row, gemm.a_column), (m, k));
            return;
        }
        packed.resize(m * pairs, 0);
        for (i, to) in packed.chunks_exact_mut(pairs.max(1)).enumerate().take(m) {
            // SAFETY: the caller has checked that the processor has the instructions.
            unsafe { row_of_pairs(&gemm.a[i * gemm.a_row..][..k], to) };
        }
    }

    /// Pairs of values that lie side by side.
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn row_of_pairs(from: &[f32], to: &mut [u32]) {
        let whole = to.len() / LANES;
        for (from, to) in from.chunks_exact(2 * LANES).zip(to.chunks_exact_mut(LANES)) {
            // SAFETY: the chunks are as long as what is read and written; neither needs to be aligned.
            unsafe {
                let (low, high) = (
                    _mm512_loadu_ps(from.as_ptr()),
                    _mm512_loadu_ps(from.as_ptr().add(LANES)),
                );
                let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(to.as_mut_ptr().cast(), both);
            }
        }
        let rest = from[2 * LANES * whole..].chunks_exact(2);
        for (from, to) in rest.zip(&mut to[LANES * whole..]) {
            *to = super::pair(from[0], from[1]);
        }
    }

    /// Packs the second operand of `gemm`: pairs of rows, whole vectors wide, with a row of zeros at the end
    /// if k is odd.
    pub fn pack_columns(gemm: &Gemm, packed: &mut Vec<u32>) {
        let [_, k, n] = gemm.size;
        let (pairs, wide) = (k.div_ceil(2), n.next_multiple_of(LANES));
        packed.resize(pairs * wide, 0);
        for (p, to) in packed.chunks_exact_mut(wide).enumerate().take(pairs) {
            let row = |k: usize| &gemm.b[k * gemm.b_row..][..wide];
            let second = (2 * p + 1 < k).then(|| row(2 * p + 1));
            // SAFETY: the caller has checked that the processor has the instructions.
            unsafe { rows_of_pairs(row(2 * p), second, to) };
        }
    }

    /// Pairs of values of two rows, or of one and zeros.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn rows_of_pairs(first: &[f32], second: Option<&[f32]>, to: &mut [u32]) {
        // Interleaves halves of 16 bits: 0 of the first row, 0 of the second, 1 of the first, ...
        let mut order = [0u16; 2 * LANES];
        for (place, order) in (0..).zip(&mut order) {
            *order = place / 2 + place % 2 * LANES as u16;
        }
        for (at, to) in to.chunks_exact_mut(LANES).enumerate() {
            let row = |row: &[f32]| -> __m512 {
                let row = &row[at * LANES..][..LANES];
                // SAFETY: the slice is a vector long, and need not be aligned.
                unsafe { _mm512_loadu_ps(row.as_ptr()) }
            };
            let high = second.map_or(_mm512_setzero_ps(), row);
            // SAFETY: `order` and `to` are a vector long, and need not be aligned; any 512 bits are 32 valid
            // halves.
            unsafe {
                let order = _mm512_loadu_si512(order.as_ptr().cast());
                let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, row(first)));
                _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_permutexvar_epi16(order, both));
            }
        }
    }

    /// The product of packed operands. Only for processors with AVX512-BF16.
    pub fn run(mut gemm: Gemm, a: &[u32], b: &[u32]) {
        let [m, k, n] = gemm.size;
        let (pairs, vectors) = (k.div_ceil(2), n.div_ceil(LANES));
        assert!(
            a.len() >= m * pairs && b.len() >= pairs * vectors * LANES,
            "packed operands are too short"
        );
        assert!(
            (m - 1) * gemm.c_row + vectors * LANES <= gemm.c.len(),
            "c is too short"
        );
        if let End::Store { bias: Some(bias), .. } = gemm.end {
            assert!(bias.len() >= m, "bias is too short");
        }
        let mut vector = 0;
        while vector < vectors {
            let width = match vectors - vector {
                1 => 1,
                2 | 4 => 2,
                _ => 3,
            };
            // SAFETY: the caller has checked that the processor has the instructions.
            unsafe {
                match width {
                    1 => columns::<1>(&mut gemm, a, b, vector),
                    2 => columns::<2>(&mut gemm, a, b, vector),
                    _ => columns::<3>(&mut gemm, a, b, vector),
                }
            }
            vector += width;
        }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn columns<const N: usize>(gemm: &mut Gemm, a: &[u32], b: &[u32], vector: usize) {
        let m = gemm.size[0];
        let mut row = 0;
        while m - row >= 8 {
            block::<8, N>(gemm, a, b, row, vector);
            row += 8;
        }
        while m - row >= 2 {
            block::<2, N>(gemm, a, b, row, vector);
            row += 2;
        }
        if row < m {
            block::<1, N>(gemm, a, b, row, vector);
        }
    }

    /// Rows `row..row + M` of `N` vectors of the result.
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn block<const M: usize, const N: usize>(
        gemm: &mut Gemm,
        a: &[u32],
        b: &[u32],
        row: usize,
        vector: usize,
    ) {
        let [_, k, n] = gemm.size;
        let (pairs, wide) = (k.div_ceil(2), n.next_multiple_of(LANES));
        let at = vector * LANES;
        let mut sums: [[__m512; N]; M] = [[_mm512_setzero_ps(); N]; M];
        if let End::Store { bias: Some(bias), .. } = gemm.end {
            for (sums, &bias) in sums.iter_mut().zip(&bias[row..row + M]) {
                *sums = [_mm512_set1_ps(bias); N];
            }
        }
        // SAFETY: `run` has checked that `m` rows of `a`, `pairs` rows of `b` and `m` rows of `c` and of
        // `plus` and its factors lie within their slices, those of `b`, `c` and `plus` whole vectors wide;
        // `row + M` and `vector + N` are at most their numbers. `c` is borrowed mutably, so it overlaps none
        // of them. Vectors are read and written unaligned, and any 512 bits are 32 valid integers of 16 bits.
        unsafe {
            let a = a.as_ptr().add(row * pairs);
            let mut b = b.as_ptr().add(at);
            for p in 0..pairs {
                let mut near = [std::mem::transmute::<__m512, __m512bh>(_mm512_setzero_ps()); N];
                for (j, near) in near.iter_mut().enumerate() {
                    let bits = _mm512_loadu_si512(b.add(j * LANES).cast::<__m512i>());
                    *near = std::mem::transmute::<__m512i, __m512bh>(bits);
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let factor = _mm512_set1_epi32(*a.add(i * pairs + p) as i32);
                    let factor = std::mem::transmute::<__m512i, __m512bh>(factor);
                    for (sum, &near) in sums.iter_mut().zip(&near) {
                        *sum = _mm512_dpbf16_ps(*sum, factor, near);
                    }
                }
                b = b.wrapping_add(wide);
            }
            let c = gemm.c.as_mut_ptr().add(row * gemm.c_row + at);
            for (i, sums) in sums.iter().enumerate() {
                for (j, &sum) in sums.iter().enumerate() {
                    let to = c.add(i * gemm.c_row + j * LANES);
                    let mut sum = sum;
                    match gemm.end {
                        End::Add => sum = _mm512_add_ps(_mm512_loadu_ps(to), sum),
                        End::Store { plus, relu, .. } => {
                            if let Some(Plus { rows, times }) = plus {
                                let at = at + j * LANES;
                                let plus = rows.data.as_ptr().add((row + i) * rows.stride + at);
                                let plus = _mm512_loadu_ps(plus);
                                sum = match times {
                                    None => _mm512_add_ps(sum, plus),
                                    Some(times) => {
                                        _mm512_fmadd_ps(plus, _mm512_loadu_ps(times.as_ptr().add(at)), sum)
                                    }
                                };
                            }
                            if relu {
                                // Of NaN and another it is the second: NaN stays.
                                sum = _mm512_max_ps(_mm512_setzero_ps(), sum);
                            }
                        }
                    }
                    _mm512_storeu_ps(to, sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::View;
    use super::*;

    #[test]
    fn rounds_to_nearest_even() {
        let of = |x: f32| f32::from_bits(rounded(x));
        let step = f32::powi(2.0, -7);
        assert_eq!(of(1.0), 1.0);
        assert_eq!(of(1.0 + 0.5 * step), 1.0);
        assert_eq!(of(1.0 + 1.5 * step), 1.0 + 2.0 * step);
        assert_eq!(of(-1.0 - 0.51 * step), -1.0 - step);
        assert_eq!(of(f32::INFINITY), f32::INFINITY);
        assert_eq!(of(f32::MAX), f32::INFINITY);
        assert!(of(f32::NAN).is_nan() && of(-f32::NAN).is_nan());
        assert!(of(f32::from_bits(0x7F80_0001)).is_nan());
    }

    #[test]
    fn is_the_product_of_rounded_operands_at_odd_sizes() {
        let mut seed = 1u32;
        let mut next = || {
            seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
            (seed >> 8) as f32 / 8388608.0 - 1.0
        };
        for (m, k, n) in [
            (1usize, 1usize, 1usize),
            (9, 3, 17),
            (16, 6, 64),
            (7, 37, 33),
            (3, 0, 5),
            (23, 48, 100),
        ] {
            let (b_row, c_row) = (n.next_multiple_of(LANES) + 16, n.next_multiple_of(LANES));
            let a: Vec<f32> = (0..m * k).map(|_| next()).collect();
            let b: Vec<f32> = (0..k * b_row).map(|_| next()).collect();
            let bias: Vec<f32> = (0..m).map(|_| next()).collect();
            let rows: Vec<f32> = (0..m * c_row).map(|_| next()).collect();
            let factors: Vec<f32> = (0..c_row).map(|_| next()).collect();
            for transposed in [false, true] {
                for (arch, relu) in [(Arch::Scalar, false), (Arch::new(), false), (Arch::new(), true)] {
                    let (a_row, a_column) = if transposed { (1, m) } else { (k, 1) };
                    for add in [false, true] {
                        let mut c = vec![0.5; m * c_row];
                        let end = match add {
                            true => End::Add,
                            false => End::Store {
                                bias: Some(&bias),
                                plus: Some(Plus {
                                    rows: View {
                                        data: &rows,
                                        stride: c_row,
                                    },
                                    times: relu.then_some(&factors),
                                }),
                                relu,
                            },
                        };
                        let packed = pack(&a, (a_row, a_column), (m, k));
                        let gemm = Gemm {
                            packed: (relu && k > 0).then_some(&packed),
                            a: &a,
                            a_row,
                            a_column,
                            b: &b,
                            b_row,
                            c: &mut c,
                            c_row,
                            size: [m, k, n],
                            end,
                        };
                        run(gemm, arch);
                        let value = |x: f32| f32::from_bits(rounded(x));
                        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                            let products =
                                (0..k).map(|p| value(a[i * a_row + p * a_column]) * value(b[p * b_row + j]));
                            let sum = products.sum::<f32>();
                            let times = if relu { factors[j] } else { 1.0 };
                            let shifted = sum + bias[i] + rows[i * c_row + j] * times;
                            let expected = match (add, relu) {
                                (true, _) => 0.5 + sum,
                                (false, true) => shifted.max(0.0),
                                (false, false) => shifted,
                            };
                            let found = c[i * c_row + j];
                            assert!(
                                (found - expected).abs() < 1e-5,
                                "{m} {k} {n} at {i} {j}: {found}, {expected}"
                            );
                        }
                    }
                }
            }
        }
    }
}
