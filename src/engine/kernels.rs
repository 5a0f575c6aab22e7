//! Loops over lanes, compiled for each kind of processor and chosen at run time.

use std::sync::OnceLock;

use pulp::{Arch, Simd};

use crate::program::Function;

/// Channels along which lanes lie: channel c at `data[c * stride..]`.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub data: &'a [f32],
    pub stride: usize,
}

/// A view to write to.
pub(super) struct ViewMut<'a> {
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

    /// Sets everything to 0 where nothing is to be added to.
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

/// Channels and lanes of an operation.
pub(super) type Size = (usize, usize);

/// e^x to about one unit in the last place.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
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
    let x = x.clamp(-4.0, 4.0);
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

#[inline(always)]
fn tanh(x: f32) -> f32 {
    // Near 0 the quotient would lose digits that the series keeps.
    let e = exp(-2.0 * x.abs());
    let far = ((1.0 - e) / (1.0 + e)).copysign(x);
    let square = x * x;
    let near = x * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 - square * (17.0 / 315.0))));
    if x.abs() < 0.1 { near } else { far }
}

/// Runs `$each` on every pair of elements of two views, the loops inside so that each is vectorised.
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

#[pulp::with_simd(map = arch())]
#[inline(always)]
pub(super) fn map_simd<'a, S: Simd>(_: S, f: Function, x: View<'a>, y: ViewMut<'a>, size: Size) {
    let mut y = y;
    match f {
        Function::Relu => zip!(size, x, y, |a, b| *b = if a > 0.0 { a } else { 0.0 }),
        Function::Elu => zip!(size, x, y, |a, b| *b = if a > 0.0 { a } else { exp(a) - 1.0 }),
        Function::Gelu => {
            zip!(size, x, y, |a, b| *b =
                0.5 * a * (1.0 + erf(a * std::f32::consts::FRAC_1_SQRT_2)))
        }
        Function::Silu => zip!(size, x, y, |a, b| *b = a * sigmoid(a)),
        Function::Sigmoid => zip!(size, x, y, |a, b| *b = sigmoid(a)),
        Function::Tanh => zip!(size, x, y, |a, b| *b = tanh(a)),
        Function::Clamp { min, max } => zip!(size, x, y, |a, b| *b = a.max(min).min(max)),
        Function::Quantise { min, max, step } => zip!(size, x, y, |a, b| {
            // At most 255.5, so the cast to an integer and back rounds down.
            let place = (a.max(min).min(max) - min) / step + 0.5;
            *b = place as i32 as f32 * step + min
        }),
    }
}

/// `dx = dy f'(x)`, or that added to `dx`.
#[pulp::with_simd(map_back = arch())]
#[inline(always)]
pub(super) fn map_back_simd<'a, S: Simd>(
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
            for c in 0..size.0 {
                let rows = x.row(c, size.1).iter().zip(dy.row(c, size.1));
                let rows = dx.row(c, size.1).iter_mut().zip(rows);
                match add {
                    true => rows.for_each(|(to, (&$a, &grad))| *to += grad * $slope),
                    false => rows.for_each(|(to, (&$a, &grad))| *to = grad * $slope),
                }
            }
        };
    }
    match f {
        Function::Relu => slopes!(|a| if a > 0.0 { 1.0 } else { 0.0 }),
        Function::Elu => slopes!(|a| if a > 0.0 { 1.0 } else { exp(a) }),
        Function::Gelu => slopes!(|a| {
            let density = exp(-0.5 * a * a) * 0.398_942_3;
            0.5 * (1.0 + erf(a * std::f32::consts::FRAC_1_SQRT_2)) + a * density
        }),
        Function::Silu => slopes!(|a| {
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
            slopes!(|a| if a >= min && a <= max { 1.0 } else { 0.0 })
        }
    }
}

/// `y = a + b`.
#[pulp::with_simd(sum = arch())]
#[inline(always)]
pub(super) fn sum_simd<'a, S: Simd>(_: S, a: View<'a>, b: View<'a>, y: ViewMut<'a>, size: Size) {
    let mut y = y;
    for c in 0..size.0 {
        let rows = a.row(c, size.1).iter().zip(b.row(c, size.1));
        for (y, (a, b)) in y.row(c, size.1).iter_mut().zip(rows) {
            *y = a + b;
        }
    }
}

