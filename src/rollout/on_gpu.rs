//! Rollouts on a GPU of any maker, by the feature `wgpu`.

use candle_core::{DType, Tensor};

use super::Rollout;
use super::fused::program_of;
use crate::engine::{Fallback, Gpu, Grid};
use crate::error::{Error, Result, check};
use crate::grid::CellLayout;
use crate::transition::TransitionFn;

/// Cells that stay on a GPU between the steps of a rollout: made by [`Rollout::start_on`].
#[derive(Debug)]
pub struct GpuCells {
    grid: Grid,
    layout: CellLayout,
    /// The cells that it began with: their shape and device.
    like: Tensor,
    /// Steps for which there are masks.
    most: Option<usize>,
}

impl Rollout {
    /// As [`Rollout::run`] without a gradient, on a GPU of any maker.
    ///
    /// What is drawn is the same as on a CPU, bit by bit; values differ in their last digits. Matrix products
    /// are in f32, whatever the precision. WGSL promises neither NaN nor infinities: where they occur,
    /// results are any.
    ///
    /// ```no_run
    /// # use candle_core::{DType, Device};
    /// # use lnca::{Growing, GrowingConfig, TransitionFn, Weights};
    /// use lnca::{Gpu, Rollout};
    ///
    /// # let weights = Weights::new(0, DType::F32, &Device::Cpu);
    /// # let rule = Growing::new(GrowingConfig::default(), weights.builder())?;
    /// let cells = rule.layout().single_cell((1, 72, 72), DType::F32, &Device::Cpu)?;
    /// let (gpu, rollout) = (Gpu::new()?, Rollout::new(96).fire_rate(0.5));
    /// let grown = rollout.run_on(&gpu, &rule, &cells)?;
    ///
    /// let mut on_gpu = rollout.start_on(&gpu, &rule, &grown)?; // the kernels are there already
    /// on_gpu.advance(1000)?; // nothing is copied between steps
    /// let later = on_gpu.cells()?;
    /// # Ok::<(), lnca::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Rollout::run`], and [`Error::Config`] if the transition has no program, something is not of f32
    /// or not on a CPU, the rollout is in training mode (there is no dropout here), or the cells with all
    /// that is computed for them take more than the 128 MiB that WebGPU grants; [`Error::Candle`] if the GPU
    /// fails.
    pub fn run_on<T: TransitionFn>(&self, gpu: &Gpu, transition: &T, cells: &Tensor) -> Result<Tensor> {
        let mut on_gpu = self.start_on(gpu, transition, cells)?;
        on_gpu.advance(self.steps)?;
        on_gpu.cells()
    }

    /// Cells on a GPU before the first step. How many steps they make is for [`GpuCells::advance`] to say,
    /// not for the rollout.
    ///
    /// # Errors
    /// As [`Rollout::run_on`].
    pub fn start_on<T: TransitionFn>(&self, gpu: &Gpu, transition: &T, cells: &Tensor) -> Result<GpuCells> {
        self.check(transition, cells)?;
        if self.training {
            return Err(Error::config("training", "off, on a GPU by wgpu", "on"));
        }
        let unfit = |reason: Fallback| Error::config("transition", "one that an engine can run", reason);
        let program = program_of(transition, cells)?.ok_or_else(|| unfit(Fallback::NoProgram))?;
        let masks = self.fires()?.ok_or_else(|| unfit(Fallback::Mask))?;
        let grid = Grid::new(gpu, program, self.task(0..self.steps, masks, 1), cells)?;
        let grid = grid.map_err(unfit)?;
        Ok(GpuCells {
            grid,
            layout: transition.layout(),
            like: cells.detach(),
            most: self.masks.as_ref().map(Vec::len),
        })
    }
}

impl GpuCells {
    /// Makes `steps` more steps. It does not wait for them.
    ///
    /// # Errors
    /// [`Error::Config`] beyond the given masks of the rollout, or for 2^32 steps and more in all;
    /// [`Error::Candle`] if the GPU fails.
    pub fn advance(&mut self, steps: usize) -> Result<()> {
        let (done, most) = (self.grid.step(), self.most.unwrap_or(super::MOST_STEPS));
        check::count("steps", steps, (0, most - done))?;
        self.grid.advance(steps)
    }

    /// How many steps were made.
    pub fn steps(&self) -> usize {
        self.grid.step()
    }

    /// The cells, `[B, H, W, C]`, where those lie that it began with. It waits for all steps.
    ///
    /// # Errors
    /// [`Error::Candle`] if the GPU fails.
    pub fn cells(&self) -> Result<Tensor> {
        let values = self.grid.read()?;
        Ok(Tensor::from_vec(values, self.like.dims(), self.like.device())?)
    }

    /// Puts other `cells` of the same shape in place of these, such as damaged ones; steps are counted on.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape, [`Error::DType`] unless they are of f32, [`Error::Candle`] if the
    /// GPU fails.
    pub fn set_cells(&mut self, cells: &Tensor) -> Result<()> {
        self.layout.check(cells)?;
        if cells.dims() != self.like.dims() {
            let expected = format!("{:?}, as the cells it began with", self.like.dims());
            return Err(Error::shape("cells", expected, cells.dims()));
        }
        check::of_type("cells", cells, DType::F32)?;
        self.grid.write(&cells.flatten_all()?.to_vec1::<f32>()?)
    }
}
