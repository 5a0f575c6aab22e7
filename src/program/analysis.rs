//! What every engine asks of a program: which values are needed, and where; through which gradients flow;
//! which are the same in every step, or as long as a cell does not change.

use super::{Attention, Op, Program};
use crate::grid::Padding;

impl Program {
    /// The nodes that `outputs` depend on, themselves included, without those that only `given` nodes depend
    /// on.
    pub(crate) fn needed(&self, outputs: &[usize], given: &[usize]) -> Vec<bool> {
        let mut needed = vec![false; self.nodes.len()];
        outputs.iter().for_each(|&n| needed[n] = true);
        for n in (0..needed.len()).rev() {
            if needed[n] && !given.contains(&n) {
                let inputs = self.nodes[n].op.inputs().into_iter();
                inputs.for_each(|x| needed[x] = true);
            }
        }
        needed
    }

    /// The values that are needed at every cell, not only where a cell fires: they are read by a neighbour,
    /// or by a value that is itself needed at every cell.
    pub(crate) fn dense(&self, needed: &[bool], given: &[usize]) -> Vec<bool> {
        let mut dense = vec![false; self.nodes.len()];
        for (n, node) in self.nodes.iter().enumerate().rev() {
            if !needed[n] || given.contains(&n) {
                continue;
            }
            let all = dense[n] || node.op.padding().is_some();
            for x in node.op.inputs() {
                // A query that only one attention reads is not read at neighbours. If it comes from a linear
                // layer, it is computed only for cells that fire.
                let query = matches!(node.op, Op::Attention(of) if of.q == x && of.k != x && of.v != x);
                let sum =
                    matches!(self.nodes[x].op, Op::Add { a, b } if self.is_linear(a) || self.is_linear(b));
                let own = query && (self.is_linear(x) || sum) && !dense[n] && self.only_reader(x).is_some();
                dense[x] |= all && !own;
            }
        }
        dense
    }

    /// The nodes through which gradients flow to the cells, if `cells`, or to a `trained` parameter.
    pub(crate) fn differentiable(&self, cells: bool, trained: &[bool]) -> Vec<bool> {
        let mut differentiable: Vec<bool> = vec![];
        for node in &self.nodes {
            let is_wanted = cells && matches!(node.op, Op::Cells);
            let own = is_wanted || node.op.params().iter().any(|&param| trained[param]);
            let inherited = node.op.inputs().into_iter().any(|x| differentiable[x]);
            differentiable.push(own || inherited);
        }
        differentiable
    }

    /// The nodes, in order, that are worth computing once a rollout, before its first step: functions of
    /// constants and of input channels, which never change, that cost a linear layer. Cells must not die.
    pub(crate) fn hoisted(&self) -> Vec<usize> {
        let mut never_changes: Vec<bool> = vec![];
        // The first channel of a node that is a slice of the cells.
        let mut parts: Vec<Option<usize>> = vec![];
        for node in &self.nodes {
            let part = if let Op::Slice { x, start } = node.op {
                parts[x].map(|first| first + start)
            } else {
                matches!(node.op, Op::Cells).then_some(0)
            };
            parts.push(part);
            never_changes.push(match part {
                Some(first) => first + node.width <= self.layout.input,
                None => node.op.is_cellwise() && node.op.inputs().into_iter().all(|x| never_changes[x]),
            });
        }
        let needed = self.needed(&[self.update], &[]);
        let mut read = vec![false; self.nodes.len()];
        read[self.whole(self.update)] = true;
        for n in (0..self.nodes.len()).filter(|&n| needed[n] && !never_changes[n]) {
            let inputs = self.nodes[n].op.inputs().into_iter();
            inputs.for_each(|x| read[self.whole(x)] = true);
        }
        let costs = self.costs_linear();
        let worth = |&n: &usize| never_changes[n] && costs[n] && read[n];
        (0..self.nodes.len()).filter(worth).collect()
    }

