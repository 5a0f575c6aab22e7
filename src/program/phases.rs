//! Where a step is cut because cells read neighbours.
//!
//! A cell can compute by itself until it reads a value that a neighbour computes. So a list of operations is
//! cut into *phases*: a phase computes from a cell's own values and from values that earlier phases
//! *published*. Published are all values that a later phase reads at neighbours. The cells before the step,
//! tables and the gradient of the update are published from the start. A GPU engine runs each phase as one
//! kernel.
//!
//! The number of phases is minimal. Within that, values of a program are computed as late as possible, so
//! that the fewest have to be stored or recomputed (the queries of an attention come after its keys and
//! values). Gradients are computed as early as possible, with the sums over cells that read them.

use super::adjoint::{Adjoint, AdjointOp};
use super::{Op, Program};

/// An input of an operation, and how many cells away it is read: 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub node: usize,
    pub halo: usize,
}

impl Read {
    /// Read at the cell alone.
    pub fn own(node: usize) -> Self {
        Self { node, halo: 0 }
    }

    /// Read at the nine cells around each cell.
    pub fn near(node: usize) -> Self {
        Self { node, halo: 1 }
    }

    /// What an operation of a program reads.
    pub fn of(op: &Op) -> Vec<Self> {
        let read = |node| Self {
            node,
            halo: op.halo(node),
        };
        op.inputs().into_iter().map(read).collect()
    }
}

/// A part of a step that each cell computes by itself; at neighbours it reads only published values. Nodes
/// are listed in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Phase {
    /// The nodes that it computes: each reads given nodes, nodes of earlier phases, or earlier nodes of this
    /// phase.
    pub computes: Vec<usize>,
    /// Those of them that later phases read at neighbours.
    pub publishes: Vec<usize>,
    /// The values that it reads at neighbours: given, or published by earlier phases.
    pub gathers: Vec<usize>,
    /// The values of earlier phases that it reads at the cell itself: to be stored or recomputed, unless they
    /// are published anyway.
    pub carried: Vec<usize>,
}

/// Everything that the cut into phases depends on, node by node. Inputs have smaller numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wiring {
    pub reads: Vec<Vec<Read>>,
    /// Whether a node may be read anywhere from the start. It is in no phase.
    pub given: Vec<bool>,
    /// Whether a node is computed as early as possible rather than as late as possible.
    pub early: Vec<bool>,
    /// The nodes that are wanted. Nodes that they do not depend on are in no phase.
    pub outputs: Vec<usize>,
}

impl Wiring {
    /// The phases, in order: at least one.
    pub fn phases(&self) -> Vec<Phase> {
        let needed = self.needed();
        let computed = |n: &usize| needed[*n] && !self.given[*n];
        let phase_of = self.phase_of(&needed);
        let nodes = || (0..self.reads.len()).filter(computed);
        let count = 1 + nodes().map(|n| phase_of[n]).max().unwrap_or(0);
        let phase = |phase: usize| {
            let of_phase = |n: &usize| phase_of[*n] == phase;
            let reads = |halo: usize| {
                let read = nodes().filter(of_phase).flat_map(|n| &self.reads[n]);
                ascending(read.filter(move |read| read.halo == halo).map(|read| read.node))
            };
            let read_elsewhere = nodes().flat_map(|n| &self.reads[n]).filter(|read| read.halo > 0);
            let read_elsewhere = read_elsewhere.map(|read| read.node);
            let mut carried = reads(0);
            carried.retain(|n| !self.given[*n] && phase_of[*n] < phase);
            Phase {
                computes: nodes().filter(of_phase).collect(),
                publishes: ascending(read_elsewhere.filter(computed).filter(of_phase)),
                gathers: reads(1),
                carried,
            }
        };
        (0..count).map(phase).collect()
    }

    /// For each node, whether the outputs depend on it.
    fn needed(&self) -> Vec<bool> {
        let mut needed = vec![false; self.reads.len()];
        self.outputs.iter().for_each(|&n| needed[n] = true);
        for n in (0..needed.len()).rev().filter(|&n| !self.given[n]) {
            if needed[n] {
                self.reads[n].iter().for_each(|read| needed[read.node] = true);
            }
        }
        needed
    }

    /// The phase of each needed node; 0 for a given one.
    fn phase_of(&self, needed: &[bool]) -> Vec<usize> {
        let mut earliest = vec![0; self.reads.len()];
        for n in (0..earliest.len()).filter(|&n| !self.given[n]) {
            let after = |read: &Read| match self.given[read.node] {
                true => 0,
                false => earliest[read.node] + read.halo,
            };
            earliest[n] = self.reads[n].iter().map(after).max().unwrap_or(0);
        }
        let mut phase_of = earliest.clone();
        let mut latest: Vec<Option<usize>> = vec![None; self.reads.len()];
        for &output in &self.outputs {
            latest[output] = Some(earliest[output]);
        }
        for n in (0..phase_of.len()).rev().filter(|&n| needed[n] && !self.given[n]) {
            if let (false, Some(latest)) = (self.early[n], latest[n]) {
                phase_of[n] = latest;
            }
            for read in &self.reads[n] {
                let before = phase_of[n].saturating_sub(read.halo);
                let latest = &mut latest[read.node];
                *latest = Some(latest.map_or(before, |latest| latest.min(before)));
            }
        }
        phase_of
    }
}

