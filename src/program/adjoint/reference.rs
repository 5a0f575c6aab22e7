//! An adjoint as plain Candle operations: slow, on any device and number type, and simple enough to be
//! obviously right.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use candle_core::{D, Tensor};

use super::super::{Function, Program};
use super::{Adjoint, AdjointNode, AdjointOp, CellSum};
use crate::error::{Error, Result, check};
use crate::grid::{Padding, Step};
use crate::ops::{matmul, neighbourhood, replace, sum_taps};

/// The result of [`Program::pullback`].
#[derive(Clone, Debug)]
pub struct Pullback {
    /// The gradient of the cells before the step, `[B, H, W, C]`.
    pub cells: Tensor,
    /// The gradient of each of [`Program::weights`], in its shape.
    pub weights: Vec<Tensor>,
}

impl Program {
    /// The pullback of the program's update at `cells` (`[B, H, W, C]`): the gradients of cells and weights
    /// under `grad` (`[B, H, W, output + hidden]`), the gradient of the update.
    ///
    /// This is the gradient of the update alone: every cell fires, none dies, and the gradient that
    /// `next = cells + update` passes from `next` to `cells` directly is not included. It is computed by the
    /// program's adjoint with plain Candle operations, on any device and number type, as a reference for
    /// engines. It has no gradient itself.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use lnca::program::{Function, Pullback};
    /// use lnca::{CellLayout, ProgramBuilder, Result, Rollout, Step, TransitionFn};
    ///
    /// /// Gives the gradient that ones have under the update of `tanh(2 x)`, in place of an update.
    /// #[derive(Clone)]
    /// struct Gradient;
    ///
    /// impl TransitionFn for Gradient {
    ///     fn layout(&self) -> CellLayout {
    ///         CellLayout { input: 0, output: 1, hidden: 0 }
    ///     }
    ///
    ///     fn update(&self, cells: &Tensor, step: &Step) -> Result<Tensor> {
    ///         let mut p = ProgramBuilder::new(self.layout());
    ///         let double = p.linear(p.cells(), &Tensor::new(&[[2f32]], cells.device())?, None)?;
    ///         let update = p.map(double, Function::Tanh)?;
    ///         let Pullback { cells, .. } = p.finish(update)?.pullback(cells, step, &cells.ones_like()?)?;
    ///         Ok(cells)
    ///     }
    /// }
    ///
    /// let cells = Tensor::zeros((1, 1, 1, 1), candle_core::DType::F32, &Device::Cpu)?;
    /// let gradient = Rollout::new(1).run(&Gradient, &cells)?;
    /// assert_eq!(gradient.flatten_all()?.to_vec1::<f32>()?, [2.]);
    /// # Ok::<(), lnca::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] if `cells` do not fit the layout or a table of the program, or `grad` does not fit
    /// `cells`; [`Error::DType`] unless all hold floating-point numbers of one type.
    pub fn pullback(&self, cells: &Tensor, step: &Step, grad: &Tensor) -> Result<Pullback> {
        let (b, h, w) = self.layout.check(cells)?;
        let expected = [b, h, w, self.layout.update_channels()];
        if grad.dims() != expected {
            return Err(Error::shape("grad", format!("{expected:?}"), grad.dims()));
        }
        self.check_types(cells)?;
        check::as_other("grad", grad, "`cells`", cells)?;
        let adjoint = Adjoint::new(self, true, &vec![true; self.params.len()]);
        let given = Given {
            program: &self.clone().detached(),
            cells: &cells.detach(),
            step,
            seed: &grad.detach(),
        };
        adjoint.evaluate(&given)
    }
}

impl Adjoint {
    /// The gradients that this adjoint computes, and zeros for all others.
    pub(super) fn evaluate(&self, given: &Given<'_>) -> Result<Pullback> {
        let mut values: Vec<Tensor> = Vec::with_capacity(self.nodes.len());
        let zeros = given.program.params.iter().map(Tensor::zeros_like);
        let mut weights = zeros.collect::<candle_core::Result<Vec<_>>>()?;
        for node in &self.nodes {
            let value = given.value(node, &values)?;
            if let AdjointOp::Weight { param, sum: _ } = node.op {
                let weight = &mut weights[param];
                let sum = value.reshape(weight.shape())?.to_device(weight.device())?;
                *weight = (&*weight + sum.to_dtype(weight.dtype())?)?;
            }
            values.push(value);
        }
        Ok(Pullback {
            cells: match self.cells {
                Some(node) => values.swap_remove(node),
                None => given.cells.zeros_like()?,
            },
            weights,
        })
    }
}

/// What the operations of an adjoint read besides each other's results.
pub(super) struct Given<'a> {
    pub program: &'a Program,
    pub cells: &'a Tensor,
    pub step: &'a Step,
    pub seed: &'a Tensor,
}