    /// The nodes, in order, that are worth caching from step to step until their cell fires again: values of
    /// a cell alone that neighbours read or that cost a linear layer, given the `hoisted` ones. None where
    /// that would not save a linear layer. Cells must not die.
    pub(crate) fn cached(&self, hoisted: &[usize]) -> Vec<usize> {
        let nodes = &self.nodes;
        let needed = self.needed(&[self.update], hoisted);
        let dense = self.dense(&needed, hoisted);
        let is_leaf = |n: usize| matches!(nodes[n].op, Op::Cells | Op::Constant(_)) || hoisted.contains(&n);
        let whole = |n: usize| self.whole(n);
        let mut cellwise: Vec<bool> = vec![];
        for node in nodes {
            cellwise.push(node.op.is_cellwise() && node.op.inputs().into_iter().all(|x| cellwise[x]));
        }
        // For each value: whether some reader is not cellwise or not needed at every cell, and whether a
        // reader that is not cellwise needs it at every cell.
        let (mut read, mut everywhere) = (vec![false; nodes.len()], vec![false; nodes.len()]);
        for (n, node) in nodes.iter().enumerate().filter(|(n, _)| needed[*n]) {
            let all = dense[n] || node.op.padding().is_some();
            for x in node.op.inputs().into_iter().map(whole) {
                read[x] |= !(cellwise[n] && all);
                everywhere[x] |= !cellwise[n] && all;
            }
        }
        let mut cached: Vec<usize> = vec![];
        for n in (0..nodes.len()).filter(|&n| cellwise[n] && dense[n] && read[n] && !is_leaf(n)) {
            let mut inputs = nodes[n].op.inputs().into_iter().map(whole);
            let at_hand = inputs.all(|x| is_leaf(x) || cached.contains(&x));
            // A value that only cells that fire need, one cheap operation away from cached ones, is computed
            // there.
            if everywhere[n] || self.is_linear(n) || !at_hand {
                cached.push(n);
            }
        }
        let costs = self.costs_linear();
        match cached.iter().any(|&n| costs[n]) {
            true => cached,
            false => vec![],
        }
    }

    /// The padding of the attentions that read the given node `n`, if all its readers are attentions that
    /// take it as keys or values with one padding.
    pub(crate) fn key_value_padding(&self, given: &[usize], n: usize) -> Option<Padding> {
        let needed = self.needed(&[self.update], given);
        let (mut parts, mut found) = (vec![n], None);
        for m in (n + 1..needed.len()).filter(|&m| needed[m] && !given.contains(&m)) {
            let op = &self.nodes[m].op;
            let reads = |x: &usize| parts.contains(x);
            if !op.inputs().iter().any(reads) {
                continue;
            }
            if let Op::Attention(Attention { q, padding, .. }) = *op {
                if reads(&q) || found.is_some_and(|other| other != padding) {
                    return None;
                }
                found = Some(padding);
            } else if matches!(op, Op::Slice { .. }) {
                parts.push(m);
            } else {
                return None;
            }
        }
        found
    }

    /// The nodes of constants, and their parameters.
    pub(crate) fn constants(&self) -> impl Iterator<Item = (usize, usize)> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter(|(_, node)| matches!(node.op, Op::Constant(_)))
            .flat_map(|(n, node)| {
                let params = node.op.params().into_iter();
                params.map(move |param| (n, param))
            })
    }

    /// The only operation that reads a node; `None` if there are several or none.
    pub(crate) fn only_reader(&self, node: usize) -> Option<usize> {
        let reads = |&other: &usize| self.nodes[other].op.inputs().contains(&node);
        let mut readers = (node + 1..self.nodes.len()).filter(reads);
        readers.next().filter(|_| readers.next().is_none())
    }

    pub(crate) fn is_linear(&self, n: usize) -> bool {
        matches!(self.nodes[n].op, Op::Linear { .. })
    }

    /// The node that a slice is taken of; the node itself if it is no slice.
    fn whole(&self, mut n: usize) -> usize {
        while let Op::Slice { x, .. } = self.nodes[n].op {
            n = x;
        }
        n
    }

    /// For each node, whether it or anything that it is computed from is a linear layer.
    fn costs_linear(&self) -> Vec<bool> {
        let mut costs: Vec<bool> = vec![];
        for (n, node) in self.nodes.iter().enumerate() {
            costs.push(self.is_linear(n) || node.op.inputs().into_iter().any(|x| costs[x]));
        }
        costs
    }
}
