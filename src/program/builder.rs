//! Builds programs operation by operation, each checked when it is added.

use candle_core::Tensor;

use super::op::{Attention, Node, Op};
use super::{Function, Program};
use crate::error::{Error, Result, check};
use crate::grid::draws::check_dropout;
use crate::grid::{CellLayout, Padding};
use crate::nn::{LayerNorm, Linear};

/// A value of every cell: a vector of [`Value::width`] channels. Made by a [`ProgramBuilder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    pub(crate) node: usize,
    width: usize,
}

impl Value {
    /// The number of channels.
    pub fn width(&self) -> usize {
        self.width
    }
}

/// Builds a [`Program`], operation by operation.
///
/// Weights are floating-point numbers of one type on one device, else an operation that takes them gives
/// [`Error::DType`] or [`Error::Device`]. Values have at most 2^20 channels, else it gives [`Error::Config`].
#[derive(Clone, Debug)]
pub struct ProgramBuilder {
    layout: CellLayout,
    nodes: Vec<Node>,
    params: Vec<Tensor>,
    sites: u32,
}

impl ProgramBuilder {
    /// An empty program on cells of `layout`.
    pub fn new(layout: CellLayout) -> Self {
        let cells = Node {
            op: Op::Cells,
            width: layout.channels(),
        };
        Self {
            layout,
            nodes: vec![cells],
            params: vec![],
            sites: 0,
        }
    }

    /// The cells before the step.
    pub fn cells(&self) -> Value {
        Value {
            node: 0,
            width: self.layout.channels(),
        }
    }

    /// A `table` (`[H, W, width]`) that is the same in every image and step, such as a positional encoding,
    /// fixed or learned. The program then works on grids of that size only.
    ///
    /// # Errors
    /// [`Error::Shape`] if it does not have three axes.
    pub fn constant(&mut self, table: &Tensor) -> Result<Value> {
        match *table.dims() {
            [_, _, width] if width > 0 => {
                check::channels("table", width)?;
                self.params.push(table.clone());
                Ok(self.push(Op::Constant(self.params.len() - 1), width))
            }
            _ => Err(Error::shape("table", "[H, W, width]", table.dims())),
        }
    }

    /// Channels `start..start + width` of `x`.
    ///
    /// # Errors
    /// [`Error::Config`] if `x` has fewer, or `width` is 0.
    pub fn slice(&mut self, x: Value, start: usize, width: usize) -> Result<Value> {
        self.check(&[x])?;
        if width == 0 || start.saturating_add(width) > x.width {
            let expected = format!("within the {} channels of x", x.width);
            let found = format!("{width} channels from {start}");
            return Err(Error::config("slice", expected, found));
        }
        Ok(self.push(Op::Slice { x: x.node, start }, width))
    }

    /// The channels of all `parts`, in their order.
    ///
    /// # Errors
    /// [`Error::Config`] if there are none.
    pub fn concat(&mut self, parts: &[Value]) -> Result<Value> {
        self.check(parts)?;
        if parts.is_empty() {
            return Err(Error::config("parts", "at least one", 0));
        }
        let width = parts.iter().map(Value::width).fold(0, usize::saturating_add);
        check::channels("parts", width)?;
        let parts = parts.iter().map(|part| part.node).collect();
        Ok(self.push(Op::Concat(parts), width))
    }

    /// `weight x + bias` in every cell; `weight` is `[output, x.width()]`, `bias` `[output]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if a weight does not fit.
    pub fn linear(&mut self, x: Value, weight: &Tensor, bias: Option<&Tensor>) -> Result<Value> {
        self.check(&[x])?;
        let output = match *weight.dims() {
            [output, input] if output > 0 && input == x.width => output,
            _ => {
                let expected = format!("[output, {}]", x.width);
                return Err(Error::shape("weight", expected, weight.dims()));
            }
        };
        check::channels("weight", output)?;
        let weight = self.param("weight", weight)?;
        let bias = self.vector("bias", bias, output)?;
        let x = x.node;
        Ok(self.push(Op::Linear { x, weight, bias }, output))
    }

