//! Matrix products of views of any layout.

use candle_core::{Layout, Tensor};

use crate::error::Result;

/// `a` (`[.., m, k]`) times `b` (`[.., k, n]`), with the same leading axes, two at most.
///
/// Candle's own product takes any strides of rows and columns on a CPU, but on CUDA only those that
/// [`multiplies`] knows: it refuses the columns of a wider matrix, for example. So the library multiplies
/// here alone, clippy refuses other calls, and tests on a CPU can tell what CUDA would see.
///
/// The products of the backward pass need nothing more. Their operands are those of the forward pass,
/// transposed, which does not change the answer of [`multiplies`], and the gradient of the result, which is
/// contiguous since Candle adds every gradient to zeros.
pub(crate) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    #[expect(clippy::disallowed_methods, reason = "both operands are what CUDA multiplies")]
    Ok(operand(a)?.matmul(&operand(b)?)?)
}

/// `x`, copied if CUDA would not multiply it as it lies in memory.
fn operand(x: &Tensor) -> candle_core::Result<Tensor> {
    match multiplies(x.layout()) {
        true => Ok(x.clone()),
        false => x.contiguous(),
    }
}

/// Whether Candle's CUDA product takes an operand of this layout: matrices without gaps, by rows or by
/// columns, and one stride from each to the next. It is the same for both operands (`gemm_config` in Candle's
/// `cuda_backend`). A stride of 0 between matrices is taken, within a matrix it is not.
fn multiplies(layout: &Layout) -> bool {
    let (&[ref batch @ .., rows, columns], &[ref skips @ .., down, right]) = (layout.dims(), layout.stride())
    else {
        // No matrix: Candle says so, on any device.
        return true;
    };
    // Along an axis of one element the stride does not matter.
    let by_rows = (right == 1 || columns == 1) && (down == columns || rows == 1);
    let by_columns = (right == rows || columns == 1) && (down == 1 || rows == 1);
    let even = match (batch, skips) {
        ([] | [_], _) => true,
        (&[first, second], &[outer, inner]) => outer == inner * second || first == 1 || second == 1,
        _ => false,
    };
    (by_rows || by_columns) && even
}