impl Given<'_> {
    /// The value of a node, `[B, H, W, width]`, or a weight's gradient. `values` are those of the nodes
    /// before it.
    fn value(&self, node: &AdjointNode, values: &[Tensor]) -> Result<Tensor> {
        let value = |node: usize| &values[node];
        let param = |param: usize| &self.program.params[param];
        Ok(match node.op {
            AdjointOp::Ordinary(ref op) => self
                .program
                .value(op, node.width, values, self.cells, self.step)?,
            AdjointOp::Seed => self.seed.clone(),
            AdjointOp::Embed(ref parts) => embed(parts, node.width, values)?,
            AdjointOp::Slope { x, dy, function } => through(function, value(x), value(dy))?,
            AdjointOp::Dot { a, b } => (value(a) * value(b))?.sum_keepdim(D::Minus1)?,
            AdjointOp::LinearTransposed { dy, weight } => {
                let dx = matmul(&rows(value(dy))?, param(weight))?;
                let (b, h, w, _) = value(dy).dims4()?;
                dx.reshape((b, h, w, node.width))?
            }
            AdjointOp::MirroredTaps { dy, padding } => {
                let (b, h, w, _) = value(dy).dims4()?;
                let mirrored = value(dy).reshape((b, h, w, 9, node.width))?.flip(&[3])?;
                sum_taps(&mirrored.flatten_from(3)?, padding)?
            }
            AdjointOp::MirroredNeighbourhood { dy, padding } => {
                mirrored(value(dy), padding)?.flatten_from(3)?
            }
            AdjointOp::MirroredDepthwise { dy, kernel, padding } => {
                let (b, h, w, _) = value(dy).dims4()?;
                let (channels, filters, _) = param(kernel).dims3()?;
                let seen = mirrored(value(dy), padding)?.reshape((b, h, w, 9, channels, filters))?;
                seen.broadcast_mul(&param(kernel).permute((2, 0, 1))?)?
                    .sum(5)?
                    .sum(3)?
            }
            AdjointOp::Normalised { x, inverse } => centred(value(x))?.broadcast_mul(value(inverse))?,
            AdjointOp::NormalisedGradient { normal, inverse, dy } => {
                let (normal, dy) = (value(normal), value(dy));
                let along = normal.broadcast_mul(&(dy * normal)?.mean_keepdim(D::Minus1)?)?;
                (centred(dy)? - along)?.broadcast_mul(value(inverse))?
            }
            AdjointOp::InverseRmsGradient {
                x,
                y,
                dy,
                centred: about_mean,
            } => {
                let x = match about_mean {
                    true => centred(value(x))?,
                    false => value(x).clone(),
                };
                let cube = (value(y).sqr()? * value(y))?;
                x.broadcast_mul(&((value(dy) * cube)? / -(node.width as f64))?)?
            }
            AdjointOp::Shares { q, k, heads, padding } => {
                let products = products(value(q), value(k), heads, padding)?;
                let scale = root_of_depth(value(q), heads)?;
                candle_nn::ops::softmax(&(products / scale)?, D::Minus1)?.flatten_from(3)?
            }
            AdjointOp::ProductGradients {
                shares,
                v,
                dy,
                heads,
                padding,
            } => {
                let of_shares = products(value(dy), value(v), heads, padding)?;
                let shares = value(shares).reshape(of_shares.shape())?;
                let mean = (&shares * &of_shares)?.sum_keepdim(D::Minus1)?;
                let scale = root_of_depth(value(v), heads)?;
                ((shares * of_shares.broadcast_sub(&mean)?)? / scale)?.flatten_from(3)?
            }
            AdjointOp::WeightedSum {
                weights,
                x,
                heads,
                padding,
            } => {
                let (b, h, w, _) = value(x).dims4()?;
                let weights = value(weights).reshape((b, h, w, heads, 9))?.transpose(3, 4)?;
                weighted(&weights, &neighbourhood(value(x), padding)?)?
            }
            AdjointOp::WeightedGather {
                weights,
                x,
                heads,
                padding,
            } => {
                let (b, h, w, _) = value(x).dims4()?;
                let weights = mirrored(value(weights), padding)?.reshape((b, h, w, 9, heads, 9))?;
                // For each n, the weight that the cell at minus the offset of neighbour n has for its own
                // neighbour n.
                let opposite: Vec<Tensor> = (0..9)
                    .map(|n| weights.narrow(3, n, 1)?.narrow(5, n, 1))
                    .collect::<candle_core::Result<_>>()?;
                let weights = Tensor::cat(&opposite, 3)?.squeeze(5)?;
                weighted(&weights, &mirrored(value(x), padding)?)?
            }
            AdjointOp::Weight { param: _, ref sum } => sum.value(values)?,
        })
    }
}

impl CellSum {
    fn value(&self, values: &[Tensor]) -> Result<Tensor> {
        let value = |node: usize| &values[node];
        Ok(match *self {
            Self::Outer { dy, x } => matmul(&rows(value(dy))?.t()?.contiguous()?, &rows(value(x))?)?,
            Self::Channels { x } => rows(value(x))?.sum(0)?,
            Self::Products { a, b } => rows(&(value(a) * value(b))?)?.sum(0)?,
            Self::Taps { dy, x, padding } => {
                let (cells, channels) = (rows(value(x))?.dim(0)?, value(x).dim(D::Minus1)?);
                let dy = value(dy).reshape((cells, channels, (), 1))?;
                let seen = neighbourhood(value(x), padding)?.reshape((cells, 9, channels))?;
                let seen = seen.transpose(1, 2)?.unsqueeze(2)?;
                dy.broadcast_mul(&seen)?.sum(0)?
            }
            Self::Images { x } => value(x).sum(0)?,
        })
    }
}

