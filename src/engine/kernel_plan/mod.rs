//! How one direction of a step becomes kernels of a GPU, in whatever language they are written: which values
//! are computed where, and where they lie.
//!
//! A phase is one kernel. Values of its cells lie near to the cores (in CUDA in shared memory, in WGSL in an
//! invocation's own), in *slots*; values that another kernel reads, and values too wide for slots, lie in
//! device memory, in *scratch*. A function of each channel alone that is read once is computed where it is
//! read, so that it is stored nowhere; if what it is a function of is a matrix product, it is computed on the
//! product's sums. Where the language asks for it, so is what only another product reads: a hidden layer.

mod operations;
mod packing;
mod slots;

use std::collections::BTreeSet;

use crate::program::{Adjoint, AdjointNode, AdjointOp, Op, Phase, Program, Read};
use operations::{Kind, aligned, is_wide, kind, vanishes};
pub(super) use packing::Offset;
pub(crate) use packing::Packing;

/// Where the value of a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Home {
    /// Nowhere: nothing reads it.
    Absent,
    /// The cells before the step, a constant, or the gradient of the update.
    Given,
    /// Some channels of other values: read there.
    Moved,
    /// Computed where it is read.
    Inline,
    /// Computed and stored.
    Stored {
        /// Whether other kernels read it, or its own has no room: the first channel in scratch.
        scratch: Option<usize>,
    },
}

impl Home {
    /// The first channel of a value in scratch, if it is there.
    pub fn scratch(self) -> Option<usize> {
        match self {
            Self::Stored { scratch } => scratch,
            Self::Absent | Self::Given | Self::Moved | Self::Inline => None,
        }
    }
}

/// What an emission computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Target {
    Node(usize),
    /// The result of the direction: the cells after the step, or their gradient.
    Result,
}

/// The place of a value near to the cores: its first float for a cell, and floats for a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Slot {
    pub first: usize,
    pub pitch: usize,
}

/// One loop of a kernel.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Emission {
    pub target: Target,
    /// The matrix product on whose sums the target is computed.
    pub product: Option<usize>,
    pub slot: Option<Slot>,
}

/// The kernel of a phase.
#[derive(Clone, Debug)]
pub(in crate::engine) struct PhaseKernel {
    pub emissions: Vec<Emission>,
    /// Whether it computes only where cells fire.
    pub only_firing: bool,
    /// Floats of all slots for each cell.
    pub floats: usize,
    /// The values of earlier phases that it reads.
    pub reads: Vec<usize>,
}

/// One direction of a step.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Plan {
    pub nodes: Vec<AdjointNode>,
    pub homes: Vec<Home>,
    /// The product that a value is computed on.
    pub product: Vec<Option<usize>>,
    /// The node that the result adds.
    pub result: Option<usize>,
    pub phases: Vec<PhaseKernel>,
    /// Channels in scratch.
    pub scratch: usize,
}

/// The room that kernels have.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Room {
    /// Floats of all slots for each cell.
    pub floats: usize,
    /// Widest product whose input is not stored, if only it reads it: each channel of the input is added to
    /// all sums at once. 0 where every input is stored.
    pub streamed: usize,
}

impl Plan {
    /// A step: the result is the cells after it.
    pub fn forward(program: &Program, room: Room) -> Self {
        let nodes = program.nodes.iter().map(|node| AdjointNode {
            op: AdjointOp::Ordinary(node.op.clone()),
            width: node.width,
        });
        Layout::new(nodes.collect(), program.phases(), Some(program.update), (room, 0)).plan()
    }

    /// The gradient of a step: the result is the gradient of the cells before it. The gradient of the update
    /// comes first in scratch.
    pub fn backward(adjoint: &Adjoint, updated: usize, room: Room) -> Self {
        Layout::new(
            adjoint.nodes.clone(),
            adjoint.phases(),
            adjoint.cells,
            (room, updated),
        )
        .plan()
    }
}

/// The values in scratch or slots, or given, that a value consists of.
fn roots(nodes: &[AdjointNode], homes: &[Home], node: usize) -> Vec<usize> {
    match homes[node] {
        Home::Moved => {
            let reads = nodes[node].op.reads().into_iter();
            reads.flat_map(|read| roots(nodes, homes, read.node)).collect()
        }
        Home::Absent | Home::Given | Home::Inline | Home::Stored { .. } => vec![node],
    }
}

