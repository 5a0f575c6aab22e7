//! A texture distance independent of training losses: Gram matrices of fixed random filters.

use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::error::{Error, Result, check};
use crate::ops::{Function, matmul};
use crate::random::Key;

/// Side of a filter in pixels.
const SIDE: usize = 7;
/// Numbers of zero-mean random filters and of averaging filters.
const DETAILS: usize = 64;
const AVERAGES: usize = 8;
/// Levels of the pyramid, each half as large as the one before.
const LEVELS: usize = 4;

/// A fixed bank of random 7x7 filters, 64 with zero mean and 8 averaging ones, applied on up to four levels
/// of a pyramid.
///
/// One layer of random filters at several scales tells textures apart (Ustyuzhaninov et al. 2016). The
/// distance is meant for evaluation, not for training.
#[derive(Clone, Debug)]
pub struct FilterBank {
    /// `[filters, 3, 7, 7]`.
    filters: Tensor,
}

impl FilterBank {
    /// The bank.
    pub fn new() -> Result<Self> {
        let mut rng = Key::new(0).fold_in_name("filter bank").rng();
        let size = 3 * SIDE * SIDE;
        let mut filters = Vec::with_capacity((DETAILS + AVERAGES) * size);
        for _ in 0..DETAILS {
            let filter: Vec<f32> = (0..size).map(|_| StandardNormal.sample(&mut rng)).collect();
            // Zero mean in each colour, and norm 1.
            let means: Vec<f32> = filter
                .chunks(SIDE * SIDE)
                .map(|c| c.iter().sum::<f32>() / c.len() as f32)
                .collect();
            let centred = filter
                .iter()
                .enumerate()
                .map(|(i, x)| x - means[i / (SIDE * SIDE)]);
            let centred: Vec<f32> = centred.collect();
            let length = centred.iter().map(|x| x * x).sum::<f32>().sqrt();
            filters.extend(centred.iter().map(|x| x / length));
        }
        for _ in 0..AVERAGES {
            let colours: [f32; 3] = std::array::from_fn(|_| rng.random_range(0.0..1.0));
            filters.extend((0..size).map(|i| colours[i / (SIDE * SIDE)] / (SIDE * SIDE) as f32));
        }
        let shape = (DETAILS + AVERAGES, 3, SIDE, SIDE);
        let filters = Tensor::from_vec(filters, shape, &Device::Cpu)?;
        Ok(Self { filters })
    }

    /// The distance between the textures of `image` and `target` (`[H, W, 3]` in `[0, 1]`, sides of 7 pixels
    /// or more): the squared difference of their Gram matrices divided by the square of the target's,
    /// averaged over the levels that both have. It is 0 for equal textures, about 1 for unrelated ones.
    ///
    /// # Errors
    /// [`Error::Shape`] for images of another shape, [`Error::DType`] unless they hold floating-point
    /// numbers,
    /// [`Error::Config`] if they hold NaN or infinities.
    pub fn distance(&self, image: &Tensor, target: &Tensor) -> Result<f64> {
        let (image, target) = (self.grams("image", image)?, self.grams("target", target)?);
        let levels = image.iter().zip(&target);
        let each = levels.map(|(image, target)| -> Result<f64> {
            let sum = |x: &Tensor| -> Result<f64> { Ok(x.sqr()?.sum_all()?.to_scalar()?) };
            Ok(sum(&(image - target)?)? / sum(target)?.max(f64::MIN_POSITIVE))
        });
        let each = each.collect::<Result<Vec<_>>>()?;
        Ok(each.iter().sum::<f64>() / each.len() as f64)
    }

    /// The Gram matrix of each level.
    fn grams(&self, name: &'static str, image: &Tensor) -> Result<Vec<Tensor>> {
        let fits = matches!(*image.dims(), [h, w, 3] if h.min(w) >= SIDE);
        if !fits {
            return Err(Error::shape(name, "[7 or more, 7 or more, 3]", image.dims()));
        }
        check::float(name, image)?;
        check::finite_values(name, image)?;
        let image = image.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let mut level = image.permute((2, 0, 1))?.unsqueeze(0)?.contiguous()?;
        let mut grams = vec![];
        while grams.len() < LEVELS && level.dim(2)?.min(level.dim(3)?) >= SIDE {
            let features = Function::Relu.of(&level.conv2d(&self.filters, 0, 1, 1, 1)?)?;
            let sets = features.flatten_from(2)?.transpose(1, 2)?;
            grams.push(gram(&sets.to_dtype(DType::F64)?)?);
            let (h, w) = (level.dim(2)? / 2 * 2, level.dim(3)? / 2 * 2);
            level = level
                .narrow(2, 0, h)?
                .narrow(3, 0, w)?
                .contiguous()?
                .avg_pool2d(2)?;
        }
        Ok(grams)
    }
}

/// The Gram matrices of features `[B, N, C]`, `F^T F / N`: `[B, C, C]`.
pub fn gram(features: &Tensor) -> Result<Tensor> {
    let (_, n, _) = features.dims3()?;
    let features = features.contiguous()?;
    Ok((matmul(&features.transpose(1, 2)?, &features)? / n as f64)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Swatch;

    #[test]
    fn a_texture_is_near_itself_and_far_from_another_and_from_noise() -> Result<()> {
        let bank = FilterBank::new()?;
        let (bubbles, weave) = (Swatch::Bubbles.draw(128)?, Swatch::Weave.draw(128)?);
        let part = bubbles.narrow(0, 20, 96)?.narrow(1, 10, 96)?;
        let noise = Tensor::rand(0f32, 1f32, (128, 128, 3), &Device::Cpu)?;
        let near = bank.distance(&part, &bubbles)?;
        assert_eq!(bank.distance(&bubbles, &bubbles)?, 0.0);
        assert!(near < 0.02, "{near}");
        for other in [&weave, &noise] {
            let far = bank.distance(other, &bubbles)?;
            assert!(far > 5.0 * near, "{far} {near}");
        }
        Ok(())
    }
}