#[cfg(test)]
mod tests {
    use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Shape, Var};

    use super::*;
    use crate::nn::Linear;

    /// Small whole numbers, whose products and sums are exact in any order.
    fn numbers(shape: impl Into<Shape>) -> candle_core::Result<Tensor> {
        let shape = shape.into();
        let values = (0..shape.elem_count()).map(|i| (i * i % 7) as f64 - 3.0);
        Tensor::from_iter(values, &Device::Cpu)?.reshape(shape)
    }

    /// Views that are matrices or batches of them, and whether CUDA multiplies them as they are.
    fn views(x: &Tensor) -> candle_core::Result<Vec<(&'static str, Tensor, bool)>> {
        // `x` is [4, 6, 8].
        let flat = x.reshape((24, 8))?;
        let heads = x.reshape((4, 6, 2, 4))?;
        Ok(vec![
            ("whole", flat.clone(), true),
            ("transposed", flat.t()?, true),
            ("rows", flat.narrow(0, 3, 5)?, true),
            ("rows, transposed", flat.narrow(0, 3, 5)?.t()?, true),
            ("columns", flat.narrow(1, 2, 5)?, false),
            ("columns, transposed", flat.narrow(1, 2, 5)?.t()?, false),
            (
                "one row of some columns",
                flat.narrow(0, 3, 1)?.narrow(1, 2, 5)?,
                true,
            ),
            ("one column", flat.narrow(1, 2, 1)?, false),
            ("one column, transposed", flat.narrow(1, 2, 1)?.t()?, false),
            ("one element", flat.narrow(0, 3, 1)?.narrow(1, 2, 1)?, true),
            ("a row, repeated", flat.get(0)?.broadcast_as((3, 8))?, false),
            (
                "a column, repeated",
                flat.get(0)?.unsqueeze(1)?.broadcast_as((8, 3))?,
                false,
            ),
            ("batch", x.clone(), true),
            ("batch, transposed", x.transpose(1, 2)?, true),
            ("batch of columns", x.narrow(2, 1, 3)?, false),
            ("batch of some rows", x.narrow(1, 1, 3)?, true),
            (
                "batch of every second matrix",
                heads.narrow(2, 1, 1)?.squeeze(2)?,
                false,
            ),
            ("batch as the second axis", x.transpose(0, 1)?, false),
            ("batch as the last axis", x.permute((2, 0, 1))?, false),
            ("matrix, repeated", x.get(1)?.broadcast_as((5, 6, 8))?, true),
            ("heads", heads.clone(), true),
            ("heads first", heads.transpose(1, 2)?, false),
            ("heads first, transposed", heads.permute((0, 2, 3, 1))?, false),
            ("some heads", heads.narrow(1, 0, 3)?, false),
            (
                "heads of one image",
                heads.narrow(0, 1, 1)?.narrow(1, 0, 3)?,
                true,
            ),
            (
                "matrix, repeated twice",
                x.get(1)?.broadcast_as((2, 5, 6, 8))?,
                true,
            ),
            ("batch, repeated", x.broadcast_as((2, 4, 6, 8))?, false),
        ])
    }

    #[test]
    fn cuda_multiplies_both_operands_as_they_are_handed_on() -> Result<()> {
        for (name, view, as_it_is) in views(&numbers((4, 6, 8))?)? {
            assert_eq!(multiplies(view.layout()), as_it_is, "{name}: {:?}", view.layout());
            let handed_on = operand(&view)?;
            assert!(multiplies(handed_on.layout()), "{name}: {:?}", handed_on.layout());
            let copied = !std::ptr::eq(&*view.storage_and_layout().0, &*handed_on.storage_and_layout().0);
            assert_eq!(copied, !as_it_is, "{name}");
            // As the backward pass reads it.
            assert!(multiplies(handed_on.t()?.layout()), "{name}, transposed");
        }
        Ok(())
    }

    #[test]
    fn views_have_the_products_and_gradients_of_their_copies() -> Result<()> {
        let x = Var::from_tensor(&numbers((4, 6, 8))?)?;
        for at in 0..views(&x)?.len() {
            let once = |copied: bool| -> Result<[Vec<f64>; 4]> {
                let (_, view, _) = views(&x)?.swap_remove(at);
                let view = if copied { view.force_contiguous()? } else { view };
                let (rows, columns) = (view.dim(D::Minus2)?, view.dim(D::Minus1)?);
                let other = |shape: [usize; 2]| -> Result<Var> {
                    let batch = &view.dims()[..view.rank() - 2];
                    Ok(Var::from_tensor(&numbers([batch, &shape].concat())?)?)
                };
                let (left, right) = (other([3, rows])?, other([columns, 2])?);
                let products = [matmul(&view, &right)?, matmul(&left, &view)?];
                let loss = (products[0].sqr()?.sum_all()? + products[1].sqr()?.sum_all()?)?;
                let grads = loss.backward()?;
                let grad = |of: &Var| grads.get(of).cloned().map_or_else(|| of.zeros_like(), Ok);
                let sum = |x: Tensor| x.flatten_all()?.to_vec1::<f64>();
                let [first, second] = products;
                let both = Tensor::cat(&[first.flatten_all()?, second.flatten_all()?], 0)?;
                Ok([
                    sum(both)?,
                    sum(grad(&x)?)?,
                    sum(grad(&left)?)?,
                    sum(grad(&right)?)?,
                ])
            };
            assert_eq!(once(false)?, once(true)?, "{}", views(&x)?[at].0);
        }
        Ok(())
    }

    /// The identity, whose gradient must be one that CUDA multiplies.
    struct Checked;

    impl CustomOp1 for Checked {
        fn name(&self) -> &'static str {
            "checked"
        }

        fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
            assert!(layout.is_contiguous() && layout.start_offset() == 0);
            Ok((x.clone(), layout.shape().clone()))
        }

        fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
            assert!(multiplies(grad.layout()), "{:?}", grad.layout());
            Ok(Some(grad.clone()))
        }
    }

    #[test]
    fn gradients_reach_a_product_contiguous() -> Result<()> {
        type Reader = fn(&Tensor) -> candle_core::Result<Tensor>;
        let readers: [Reader; 14] = [
            |y| y.sum_all(),
            |y| y.mean(0),
            |y| y.sum_keepdim(1),
            |y| y.max(1),
            |y| y.narrow(1, 1, 2),
            |y| y.narrow(0, 1, 2)?.narrow(1, 0, 1),
            |y| y.t(),
            |y| y.reshape((2, 6))?.transpose(0, 1)?.flatten_all(),
            |y| y.unsqueeze(0)?.broadcast_as((5, 3, 4)),
            |y| Tensor::cat(&[y, &y.narrow(1, 0, 2)?], 1),
            |y| Tensor::cat(&[y.t()?, y.t()?], 0)?.t()?.pad_with_zeros(1, 1, 1),
            |y| Tensor::stack(&[y, y], 1),
            |y| y.index_select(&Tensor::new(&[2u32, 0, 2], y.device())?, 1),
            |y| y.broadcast_sub(&y.mean_keepdim(1)?),
        ];
        let (a, b) = (numbers((3, 5))?, Var::from_tensor(&numbers((5, 4))?)?);
        for (n, reader) in readers.iter().enumerate() {
            let y = matmul(&a, &b)?.apply_op1(Checked)?;
            let grads = reader(&y)?.sum_all()?.backward()?;
            assert!(grads.get(&b).is_some(), "reader {n}");
            // As the result itself, the gradient of which Candle begins with.
            assert!(reader(&y)?.backward()?.get(&b).is_some(), "reader {n}");
        }
        Ok(())
    }

    #[test]
    fn a_layer_takes_the_columns_of_a_wider_kernel() -> Result<()> {
        let wide = numbers((4, 9))?;
        let kernel = wide.narrow(1, 2, 5)?;
        let x = numbers((2, 3, 5))?;
        let y = Linear::new(kernel.clone(), None).forward(&x)?;
        let expected = Linear::new(kernel.force_contiguous()?, None).forward(&x)?;
        assert_eq!(y.to_vec3::<f64>()?, expected.to_vec3::<f64>()?);
        Ok(())
    }

    #[test]
    fn operands_that_do_not_fit_are_refused_and_none_are_empty() -> Result<()> {
        let x = numbers((2, 3))?;
        assert!(matmul(&x, &x).is_err());
        assert!(matmul(&x, &x.get(0)?).is_err());
        assert!(matmul(&x, &x.t()?.to_dtype(DType::F32)?).is_err());
        let nothing = Tensor::zeros((3, 0), DType::F64, &Device::Cpu)?;
        assert_eq!(matmul(&x, &nothing)?.dims(), [2, 0]);
        assert_eq!(
            matmul(&nothing, &nothing.t()?)?.sum_all()?.to_scalar::<f64>()?,
            0.0
        );
        Ok(())
    }
}
