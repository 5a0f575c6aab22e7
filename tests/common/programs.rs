//! Programs to test with: random ones, and those of the library's transitions.

use candle_core::{DType, Tensor, Var};
use lnca::random::{Key, Philox};
use lnca::transition::{Lattice, Perception, polar_directions};
use lnca::{
    AliveMask, CellLayout, Function, Gated, GatedConfig, Growing, GrowingConfig, Nafca, NafcaConfig, Padding,
    Program, ProgramBuilder, Result, Texture, TextureConfig, TransitionFn, Value, Vitca, VitcaConfig, Vnca,
    VncaConfig, Weights,
};
use rand::Rng;

use super::device::device;

/// Uniform values in (-1, 1).
pub fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = Key::new(seed).rng();
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, shape, &device()).unwrap()
}

/// The same, but for one element, which is NaN or infinite.
pub fn spoil(x: &Tensor, seed: u64) -> Tensor {
    let mut rng = Key::new(seed).rng();
    let mut values = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let at = rng.random_range(0..values.len());
    values[at] = odd[rng.random_range(0..3)];
    Tensor::from_vec(values, x.dims(), x.device()).unwrap()
}

/// A program, and the variables that its weights are functions of.
pub struct Case {
    /// A name for messages.
    pub what: String,
    /// The program, for the grid that it was made for.
    pub program: Program,
    /// All trained variables.
    pub vars: Vec<Tensor>,
}

impl Case {
    /// A random program of up to twelve operations, without an alive mask.
    pub fn random(seed: u64, grid: (usize, usize), dtype: DType) -> Self {
        let mut rng = Key::new(seed).fold_in_name("case").rng();
        let layout = CellLayout {
            input: rng.random_range(0..3),
            output: rng.random_range(1..5),
            hidden: rng.random_range(0..6),
        };
        let mut draw = Draw::new(seed, dtype);
        let program = draw.program(layout, grid, rng.random_range(1..13)).unwrap();
        Self {
            what: format!("seed {seed}"),
            program: program.with_alive_mask(None).unwrap(),
            vars: draw.vars,
        }
    }

    fn of<T: TransitionFn>(
        what: &str,
        (h, w): (usize, usize),
        weights: &Weights,
        transition: T,
    ) -> Result<Self> {
        // Away from initial values that are symmetric or 0.
        for (i, (_, var)) in weights.vars().into_iter().enumerate() {
            let shift = (noise(var.dims(), i as u64) * 0.2)?.to_dtype(var.dtype())?;
            var.set(&(var.as_tensor() + shift)?)?;
        }
        let cells = Tensor::zeros(
            (1, h, w, transition.layout().channels()),
            weights.builder().dtype(),
            &device(),
        )?;
        let vars = weights.vars().into_iter();
        Ok(Self {
            what: what.to_string(),
            program: transition.program(&cells)?.unwrap().with_alive_mask(None)?,
            vars: vars.map(|(_, var)| var.as_tensor().clone()).collect(),
        })
    }
}

/// The library's transitions in small sizes, on zero-padded and circular grids, without alive masks.
pub fn library(grid: (usize, usize), dtype: DType) -> Vec<Case> {
    let paddings = [Padding::Zero, Padding::Circular];
    let cases = paddings.map(|padding| library_padded(grid, dtype, padding).unwrap());
    cases.into_iter().flatten().collect()
}

