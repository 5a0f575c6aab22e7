//! Data sets from the Hugging Face hub, by Candle's loaders.

use super::dataset::Dataset;
use crate::error::Result;
use candle_core::{DType, Tensor};

impl Dataset {
    /// CIFAR-10's 50,000 training and 10,000 test images, 32x32, downloaded once and then cached.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::error::Error::Candle) if there is neither a cache nor a network, or the files
    /// cannot be decoded.
    pub fn cifar10_from_hub() -> Result<(Self, Self)> {
        let cifar = candle_datasets::vision::cifar::load()?;
        Ok((
            from_candle(&cifar.train_images)?,
            from_candle(&cifar.test_images)?,
        ))
    }
}

/// Candle 0.11 gives `[N, 3, x, y]` in `[0, 1]`, with rows and columns swapped; this swaps them back.
fn from_candle(images: &Tensor) -> Result<Dataset> {
    let (_, _, size, _) = images.dims4()?;
    let images = ((images.permute((0, 3, 2, 1))? * 255.0)?.round()?).to_dtype(DType::U8)?;
    Dataset::new(size, images.flatten_all()?.to_vec1()?, None, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn images_stand_upright() -> Result<()> {
        let pixels: Vec<u8> = (0..24).collect();
        let upright = Tensor::from_vec(pixels.clone(), (2, 2, 2, 3), &Device::Cpu)?;
        // As Candle's loader does it.
        let given = (upright.to_dtype(DType::F32)?.permute((0, 3, 2, 1))? / 255.0)?;
        let data = from_candle(&given)?;
        assert_eq!(
            (data.clean(0), data.clean(1)),
            (Some(&pixels[..12]), Some(&pixels[12..]))
        );
        Ok(())
    }
}
