//! Programs made of bytes: any operations in any order, with widths, weights and settings that may not fit.

use arbitrary::{Result, Unstructured};
use candle_core::{Device, Tensor};
use lnca::random::Key;
use lnca::{AliveMask, CellLayout, Function, Memory, Padding, Program, ProgramBuilder, Rollout, Value};

/// Which numbers programs and cells hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Numbers {
    /// Those around 1.
    Ordinary,
    /// NaN and infinities among them.
    NotFinite,
    /// Any, such as those whose squares overflow. The order of sums then decides what overflows.
    Any,
}

/// A program, cells for it and a rollout.
#[derive(Debug)]
pub struct Case {
    pub program: Program,
    pub cells: Tensor,
    pub rollout: Rollout,
    pub numbers: Numbers,
    pub alive: Option<AliveMask>,
    /// Weights that are not finite, or settings that make small differences large.
    pub sharp: bool,
}

/// Reads bytes as choices.
struct Chooser<'a, 'b> {
    bytes: &'a mut Unstructured<'b>,
    numbers: Numbers,
    sharp: bool,
}

impl Chooser<'_, '_> {
    fn below(&mut self, end: usize) -> Result<usize> {
        Ok(match end {
            0 => 0,
            end => self.bytes.int_in_range(0..=end - 1)?,
        })
    }

    /// Mostly a size that fits, sometimes one that does not.
    fn size(&mut self, fits: usize) -> Result<usize> {
        Ok(match self.bytes.arbitrary::<u8>()? {
            0 => 0,
            1 => fits.saturating_add(1),
            2 => usize::MAX,
            _ => fits,
        })
    }

    fn number(&mut self) -> Result<f32> {
        let ordinary = f32::from(self.bytes.arbitrary::<i8>()?) / 64.0;
        let chosen = match self.numbers {
            Numbers::Ordinary => return Ok(ordinary),
            Numbers::NotFinite | Numbers::Any => self.bytes.arbitrary::<u8>()?,
        };
        Ok(match (self.numbers, chosen) {
            (_, 0) => f32::NAN,
            (_, 1) => f32::INFINITY,
            (_, 2) => f32::NEG_INFINITY,
            (Numbers::Any, 3..40) => f32::from_bits(self.bytes.arbitrary()?),
            _ => ordinary,
        })
    }

