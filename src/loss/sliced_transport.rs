//! Sliced optimal transport between sets of feature vectors.

use candle_core::{DType, Device, Tensor, WithDType};
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

use crate::error::{Error, Result, check};
use crate::ops::matmul;
use crate::random::Key;

/// `count` random unit vectors, the columns of `[channels, count]`.
///
/// # Errors
/// [`Error::Config`] if `channels` or `count` is 0.
pub fn directions(
    (channels, count): (usize, usize),
    key: Key,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    if channels == 0 || count == 0 {
        let found = format!("{channels} channels, {count} directions");
        return Err(Error::config("channels, count", "at least 1 each", found));
    }
    check::elements("count", &[channels, count])?;
    let mut rng = key.rng();
    let mut normal = || -> f64 { StandardNormal.sample(&mut rng) };
    let values: Vec<f64> = (0..channels * count).map(|_| normal()).collect();
    unit_columns(&Tensor::from_vec(values, (channels, count), device)?.to_dtype(dtype)?)
}

/// `x` (`[channels, count]`) with each column divided by its norm.
pub fn unit_columns(x: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_div(&x.sqr()?.sum_keepdim(0)?.sqrt()?)?)
}

/// The sliced transport distance of two sets of vectors along `directions` (`[C, P]`): both are projected and
/// sorted, and differences of equal rank are squared and **summed** over batch, directions and vectors.
///
/// `source` is `[B, N, C]`, `target` is `[1, M, C]`; rank i of the source is compared with rank `floor(i M /
/// N)` of the target. Only the source gets gradients. This is the style loss of texture NCA since June 2022
/// ("V3").
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit together.
pub fn sliced_transport(source: &Tensor, target: &Tensor, directions: &Tensor) -> Result<Tensor> {
    for (name, x, rank) in [
        ("source", source, 3),
        ("target", target, 3),
        ("directions", directions, 2),
    ] {
        if x.rank() != rank || x.elem_count() == 0 {
            let expected = format!("{rank} axes, none of them empty");
            return Err(Error::shape(name, expected, x.dims()));
        }
    }
    let (_, _, channels) = source.dims3()?;
    let fits = |x: &Tensor, shape: &[usize]| x.dims() == shape;
    let (p, m) = (directions.dim(1)?, target.dim(1)?);
    if !fits(directions, &[channels, p]) {
        return Err(Error::shape(
            "directions",
            format!("[{channels}, P]"),
            directions.dims(),
        ));
    }
    if !fits(target, &[1, m, channels]) {
        let expected = format!("[1, M, {channels}], neither set empty");
        return Err(Error::shape("target", expected, target.dims()));
    }
    check::float("source", source)?;
    check::as_other("target", target, "`source`", source)?;
    check::as_other("directions", directions, "`source`", source)?;
    let project = |x: &Tensor| -> Result<Tensor> {
        let (b, n, _) = x.dims3()?;
        let flat = matmul(&x.reshape((b * n, channels))?, directions)?;
        Ok(flat.reshape((b, n, p))?.transpose(1, 2)?.contiguous()?)
    };
    let target = project(&target.detach())?;
    let projections = project(source)?;
    // The order has no gradient, so each projection only needs its counterpart.
    let against = match projections.dtype() {
        DType::F64 => against::<f64>(&projections, &target)?,
        _ => against::<f32>(&projections, &target)?,
    };
    Ok((projections - against)?.sqr()?.sum_all()?)
}

/// Floats with an integer key that sorts like them, with a position in its low bits.
trait Ranked: WithDType + Send + Sync {
    type Rank: Ord + Copy + Send;

    fn rank(self, position: u32) -> Self::Rank;

    fn position(rank: Self::Rank) -> u32;
}

impl Ranked for f32 {
    type Rank = u64;

    fn rank(self, position: u32) -> u64 {
        let bits = self.to_bits();
        let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        u64::from(ordered) << 32 | u64::from(position)
    }

    fn position(rank: u64) -> u32 {
        rank as u32
    }
}

impl Ranked for f64 {
    type Rank = u128;

    fn rank(self, position: u32) -> u128 {
        let bits = self.to_bits();
        let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
        u128::from(ordered) << 32 | u128::from(position)
    }

    fn position(rank: u128) -> u32 {
        rank as u32
    }
}

/// For each of `projections` (`[B, P, N]`), the value of `target` (`[1, P, M]`) at its rank.
fn against<T: Ranked>(projections: &Tensor, target: &Tensor) -> Result<Tensor> {
    let values = |x: &Tensor| -> Result<Vec<T>> { Ok(x.flatten_all()?.to_dtype(T::DTYPE)?.to_vec1()?) };
    let (_, p, n) = projections.dims3()?;
    let (m, x) = (target.dim(2)?, values(projections)?);
    let order = |row: &[T]| -> Vec<T::Rank> {
        let mut order: Vec<T::Rank> = row.iter().zip(0..).map(|(x, at)| x.rank(at)).collect();
        order.sort_unstable();
        order
    };
    let target = values(target)?;
    let target: Vec<T> = target
        .par_chunks(m)
        .flat_map_iter(|row| order(row).into_iter().map(|rank| row[T::position(rank) as usize]))
        .collect();
    let mut against = vec![T::zero(); x.len()];
    let rows = against.par_chunks_mut(n).zip(x.par_chunks(n)).enumerate();
    rows.for_each(|(r, (against, row))| {
        let sorted = &target[r % p * m..][..m];
        for (at, rank) in order(row).into_iter().enumerate() {
            against[T::position(rank) as usize] = sorted[at * m / n];
        }
    });
    let against = Tensor::from_vec(against, projections.dims(), projections.device())?;
    Ok(against.to_dtype(projections.dtype())?)
}
