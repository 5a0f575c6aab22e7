//! A rollout as a sequence of kernels.

use std::ops::Range;
use std::sync::Arc;

use super::compiled::{Compiled, Half};
use super::driver::{Buffer, Driver, Kernels};
use super::kernels::{Launch, Module};
use super::layout::{Args, RawJob, fire};
use super::sums::{Shares, Sum, share};
use crate::engine::job::{Job, Task};
use crate::engine::kernel_plan::Packing;
use crate::error::{Error, Result};
use crate::grid::draws::FireRate;

/// Bytes of a float.
const FLOAT: usize = 4;
/// Cells that a block of `bury` or `enter` takes.
const CELLS: usize = 64;
/// Numbers that a block of `reduce` takes.
const THREADS: usize = 256;
/// Rows of a tile at most, and blocks that keep a GPU busy.
const ROWS: usize = 128;
const BLOCKS: usize = 264;

/// What the forward pass keeps for the backward pass.
pub(in crate::engine) struct Saved {
    /// The states before steps that are `every` apart, without the first.
    states: Vec<Buffer>,
    /// A byte for each step and cell: whether it lives after the step.
    alive: Option<Buffer>,
}

/// The addresses of the first cells, `[B, H, W, C]`, and of the packed weights.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Inputs {
    pub cells: u64,
    pub weights: u64,
    pub dims: (usize, usize, usize, usize),
}

impl Inputs {
    /// Those in memory of this process, for an emulator.
    pub fn on_host(cells: &[f32], weights: &[f32], dims: (usize, usize, usize, usize)) -> Self {
        Self {
            cells: cells.as_ptr() as u64,
            weights: weights.as_ptr() as u64,
            dims,
        }
    }

    /// Those in memory of a GPU.
    #[cfg(feature = "cuda")]
    pub fn on_device(
        cells: &super::device::Values,
        weights: &super::device::Values,
        dims: (usize, usize, usize, usize),
    ) -> Self {
        Self {
            cells: cells.address,
            weights: weights.address,
            dims,
        }
    }
}

/// Runs a rollout whose last cells go to `last`.
pub(in crate::engine) fn forward(
    (job, driver): (&Job, &dyn Driver),
    inputs: Inputs,
    last: u64,
) -> Result<Saved> {
    let compiled = Compiled::of(job);
    let run = Run::new(job, &compiled, driver, inputs)?;
    let steps = job.task.steps.clone();
    let has_alive = job.differentiable && job.program.alive.is_some();
    let alive = has_alive
        .then(|| driver.alloc(run.cells * steps.len().max(1)))
        .transpose()?;
    let keeps = |step: usize| job.differentiable && (step - steps.start).is_multiple_of(job.task.every);
    let mut states: Vec<Buffer> = vec![];
    // Two more for states that are not kept.
    let mut spare = [None, None];
    let mut state = inputs.cells;
    for step in steps.clone() {
        let next = if step + 1 == steps.end {
            last
        } else if keeps(step + 1) {
            states.push(run.alloc_state()?);
            states[states.len() - 1].address
        } else {
            let buffer = match spare[step % 2].take() {
                Some(buffer) => buffer,
                None => run.alloc_state()?,
            };
            spare[step % 2].insert(buffer).address
        };
        let alive = alive.as_ref().map_or(0, |alive| run.alive(alive, step));
        run.step(step, state, next, alive)?;
        state = next;
    }
    Ok(Saved { states, alive })
}

/// The gradients of the first cells and then of the packed weights, of which there are `numbers`, in
/// `result`; `gradient` is that of the last cells.
pub(in crate::engine) fn backward(
    (job, driver): (&Job, &dyn Driver),
    inputs: Inputs,
    saved: &Saved,
    (gradient, result, numbers): (u64, u64, usize),
) -> Result<()> {
    check_size("weights", numbers)?;
    let compiled = Compiled::of(job);
    let run = Run::new(job, &compiled, driver, inputs)?;
    let (half, sums) = compiled.backward(job);
    let pass = Pass::new(&run, half, sums)?;
    let steps = job.task.steps.clone();
    let gradients = [run.alloc_state()?, run.alloc_state()?];
    let mut stretch_states: Vec<Buffer> = vec![];
    let mut gradient = gradient;
    for stretch in (0..steps.len().div_ceil(job.task.every)).rev() {
        let from = steps.start + stretch * job.task.every;
        let to = steps.end.min(from + job.task.every);
        let first = match stretch {
            0 => inputs.cells,
            n => saved.states[n - 1].address,
        };
        while stretch_states.len() + 1 < to - from {
            stretch_states.push(run.alloc_state()?);
        }
        let state = |step: usize| match step - from {
            0 => first,
            n => stretch_states[n - 1].address,
        };
        (from..to - 1).try_for_each(|step| run.step(step, state(step), state(step + 1), 0))?;
        for step in (from..to).rev() {
            let before = match step == steps.start {
                true => result,
                false => gradients[step % 2].address,
            };
            let alive = saved.alive.as_ref().map_or(0, |alive| run.alive(alive, step));
            pass.step(step, (state(step), alive), gradient, before)?;
            gradient = before;
        }
    }
    pass.reduce(result + (run.cells * run.channels * FLOAT) as u64, numbers)
}

