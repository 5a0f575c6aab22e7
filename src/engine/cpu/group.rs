//! Groups of images that go through a rollout side by side in the lanes, and what all groups of one size share.

use std::ops::Range;

use rayon::prelude::*;

use crate::grid::Padding;

use super::PIECE;
use super::buffers::Buffer;
use super::forward::{Given, Shared, StepOf};
use super::plan::Plan;
use super::taps::Prepared;

/// A plan and what its nodes need.
pub(super) struct Ready {
    pub plan: Plan,
    pub prepared: Vec<Prepared>,
}

/// Values of a program that are kept from step to step.
pub(super) struct Stage {
    pub ready: Ready,
    /// Of each, the border if it is kept spread out.
    pub borders: Vec<Option<Padding>>,
}

/// How a program runs on groups of one size: a step, and the values that it is given, as far as there are any.
pub(super) struct Plans {
    pub step: Ready,
    /// Those that never change.
    pub fixed: Option<Stage>,
    /// Those that change where a cell does, given the fixed ones.
    pub standing: Option<Stage>,
    /// The constants of the program on all lanes of the grid.
    pub tables: Vec<Vec<f32>>,
}

/// A group of images and how the program runs on it.
pub(super) struct Group<'a> {
    pub shared: &'a Shared<'a>,
    pub step: &'a Ready,
    pub fixed: Option<&'a Stage>,
    pub standing: Option<&'a Stage>,
    pub tables: &'a [Vec<f32>],
    pub images: Range<usize>,
    /// Its place among the groups, and how many there are.
    pub number: usize,
    pub count: usize,
    /// Whether strips of the grid run on threads of their own.
    pub parallel: bool,
}

impl<'a> Group<'a> {
    /// A step of the whole program, given its standing values.
    pub fn at(&self, step: usize) -> StepOf<'a> {
        self.of(self.step, step)
    }

    /// Some of its values at a step.
    pub fn of(&self, ready: &'a Ready, step: usize) -> StepOf<'a> {
        StepOf {
            shared: self.shared,
            plan: &ready.plan,
            prepared: &ready.prepared,
            first: self.images.start,
            step,
            given: Given {
                tables: self.tables,
                fixed: &[],
                standing: &[],
            },
        }
    }

    /// Room for the gradients of constants on all lanes; of those that have none, nothing.
    pub fn table_grads(&self) -> Vec<Buffer> {
        let grad = |((_, param), table): ((usize, usize), &Vec<f32>)| {
            let mut grad = Buffer::default();
            if self.shared.trained[param] {
                grad.at_least(table.len());
            }
            grad
        };
        self.shared
            .program
            .constants()
            .zip(self.tables)
            .map(grad)
            .collect()
    }

    /// Most strips that run at the same time.
    pub fn strips(&self) -> usize {
        let strips = |of: &Stage| of.ready.plan.strips.len();
        let (fixed, standing) = (self.fixed.map_or(0, strips), self.standing.map_or(0, strips));
        self.step.plan.strips.len().max(standing).max(fixed)
    }

    /// The group's cells, of `[B, H, W, C]`, as `[H, C, W, images]`: rows lie together, and lanes in them.
    pub fn gather(&self, cells: &[f32]) -> Vec<f32> {
        let plan = &self.step.plan;
        let channels = self.shared.program.layout.channels();
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

    /// The way back, to this group's images alone.
    pub fn scatter(&self, lanes: &[f32]) -> Vec<f32> {
        let plan = &self.step.plan;
        let channels = self.shared.program.layout.channels();
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
