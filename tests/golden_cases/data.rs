//! Cases of the data: corruptions, resizing, the curriculum.

use candle_core::{DType, Tensor};
use lnca::data::{Curriculum, Rotation, masked_noise, motion_blur, motion_kernel};
use lnca::io::lanczos_resize;

use super::case::Result;
use super::check::{Check, Grade, Limit};
use crate::device::device;

pub fn noise_corruption(check: &mut Check) -> Result<()> {
    let [clean, mask, noise] = ["in.x", "in.mask", "in.noise"].map(|name| check.input(name));
    let corrupted = masked_noise(&clean?, &mask?, &noise?)?;
    check.output("out.y", &corrupted, Grade::Step)
}

pub fn motion(check: &mut Check) -> Result<()> {
    let images = check.input("in.x")?;
    let angles = check.integers("in.angles")?;
    for size in check.case.list("config.sizes")? {
        let size = size.as_u64().ok_or("a size that is no count")? as usize;
        let kernels = |rotation| -> Result<Vec<_>> {
            let kernel = |&angle: &usize| Ok(motion_kernel(size, angle as i32, rotation)?);
            angles.iter().map(kernel).collect()
        };
        let table = |kernels: Vec<Vec<f64>>| -> Result<Tensor> {
            Ok(Tensor::from_vec(
                kernels.concat(),
                (angles.len(), size, size),
                &device(),
            )?)
        };
        let fixed = kernels(Rotation::FixedPoint)?;
        let exact = kernels(Rotation::Exact)?;
        for (name, found, limit) in [
            // Fixed-point weights are multiples of a power of two, so nothing is rounded.
            (
                "raw_kernel",
                fixed.iter().map(|kernel| kernel.raw.clone()).collect(),
                Limit::EXACT,
            ),
            (
                "kernel",
                fixed.iter().map(|kernel| kernel.weights.clone()).collect(),
                Limit::absolute(1e-6),
            ),
            (
                "exact_kernel",
                exact.iter().map(|kernel| kernel.weights.clone()).collect(),
                Limit::absolute(1e-6),
            ),
        ] {
            let name = format!("out.{name}.{size}");
            let expected = check.expected(&name)?;
            check.compare(&name, &table(found)?, &expected, limit)?;
        }
        let each = check.integers(&format!("in.angle_index.{size}"))?;
        let each: Vec<_> = each.into_iter().map(|index| fixed[index].clone()).collect();
        // The reference convolved with kernels rounded to float32.
        let limit = Limit::relative(if check.dtype == DType::F64 { 1e-6 } else { 1e-5 }, 1.0);
        let name = format!("out.blurred.{size}");
        let expected = check.expected(&name)?;
        check.compare(&name, &motion_blur(&images, &each)?, &expected, limit)?;
    }
    Ok(())
}

pub fn lanczos(check: &mut Check) -> Result<()> {
    let target = check.case.list("config.target")?.iter();
    let target = target.filter_map(|size| size.as_u64().map(|size| size as usize));
    let &[height, width] = target.collect::<Vec<_>>().as_slice() else {
        return Err("`config.target` is not [height, width]".into());
    };
    for name in check.names("in.") {
        let image = check.stored(&format!("in.{name}"))?;
        let (h, w, channels) = image.dims3()?;
        let pixels = image.flatten_all()?.to_vec1::<u8>()?;
        let pixels = lanczos_resize(&pixels, h, w, height, width)?;
        let found = Tensor::from_vec(pixels, (height, width, channels), &device())?;
        let expected = check.expected(&format!("out.{name}"))?;
        check.compare(&format!("out.{name}"), &found, &expected, Limit::EXACT)?;
    }
    Ok(())
}

pub fn curriculum(check: &mut Check) -> Result<()> {
    for name in check.results("out.") {
        let split = name
            .split_once('.')
            .and_then(|(kind, n)| Some((kind, n.parse::<usize>().ok()?)));
        let (kind, epochs) = split.ok_or("a name that is not kind.epochs")?;
        let number = |key: &str| check.case.number(&format!("config.{kind}.{key}"));
        let curriculum = Curriculum {
            range: number("range")?,
            min: number("a_min")?,
            max: number("a_max")?,
        };
        let difficulty = (0..epochs).map(|epoch| match kind {
            // Blur sizes are whole pixels.
            "blur" => curriculum.difficulty(epoch, epochs).trunc(),
            _ => curriculum.difficulty(epoch, epochs),
        });
        let found = Tensor::new(difficulty.collect::<Vec<_>>(), &device())?;
        check.output(&format!("out.{name}"), &found, Grade::Step)?;
    }
    Ok(())
}