/// `y = x` or `y += x`.
pub(super) fn pass(x: View<'_>, y: ViewMut<'_>, size: Size, add: bool) {
    match add {
        true => add_to(x, y, size),
        false => copy(x, y, size),
    }
}

/// `y += x`.
#[pulp::with_simd(add_to = arch())]
#[inline(always)]
pub(super) fn add_to_simd<'a, S: Simd>(_: S, x: View<'a>, y: ViewMut<'a>, size: Size) {
    let mut y = y;
    zip!(size, x, y, |a, b| *b += a);
}

/// `y = x`.
#[pulp::with_simd(copy = arch())]
#[inline(always)]
pub(super) fn copy_simd<'a, S: Simd>(_: S, x: View<'a>, y: ViewMut<'a>, size: Size) {
    let mut y = y;
    for c in 0..size.0 {
        y.row(c, size.1).copy_from_slice(x.row(c, size.1));
    }
}

/// `y = a b` or `y += a b`; a view `b` of stride 0 multiplies every channel.
#[pulp::with_simd(product = arch())]
#[inline(always)]
pub(super) fn product_simd<'a, S: Simd>(
    _: S,
    a: View<'a>,
    b: View<'a>,
    y: ViewMut<'a>,
    size: Size,
    add: bool,
) {
    let mut y = y;
    for c in 0..size.0 {
        let rows = a.row(c, size.1).iter().zip(b.row(c, size.1));
        let rows = y.row(c, size.1).iter_mut().zip(rows);
        match add {
            true => rows.for_each(|(y, (a, b))| *y += a * b),
            false => rows.for_each(|(y, (a, b))| *y = a * b),
        }
    }
}

/// `y = x scale + shift` per channel, or that without the shift added to `y`.
#[pulp::with_simd(affine = arch())]
#[inline(always)]
pub(super) fn affine_simd<'a, S: Simd>(
    _: S,
    x: View<'a>,
    scale: Option<&'a [f32]>,
    shift: Option<&'a [f32]>,
    y: ViewMut<'a>,
    size: Size,
    add: bool,
) {
    let mut y = y;
    for c in 0..size.0 {
        let scale = scale.map_or(1.0, |scale| scale[c]);
        let shift = shift.map_or(0.0, |shift| shift[c]);
        let rows = y.row(c, size.1).iter_mut().zip(x.row(c, size.1));
        match add {
            true => rows.for_each(|(y, x)| *y += x * scale),
            false => rows.for_each(|(y, x)| *y = x * scale + shift),
        }
    }
}

/// Sets `dy` to 0 where `y` was cut off.
#[pulp::with_simd(cut_off = arch())]
#[inline(always)]
pub(super) fn cut_off_simd<'a, S: Simd>(_: S, y: View<'a>, dy: ViewMut<'a>, size: Size) {
    let mut dy = dy;
    zip!(size, y, dy, |a, b| *b = if a > 0.0 { *b } else { 0.0 });
}

/// Lanes added up while a sum is vectorised.
const PARTS: usize = 16;

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut parts = [0f32; PARTS];
    let (blocks_a, blocks_b) = (a.chunks_exact(PARTS), b.chunks_exact(PARTS));
    let rest: f32 = blocks_a
        .remainder()
        .iter()
        .zip(blocks_b.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in blocks_a.zip(blocks_b) {
        for l in 0..PARTS {
            parts[l] += a[l] * b[l];
        }
    }
    parts.iter().sum::<f32>() + rest
}

#[inline(always)]
fn total(a: &[f32]) -> f32 {
    let mut parts = [0f32; PARTS];
    let blocks = a.chunks_exact(PARTS);
    let rest: f32 = blocks.remainder().iter().sum();
    for a in blocks {
        for l in 0..PARTS {
            parts[l] += a[l];
        }
    }
    parts.iter().sum::<f32>() + rest
}

/// `to[c] +=` the sum over lanes of `x`.
#[pulp::with_simd(sum_lanes = arch())]
#[inline(always)]
pub(super) fn sum_lanes_simd<'a, S: Simd>(_: S, x: View<'a>, to: &'a mut [f32], size: Size) {
    for (c, to) in to.iter_mut().enumerate().take(size.0) {
        *to += total(x.row(c, size.1));
    }
}