/// `[B, H, W, C]` to `[B H W, C]`.
fn rows(x: &Tensor) -> Result<Tensor> {
    Ok(x.flatten_to(2)?.contiguous()?)
}

/// `x` less its mean over channels.
fn centred(x: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?)
}

/// `[B, H, W, C]` to `[B, H, W, 9, C]`: the n-th is the cell at minus the offset of neighbour n.
fn mirrored(x: &Tensor, padding: Padding) -> Result<Tensor> {
    Ok(neighbourhood(x, padding)?.flip(&[3])?)
}

/// The parts `(start, node)` in `width` channels.
fn embed(parts: &[(usize, usize)], width: usize, values: &[Tensor]) -> Result<Tensor> {
    let wide = parts.iter().map(|&(start, part)| {
        let part = &values[part];
        part.pad_with_zeros(D::Minus1, start, width - start - part.dim(D::Minus1)?)
    });
    let sum = wide.reduce(|a, b| a? + b?);
    Ok(sum.unwrap_or_else(|| candle_core::bail!("no parts"))?)
}

/// The square root of the channels of a head.
fn root_of_depth(x: &Tensor, heads: usize) -> Result<f64> {
    Ok(((x.dim(D::Minus1)? / heads) as f64).sqrt())
}

/// The dot products per head of `a` with each neighbour's `b`: `[B, H, W, heads, 9]`.
fn products(a: &Tensor, b: &Tensor, heads: usize, padding: Padding) -> Result<Tensor> {
    let (batch, h, w, channels) = a.dims4()?;
    let (near, depth) = (neighbourhood(b, padding)?, channels / heads);
    let near = near.reshape((batch, h, w, 9, heads, depth))?;
    let own = a.reshape((batch, h, w, 1, heads, depth))?;
    Ok(near.broadcast_mul(&own)?.sum(5)?.transpose(3, 4)?.contiguous()?)
}

/// The sum over n of `weights` (`[B, H, W, 9, heads]`) times `x` (`[B, H, W, 9, E]`), head by head: `[B, H,
/// W, E]`.
fn weighted(weights: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (b, h, w, nine, heads) = weights.dims5()?;
    let depth = x.dim(D::Minus1)? / heads;
    let x = x.reshape((b, h, w, nine, heads, depth))?;
    Ok(x.broadcast_mul(&weights.unsqueeze(5)?)?.sum(3)?.flatten_from(3)?)
}

/// The gradient `dy` through `function` at every element of `x`.
fn through(function: Function, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let slope = slope(function, x)?;
    let product = (&slope * dy)?;
    Ok(match function {
        // Where nothing passes, an infinite gradient is not to become NaN.
        Function::Relu | Function::Clamp { .. } | Function::Quantise { .. } => {
            replace(&product, &slope.eq(0.0)?, 0.0)?
        }
        Function::Elu | Function::Gelu | Function::Silu | Function::Sigmoid | Function::Tanh => product,
    })
}

/// The slope of `function` at every element of `x`: NaN where that is NaN, and finite elsewhere.
fn slope(function: Function, x: &Tensor) -> Result<Tensor> {
    // Beyond the limit slopes are 0 or 1, and products with an infinity would be NaN.
    let within = |limit: f64| -> candle_core::Result<Tensor> {
        let x = replace(x, &x.lt(-limit)?, -limit)?;
        replace(&x, &x.gt(limit)?, limit)
    };
    let sigmoid = |x: &Tensor| -> candle_core::Result<Tensor> { (x.neg()?.exp()? + 1.0)?.recip() };
    Ok(match function {
        Function::Relu => replace(&replace(x, &x.le(0.0)?, 0.0)?, &x.gt(0.0)?, 1.0)?,
        // The slope of exp(x) - 1, which is 1 where x is not below 0.
        Function::Elu => replace(x, &x.gt(0.0)?, 0.0)?.exp()?,
        Function::Gelu => {
            let x = &within(100.0)?;
            let below = (((x * FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)?;
            let density = ((x.sqr()? * -0.5)?.exp()? * (0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2))?;
            (below + (x * density)?)?
        }
        Function::Silu => {
            let x = &within(1000.0)?;
            let s = sigmoid(x)?;
            let rise = (x * s.affine(-1.0, 1.0)?)?;
            (s * (rise + 1.0)?)?
        }
        Function::Sigmoid => {
            let s = sigmoid(x)?;
            (&s * s.affine(-1.0, 1.0)?)?
        }
        Function::Tanh => x.tanh()?.sqr()?.affine(-1.0, 1.0)?,
        Function::Clamp { min, max } | Function::Quantise { min, max, step: _ } => {
            let outside = (x.lt(min)? + x.gt(max)?)?;
            let inside = (x.ge(min)? * x.le(max)?)?;
            replace(&replace(x, &outside, 0.0)?, &inside, 1.0)?
        }
    })
}