    /// A tensor of numbers. Few bytes make many: they are repeated with other factors.
    fn tensor(&mut self, shape: &[usize]) -> Result<Tensor> {
        let count = shape.iter().product::<usize>();
        let some = (0..count.min(7))
            .map(|_| self.number())
            .collect::<Result<Vec<_>>>()?;
        let value = |i: usize| match some[i % some.len().max(1)] {
            value if value.is_finite() && value.abs() < 8.0 => value * (0.3 + ((i * 37) % 11) as f32 / 16.0),
            value => value,
        };
        let values: Vec<f32> = (0..count).map(value).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu).expect("as many values as the shape has"))
    }

    /// A weight, whose shape does not fit in one of 64 cases.
    fn weight(&mut self, shape: &[usize]) -> Result<Tensor> {
        let mut shape = shape.to_vec();
        if self.bytes.ratio(1, 64)? {
            let axis = self.below(shape.len())?;
            shape[axis] += 1;
        }
        self.tensor(&shape)
    }

    fn padding(&mut self) -> Result<Padding> {
        Ok(match self.bytes.arbitrary()? {
            true => Padding::Circular,
            false => Padding::Zero,
        })
    }

    fn small(&mut self) -> Result<f64> {
        let chosen = self.bytes.arbitrary::<u8>()?;
        let value = match chosen {
            0 => 0.0,
            1 => -1.0,
            2 => f64::NAN,
            3 => f64::INFINITY,
            4 => 1e-12,
            _ => return Ok(0.5),
        };
        self.sharp = true;
        Ok(value)
    }

    fn rate(&mut self) -> Result<f64> {
        Ok(match self.bytes.arbitrary::<u8>()? {
            0 => f64::NAN,
            1 => -0.5,
            2 => 1.5,
            3..60 => 1.0,
            _ => 0.5,
        })
    }

    fn function(&mut self) -> Result<Function> {
        let (min, max) = match self.bytes.ratio(1, 16)? {
            true => (self.number()?, self.number()?),
            false => (-0.7, 0.8),
        };
        let all = [
            Function::Relu,
            Function::Elu,
            Function::Gelu,
            Function::Silu,
            Function::Sigmoid,
            Function::Tanh,
            Function::Clamp { min, max },
            Function::quantise(min, max),
        ];
        let function = all[self.below(all.len())?];
        // Rounding turns the smallest difference into a large one.
        self.sharp |= matches!(function, Function::Quantise { .. });
        Ok(function)
    }

    /// One operation on some of `values`. `None` if the builder refuses it.
    fn operation(
        &mut self,
        p: &mut ProgramBuilder,
        values: &[Value],
        grid: [usize; 2],
    ) -> Result<Option<Value>> {
        let last = values.len() - 1;
        let x = values[last - self.below(values.len().min(3))?];
        let other = values[self.below(values.len())?];
        let width = x.width();
        let made = match self.below(17)? {
            0 => {
                let output = 1 + self.below(12)?;
                let weight = self.weight(&[output, width])?;
                let bias = match self.bytes.arbitrary()? {
                    true => Some(self.weight(&[output])?),
                    false => None,
                };
                p.linear(x, &weight, bias.as_ref())
            }
            1 => {
                let start = self.below(width)?;
                let size = self.size(width - start)?;
                p.slice(x, start, size)
            }
            2 if width + other.width() < 48 => p.concat(&[x, other]),
            3 if width < 12 => {
                let filters = 1 + self.below(3)?;
                let kernels = match self.bytes.arbitrary()? {
                    true => self.weight(&[filters, 3, 3])?,
                    false => self.weight(&[width, filters, 3, 3])?,
                };
                p.stencil(x, &kernels, self.padding()?)
            }
            4 if width < 12 => {
                let kernel = self.weight(&[1 + width % 5, width, 3, 3])?;
                p.convolution(x, &kernel, None, self.padding()?)
            }
            5 if width < 6 => p.neighbourhood(x, self.padding()?),
            6 => p.sum_taps(x, self.padding()?),
            7 => {
                let (weight, bias) = (self.weight(&[width])?, self.weight(&[width])?);
                p.layer_norm(x, &weight, &bias, self.small()?)
            }
            8 => {
                let scale = self.weight(&[width])?;
                p.rms_norm(x, &scale, self.small()?)
            }
            9 => p.inverse_rms(x, self.small()?),
            10 => p.inverse_std(x, self.small()?),
            11 => p.map(x, self.function()?),
            12 => p.add(x, other),
            13 => {
                let product = match self.bytes.arbitrary()? {
                    true => p.mul(x, other),
                    false => p.gate(x),
                };
                // Products of products leave the range in which f32 can be compared.
                product.and_then(|product| p.map(product, Function::Tanh))
            }
            14 => {
                let (scale, shift) = (self.weight(&[width])?, self.weight(&[width])?);
                p.affine(x, Some(&scale), Some(&shift))
            }
            15 => {
                let fitting = 1 + self.below(3)?;
                let heads = self.size(fitting)?;
                p.attention(x, other, other, heads, self.padding()?)
            }
            16 if self.bytes.arbitrary()? => p.dropout(x, self.rate()?),
            16 => {
                let table = self.weight(&[grid[0], grid[1], width])?;
                p.constant(&table).and_then(|table| p.add(x, table))
            }
            _ => return Ok(None),
        };
        Ok(made.ok())
    }

    fn program(&mut self, layout: CellLayout, grid: [usize; 2]) -> Result<Option<Program>> {
        let mut p = ProgramBuilder::new(layout);
        let mut values = vec![p.cells()];
        for _ in 0..self.below(14)? {
            if let Some(value) = self.operation(&mut p, &values, grid)? {
                let bounded = match value.width() > 20 || self.bytes.ratio(1, 4)? {
                    true => p.map(value, Function::Tanh).ok(),
                    false => None,
                };
                values.push(bounded.unwrap_or(value));
            }
        }
        let last = values[values.len() - 1];
        let update = match last.width() == layout.update_channels() && self.bytes.arbitrary()? {
            true => Ok(last),
            false => {
                let weight = self.weight(&[layout.update_channels(), last.width()])?;
                p.linear(last, &weight, None)
            }
        };
        Ok(update.and_then(|update| p.finish(update)).ok())
    }
}