/// `to[c] +=` the sum over lanes of `x y`.
#[pulp::with_simd(dot_lanes = arch())]
#[inline(always)]
pub(super) fn dot_lanes_simd<'a, S: Simd>(_: S, x: View<'a>, y: View<'a>, to: &'a mut [f32], size: Size) {
    for (c, to) in to.iter_mut().enumerate().take(size.0) {
        *to += dot(x.row(c, size.1), y.row(c, size.1));
    }
}

/// `y +=` the sum over channels of `a b`: one channel.
#[pulp::with_simd(dot_channels = arch())]
#[inline(always)]
pub(super) fn dot_channels_simd<'a, S: Simd>(_: S, a: View<'a>, b: View<'a>, y: &'a mut [f32], size: Size) {
    for c in 0..size.0 {
        let rows = a.row(c, size.1).iter().zip(b.row(c, size.1));
        for (y, (a, b)) in y[..size.1].iter_mut().zip(rows) {
            *y += a * b;
        }
    }
}

/// Lanes normalised at once, so that their sums stay in registers.
const BLOCK: usize = 64;

/// The mean of each lane of a block.
#[inline(always)]
fn means(x: View<'_>, channels: usize, at: usize, n: usize) -> [f32; BLOCK] {
    let mut mean = [0f32; BLOCK];
    for c in 0..channels {
        let x = &x.data[c * x.stride + at..][..n];
        mean[..n].iter_mut().zip(x).for_each(|(m, x)| *m += x);
    }
    mean.iter_mut().for_each(|m| *m /= channels as f32);
    mean
}

/// Mean and 1 / deviation of each lane of a block.
#[inline(always)]
fn moments(x: View<'_>, channels: usize, at: usize, n: usize, eps: f32) -> ([f32; BLOCK], [f32; BLOCK]) {
    let (mean, mut scale) = (means(x, channels, at, n), [0f32; BLOCK]);
    for c in 0..channels {
        let x = &x.data[c * x.stride + at..][..n];
        for ((s, x), m) in scale[..n].iter_mut().zip(x).zip(&mean) {
            let centred = x - m;
            *s += centred * centred;
        }
    }
    scale
        .iter_mut()
        .for_each(|s| *s = 1.0 / (*s / channels as f32 + eps).sqrt());
    (mean, scale)
}

/// A layer norm and its input.
#[derive(Clone, Copy)]
pub(super) struct Norm<'a> {
    pub x: View<'a>,
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub eps: f32,
}

#[inline(always)]
fn norm_block(of: Norm<'_>, y: &mut ViewMut<'_>, at: usize, n: usize) {
    let (mean, scale) = moments(of.x, of.weight.len(), at, n, of.eps);
    for (c, (weight, bias)) in of.weight.iter().zip(of.bias).enumerate() {
        let x = &of.x.data[c * of.x.stride + at..][..n];
        let y = &mut y.data[c * y.stride + at..][..n];
        for l in 0..n {
            y[l] = (x[l] - mean[l]) * scale[l] * weight + bias;
        }
    }
}

/// Layer norm over the channels of each lane.
#[pulp::with_simd(norm = arch())]
#[inline(always)]
pub(super) fn norm_simd<'a, S: Simd>(_: S, of: Norm<'a>, y: ViewMut<'a>, lanes: usize) {
    let mut y = y;
    for at in (0..lanes).step_by(BLOCK) {
        // The block of full size is compiled for itself.
        match lanes - at {
            n if n >= BLOCK => norm_block(of, &mut y, at, BLOCK),
            n => norm_block(of, &mut y, at, n),
        }
    }
}