fn library_padded(grid: (usize, usize), dtype: DType, padding: Padding) -> Result<Vec<Case>> {
    let layout = CellLayout {
        input: 9,
        output: 2,
        hidden: 3,
    };
    let mut cases = vec![];
    let new = || Weights::new(1, dtype, &device());
    let weights = new();
    let config = GrowingConfig {
        layout,
        hidden_dim: 7,
        angle: 0.3,
        padding,
        alive: None,
    };
    cases.push(Case::of(
        "growing",
        grid,
        &weights,
        Growing::new(config, weights.builder())?,
    )?);
    let weights = new();
    let config = GatedConfig {
        layout,
        gate_dim: 5,
        eps: 1e-2,
        padding,
    };
    cases.push(Case::of(
        "gated",
        grid,
        &weights,
        Gated::new(config, weights.builder())?,
    )?);
    for perception in [Perception::Grouped, Perception::Plain] {
        let weights = new();
        let config = NafcaConfig {
            layout,
            embed_dim: 10,
            ffn_expand: 2,
            dropout: 0.3,
            eps: 1e-2,
            perception,
            padding,
            ..NafcaConfig::default()
        };
        let nafca = Nafca::new(config, weights.builder())?;
        cases.push(Case::of(&format!("nafca {perception:?}"), grid, &weights, nafca)?);
    }
    for depth in [1, 2] {
        let weights = new();
        let config = VitcaConfig {
            layout,
            padding,
            depth,
            embed_dim: 9,
            heads: 3,
            mlp_dim: 7,
            ..VitcaConfig::default()
        };
        let vitca = Vitca::new(config, weights.builder())?;
        cases.push(Case::of(&format!("vitca {depth}"), grid, &weights, vitca)?);
    }
    for (what, lattice, clip) in [
        ("texture", Lattice::Square, None),
        ("texture clipped", Lattice::Hexagonal, Some(1.0)),
    ] {
        let weights = new();
        let config = TextureConfig {
            hidden_dim: 7,
            lattice,
            padding,
            clip,
            ..TextureConfig::default()
        };
        let texture = Texture::new(config, weights.builder())?;
        let field = polar_directions(grid.0, grid.1, &noise(&[1], 0))?;
        let directed = texture.directed(&field)?;
        cases.push(Case::of(what, grid, &weights, texture)?);
        cases.push(Case::of(&format!("{what} directed"), grid, &weights, directed)?);
    }
    for config in [VncaConfig::doubling(7), VncaConfig::broadcast(7)] {
        let weights = new();
        let config = VncaConfig { padding, ..config };
        let vnca = Vnca::new(config, weights.builder())?;
        cases.push(Case::of("vnca", grid, &weights, vnca)?);
    }
    Ok(cases)
}

/// A random program and its weights, some of which are not trained.
pub struct Draw {
    rng: Philox,
    dtype: DType,
    /// The weights that are trained.
    pub vars: Vec<Tensor>,
    /// How many of a hundred weights hold a NaN or an infinity.
    pub spoiled: u32,
}

impl Draw {
    /// An empty draw whose weights will be of `dtype`.
    pub fn new(seed: u64, dtype: DType) -> Self {
        Self {
            rng: Key::new(seed).rng(),
            dtype,
            vars: vec![],
            spoiled: 0,
        }
    }

    /// A weight, trained in four of five cases.
    pub fn weight(&mut self, shape: &[usize]) -> Tensor {
        let fan_in: usize = shape[1..].iter().product();
        let scale = 1.0 / (fan_in.max(1) as f64).sqrt();
        let value = (noise(shape, self.rng.random()) * scale).unwrap();
        let value = value.to_dtype(self.dtype).unwrap();
        let value = match self.spoiled > 0 && self.rng.random_ratio(self.spoiled, 100) {
            true => spoil(&value, self.rng.random()),
            false => value,
        };
        if self.rng.random_bool(0.2) {
            return value;
        }
        let var = Var::from_tensor(&value).unwrap().as_tensor().clone();
        self.vars.push(var.clone());
        var
    }

    fn padding(&mut self, circular: bool) -> Padding {
        match circular && self.rng.random_bool(0.7) {
            true => Padding::Circular,
            false => Padding::Zero,
        }
    }

    fn function(&mut self) -> Function {
        let bounds = Function::Clamp { min: -0.4, max: 0.3 };
        let all = [
            Function::Relu,
            Function::Elu,
            Function::Gelu,
            Function::Silu,
            Function::Sigmoid,
            Function::Tanh,
            bounds,
        ];
        all[self.rng.random_range(0..all.len())]
    }