impl Case {
    /// A case of `bytes`, or `None` where the library refused a part of it.
    pub fn new(bytes: &mut Unstructured) -> Result<Option<Self>> {
        let kinds = [Numbers::Ordinary, Numbers::NotFinite, Numbers::Any];
        let numbers = *bytes.choose(&kinds)?;
        let mut chooser = Chooser {
            bytes,
            numbers,
            sharp: false,
        };
        let layout = CellLayout {
            input: chooser.below(4)?,
            output: chooser.below(5)?,
            hidden: chooser.below(4)?,
        };
        let grid = [chooser.below(9)?, chooser.below(9)?];
        let batch = chooser.below(4)?;
        let Some(program) = chooser.program(layout, grid)? else {
            return Ok(None);
        };
        let alive = match chooser.bytes.ratio(1, 4)? {
            true => Some(AliveMask {
                channel: chooser.below(layout.channels() + 1)?,
                threshold: 0.1,
                padding: chooser.padding()?,
            }),
            false => None,
        };
        let Ok(program) = program.with_alive_mask(alive) else {
            return Ok(None);
        };
        let cells = chooser.tensor(&[batch, grid[0], grid[1], layout.channels()])?;
        let memory = match chooser.below(3)? {
            0 => Memory::Nothing,
            1 => Memory::Every(chooser.size(2)?),
            _ => Memory::Budget(chooser.size(1000)?),
        };
        let rollout = Rollout::new(chooser.below(4)?)
            .fire_rate(chooser.rate()?)
            .training(chooser.bytes.arbitrary()?)
            .key(Key::new(chooser.bytes.arbitrary()?))
            .memory(memory);
        Ok(Some(Self {
            program,
            cells,
            rollout,
            numbers,
            alive,
            sharp: chooser.sharp,
        }))
    }

    /// Runs the case by the engine and by plain operations, and their gradients.
    ///
    /// # Panics
    /// One of them is refused and the other is not, or they differ.
    pub fn check(&self) {
        let (engine, plain) = (self.rollout.clone(), self.rollout.clone().plain());
        let results = [&engine, &plain].map(|rollout| rollout.run(&self.program, &self.cells));
        match results {
            [Ok(engine), Ok(plain)] => {
                assert_eq!(engine.dims(), plain.dims());
                if self.comparable() {
                    compare("states", &values(&engine), &values(&plain));
                }
            }
            [Err(_), Err(_)] => return,
            [engine, plain] => panic!("engine {engine:?}, plain operations {plain:?}"),
        }
        let gradients = [&engine, &plain].map(|rollout| self.gradient(rollout));
        match gradients {
            [Ok(engine), Ok(plain)] if self.numbers == Numbers::Ordinary && self.comparable() => {
                compare("gradients", &engine, &plain);
            }
            [Ok(_), Ok(_)] | [Err(_), Err(_)] => {}
            [engine, plain] => panic!("gradients: engine {engine:?}, plain operations {plain:?}"),
        }
    }

    /// The gradient of the sum of squares for the first cells.
    fn gradient(&self, rollout: &Rollout) -> lnca::Result<Vec<f32>> {
        let cells = candle_core::Var::from_tensor(&self.cells)?;
        let loss = rollout.run(&self.program, cells.as_tensor())?.sqr()?.sum_all()?;
        let grads = loss.backward()?;
        Ok(grads.get(cells.as_tensor()).map(values).unwrap_or_default())
    }

    /// Whether both ways must give nearly the same numbers: where the order of sums decides nothing large.
    fn comparable(&self) -> bool {
        let ordinary = !self.sharp && self.numbers != Numbers::Any;
        let Some(rule) = self.alive.filter(|_| ordinary) else {
            return ordinary;
        };
        // A cell at the threshold may live in one of them, where it is seen there, and die in the other.
        [self.rollout.clone(), self.rollout.clone().plain()]
            .iter()
            .all(|rollout| {
                let states = rollout.trajectory(&self.program, &self.cells);
                let mut alive = states.into_iter().flatten().flat_map(|state| {
                    let channel = state.narrow(3, rule.channel, 1).map(|channel| values(&channel));
                    channel.unwrap_or_default()
                });
                alive.all(|value| value.is_nan() || (value - 0.1).abs() > 1e-3)
            })
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let values = tensor.flatten_all().and_then(|flat| flat.to_vec1());
    values.expect("a tensor of f32")
}

/// # Panics
/// Two numbers are not of one kind (NaN, an infinity, finite) or differ by more than a thousandth of the
/// largest.
fn compare(what: &str, found: &[f32], expected: &[f32]) {
    let finite = expected.iter().filter(|value| value.is_finite());
    let size = finite.fold(1.0, |size: f32, value| size.max(value.abs()));
    // A rollout that makes values this large makes small differences as large.
    if size > 100.0 {
        return;
    }
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let equal = match expected.is_finite() {
            true => (found - expected).abs() <= 1e-3 * size,
            false => found == expected || (found.is_nan() && expected.is_nan()),
        };
        assert!(
            equal,
            "{what}, number {i}: engine {found}, plain operations {expected}"
        );
    }
}