/// The numbers in ascending order, each once.
fn ascending(numbers: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut numbers: Vec<usize> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Whether the result of an operation can be read anywhere from the start: cells, a table, or a slice of
/// them.
fn is_given(op: &Op, given: &[bool]) -> bool {
    match op {
        Op::Cells | Op::Constant(_) => true,
        Op::Slice { x, start: _ } => given[*x],
        Op::Concat(parts) => parts.iter().all(|&part| given[part]),
        Op::Linear { .. }
        | Op::Neighbourhood { .. }
        | Op::SumTaps { .. }
        | Op::Depthwise { .. }
        | Op::LayerNorm { .. }
        | Op::RmsNorm { .. }
        | Op::InverseRms { .. }
        | Op::Map { .. }
        | Op::Add { .. }
        | Op::Mul { .. }
        | Op::Affine { .. }
        | Op::Attention(_)
        | Op::Dropout { .. } => false,
    }
}

impl Program {
    /// The phases of a forward step, up to the update.
    pub(crate) fn phases(&self) -> Vec<Phase> {
        self.wiring().phases()
    }

    fn wiring(&self) -> Wiring {
        let mut wiring = Wiring {
            outputs: vec![self.update],
            ..Wiring::default()
        };
        for node in &self.nodes {
            wiring.reads.push(Read::of(&node.op));
            wiring.given.push(is_given(&node.op, &wiring.given));
            wiring.early.push(false);
        }
        wiring
    }
}

impl Adjoint {
    /// The phases of a backward step, in which the values of the step are recomputed.
    pub(crate) fn phases(&self) -> Vec<Phase> {
        self.wiring().phases()
    }

    fn wiring(&self) -> Wiring {
        let mut wiring = Wiring {
            outputs: self.cells.into_iter().collect(),
            ..Wiring::default()
        };
        for (n, node) in self.nodes.iter().enumerate() {
            let (reads, is_seed) = (node.op.reads(), matches!(node.op, AdjointOp::Seed));
            if matches!(node.op, AdjointOp::Weight { .. }) {
                wiring.outputs.push(n);
            }
            // Gradients, but no value that is a function of the state alone.
            let early = is_seed || reads.iter().any(|read| wiring.early[read.node]);
            let given = match node.op {
                AdjointOp::Ordinary(ref op) => is_given(op, &wiring.given),
                AdjointOp::Seed => true,
                AdjointOp::Embed(_)
                | AdjointOp::Slope { .. }
                | AdjointOp::Dot { .. }
                | AdjointOp::LinearTransposed { .. }
                | AdjointOp::MirroredTaps { .. }
                | AdjointOp::MirroredNeighbourhood { .. }
                | AdjointOp::MirroredDepthwise { .. }
                | AdjointOp::Normalised { .. }
                | AdjointOp::NormalisedGradient { .. }
                | AdjointOp::InverseRmsGradient { .. }
                | AdjointOp::Shares { .. }
                | AdjointOp::ProductGradients { .. }
                | AdjointOp::WeightedSum { .. }
                | AdjointOp::WeightedGather { .. }
                | AdjointOp::Weight { .. } => false,
            };
            wiring.reads.push(reads);
            wiring.given.push(given);
            wiring.early.push(early);
        }
        wiring
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use candle_core::DType;

    use super::super::test_programs::{Case, library};
    use super::{Adjoint, Phase, Program, Wiring};

    fn adjoint(program: &Program, cells: bool) -> Adjoint {
        Adjoint::new(program, cells, &vec![true; program.params.len()])
    }

    /// Cells read neighbours once in Growing, texture and VNCA, at nine taps in NAFCA, at the wide
    /// channels of a gated NCA, at keys and values in each block of ViTCA; in the backward pass each of these
    /// is gathered once more.
    #[test]
    fn transitions_have_as_few_phases_as_can_be() {
        for Case { what, program, .. } in library((5, 6), DType::F32) {
            let (forwards, backwards) = match what.split(' ').next() {
                Some("growing" | "texture" | "vnca") => (1, 2),
                Some("nafca" | "gated") => (2, 3),
                Some("vitca") if what.ends_with('1') => (2, 3),
                Some("vitca") => (3, 5),
                _ => panic!("{what} is not known here"),
            };
            assert_eq!(program.phases().len(), forwards, "{what}");
            assert_eq!(adjoint(&program, true).phases().len(), backwards, "{what}");
            if forwards == 1 {
                assert_eq!(adjoint(&program, false).phases().len(), 1, "{what}");
            }
        }
    }

    /// The channels that each phase publishes.
    fn published(phases: &[Phase], width: impl Fn(usize) -> usize) -> Vec<Vec<usize>> {
        let widths = |phase: &Phase| phase.publishes.iter().map(|&n| width(n)).collect();
        phases.iter().map(widths).collect()
    }

    #[test]
    fn transitions_publish_the_least() {
        for Case { what, program, .. } in library((5, 6), DType::F32) {
            let adjoint = adjoint(&program, true);
            let forwards = published(&program.phases(), |n| program.nodes[n].width);
            let backwards = published(&adjoint.phases(), |n| adjoint.nodes[n].width);
            if what.starts_with("nafca") {
                assert_eq!(forwards, [vec![9], vec![]], "{what}");
                assert_eq!(backwards, [vec![9], vec![1], vec![]], "{what}");
            } else if what == "vitca 1" {
                // Keys and values; then queries, gradients of heads, shares, and gradients of products.
                assert_eq!(forwards, [vec![9, 9], vec![]], "{what}");
                assert_eq!(backwards, [vec![9, 9], vec![9, 9, 27, 27], vec![]], "{what}");
                // Queries come late, so that the first phase computes only what keys and values need.
                let [first, second] = &program.phases()[..] else {
                    panic!("{what}")
                };
                assert!(second.carried.iter().all(|n| first.computes.contains(n)));
                assert!(second.computes.len() > first.computes.len(), "{what}");
            } else if what.starts_with("texture") {
                assert!(forwards.concat().is_empty(), "{what}");
            }
        }
    }

    /// The fewest phases that must precede the phase of a node: one for each time that neighbours are read on
    /// the way to it.
    fn depth(wiring: &Wiring, n: usize, known: &mut Vec<Option<usize>>) -> usize {
        if let Some(depth) = known[n] {
            return depth;
        }
        let mut most = 0;
        for read in wiring.reads[n].iter().filter(|read| !wiring.given[read.node]) {
            most = most.max(depth(wiring, read.node, known) + read.halo);
        }
        known[n] = Some(most);
        most
    }

    fn needed(wiring: &Wiring, n: usize, needed: &mut BTreeSet<usize>) {
        if !wiring.given[n] && needed.insert(n) {
            wiring.reads[n]
                .iter()
                .for_each(|read| self::needed(wiring, read.node, needed));
        }
    }

    fn assert_phases(what: &str, wiring: &Wiring) {
        let phases = wiring.phases();
        let mut all_needed = BTreeSet::new();
        wiring
            .outputs
            .iter()
            .for_each(|&n| needed(wiring, n, &mut all_needed));
        let mut computed: Vec<usize> = phases.iter().flat_map(|phase| phase.computes.clone()).collect();
        computed.sort_unstable();
        assert_eq!(
            computed,
            all_needed.into_iter().collect::<Vec<_>>(),
            "{what}: each once"
        );

        let known = &mut vec![None; wiring.reads.len()];
        let deepest = computed
            .iter()
            .map(|&n| depth(wiring, n, known))
            .max()
            .unwrap_or(0);
        assert_eq!(phases.len(), deepest + 1, "{what}: as few as can be");

        let (mut earlier, mut published) = (BTreeSet::new(), BTreeSet::new());
        for (p, phase) in phases.iter().enumerate() {
            let (mut gathered, mut carried, mut here) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            for &n in &phase.computes {
                for read in &wiring.reads[n] {
                    let (x, given) = (read.node, wiring.given[read.node]);
                    if read.halo > 0 {
                        assert!(
                            given || published.contains(&x),
                            "{what}: phase {p} sees {x} at neighbours"
                        );
                        gathered.insert(x);
                    } else if !given && !here.contains(&x) {
                        assert!(earlier.contains(&x), "{what}: phase {p} has no {x}");
                        carried.insert(x);
                    }
                }
                here.insert(n);
            }
            let of = |set: BTreeSet<usize>| set.into_iter().collect::<Vec<_>>();
            assert_eq!(phase.gathers, of(gathered), "{what}: phase {p}");
            assert_eq!(phase.carried, of(carried), "{what}: phase {p}");
            assert!(
                phase.publishes.iter().all(|n| here.contains(n)),
                "{what}: phase {p}"
            );
            for n in &phase.publishes {
                let is_read = phases[p + 1..].iter().any(|later| later.gathers.contains(n));
                assert!(is_read, "{what}: nobody reads {n} at neighbours");
            }
            published.extend(phase.publishes.iter().copied());
            earlier.append(&mut here);
        }
    }

    #[test]
    fn no_phase_reads_at_neighbours_what_it_computes() {
        let mut most = 0;
        for seed in 0..400 {
            let Case { what, program, .. } = Case::random(seed, (4, 3), DType::F32);
            assert_phases(&what, &program.wiring());
            for cells in [true, false] {
                let adjoint = adjoint(&program, cells);
                assert_phases(&what, &adjoint.wiring());
                most = most.max(adjoint.phases().len());
            }
        }
        for Case { what, program, .. } in library((4, 3), DType::F32) {
            assert_phases(&what, &program.wiring());
            assert_phases(&what, &adjoint(&program, true).wiring());
        }
        assert!(most > 6, "random programs read neighbours {most} times at most");
    }
}
