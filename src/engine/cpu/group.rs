//! Groups of images that go through a rollout side by side in the lanes.

use std::ops::Range;

use rayon::prelude::*;

use super::bound::Bound;
use super::buffers::Buffer;
use super::call::Call;
use super::compiled::Stage;
use super::given::{GivenGrads, GivenValues, on_grid};
use super::plan::Plan;
use super::step::StepContext;
use super::taps::Taps;

/// Elements that a thread processes at a time.
const PIECE: usize = 1 << 14;

/// A group of images and how the program runs on it.
pub(super) struct Group<'a> {
    pub call: &'a Call<'a>,
    pub bound: &'a Bound,
    pub images: Range<usize>,
    /// Its index among the groups, and how many there are.
    pub number: usize,
    pub count: usize,
    /// Whether strips of the grid run on threads of their own.
    pub parallel: bool,
}

impl<'a> Group<'a> {
    /// The plan of a step.
    pub fn plan(&self) -> &'a Plan {
        &self.bound.compiled.step
    }

    pub fn hoisted(&self) -> Option<&'a Stage> {
        self.bound.compiled.hoisted.as_ref()
    }

    pub fn cached(&self) -> Option<&'a Stage> {
        self.bound.compiled.cached.as_ref()
    }

    /// A step of the whole program.
    pub fn at(&self, step: usize) -> StepContext<'a> {
        self.context(self.plan(), &self.bound.step_taps, step)
    }

    /// The hoisted values.
    pub fn hoisted_at(&self, stage: &'a Stage, step: usize) -> StepContext<'a> {
        self.context(&stage.plan, &self.bound.hoisted_taps, step)
    }

    /// The cached values at a step.
    pub fn cached_at(&self, stage: &'a Stage, step: usize) -> StepContext<'a> {
        self.context(&stage.plan, &self.bound.cached_taps, step)
    }

    fn context(&self, plan: &'a Plan, taps: &'a [Option<Taps>], step: usize) -> StepContext<'a> {
        StepContext {
            call: self.call,
            plan,
            taps,
            first_image: self.images.start,
            step,
            given: GivenValues {
                tables: &self.bound.tables,
                hoisted: &[],
                cached: &[],
            },
        }
    }

    /// Most strips that run at the same time.
    pub fn strips(&self) -> usize {
        let strips = |stage: Option<&Stage>| stage.map_or(0, |stage| stage.plan.strips.len());
        let stages = strips(self.hoisted()).max(strips(self.cached()));
        self.plan().strips.len().max(stages)
    }

    /// Gradient accumulators of all given values of the group; empty for a constant that gets no gradient.
    pub fn given_grads(&self) -> GivenGrads {
        let (job, tables) = (self.call.job, &self.bound.tables);
        let of_table = |((_, param), table): ((usize, usize), &Vec<f32>)| match job.is_trained(param) {
            true => Buffer::zeros(table.len()),
            false => Buffer::default(),
        };
        let of_stage = |plan: &Plan| plan.outputs.iter().map(|&n| on_grid(plan, n)).collect();
        GivenGrads {
            tables: job.program.constants().zip(tables).map(of_table).collect(),
            hoisted: self.hoisted().map_or(vec![], |stage| of_stage(&stage.plan)),
            cached: self.cached().map_or(vec![], |stage| of_stage(&stage.plan)),
        }
    }

    /// The group's cells, from `[B, H, W, C]` to `[H, C, W, images]`: rows are contiguous, and in each row
    /// the lanes of a channel.
    pub fn gather(&self, cells: &[f32]) -> Vec<f32> {
        let plan = self.plan();
        let channels = self.call.job.program.layout.channels();
        let (line, width) = (plan.line(), plan.columns * channels);
        let mut lanes = vec![0f32; plan.height * line];
        let rows = lanes.par_chunks_exact_mut(line).enumerate();
        rows.with_min_len(PIECE.div_ceil(line)).for_each(|(y, lanes)| {
            for (i, image) in self.images.clone().enumerate() {
                let cells = cells[(image * plan.height + y) * width..][..width].chunks_exact(channels);
                for (x, cell) in cells.enumerate() {
                    for (c, &value) in cell.iter().enumerate() {
                        lanes[c * plan.row() + x * plan.images + i] = value;
                    }
                }
            }
        });
        lanes
    }

    /// The inverse of [`Self::gather`], for this group's images alone.
    pub fn scatter(&self, lanes: &[f32]) -> Vec<f32> {
        let plan = self.plan();
        let channels = self.call.job.program.layout.channels();
        let (line, width) = (plan.line(), plan.columns * channels);
        let mut cells = vec![0f32; lanes.len()];
        let rows = cells.par_chunks_exact_mut(width).enumerate();
        rows.with_min_len(PIECE.div_ceil(width)).for_each(|(at, cells)| {
            let (i, y) = (at / plan.height, at % plan.height);
            let lanes = &lanes[y * line..][..line];
            for (x, cell) in cells.chunks_exact_mut(channels).enumerate() {
                for (c, value) in cell.iter_mut().enumerate() {
                    *value = lanes[c * plan.row() + x * plan.images + i];
                }
            }
        });
        cells
    }
}