    /// Fixed or learned 3x3 filters applied to every channel: `kernels` is `[filters, 3, 3]`, the same
    /// for all channels, or `[x.width(), filters, 3, 3]`. Channel `c * filters + f` of the result is
    /// filter f of channel c, as cross-correlation: not flipped. A tap of 0 reads nothing, so neighbours that
    /// hold NaN do not pass it on there.
    ///
    /// ```
    /// use lnca::prelude::*;
    ///
    /// let mut p = ProgramBuilder::new(CellLayout { input: 0, output: 1, hidden: 0 });
    /// let difference = Tensor::new(&[[[0f32, 0., 0.], [-1., 0., 1.], [0., 0., 0.]]], &Device::Cpu)?;
    /// let update = p.stencil(p.cells(), &difference, Padding::Zero)?; // right neighbour less left neighbour
    /// let program = p.finish(update)?;
    ///
    /// let cells = Tensor::new(&[[[[1f32], [2.], [4.]]]], &Device::Cpu)?; // [1, 1, 3, 1]
    /// let next = Rollout::new(1).run(&program, &cells)?; // cells + update
    /// assert_eq!(next.flatten_all()?.to_vec1::<f32>()?, [1. + 2., 2. + 3., 4. - 2.]);
    /// # Ok::<(), lnca::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] if the kernels do not fit.
    pub fn stencil(&mut self, x: Value, kernels: &Tensor, padding: Padding) -> Result<Value> {
        self.check(&[x])?;
        let (filters, kernels) = match *kernels.dims() {
            [filters, 3, 3] if filters > 0 => {
                let each = kernels.reshape((1, filters, 9))?;
                let each = each.broadcast_as((x.width, filters, 9))?.contiguous()?;
                (filters, each)
            }
            [channels, filters, 3, 3] if filters > 0 && channels == x.width => {
                (filters, kernels.reshape((channels, filters, 9))?)
            }
            _ => {
                let expected = format!("[filters, 3, 3] or [{}, filters, 3, 3]", x.width);
                return Err(Error::shape("kernels", expected, kernels.dims()));
            }
        };
        let width = x.width.saturating_mul(filters);
        check::channels("kernels", width)?;
        let kernel = self.param("kernels", &kernels)?;
        let x = x.node;
        Ok(self.push(Op::Depthwise { x, kernel, padding }, width))
    }

    /// A learned 3x3 convolution (cross-correlation, as in PyTorch): `kernel` is
    /// `[output, x.width(), 3, 3]`, `bias` `[output]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if a weight does not fit.
    pub fn convolution(
        &mut self,
        x: Value,
        kernel: &Tensor,
        bias: Option<&Tensor>,
        padding: Padding,
    ) -> Result<Value> {
        self.check(&[x])?;
        let output = match *kernel.dims() {
            [output, input, 3, 3] if output > 0 && input == x.width => output,
            _ => {
                let expected = format!("[output, {}, 3, 3]", x.width);
                return Err(Error::shape("kernel", expected, kernel.dims()));
            }
        };
        self.check_type("kernel", kernel)?;
        let kernel = kernel.reshape((output, x.width, 9))?;
        // Neighbours exchange whichever is narrower: inputs or products.
        if output < x.width {
            let weight = kernel.permute((2, 0, 1))?.reshape((9 * output, x.width))?;
            let taps = self.linear(x, &weight, None)?;
            let sum = self.sum_taps(taps, padding)?;
            return match bias {
                Some(bias) => self.affine(sum, None, Some(bias)),
                None => Ok(sum),
            };
        }
        let near = self.neighbourhood(x, padding)?;
        let weight = kernel.permute((0, 2, 1))?.reshape((output, 9 * x.width))?;
        self.linear(near, &weight, bias)
    }

    /// The sum over the nine cells around each cell of the taps that they send to it: channel c of the result
    /// is the sum over n of channel `n * width + c` of neighbour n, in row-major order from the upper left,
    /// where `width` is a ninth of `x.width()`.
    ///
    /// # Errors
    /// [`Error::Config`] if 9 does not divide the channels of `x`.
    pub fn sum_taps(&mut self, x: Value, padding: Padding) -> Result<Value> {
        self.check(&[x])?;
        if x.width == 0 || !x.width.is_multiple_of(9) {
            return Err(Error::config("x", "a multiple of 9 channels", x.width));
        }
        let (x, width) = (x.node, x.width / 9);
        Ok(self.push(Op::SumTaps { x, padding }, width))
    }