/// How values are read.
#[derive(Clone, Debug, Default)]
struct Use {
    /// The operations that read it, once for each time, with the number of the result for the last.
    readers: Vec<usize>,
    /// Whether a matrix product reads it.
    by_product: bool,
    /// Whether a sum over cells reads it.
    by_weight: bool,
}

struct Layout {
    nodes: Vec<AdjointNode>,
    phases: Vec<Phase>,
    phase_of: Vec<Option<usize>>,
    result: Option<usize>,
    /// The phase that ends with the result.
    last: usize,
    uses: Vec<Use>,
    homes: Vec<Home>,
    /// The product that an inline value is computed on.
    product: Vec<Option<usize>>,
    room: Room,
    scratch: usize,
}

impl Layout {
    fn new(
        nodes: Vec<AdjointNode>,
        phases: Vec<Phase>,
        result: Option<usize>,
        (room, scratch): (Room, usize),
    ) -> Self {
        let mut phase_of = vec![None; nodes.len()];
        for (p, phase) in phases.iter().enumerate() {
            phase.computes.iter().for_each(|&n| phase_of[n] = Some(p));
        }
        let mut layout = Self {
            last: result.and_then(|n| phase_of[n]).unwrap_or(0),
            uses: vec![Use::default(); nodes.len()],
            homes: vec![Home::Absent; nodes.len()],
            product: vec![None; nodes.len()],
            nodes,
            phases,
            phase_of,
            result,
            room,
            scratch,
        };
        layout.count_uses();
        layout.choose_homes();
        layout
    }

    /// Of nodes that some phase computes, and of the result.
    fn count_uses(&mut self) {
        for (n, node) in self.nodes.iter().enumerate() {
            if self.phase_of[n].is_none() {
                continue;
            }
            let is_weight = matches!(node.op, AdjointOp::Weight { .. });
            let by_product = matches!(kind(&node.op), Kind::Product);
            for Read { node: x, halo: _ } in node.op.reads() {
                let of = &mut self.uses[x];
                of.readers.push(n);
                of.by_product |= by_product;
                of.by_weight |= is_weight;
            }
        }
        if let Some(result) = self.result {
            self.uses[result].readers.push(self.nodes.len());
        }
    }

    fn choose_homes(&mut self) {
        let shared = self.shared();
        for n in 0..self.nodes.len() {
            let kind = kind(&self.nodes[n].op);
            let computed = self.phase_of[n].is_some();
            self.product[n] = match kind {
                Kind::Product => Some(n),
                Kind::Channelwise if computed => self.choose_product(&aligned(&self.nodes[n].op)),
                Kind::Given | Kind::Move | Kind::Channelwise | Kind::Reduction | Kind::Sum => None,
            };
            let AdjointNode { ref op, width } = self.nodes[n];
            self.homes[n] = match kind {
                Kind::Given => Home::Given,
                Kind::Sum => Home::Absent,
                Kind::Move if self.is_moved(n) => Home::Moved,
                Kind::Move | Kind::Channelwise | Kind::Product | Kind::Reduction if !computed => Home::Absent,
                Kind::Channelwise if is_wide(op, width) && self.only_products_read(n) => Home::Inline,
                Kind::Channelwise | Kind::Product if self.is_read_once(n, &shared) => Home::Inline,
                Kind::Channelwise | Kind::Product if self.is_streamed(n, &shared) => Home::Inline,
                Kind::Move | Kind::Channelwise | Kind::Product | Kind::Reduction => {
                    Home::Stored { scratch: None }
                }
            };
        }
        for n in shared {
            for root in roots(&self.nodes, &self.homes, n) {
                self.put_in_scratch(root);
            }
        }
    }

    fn put_in_scratch(&mut self, node: usize) {
        if self.homes[node] == (Home::Stored { scratch: None }) {
            self.homes[node] = Home::Stored {
                scratch: Some(self.scratch),
            };
            self.scratch += self.nodes[node].width;
        }
    }

    /// Of the values that an operation reads channel by channel, the last that is computed on a product's
    /// sums becomes the one whose product it is computed on as well. All others have to be stored.
    fn choose_product(&mut self, operands: &[usize]) -> Option<usize> {
        let mut inline: Vec<usize> = operands.to_vec();
        inline.retain(|&x| self.homes[x] == Home::Inline && self.product[x].is_some());
        inline.sort_unstable();
        inline.dedup();
        let chosen = inline.pop();
        inline
            .into_iter()
            .for_each(|x| self.homes[x] = Home::Stored { scratch: None });
        chosen.and_then(|x| self.product[x])
    }