/// A rollout with the memory that its steps share.
struct Run<'a> {
    job: &'a Job,
    driver: &'a dyn Driver,
    forward: &'a Half,
    kernels: Arc<dyn Kernels>,
    packing: &'a Packing,
    /// What all launches have in common.
    common: Args,
    cells: usize,
    area: usize,
    channels: usize,
    scratch: Buffer,
    after: Option<Buffer>,
    /// Rates of each cell, or the masks of all steps.
    draw: Option<Buffer>,
}

impl<'a> Run<'a> {
    fn new(job: &'a Job, compiled: &'a Compiled, driver: &'a dyn Driver, inputs: Inputs) -> Result<Self> {
        let (images, height, width, channels) = inputs.dims;
        let (area, cells) = (height * width, images * height * width);
        check_size("cells", cells)?;
        let forward = &compiled.forward;
        let state = cells * channels * FLOAT;
        let has_after = job.program.alive.is_some();
        Ok(Self {
            job,
            driver,
            forward,
            kernels: driver.load(&forward.module.source)?,
            packing: &compiled.packing,
            common: common(&job.task, inputs),
            cells,
            area,
            channels,
            scratch: driver.alloc((cells * forward.plan.scratch).max(1) * FLOAT)?,
            after: has_after.then(|| driver.alloc(state)).transpose()?,
            draw: draw(&job.task, driver)?,
        })
    }

    fn alloc_state(&self) -> Result<Buffer> {
        self.driver.alloc(self.cells * self.channels * FLOAT)
    }

    /// Where the lives of a step's cells are.
    fn alive(&self, alive: &Buffer, step: usize) -> u64 {
        alive.address + ((step - self.job.task.steps.start) * self.cells) as u64
    }

    fn args(&self, step: usize, state: u64) -> Args {
        let done = step - self.job.task.steps.start;
        let masks = if self.job.task.masks.is_some() {
            done * self.cells * FLOAT
        } else {
            0
        };
        Args {
            step: step as i32,
            state,
            draw: self.draw.as_ref().map_or(0, |draw| draw.address + masks as u64),
            scratch: self.scratch.address,
            after: self.after.as_ref().map_or(0, |after| after.address),
            ..self.common
        }
    }

    /// One step, from `state` to `next`; whether cells live goes to `alive` unless it is 0.
    fn step(&self, step: usize, state: u64, next: u64, alive: u64) -> Result<()> {
        self.driver.forget(&self.scratch);
        let args = Args {
            next,
            alive,
            ..self.args(step, state)
        };
        self.phases(&self.forward.module, &*self.kernels, &args)?;
        match self.after {
            Some(_) => {
                let blocks = self.cells.div_ceil(CELLS);
                self.kernels.launch("bury", blocks, CELLS * FLOAT, &args)
            }
            None => Ok(()),
        }
    }

    fn phases(&self, module: &Module, kernels: &dyn Kernels, args: &Args) -> Result<()> {
        module.launches.iter().try_for_each(|launch| {
            let tile = self.tile(launch);
            let args = Args {
                tile: tile as i32,
                ..*args
            };
            let blocks = self.cells.div_ceil(tile);
            kernels.launch(&launch.name, blocks, launch.shared(tile), &args)
        })
    }

    /// Rows of a tile: few enough that there are blocks for a whole GPU, and that they fit. What is computed
    /// does not depend on it.
    fn tile(&self, launch: &Launch) -> usize {
        let fits = |rows: &usize| launch.shared(*rows) <= self.driver.shared_memory();
        let wanted = self.cells.div_ceil(BLOCKS).next_multiple_of(16).min(ROWS);
        (16..=wanted).rev().step_by(16).find(fits).unwrap_or(16)
    }
}

/// The backward pass of a rollout.
struct Pass<'a> {
    run: &'a Run<'a>,
    half: &'a Half,
    kernels: Arc<dyn Kernels>,
    shares: Shares,
    scratch: Buffer,
    partial: Buffer,
    jobs: Buffer,
}