    /// A program of some `operations` for cells of `layout` in a `grid` of rows and columns.
    pub fn program(
        &mut self,
        layout: CellLayout,
        grid: (usize, usize),
        operations: usize,
    ) -> Result<Program> {
        let circular = self.rng.random_bool(0.5);
        let mut p = ProgramBuilder::new(layout);
        let mut values: Vec<Value> = vec![p.cells()];
        if layout.input > 0 && self.rng.random_bool(0.5) {
            // A value that never changes in a rollout.
            let inputs = p.slice(p.cells(), 0, layout.input)?;
            values.push(self.linear(&mut p, inputs)?);
        }
        for _ in 0..operations {
            // Recent values more often, so that programs grow deep.
            let at = self
                .rng
                .random_range(values.len().saturating_sub(3)..values.len());
            let (x, other) = (values[at], values[self.rng.random_range(0..values.len())]);
            let value = match self.rng.random_range(0..12) {
                0 | 1 => self.linear(&mut p, x)?,
                2 => {
                    let start = self.rng.random_range(0..x.width());
                    let width = self.rng.random_range(1..=x.width() - start);
                    p.slice(x, start, width)?
                }
                3 if x.width() + other.width() < 60 => p.concat(&[x, other])?,
                4 if x.width() < 12 => {
                    let padding = self.padding(circular);
                    let shape = [self.rng.random_range(1..4), 3, 3];
                    let kernels = self.weight(&shape);
                    p.stencil(x, &kernels, padding)?
                }
                5 if x.width() < 12 => {
                    let (padding, output) = (self.padding(circular), self.rng.random_range(1..14));
                    let (kernel, bias) = (self.weight(&[output, x.width(), 3, 3]), self.weight(&[output]));
                    p.convolution(x, &kernel, Some(&bias), padding)?
                }
                6 if self.rng.random_bool(0.3) => p.inverse_rms(x, 0.1)?,
                // With eps 1: nearly equal channels would make it large, and later values saturate.
                6 if self.rng.random_bool(0.3) => p.inverse_std(x, 1.0)?,
                6 if self.rng.random_bool(0.4) => {
                    let scale = self.weight(&[x.width()]);
                    p.rms_norm(x, &scale, 0.1)?
                }
                6 => {
                    let weights = [self.weight(&[x.width()]), self.weight(&[x.width()])];
                    p.layer_norm(x, &weights[0], &weights[1], 0.1)?
                }
                7 => {
                    let function = self.function();
                    p.map(x, function)?
                }
                8 if x.width() == other.width() => p.add(x, other)?,
                9 => {
                    let one = p.slice(other, other.width() - 1, 1)?;
                    p.mul(x, if x.width() == other.width() { other } else { one })?
                }
                10 => {
                    let weights = [self.weight(&[x.width()]), self.weight(&[x.width()])];
                    p.affine(x, Some(&weights[0]), Some(&weights[1]))?
                }
                11 => {
                    let (heads, padding) = (self.rng.random_range(1..4), self.padding(circular));
                    let width = 3 * heads;
                    let mut part = || {
                        let weight = self.weight(&[width, x.width()]);
                        p.linear(x, &weight, None)
                    };
                    let (q, k, v) = (part()?, part()?, part()?);
                    // Later operations may read keys and values from further away.
                    values.extend([k, v]);
                    p.attention(q, k, v, heads, padding)?
                }
                _ => match self.rng.random_bool(0.5) {
                    true => p.dropout(x, 0.3)?,
                    false => {
                        let shape = [grid.0, grid.1, x.width()];
                        let table = match self.rng.random_bool(0.3) {
                            true => noise(&shape, self.rng.random()).to_dtype(self.dtype)?,
                            false => self.weight(&shape),
                        };
                        let table = p.constant(&table)?;
                        // It may be read by itself, too.
                        values.push(table);
                        p.add(x, table)?
                    }
                },
            };
            // Products of products would leave the range in which f32 can be compared.
            let bounded = p.map(value, Function::Tanh)?;
            values.push(if value.width() > 24 { bounded } else { value });
        }
        let last = p.map(values[values.len() - 1], Function::Tanh)?;
        let weight = (self.weight(&[layout.update_channels(), last.width()]) * 0.3)?;
        let update = p.linear(last, &weight, None)?;
        p.finish(update)?.with_alive_mask(self.alive_mask(layout))
    }

    fn alive_mask(&mut self, layout: CellLayout) -> Option<AliveMask> {
        let rule = AliveMask {
            channel: layout.channels() - 1,
            threshold: 0.1,
            padding: self.padding(true),
        };
        self.rng.random_bool(0.3).then_some(rule)
    }

    fn linear(&mut self, p: &mut ProgramBuilder, x: Value) -> Result<Value> {
        let output = self.rng.random_range(1..20);
        let weight = self.weight(&[output, x.width()]);
        let bias = self.rng.random_bool(0.5).then(|| self.weight(&[output]));
        p.linear(x, &weight, bias.as_ref())
    }
}
