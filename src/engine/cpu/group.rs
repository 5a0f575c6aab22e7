//! Groups of images that go through a rollout side by side in the lanes.

use std::ops::Range;

use rayon::prelude::*;

use crate::engine::{Job, Precision};
use crate::program::Op;

use super::PIECE;
use super::compiled::{Bound, Stage};
use super::given::GivenValues;
use super::kernels::{arch, gemm_bf16};
use super::plan::Plan;
use super::step::StepContext;
use super::taps::Taps;

/// A rollout with the values of its weights: what all groups share.
pub(super) struct Call<'a> {
    pub job: &'a Job,
    /// All parameters, one after the other.
    params: &'a [f32],
    /// Of each parameter that is the matrix of a linear layer, that matrix and its transpose as the product in bf16
    /// takes them; nothing in f32.
    packed: Vec<[Vec<u32>; 2]>,
}

impl<'a> Call<'a> {
    pub fn new(job: &'a Job, params: &'a [f32]) -> Self {
        let mut call = Self {
            job,
            params,
            packed: vec![],
        };
        if job.task.precision == Precision::Bf16 && gemm_bf16::is_native(arch()) {
            call.pack();
        }
        call
    }

    fn pack(&mut self) {
        self.packed = vec![[vec![], vec![]]; self.job.program.params.len()];
        for node in &self.job.program.nodes {
            let Op::Linear { weight, .. } = node.op else {
                continue;
            };
            if let [output, input] = *self.job.program.params[weight].dims() {
                let values = self.param(weight);
                self.packed[weight] = [
                    gemm_bf16::pack(values, (input, 1), (output, input)),
                    gemm_bf16::pack(values, (1, input), (input, output)),
                ];
            }
        }
    }

    pub fn param(&self, param: usize) -> &'a [f32] {
        &self.params[self.job.range(param)]
    }

    /// A matrix, or its transpose, for the product in bf16.
    pub fn packed(&self, param: usize, transposed: bool) -> Option<&[u32]> {
        Some(self.packed.get(param)?[usize::from(transposed)].as_slice())
    }
}

/// A group of images and how the program runs on it.
pub(super) struct Group<'a> {
    pub call: &'a Call<'a>,
    pub bound: &'a Bound,
    pub images: Range<usize>,
    /// Its place among the groups, and how many there are.
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

    /// The group's cells, of `[B, H, W, C]`, as `[H, C, W, images]`: rows lie together, and lanes in them.
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
