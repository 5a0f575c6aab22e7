//! Vectorised loops over channels and lanes, compiled for several instruction sets and chosen at run time:
//! views, and functions with their slopes.

use std::sync::OnceLock;

use pulp::{Arch, Simd};
use rayon::prelude::*;

use super::Function;

/// Channels along which lanes lie: channel c at `data[c * stride..]`.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub data: &'a [f32],
    pub stride: usize,
}

/// A view to write to.
pub(crate) struct ViewMut<'a> {
    pub data: &'a mut [f32],
    pub stride: usize,
}

impl<'a> View<'a> {
    #[inline(always)]
    pub fn row(&self, channel: usize, lanes: usize) -> &'a [f32] {
        &self.data[channel * self.stride..][..lanes]
    }
}

impl ViewMut<'_> {
    /// The same channels from `channel` on.
    pub fn reborrow(&mut self, channel: usize) -> ViewMut<'_> {
        ViewMut {
            data: &mut self.data[channel * self.stride..],
            stride: self.stride,
        }
    }

    /// Sets everything to 0, unless `add`.
    pub fn clear_unless(&mut self, add: bool, (channels, lanes): Size) {
        if !add {
            (0..channels).for_each(|c| self.row(c, lanes).fill(0.0));
        }
    }

    #[inline(always)]
    pub fn row(&mut self, channel: usize, lanes: usize) -> &mut [f32] {
        &mut self.data[channel * self.stride..][..lanes]
    }
}

/// Lanes of the widest vectors: buffer lengths and strides are multiples of it.
pub(crate) const LANES: usize = 16;

/// Channels and lanes of an operation.
pub(crate) type Size = (usize, usize);

/// `x` within bounds; NaN stays, which `max` and `min` would drop.
#[inline(always)]
fn clip(x: f32, min: f32, max: f32) -> f32 {
    let x = if x < min { min } else { x };
    if x > max { max } else { x }
}

/// e^x, to a relative error below 3e-7; 0 where it is less than the least normal number, infinite from
/// 2^127.5 on.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // The exponents of the bounds are those of 0 and of infinity.
    let x = clip(x, -88.0, 89.0);
    // Adding 1.5 * 2^23 rounds to a whole number, which then is in the low bits.
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let whole = shifted - 12_582_912.0;
    let r = (x - whole * 0.693_359_4) + whole * 2.121_944_4e-4;
    let tail = ((r * (1.0 / 5040.0) + 1.0 / 720.0) * r + 1.0 / 120.0) * r + 1.0 / 24.0;
    let y = (((tail * r + 1.0 / 6.0) * r + 0.5) * r + 1.0) * r + 1.0;
    y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3F80_0000))
}

/// The error function, by a rational approximation.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = clip(x, -4.0, 4.0);
    let square = x * x;
    let near = ((((((-2.726_142_3e-10 * square + 2.770_681_5e-8) * square - 2.101_024e-6) * square
        - 5.692_506_5e-5)
        * square
        - 7.349_906_5e-4)
        * square
        - 2.954_6e-3)
        * square
        - 1.609_603_3e-2)
        * x;
    let below = (((-1.456_607_2e-5 * square - 2.133_740_5e-4) * square - 1.682_827e-3) * square
        - 7.373_329e-3)
        * square
        - 1.426_474e-2;
    near / below
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// From here on the sigmoid is 1, and that of the negative 0.
const SATURATED: f32 = 90.0;

/// The gradient of a ReLU at `x`, or at its value, under `grad`: NaN where that is NaN.
#[inline(always)]
pub(crate) fn relu_gradient(x: f32, grad: f32) -> f32 {
    let above = if x > 0.0 { grad } else { x };
    if x <= 0.0 { 0.0 } else { above }
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    // Near 0 the quotient loses digits that the series keeps.
    let e = exp(-2.0 * x.abs());
    let far = ((1.0 - e) / (1.0 + e)).copysign(x);
    let square = x * x;
    let near = x * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 - square * (17.0 / 315.0))));
    if x.abs() < 0.1 { near } else { far }
}

/// Runs `$each` on every pair of elements of two views. The loops are inside, so that each is vectorised.
macro_rules! zip {
    ($size:expr, $x:expr, $y:expr, |$a:ident, $b:ident| $each:expr) => {
        for c in 0..$size.0 {
            let x = $x.row(c, $size.1);
            for ($b, &$a) in $y.row(c, $size.1).iter_mut().zip(x) {
                $each
            }
        }
    };
}
pub(crate) use zip;

#[pulp::with_simd(map = arch())]
#[inline(always)]
pub(crate) fn map_simd<'a, S: Simd>(_: S, f: Function, x: View<'a>, y: ViewMut<'a>, size: Size) {
    let mut y = y;
    match f {
        Function::Relu => zip!(size, x, y, |a, b| *b = if a <= 0.0 { 0.0 } else { a }),
        Function::Elu => zip!(size, x, y, |a, b| *b = if a > 0.0 { a } else { exp(a) - 1.0 }),
        Function::Gelu => {
            zip!(size, x, y, |a, b| {
                let value = 0.5 * a * (1.0 + erf(a * std::f32::consts::FRAC_1_SQRT_2));
                // Below, the error of erf would count as often as `a` says.
                *b = if a < -4.0 * std::f32::consts::SQRT_2 {
                    0.0
                } else {
                    value
                }
            })
        }
        Function::Silu => zip!(size, x, y, |a, b| {
            // There the sigmoid is 0, and its product with an infinity would be NaN.
            let a = if a < -SATURATED { -SATURATED } else { a };
            *b = a * sigmoid(a)
        }),
        Function::Sigmoid => zip!(size, x, y, |a, b| *b = sigmoid(a)),
        Function::Tanh => zip!(size, x, y, |a, b| *b = tanh(a)),
        Function::Clamp { min, max } => zip!(size, x, y, |a, b| *b = clip(a, min, max)),
        Function::Quantise { min, max, step } => zip!(size, x, y, |a, b| {
            // At most 255.5, so the cast to an integer and back rounds down.
            let place = (clip(a, min, max) - min) / step + 0.5;
            let rounded = place as i32 as f32 * step + min;
            *b = if a.is_nan() { a } else { rounded }
        }),
    }
}