impl<'a> Pass<'a> {
    fn new(run: &'a Run<'a>, half: &'a Half, sums: &[Sum]) -> Result<Self> {
        let shares = share(sums, run.packing, run.cells, run.area);
        let driver = run.driver;
        let jobs: Vec<RawJob> = shares.outer.iter().chain(&shares.rest).copied().collect();
        let bytes: Vec<u8> = jobs.iter().flat_map(RawJob::bytes).collect();
        let pass = Self {
            scratch: driver.alloc((run.cells * half.plan.scratch).max(1) * FLOAT)?,
            partial: driver.alloc(shares.partial.max(1) * FLOAT)?,
            jobs: driver.alloc(bytes.len().max(1))?,
            kernels: driver.load(&half.module.source)?,
            run,
            half,
            shares,
        };
        driver.zero(&pass.partial)?;
        driver.upload(&bytes, &pass.jobs)?;
        Ok(pass)
    }

    /// From the gradient of the cells after a step to that of the cells before it.
    fn step(&self, step: usize, (state, alive): (u64, u64), gradient: u64, before: u64) -> Result<()> {
        let run = self.run;
        run.driver.forget(&self.scratch);
        let args = Args {
            alive,
            gradient,
            gradient_before: before,
            scratch: self.scratch.address,
            partial: self.partial.address,
            ..run.args(step, state)
        };
        let blocks = run.cells.div_ceil(CELLS);
        self.kernels.launch("enter", blocks, CELLS * FLOAT, &args)?;
        run.phases(&self.half.module, &*self.kernels, &args)?;
        let (outer, rest) = (self.shares.outer.len(), self.shares.rest.len());
        self.sum("sum_outer", self.shares.outer_blocks, 0..outer, &args)?;
        self.sum(
            "sum_channels",
            self.shares.rest_blocks,
            outer..outer + rest,
            &args,
        )
    }

    fn sum(&self, kernel: &str, blocks: usize, jobs: Range<usize>, args: &Args) -> Result<()> {
        if blocks == 0 {
            return Ok(());
        }
        // Two operands of 32 cells, 72 floats a cell; `sum_channels` needs less.
        let shared = 2 * 32 * 72 * FLOAT;
        self.kernels
            .launch(kernel, blocks, shared, &self.with_jobs(jobs, args))
    }

    fn with_jobs(&self, jobs: Range<usize>, args: &Args) -> Args {
        Args {
            jobs: self.jobs.address + (jobs.start * size_of::<RawJob>()) as u64,
            sums: jobs.len() as i32,
            ..*args
        }
    }

    /// The gradient of all weights.
    fn reduce(&self, to: u64, numbers: usize) -> Result<()> {
        let args = Args {
            next: to,
            numbers: numbers as i32,
            partial: self.partial.address,
            ..self.run.common
        };
        let all = 0..self.shares.outer.len() + self.shares.rest.len();
        let blocks = numbers.div_ceil(THREADS);
        self.kernels
            .launch("reduce", blocks, 0, &self.with_jobs(all, &args))
    }
}

/// An error if the kernels cannot count so many: they count a little beyond the last.
fn check_size(what: &'static str, count: usize) -> Result<()> {
    let most = i32::MAX as usize - (1 << 20);
    match count <= most {
        true => Ok(()),
        false => Err(Error::config(what, format!("at most {most} on a GPU"), count)),
    }
}

fn common(task: &Task, inputs: Inputs) -> Args {
    let (images, height, width, _) = inputs.dims;
    let (fire, rate) = match (&task.masks, &task.fire_rate) {
        (Some(_), _) => (fire::GIVEN, 0.0),
        (None, FireRate::Each(..)) => (fire::EACH_RATE, 0.0),
        (None, rate) if rate.is_full() => (fire::ALL, 0.0),
        (None, FireRate::Same(rate)) => (fire::SAME_RATE, *rate as f32),
    };
    Args {
        cells: (images * height * width) as i32,
        height: height as i32,
        width: width as i32,
        first_image: task.first_image as i32,
        key: task.key.halves(),
        fire,
        rate,
        training: i32::from(task.training),
        weights: inputs.weights,
        ..Args::default()
    }
}

/// The given masks, or the rates of each cell.
fn draw(task: &Task, driver: &dyn Driver) -> Result<Option<Buffer>> {
    let values: Vec<f32> = match (&task.masks, &task.fire_rate) {
        (Some(masks), _) => {
            let fires = masks[task.steps.clone()].iter().flatten();
            fires.map(|&fires| f32::from(u8::from(fires))).collect()
        }
        (None, FireRate::Each(_, rates)) => rates.to_vec(),
        (None, FireRate::Same(_)) => return Ok(None),
    };
    let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_ne_bytes).collect();
    let buffer = driver.alloc(bytes.len().max(1))?;
    driver.upload(&bytes, &buffer)?;
    Ok(Some(buffer))
}
