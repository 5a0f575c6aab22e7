//! One plan at one step of a group: where its values lie.

use std::ops::Range;

use crate::grid::Padding;

use super::alive::{alive, near};
use super::buffers::Buffer;
use super::call::Call;
use super::draws::fired;
use super::given::GivenValues;
use super::kernels::compact::Picked;
use super::kernels::halo::Window;
use super::kernels::{LANES, View};
use super::plan::{Domain, Plan, Work};
use super::scratch::Scratch;
use super::taps::Taps;

/// One plan at one step of a group.
pub(super) struct StepContext<'a> {
    pub call: &'a Call<'a>,
    pub plan: &'a Plan,
    /// For each node of the plan, its taps if it is a stencil.
    pub taps: &'a [Option<Taps>],
    /// Index of the group's first image in the batch.
    pub first_image: usize,
    pub step: usize,
    pub given: GivenValues<'a>,
}

/// Which lanes take their update in a step, and which are alive before it; `None` where all are. A lane that
/// is dead before stays dead, but its update may keep one beside it alive.
pub(super) struct Firing {
    pub fires: Option<Vec<bool>>,
    pub alive: Option<Vec<bool>>,
}

/// The state before a step, and which lanes fire in it.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    pub state: &'a [f32],
    pub firing: &'a Firing,
}

/// A band of rows and its lanes that fire, counted from the band's first.
pub(super) struct Band<'a> {
    pub rows: &'a Range<usize>,
    pub picked: Option<Picked>,
}

impl<'b> Band<'b> {
    /// A band, and which of its lanes `lanes` (of the grid) picks; all if `None`.
    pub fn new(plan: &Plan, rows: &'b Range<usize>, lanes: Option<&[bool]>) -> Self {
        let row = plan.row();
        let lanes = lanes.map(|lanes| &lanes[rows.start * row..rows.end * row]);
        Self {
            rows,
            picked: lanes.map(Picked::new),
        }
    }

    /// Number of lanes that are computed.
    pub fn lanes(&self, row: usize) -> usize {
        match &self.picked {
            Some(picked) => picked.index.len(),
            None => self.rows.len() * row,
        }
    }

    /// Whether any lane takes an update.
    pub fn fires(&self) -> bool {
        self.picked.as_ref().is_none_or(|picked| !picked.index.is_empty())
    }
}

impl StepContext<'_> {
    /// Which lanes take their update.
    pub fn firing(&self, state: &[f32]) -> Firing {
        let (plan, job) = (self.plan, self.call.job);
        let lanes = plan.height * plan.row();
        let mut fires = fired(&job.task, self.step, self.first_image, plan.images, lanes);
        let rule = &job.program.alive;
        let alive = rule.as_ref().map(|rule| alive(rule, plan, state));
        if let (Some(rule), Some(alive)) = (rule, &alive) {
            let near = near(rule, plan, alive);
            match &mut fires {
                Some(fires) => fires.iter_mut().zip(near).for_each(|(f, near)| *f &= near),
                None => fires = Some(near),
            }
        }
        Firing { fires, alive }
    }

    /// A value from its `start`-th lane.
    pub fn view<'b>(&'b self, scratch: &'b Scratch, node: usize, start: usize) -> View<'b> {
        let planned = &self.plan.nodes[node];
        let root = planned.root;
        let own = scratch.values[root].as_deref();
        if let (None, Work::Given { slot }) = (own, &self.plan.nodes[root].work) {
            let stride = self.plan.grid_stride();
            let lane = scratch.origins[root] + start;
            let data = self.given.plain(*slot).unwrap_or_default();
            let data = &data[planned.channel * stride + lane..];
            return View { data, stride };
        }
        let stride = self.plan.stride(root);
        let buffer = own.unwrap_or_default();
        View {
            data: &buffer[planned.channel * stride + start..],
            stride,
        }
    }

    /// The view of value `x`, in which a single channel is broadcast to any `width`.
    pub fn broadcast<'b>(&self, x: usize, width: usize, view: View<'b>) -> View<'b> {
        match self.plan.nodes[x].width {
            1 if width > 1 => View { stride: 0, ..view },
            _ => view,
        }
    }

    /// Zeros for a root of the plan.
    pub fn zeroed(&self, scratch: &mut Scratch, root: usize) -> Buffer {
        let len = self.plan.nodes[root].width * self.plan.stride(root);
        let mut buffer = scratch.take(len + LANES);
        buffer[..len].fill(0.0);
        buffer
    }

    /// The lane of input `x` at which the lanes of a value with a halo of `halo` rows begin.
    pub fn start(&self, x: usize, halo: usize, band: &Band<'_>) -> usize {
        match self.plan.nodes[x].domain {
            Domain::Fired => 0,
            Domain::Rows(own) => {
                let (there, _) = self.plan.span(own, band.rows);
                let (here, _) = self.plan.span(halo, band.rows);
                (here - there) as usize * self.plan.row()
            }
        }
    }

    /// Number of lanes of a node, and the rows around the band that it covers.
    pub fn lanes(&self, node: usize, band: &Band<'_>) -> (usize, usize) {
        match self.plan.nodes[node].domain {
            Domain::Fired => (band.lanes(self.plan.row()), 0),
            Domain::Rows(halo) => (self.plan.span(halo, band.rows).1 * self.plan.row(), halo),
        }
    }

    /// The rows of `node`, and those of its inputs that they read.
    pub fn window(&self, node: usize, band: &Band<'_>, padding: Padding) -> Window {
        let (plan, halo) = (self.plan, self.plan.halo_of(node));
        Window {
            computed: plan.span(halo, band.rows),
            read: plan.span(halo + 1, band.rows),
            whole: plan.bands.len() == 1,
            height: plan.height,
            padding,
        }
    }

    /// Returns the buffers of a band to the scratch memory, and gradients that accumulated in place to their
    /// owner.
    pub fn release(&self, scratch: &mut Scratch) {
        for (n, slot) in self.plan.given().filter(|(n, _)| scratch.in_place[*n]) {
            if let (Some(grad), Some(all)) = (scratch.grads[n].take(), &mut scratch.given_grads) {
                *all.of(slot) = grad;
            }
        }
        scratch.clear(self.plan.nodes.len());
    }
}
