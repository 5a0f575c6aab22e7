//! Fusion: which sums and ReLUs are fused into the linear layer before them, and when a value is read for the
//! last time. Nothing here depends on the layout in memory.

use super::{Function, Op, Program};

/// How a node of a program is lowered.
#[derive(Clone, Debug)]
pub(crate) enum Lowered {
    /// It is not computed by itself: nothing needs it, or it is computed with the sum that is fused into it.
    Absent,
    /// It is given, by its number: first the constants of the program, then the other given nodes.
    Given(usize),
    /// It is computed.
    Computed(Fused),
}

/// An operation with what is fused into it; inputs are nodes of the program.
#[derive(Clone, Debug)]
pub(crate) struct Fused {
    /// The node's own operation, or, for a sum, the linear layer that the sum is fused into.
    pub op: Op,
    /// The other operand of a sum that is fused into a linear layer.
    pub addend: Option<usize>,
    /// Whether the addend may be fused as well: it is a product with a single channel, and nothing else reads
    /// it.
    pub scales: bool,
    /// Whether the operation is a ReLU that is fused into the linear layer before it.
    pub relu: bool,
}

impl Program {
    /// Lowers every node, where the nodes `given` are at hand and `outputs` are wanted. Constants are always
    /// given.
    pub(crate) fn lower(
        &self,
        (needed, dense): (&[bool], &[bool]),
        given: &[usize],
        outputs: &[usize],
    ) -> Vec<Lowered> {
        let wanted = |n: usize| given.contains(&n) || outputs.contains(&n) || n == self.update;
        let constants: Vec<usize> = self.constants().map(|(n, _)| n).collect();
        // The linear layer that a sum is fused into.
        let layer_of = |sum: usize| -> Option<usize> {
            let Op::Add { a, b } = self.nodes[sum].op else {
                return None;
            };
            [b, a].into_iter().find(|&x| {
                let alone = self.only_reader(x) == Some(sum) && a != b && !wanted(x);
                self.is_linear(x) && alone && dense[x] == dense[sum] && !given.contains(&sum)
            })
        };
        let mut lowered: Vec<Lowered> = Vec::with_capacity(self.nodes.len());
        for (n, node) in self.nodes.iter().enumerate() {
            let slot = constants.iter().chain(given).position(|&given| given == n);
            if let Some(slot) = slot.filter(|_| needed[n] || given.contains(&n)) {
                lowered.push(Lowered::Given(slot));
                continue;
            }
            let comes_with_sum = |reader: usize| needed[reader] && layer_of(reader) == Some(n);
            let comes_with_sum = self.is_linear(n) && self.only_reader(n).is_some_and(comes_with_sum);
            // The cells are always needed: the update is added to them.
            if !needed[n] && n > 0 || comes_with_sum {
                lowered.push(Lowered::Absent);
                continue;
            }
            let layer = layer_of(n);
            let addend = layer.and_then(|layer| node.op.inputs().into_iter().find(|&x| x != layer));
            let is_layer = |x: usize| match &lowered[x] {
                Lowered::Computed(fused) => matches!(fused.op, Op::Linear { .. }),
                Lowered::Absent | Lowered::Given(_) => false,
            };
            lowered.push(Lowered::Computed(Fused {
                scales: addend
                    .is_some_and(|x| !wanted(x) && self.only_reader(x) == Some(n) && self.scales(x)),
                addend,
                relu: matches!(
                    node.op,
                    Op::Map { x, function: Function::Relu }
                        if self.only_reader(x).is_some() && x != self.update && is_layer(x)
                ),
                op: layer.map_or(&node.op, |layer| &self.nodes[layer].op).clone(),
            }));
        }
        lowered
    }

    /// Whether a node multiplies all channels of a value by a single channel.
    fn scales(&self, n: usize) -> bool {
        matches!(self.nodes[n].op, Op::Mul { b, .. } if self.nodes[b].width == 1 && self.nodes[n].width > 1)
    }
}

/// For each value the last operation that reads it, or itself if none does; `reads` are the values that each
/// operation reads.
pub(crate) fn last_uses(reads: impl ExactSizeIterator<Item = Vec<usize>>) -> Vec<usize> {
    let mut last: Vec<usize> = (0..reads.len()).collect();
    for (n, values) in reads.enumerate() {
        values.into_iter().for_each(|x| last[x] = n);
    }
    last
}