/// `dx =` the gradient of [`norm`], or that added to `dx`; those of its weights are added to `dw`.
#[pulp::with_simd(norm_back = arch())]
#[inline(always)]
pub(super) fn norm_back_simd<'a, S: Simd>(
    _: S,
    of: Norm<'a>,
    dy: View<'a>,
    dx: ViewMut<'a>,
    dw: (&'a mut [f32], &'a mut [f32]),
    (lanes, add): (usize, bool),
) {
    let channels = of.weight.len();
    for at in (0..lanes).step_by(BLOCK) {
        let n = BLOCK.min(lanes - at);
        let (mean, scale) = moments(of.x, channels, at, n, of.eps);
        let (mut sum, mut along) = ([0f32; BLOCK], [0f32; BLOCK]);
        for (c, &weight) in of.weight.iter().enumerate() {
            let x = &of.x.data[c * of.x.stride + at..][..n];
            let dy = &dy.data[c * dy.stride + at..][..n];
            let mut products = [0f32; BLOCK];
            for l in 0..n {
                let normal = (x[l] - mean[l]) * scale[l];
                products[l] = dy[l] * normal;
                sum[l] += dy[l] * weight;
                along[l] += products[l] * weight;
            }
            dw.0[c] += total(&products);
            dw.1[c] += total(dy);
        }
        let share = 1.0 / channels as f32;
        for (c, &weight) in of.weight.iter().enumerate() {
            let x = &of.x.data[c * of.x.stride + at..][..n];
            let dy = &dy.data[c * dy.stride + at..][..n];
            let dx = &mut dx.data[c * dx.stride + at..][..n];
            for l in 0..n {
                let normal = (x[l] - mean[l]) * scale[l];
                let slope = scale[l] * (dy[l] * weight - share * (sum[l] + normal * along[l]));
                dx[l] = if add { dx[l] + slope } else { slope };
            }
        }
    }
}

/// `y = 1 / sqrt(mean of squares + eps)` over the channels of each lane, less their mean or not: one channel.
#[pulp::with_simd(inverse_rms = arch())]
#[inline(always)]
pub(super) fn inverse_rms_simd<'a, S: Simd>(
    _: S,
    x: View<'a>,
    eps: f32,
    centred: bool,
    y: &'a mut [f32],
    size: Size,
) {
    let y = &mut y[..size.1];
    if centred {
        for at in (0..size.1).step_by(BLOCK) {
            let n = BLOCK.min(size.1 - at);
            let (_, scale) = match n {
                BLOCK => moments(x, size.0, at, BLOCK, eps),
                n => moments(x, size.0, at, n, eps),
            };
            y[at..at + n].copy_from_slice(&scale[..n]);
        }
        return;
    }
    y.fill(0.0);
    for c in 0..size.0 {
        y.iter_mut().zip(x.row(c, size.1)).for_each(|(y, x)| *y += x * x);
    }
    let share = 1.0 / size.0 as f32;
    y.iter_mut().for_each(|y| *y = 1.0 / (*y * share + eps).sqrt());
}

/// `dx =` the gradient of [`inverse_rms`], whose result is `y`, or that added to `dx`.
#[pulp::with_simd(inverse_rms_back = arch())]
#[inline(always)]
pub(super) fn inverse_rms_back_simd<'a, S: Simd>(
    _: S,
    x: View<'a>,
    centred: bool,
    (y, dy): (&'a [f32], &'a [f32]),
    dx: ViewMut<'a>,
    size: Size,
    add: bool,
) {
    let mut dx = dx;
    let share = -1.0 / size.0 as f32;
    for at in (0..size.1).step_by(BLOCK) {
        let n = BLOCK.min(size.1 - at);
        let mean = match centred {
            true => means(x, size.0, at, n),
            false => [0.0; BLOCK],
        };
        let mut slope = [0f32; BLOCK];
        for ((slope, y), dy) in slope.iter_mut().zip(&y[at..at + n]).zip(&dy[at..at + n]) {
            *slope = share * dy * (y * y * y);
        }
        for c in 0..size.0 {
            let x = &x.row(c, at + n)[at..];
            let rows = dx.row(c, at + n)[at..].iter_mut().zip(x).zip(&mean).zip(&slope);
            match add {
                true => rows.for_each(|(((dx, x), mean), slope)| *dx += (x - mean) * slope),
                false => rows.for_each(|(((dx, x), mean), slope)| *dx = (x - mean) * slope),
            }
        }
    }
}

/// The kernels of this processor, or those that `LNCA_SIMD` names: `avx512`, `avx2` or `portable`. What the
/// processor lacks is not taken.
pub(super) fn arch() -> Arch {
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
        assert!(exp(-1e9) < 1e-37 && exp(1e9) > 1e38);
    }

    /// By its integral, with Simpson's rule.
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