/// `dx = dy f'(x)` or `dx += dy f'(x)`.
#[pulp::with_simd(map_back = arch())]
#[inline(always)]
pub(crate) fn map_back_simd<'a, S: Simd>(
    _: S,
    f: Function,
    x: View<'a>,
    dy: View<'a>,
    dx: ViewMut<'a>,
    size: Size,
    add: bool,
) {
    let mut dx = dx;
    macro_rules! slopes {
        (|$a:ident| $slope:expr) => {
            through!(|$a, grad| grad * $slope)
        };
    }
    // Where a slope is 0 or 1, an infinite gradient is not to become NaN.
    macro_rules! through {
        (|$a:ident, $grad:ident| $each:expr) => {
            for c in 0..size.0 {
                let rows = x.row(c, size.1).iter().zip(dy.row(c, size.1));
                let rows = dx.row(c, size.1).iter_mut().zip(rows);
                match add {
                    true => rows.for_each(|(to, (&$a, &$grad))| *to += $each),
                    false => rows.for_each(|(to, (&$a, &$grad))| *to = $each),
                }
            }
        };
    }
    match f {
        Function::Relu => through!(|a, grad| relu_gradient(a, grad)),
        Function::Elu => slopes!(|a| if a > 0.0 { 1.0 } else { exp(a) }),
        Function::Gelu => slopes!(|a| {
            // Beyond, the density is 0, and its product with an infinity would be NaN.
            let a = clip(a, -13.0, 13.0);
            let density = exp(-0.5 * a * a) * 0.398_942_3;
            0.5 * (1.0 + erf(a * std::f32::consts::FRAC_1_SQRT_2)) + a * density
        }),
        Function::Silu => slopes!(|a| {
            let a = clip(a, -SATURATED, SATURATED);
            let s = sigmoid(a);
            s * (1.0 + a * (1.0 - s))
        }),
        Function::Sigmoid => slopes!(|a| {
            let s = sigmoid(a);
            s * (1.0 - s)
        }),
        Function::Tanh => slopes!(|a| {
            let t = tanh(a);
            1.0 - t * t
        }),
        Function::Clamp { min, max } | Function::Quantise { min, max, .. } => {
            through!(|a, grad| {
                let inside = if a.is_nan() { a } else { grad };
                if a < min || a > max { 0.0 } else { inside }
            })
        }
    }
}

/// Elements that a thread processes at a time.
const PIECE: usize = 1 << 14;

/// `f(x)` of every element.
pub(crate) fn apply(f: Function, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    let pieces = y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE));
    pieces.for_each(|(data, x)| {
        let size = (1, x.len());
        map(f, View { data: x, stride: 0 }, ViewMut { data, stride: 0 }, size);
    });
    y
}

/// The slope of `f` at every element, times its gradient.
pub(crate) fn slope(f: Function, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let mut dx = vec![0.0; x.len()];
    let pieces = dx.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE));
    pieces.zip(grad.par_chunks(PIECE)).for_each(|((data, x), grad)| {
        let size = (1, x.len());
        let [x, grad] = [x, grad].map(|data| View { data, stride: 0 });
        map_back(f, x, grad, ViewMut { data, stride: 0 }, size, true);
    });
    dx
}

/// The best kernels of this processor, or lesser ones that `LNCA_SIMD` names: `avx2` or `portable`. Kernels
/// that the processor lacks are never chosen.
pub(crate) fn arch() -> Arch {
    static ARCH: OnceLock<Arch> = OnceLock::new();
    *ARCH.get_or_init(|| {
        let asked = std::env::var("LNCA_SIMD").unwrap_or_default();
        match asked.as_str() {
            "portable" => Arch::Scalar,
            #[cfg(target_arch = "x86_64")]
            "avx2" => pulp::x86::V3::try_new().map_or_else(Arch::new, Arch::V3),
            _ => Arch::new(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_exact_to_single_precision() {
        for i in -4000..=4000 {
            let x = i as f32 / 400.0;
            let wide = f64::from(x);
            assert!((f64::from(exp(x)) / wide.exp() - 1.0).abs() < 3e-7, "exp {x}");
            assert!((f64::from(tanh(x)) - wide.tanh()).abs() < 2e-7, "tanh {x}");
            assert!(
                (f64::from(erf(x)) - erf64(wide)).abs() < 5e-7,
                "erf {x}: {}",
                erf(x)
            );
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!((exp(-1e9), exp(1e9)), (0.0, f32::INFINITY));
        assert!(exp(-87.0) > 1e-38 && exp(88.0) < 2e38);
    }

    /// The error function by its integral, with Simpson's rule.
    fn erf64(x: f64) -> f64 {
        let n = 2000;
        let density = |i: usize| (-(x * i as f64 / n as f64).powi(2)).exp();
        let weight = |i: usize| match i {
            0 => 1.0,
            i if i == n => 1.0,
            i if i % 2 == 1 => 4.0,
            _ => 2.0,
        };
        let sum: f64 = (0..=n).map(|i| weight(i) * density(i)).sum();
        sum * x / (3.0 * n as f64) * std::f64::consts::FRAC_2_SQRT_PI
    }
}