    /// The nine cells around each cell, in row-major order from the upper left: channel
    /// `n * x.width() + c` is channel c of neighbour n.
    ///
    /// # Errors
    /// [`Error::Config`] if `x` is not of this program.
    pub fn neighbourhood(&mut self, x: Value, padding: Padding) -> Result<Value> {
        self.check(&[x])?;
        let (x, width) = (x.node, x.width.saturating_mul(9));
        check::channels("x", width)?;
        Ok(self.push(Op::Neighbourhood { x, padding }, width))
    }

    /// Layer norm over the channels of each cell, `(x - mean) / sqrt(var + eps) * weight + bias`.
    ///
    /// ```
    /// use lnca::prelude::*;
    ///
    /// let mut p = ProgramBuilder::new(CellLayout { input: 0, output: 2, hidden: 0 });
    /// let weight = Tensor::new(&[2f32, 2.], &Device::Cpu)?;
    /// let bias = Tensor::new(&[0f32, 1.], &Device::Cpu)?;
    /// let update = p.layer_norm(p.cells(), &weight, &bias, 0.0)?;
    /// let program = p.finish(update)?;
    ///
    /// let cells = Tensor::new(&[[[[1f32, 3.]]]], &Device::Cpu)?; // mean 2, variance 1: normalised, -1 and 1
    /// let next = Rollout::new(1).run(&program, &cells)?; // cells + update
    /// assert_eq!(next.flatten_all()?.to_vec1::<f32>()?, [1. - 2., 3. + 3.]);
    /// # Ok::<(), lnca::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] if a weight is not `[x.width()]`.
    pub fn layer_norm(&mut self, x: Value, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Value> {
        self.check(&[x])?;
        check::not_negative("eps", eps)?;
        let weight = self.required("weight", weight, x.width)?;
        let bias = self.required("bias", bias, x.width)?;
        let (x, width) = (x.node, x.width);
        Ok(self.push(Op::LayerNorm { x, weight, bias, eps }, width))
    }

    /// RMS norm over the channels of each cell, `x / sqrt(mean of x^2 + eps) * scale`.
    ///
    /// ```
    /// use lnca::prelude::*;
    ///
    /// let mut p = ProgramBuilder::new(CellLayout { input: 0, output: 2, hidden: 0 });
    /// let scale = Tensor::new(&[5f32, 10.], &Device::Cpu)?;
    /// let update = p.rms_norm(p.cells(), &scale, 0.0)?;
    /// let program = p.finish(update)?;
    ///
    /// let cells = Tensor::new(&[[[[1f32, 7.]]]], &Device::Cpu)?; // mean square 25: normalised, 1/5 and 7/5
    /// let next = Rollout::new(1).run(&program, &cells)?.flatten_all()?.to_vec1::<f32>()?; // cells + update
    /// assert!((next[0] - (1. + 1.)).abs() < 1e-5 && (next[1] - (7. + 14.)).abs() < 1e-5);
    /// # Ok::<(), lnca::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] if `scale` is not `[x.width()]`.
    pub fn rms_norm(&mut self, x: Value, scale: &Tensor, eps: f64) -> Result<Value> {
        self.check(&[x])?;
        check::not_negative("eps", eps)?;
        let scale = self.required("scale", scale, x.width)?;
        let (x, width) = (x.node, x.width);
        Ok(self.push(Op::RmsNorm { x, scale, eps }, width))
    }

    /// `1 / sqrt(mean of x^2 + eps)` over the channels of each cell, a single channel: the factor of RMS
    /// norm, and of layer norm where the channels of `x` have mean 0.
    ///
    /// ```
    /// use lnca::prelude::*;
    ///
    /// let mut p = ProgramBuilder::new(CellLayout { input: 0, output: 2, hidden: 0 });
    /// let inverse = p.inverse_rms(p.cells(), 0.0)?;
    /// let update = p.mul(p.cells(), inverse)?;
    /// let program = p.finish(update)?;
    ///
    /// let cells = Tensor::new(&[[[[1f32, 7.]]]], &Device::Cpu)?; // mean square 25: the inverse is 1/5
    /// let next = Rollout::new(1).run(&program, &cells)?.flatten_all()?.to_vec1::<f32>()?; // cells + update
    /// assert!((next[0] - 1.2).abs() < 1e-6 && (next[1] - 8.4).abs() < 1e-6);
    /// # Ok::<(), lnca::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] if `x` is not of this program.
    pub fn inverse_rms(&mut self, x: Value, eps: f64) -> Result<Value> {
        self.inverse(x, eps, false)
    }

    /// `1 / sqrt(variance of x + eps)` over the channels of each cell, a single channel: the factor of layer
    /// norm.
    ///
    /// # Errors
    /// [`Error::Config`] if `x` is not of this program.
    pub fn inverse_std(&mut self, x: Value, eps: f64) -> Result<Value> {
        self.inverse(x, eps, true)
    }

    fn inverse(&mut self, x: Value, eps: f64, centred: bool) -> Result<Value> {
        self.check(&[x])?;
        check::not_negative("eps", eps)?;
        let x = x.node;
        Ok(self.push(Op::InverseRms { x, eps, centred }, 1))
    }

    /// `function` of every channel.
    ///
    /// # Errors
    /// [`Error::Config`] if `x` is not of this program, or bounds are in the wrong order or no numbers.
    pub fn map(&mut self, x: Value, function: Function) -> Result<Value> {
        self.check(&[x])?;
        function.check()?;
        let (x, width) = (x.node, x.width);
        Ok(self.push(Op::Map { x, function }, width))
    }

    /// `a + b`, of equal width.
    ///
    /// # Errors
    /// [`Error::Config`] if their widths differ.
    pub fn add(&mut self, a: Value, b: Value) -> Result<Value> {
        self.check(&[a, b])?;
        if a.width != b.width {
            return Err(Error::config("b", format!("{} channels", a.width), b.width));
        }
        let (a, b, width) = (a.node, b.node, a.width);
        Ok(self.push(Op::Add { a, b }, width))
    }

    /// `a b`, channel by channel; `b` may also have a single channel that multiplies all of `a`.
    ///
    /// # Errors
    /// [`Error::Config`] if their widths do not fit.
    pub fn mul(&mut self, a: Value, b: Value) -> Result<Value> {
        self.check(&[a, b])?;
        if b.width != 1 && a.width != b.width {
            let expected = format!("{} channels or 1", a.width);
            return Err(Error::config("b", expected, b.width));
        }
        let (a, b, width) = (a.node, b.node, a.width);
        Ok(self.push(Op::Mul { a, b }, width))
    }

    /// The simple gate of NAFNet: the first half of the channels times the second.
    ///
    /// # Errors
    /// [`Error::Config`] if their number is odd.
    pub fn gate(&mut self, x: Value) -> Result<Value> {
        if !x.width.is_multiple_of(2) {
            return Err(Error::config("x", "an even number of channels", x.width));
        }
        let half = x.width / 2;
        let (a, b) = (self.slice(x, 0, half)?, self.slice(x, half, half)?);
        self.mul(a, b)
    }

    /// `x scale + shift`, both `[x.width()]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if a weight does not fit.
    pub fn affine(&mut self, x: Value, scale: Option<&Tensor>, shift: Option<&Tensor>) -> Result<Value> {
        self.check(&[x])?;
        let scale = self.vector("scale", scale, x.width)?;
        let shift = self.vector("shift", shift, x.width)?;
        let (x, width) = (x.node, x.width);
        Ok(self.push(Op::Affine { x, scale, shift }, width))
    }

    /// Attention of each cell over the nine cells around it: `softmax(q k / sqrt(d)) v` per head, where d is
    /// the width of a head. Beyond a zero-padded border key and value are 0: such a neighbour counts in the
    /// softmax and adds nothing.
    ///
    /// ```
    /// use lnca::prelude::*;
    ///
    /// let mut p = ProgramBuilder::new(CellLayout { input: 0, output: 1, hidden: 0 });
    /// let none = Tensor::new(&[0f32], &Device::Cpu)?;
    /// let zero = p.affine(p.cells(), Some(&none), None)?; // with no query, all nine shares are 1/9
    /// let update = p.attention(zero, zero, p.cells(), 1, Padding::Zero)?;
    /// let program = p.finish(update)?;
    ///
    /// let cells = Tensor::new(&[[[[9f32], [18.]]]], &Device::Cpu)?; // either sees both: (9 + 18) / 9 = 3
    /// let next = Rollout::new(1).run(&program, &cells)?.flatten_all()?.to_vec1::<f32>()?; // cells + update
    /// assert!((next[0] - 12.0).abs() < 1e-5 && (next[1] - 21.0).abs() < 1e-5);
    /// # Ok::<(), lnca::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] if the widths differ or `heads` does not divide them.
    pub fn attention(
        &mut self,
        q: Value,
        k: Value,
        v: Value,
        heads: usize,
        padding: Padding,
    ) -> Result<Value> {
        self.check(&[q, k, v])?;
        if k.width != q.width || v.width != q.width {
            let found = format!("{}, {} and {}", q.width, k.width, v.width);
            return Err(Error::config("q, k and v", "equal widths", found));
        }
        if heads == 0 || !q.width.is_multiple_of(heads) {
            let expected = format!("a divisor of {}", q.width);
            return Err(Error::config("heads", expected, heads));
        }
        let (q, k, v, width) = (q.node, k.node, v.node, q.width);
        let attention = Attention {
            q,
            k,
            v,
            heads,
            padding,
        };
        Ok(self.push(Op::Attention(attention), width))
    }

    /// Inverted dropout, active in training rollouts.
    ///
    /// # Errors
    /// [`Error::Config`] if `rate` is not in `[0, 1)`.
    pub fn dropout(&mut self, x: Value, rate: f64) -> Result<Value> {
        self.check(&[x])?;
        check_dropout(rate)?;
        let site = self.sites;
        self.sites += 1;
        let (x, width) = (x.node, x.width);
        Ok(self.push(Op::Dropout { x, rate, site }, width))
    }

    /// [`ProgramBuilder::linear`] with the weights of `layer`.
    ///
    /// # Errors
    /// As there.
    pub fn layer(&mut self, x: Value, layer: &Linear) -> Result<Value> {
        self.linear(x, layer.weight(), layer.bias())
    }

    /// [`ProgramBuilder::layer_norm`] with the weights of `norm`.
    ///
    /// # Errors
    /// As there.
    pub fn norm(&mut self, x: Value, norm: &LayerNorm) -> Result<Value> {
        self.layer_norm(x, norm.weight(), norm.bias(), norm.eps())
    }

    /// The program whose update is `update`.
    ///
    /// # Errors
    /// [`Error::Config`] if it is not as wide as the layout's output and hidden channels together.
    pub fn finish(self, update: Value) -> Result<Program> {
        self.check(&[update])?;
        self.layout.check_sizes()?;
        let channels = self.layout.update_channels();
        if update.width != channels {
            let expected = format!("{channels} channels, output and hidden");
            return Err(Error::config("update", expected, update.width));
        }
        Ok(Program {
            layout: self.layout,
            alive: None,
            nodes: self.nodes,
            params: self.params,
            update: update.node,
        })
    }

    fn push(&mut self, op: Op, width: usize) -> Value {
        self.nodes.push(Node { op, width });
        Value {
            node: self.nodes.len() - 1,
            width,
        }
    }

    fn param(&mut self, name: &'static str, tensor: &Tensor) -> Result<usize> {
        self.check_type(name, tensor)?;
        self.params.push(tensor.clone());
        Ok(self.params.len() - 1)
    }

    /// An error unless a weight is of floating-point numbers, and of the type and on the device of the
    /// others.
    fn check_type(&self, name: &'static str, tensor: &Tensor) -> Result<()> {
        let mut weights = self
            .nodes
            .iter()
            .filter(|node| !matches!(node.op, Op::Constant(_)));
        match weights.find_map(|node| node.op.params().first().copied()) {
            Some(other) => check::as_other(name, tensor, "the other weights", &self.params[other]),
            None => check::float(name, tensor),
        }
    }

    fn required(&mut self, name: &'static str, tensor: &Tensor, width: usize) -> Result<usize> {
        if tensor.dims() != [width] {
            return Err(Error::shape(name, format!("[{width}]"), tensor.dims()));
        }
        self.param(name, tensor)
    }

    fn vector(&mut self, name: &'static str, tensor: Option<&Tensor>, width: usize) -> Result<Option<usize>> {
        tensor
            .map(|tensor| self.required(name, tensor, width))
            .transpose()
    }

    /// Checks that values are of this program, as far as that can be told.
    fn check(&self, values: &[Value]) -> Result<()> {
        let known = |value: &&Value| {
            self.nodes
                .get(value.node)
                .is_none_or(|node| node.width != value.width)
        };
        match values.iter().find(known) {
            Some(value) => {
                let found = format!("value {} of another", value.node);
                Err(Error::config("value", "a value of this program", found))
            }
            None => Ok(()),
        }
    }
}