    /// The nodes that other kernels read: at neighbours, in later phases, or for the gradients of weights.
    fn shared(&self) -> BTreeSet<usize> {
        let mut shared = BTreeSet::new();
        for (n, node) in self.nodes.iter().enumerate() {
            let Some(phase) = self.phase_of[n] else { continue };
            let is_weight = matches!(node.op, AdjointOp::Weight { .. });
            for Read { node: x, halo } in node.op.reads() {
                let elsewhere = halo > 0 || is_weight || self.phase_of[x].is_some_and(|of| of < phase);
                if elsewhere && !self.is_given(x) {
                    shared.insert(x);
                }
            }
        }
        shared
    }

    fn is_given(&self, n: usize) -> bool {
        kind(&self.nodes[n].op) == Kind::Given
    }

    /// Whether channels of other values are read where they lie. Products and sums over cells read faster, or
    /// only, what lies together.
    fn is_moved(&self, n: usize) -> bool {
        let is_slice = matches!(self.nodes[n].op, AdjointOp::Ordinary(Op::Slice { .. }));
        let of = &self.uses[n];
        is_slice || self.phase_of[n].is_none() || !(of.by_product || of.by_weight)
    }

    /// Whether only products and their gradients read a value.
    fn only_products_read(&self, n: usize) -> bool {
        let by_product = |&reader: &usize| match self.nodes.get(reader).map(|node| &node.op) {
            Some(AdjointOp::Weight { sum, .. }) => sum.is_outer(),
            Some(op) => kind(op) == Kind::Product,
            None => false,
        };
        self.uses[n].readers.iter().all(by_product)
    }

    /// Whether a value is read once, channel by channel, in its own phase.
    fn is_read_once(&self, n: usize, shared: &BTreeSet<usize>) -> bool {
        let [reader] = self.uses[n].readers[..] else {
            return false;
        };
        if shared.contains(&n) {
            return false;
        }
        match self.nodes.get(reader) {
            None => self.phase_of[n] == Some(self.last),
            Some(node) => {
                let same = self.phase_of[reader] == self.phase_of[n];
                let is_part = kind(&node.op) == Kind::Move && !self.is_moved(reader);
                same && (aligned(&node.op).contains(&n) || is_part && self.product[n].is_none())
            }
        }
    }

    /// Whether one product alone reads a value, in its own phase, so that it may add one channel after the
    /// other to its sums. What the value is computed on is stored then, or it would be computed many times.
    fn is_streamed(&self, n: usize, shared: &BTreeSet<usize>) -> bool {
        let [reader] = self.uses[n].readers[..] else {
            return false;
        };
        let Some(node) = self.nodes.get(reader).filter(|_| !shared.contains(&n)) else {
            return false;
        };
        let is_product = kind(&node.op) == Kind::Product && self.phase_of[reader] == self.phase_of[n];
        let is_stored = |product: usize| {
            let mut reads = self.nodes[product].op.reads().into_iter();
            reads.all(|read| self.homes[read.node] != Home::Inline)
        };
        is_product && node.width <= self.room.streamed && self.product[n].is_none_or(is_stored)
    }

    /// The kernels. What does not fit in slots is put in scratch, the widest values first.
    fn plan(mut self) -> Plan {
        let phases = (0..self.phases.len()).map(|p| self.kernel(p)).collect();
        Plan {
            nodes: self.nodes,
            homes: self.homes,
            product: self.product,
            result: self.result,
            phases,
            scratch: self.scratch,
        }
    }

    fn kernel(&mut self, p: usize) -> PhaseKernel {
        let mut targets: Vec<Target> = vec![];
        for &n in &self.phases[p].computes {
            if matches!(self.homes[n], Home::Stored { .. }) {
                targets.push(Target::Node(n));
            }
        }
        if p == self.last && self.result.is_some() {
            targets.push(Target::Result);
        }
        let only_firing = self.only_firing(p);
        let mut spilled: BTreeSet<usize> = BTreeSet::new();
        loop {
            let values: Vec<slots::Value> = targets
                .iter()
                .enumerate()
                .map(|(at, &target)| self.value(at, target, &targets, &spilled))
                .collect();
            let (slots, floats) = slots::allocate(&values);
            let widest = (0..values.len())
                .filter(|&at| slots[at].is_some())
                .max_by_key(|&at| values[at].width);
            if let (true, Some(widest)) = (floats > self.room.floats, widest) {
                if let Target::Node(n) = targets[widest] {
                    self.put_in_scratch(n);
                    spilled.insert(n);
                }
                continue;
            }
            let emission = |(&target, slot)| Emission {
                target,
                product: match target {
                    Target::Node(n) => self.product[n],
                    Target::Result => self.result.and_then(|n| match self.homes[n] {
                        Home::Inline => self.product[n],
                        Home::Absent | Home::Given | Home::Moved | Home::Stored { .. } => None,
                    }),
                },
                slot,
            };
            return PhaseKernel {
                emissions: targets.iter().zip(slots).map(emission).collect(),
                only_firing,
                floats,
                reads: self.reads_of_earlier(p),
            };
        }
    }

    fn reads_of_earlier(&self, p: usize) -> Vec<usize> {
        let mut found = BTreeSet::new();
        for &n in &self.phases[p].computes {
            if self.homes[n] == Home::Absent {
                continue;
            }
            for Read { node, .. } in self.nodes[n].op.reads() {
                let roots = roots(&self.nodes, &self.homes, node).into_iter();
                found.extend(roots.filter(|&root| self.phase_of[root].is_some_and(|of| of < p)));
            }
        }
        found.into_iter().collect()
    }

    /// What the allocation of slots needs to know of emission `at`.
    fn value(
        &self,
        at: usize,
        target: Target,
        targets: &[Target],
        spilled: &BTreeSet<usize>,
    ) -> slots::Value {
        let Target::Node(n) = target else {
            return slots::Value::default();
        };
        let reads = |&later: &usize| self.reads_of(targets[later]).contains(&n);
        let last = (at + 1..targets.len()).rev().find(reads);
        slots::Value {
            width: self.nodes[n].width,
            last_read: last.filter(|_| !spilled.contains(&n)),
        }
    }

    /// The stored values that an emission reads at its own rows.
    fn reads_of(&self, target: Target) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        match target {
            Target::Node(n) => self.leaves_of_reads(n, &mut found),
            Target::Result => self.result.into_iter().for_each(|n| self.leaves(n, &mut found)),
        }
        found
    }

    fn leaves(&self, n: usize, found: &mut BTreeSet<usize>) {
        match self.homes[n] {
            Home::Absent | Home::Given => {}
            Home::Moved | Home::Inline => self.leaves_of_reads(n, found),
            Home::Stored { .. } => {
                found.insert(n);
            }
        }
    }

    fn leaves_of_reads(&self, n: usize, found: &mut BTreeSet<usize>) {
        let own = self.nodes[n].op.reads().into_iter().filter(|read| read.halo == 0);
        own.for_each(|read| self.leaves(read.node, found));
    }

    /// Whether a phase need compute only where cells fire: nothing that it leaves in scratch differs from 0
    /// elsewhere, or is read there.
    fn only_firing(&self, p: usize) -> bool {
        let is_backward = self.nodes.iter().any(|node| matches!(node.op, AdjointOp::Seed));
        if !is_backward {
            return p == self.last && self.phases[p].publishes.is_empty();
        }
        let vanishing = self.vanishing();
        let is_shared = |n: &usize| self.homes[*n].scratch().is_some();
        let mut shared = self.phases[p].computes.iter().copied().filter(is_shared);
        let result = self.result.filter(|_| p == self.last);
        shared.all(|n| self.is_confined(n, p, &vanishing)) && result.is_none_or(|n| vanishing[n])
    }

    /// The values that are 0 where the gradient of the update is, whatever the cells are.
    fn vanishing(&self) -> Vec<bool> {
        let mut vanishing: Vec<bool> = vec![];
        for node in &self.nodes {
            vanishing.push(vanishes(&node.op, &vanishing));
        }
        vanishing
    }

    /// Whether a value vanishes where no cell fires, or is read there only as factor of one that does.
    fn is_confined(&self, n: usize, p: usize, vanishing: &[bool]) -> bool {
        let confines = |&reader: &usize| match self.nodes.get(reader).map(|node| &node.op) {
            None => true,
            Some(AdjointOp::Weight { sum, .. }) => sum.is_factor(n, vanishing),
            Some(_) if self.homes[reader] == Home::Moved => self.is_confined(reader, p, vanishing),
            Some(op) => {
                let is_near = |read: &Read| read.node == n && read.halo > 0;
                self.phase_of[reader] == Some(p) && !op.reads().iter().any(is_near)
            }
        };
        vanishing[n] || self.uses[n].readers.iter().all(confines)
    }
}
