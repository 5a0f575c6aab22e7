//! How a program is run on a grid: which values are computed on which rows and lanes, in what order.

use std::ops::Range;

use crate::grid::Padding;
use crate::program::{Lowered, Node, Op, Program, last_uses};

use super::kernels::{LANES, ViewMut};

/// What a node of a plan does.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// An operation of the program, its inputs renumbered.
    Op(Op),
    /// The lanes of input `x` that fire, one after the other.
    Compress { x: usize },
    /// The inverse: the lanes of `x` at their places, 0 where none fired.
    Expand { x: usize },
    /// A given value on the whole grid, by its number: first the program's constants, in its order, then
    /// hoisted values, then cached values.
    Given { slot: usize },
}

/// Where the lanes of a value lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Domain {
    /// All lanes of a band's rows and of this many rows on either side.
    Rows(usize),
    /// The lanes of a band that fire.
    Fired,
}

#[derive(Clone, Debug)]
pub(super) struct PlanNode {
    pub work: Work,
    pub width: usize,
    pub domain: Domain,
    /// The node in whose buffer this value lies, and from which channel: itself unless it is a slice.
    pub root: usize,
    pub channel: usize,
    /// Whether a gradient flows through it.
    pub differentiable: bool,
    /// For a linear layer: whether the ReLU that comes after it is fused into it.
    pub relu: bool,
    /// For a linear layer: the other operand of the sum that is fused into it.
    pub addend: Option<usize>,
    /// Whether this product is fused into the linear layer that it is added to, and never stored.
    pub fused: bool,
    /// Whether the backward pass does not need its values: it is an output and a linear layer that no other
    /// node reads.
    pub forward_only: bool,
    /// For a given value: whether bands may accumulate its gradient in place with identical bits, because
    /// there is only one band, or each band adds to a channel once.
    pub in_place: bool,
    /// The roots whose buffers this node is the last to read.
    pub last_use_of: Vec<usize>,
}

/// A program on grids of one size, for a group of images side by side in the lanes.
///
/// Lanes are numbered `(row * columns + column) * images + image`: the lanes of small images lie
/// together, so that even an 8x8 grid fills vectors.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub nodes: Vec<PlanNode>,
    /// What is computed: the update, or hoisted or cached values.
    pub outputs: Vec<usize>,
    pub height: usize,
    pub columns: usize,
    pub images: usize,
    pub bands: Vec<Range<usize>>,
    /// Ranges of bands whose gradients are summed separately, however many threads there are.
    pub strips: Vec<Range<usize>>,
    /// The largest halo of a value.
    pub halo: usize,
    wraps: bool,
    band_rows: usize,
}

/// Floats that the values of a band may take in inference, where few are held at a time: half of a
/// second-level cache of 2 MiB. In training, where all are held, larger bands pay: halos are a smaller part
/// of them.
const BAND_FLOATS: usize = 1 << 18;
/// Most strips of a grid.
const STRIPS: usize = 8;

/// What plans are made for.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    pub program: &'a Program,
    /// Height and columns.
    pub grid: (usize, usize),
    pub images: usize,
    /// Whether lanes that do not fire are skipped where no neighbour reads their values.
    pub sparse: bool,
    /// Through which nodes of the program gradients flow.
    pub differentiable: &'a [bool],
    /// Whether values are held for a backward pass.
    pub training: bool,
}

impl Plan {
    /// A step, given the values of some nodes.
    pub fn of_step(setting: Setting<'_>, given: &[usize]) -> Self {
        let program = setting.program;
        let needed = program.needed(&[program.update], given);
        let dense = match setting.sparse {
            true => program.dense(&needed, given),
            false => vec![true; program.nodes.len()],
        };
        Self::new(setting, (&needed, &dense), given, &[program.update])
    }

    /// The values of the nodes `outputs`, given those of the nodes `given`.
    pub fn of_values(setting: Setting<'_>, outputs: &[usize], given: &[usize]) -> Self {
        let needed = setting.program.needed(outputs, given);
        let dense = vec![false; needed.len()];
        Self::new(setting, (&needed, &dense), given, outputs)
    }

    fn new(
        setting: Setting<'_>,
        (needed, dense): (&[bool], &[bool]),
        given: &[usize],
        outputs: &[usize],
    ) -> Self {
        let program = setting.program;
        let (height, columns) = setting.grid;
        let circular = |node: &Node| node.op.padding() == Some(Padding::Circular);
        let mut present = program.nodes.iter().zip(needed);
        let mut plan = Self {
            nodes: vec![],
            outputs: vec![],
            height,
            columns,
            images: setting.images,
            bands: vec![],
            strips: vec![],
            halo: 0,
            wraps: present.any(|(node, needed)| *needed && circular(node)),
            band_rows: height,
        };
        plan.place(setting, (needed, dense), given, outputs);
        plan.find_halos();
        plan.find_last_uses();
        plan.find_forward_only();
        plan.cut(setting.training);
        plan.find_in_place();
        plan
    }

    /// Lanes of a row.
    pub fn row(&self) -> usize {
        self.columns * self.images
    }

    /// Floats of all cells of a row of the grid, channel by channel.
    pub fn line(&self) -> usize {
        self.nodes[0].width * self.row()
    }

    /// Distance in floats between the channels of a node's buffer.
    pub fn stride(&self, node: usize) -> usize {
        let rows = match self.nodes[node].domain {
            Domain::Rows(halo) if self.bands.len() > 1 => self.band_rows + 2 * halo,
            Domain::Rows(_) | Domain::Fired => self.band_rows,
        };
        padded(rows * self.row())
    }

    /// Rows on either side of a band on which a value is computed.
    pub fn halo_of(&self, node: usize) -> usize {
        match self.nodes[node].domain {
            Domain::Rows(halo) => halo,
            Domain::Fired => 0,
        }
    }

    /// What a step adds to cells.
    pub fn update(&self) -> usize {
        self.outputs[0]
    }

    /// Distance in floats between the channels of a whole grid.
    pub fn grid_stride(&self) -> usize {
        padded(self.height * self.row())
    }

    /// Channels of a whole grid from a lane on.
    pub fn on_grid<'a>(&self, grid: &'a mut [f32], lane: usize) -> ViewMut<'a> {
        ViewMut {
            data: &mut grid[lane..],
            stride: self.grid_stride(),
        }
    }

    /// Runs of lanes of a value, on a band and its halo, that are contiguous on the grid: the first lane in
    /// the value, the first lane on the grid, and the number of lanes.
    pub fn runs(&self, node: usize, band: &Range<usize>) -> Vec<(usize, usize, usize)> {
        let ((start, count), row) = (self.span(self.halo_of(node), band), self.row());
        match usize::try_from(start) {
            Ok(start) if start + count <= self.height => vec![(0, start * row, count * row)],
            _ => {
                let on_grid = |r: usize| (start + r as isize).rem_euclid(self.height as isize) as usize;
                (0..count).map(|r| (r * row, on_grid(r) * row, row)).collect()
            }
        }
    }

    /// The rows of each strip of a grid of cells, and the number of its first row.
    pub fn parts<'a>(&self, grid: &'a mut [f32]) -> Vec<(&'a mut [f32], usize)> {
        let mut rest = grid;
        let part = |strip: &Range<usize>| {
            let (first, end) = (self.bands[strip.start].start, self.bands[strip.end - 1].end);
            let (part, after) = std::mem::take(&mut rest).split_at_mut((end - first) * self.line());
            rest = after;
            (part, first)
        };
        self.strips.iter().map(part).collect()
    }

    /// The nodes that are given, and their numbers.
    pub fn given(&self) -> impl Iterator<Item = (usize, usize)> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter_map(|(n, node)| match node.work {
            Work::Given { slot } => Some((n, slot)),
            Work::Op(_) | Work::Compress { .. } | Work::Expand { .. } => None,
        })
    }

    /// First row and number of rows of a value on a band and `halo` rows around it.
    pub fn span(&self, halo: usize, band: &Range<usize>) -> (isize, usize) {
        if self.bands.len() == 1 {
            return (0, self.height);
        }
        let (mut start, mut end) = (
            band.start as isize - halo as isize,
            band.end as isize + halo as isize,
        );
        if !self.wraps {
            (start, end) = (start.max(0), end.min(self.height as isize));
        }
        (start, (end - start) as usize)
    }

    /// The nodes in the order of the program, with the compressions and expansions that they need.
    fn place(
        &mut self,
        setting: Setting<'_>,
        (needed, dense): (&[bool], &[bool]),
        given: &[usize],
        outputs: &[usize],
    ) {
        let program = setting.program;
        let mut numbers: Vec<usize> = Vec::with_capacity(program.nodes.len());
        let mut compressed: Vec<Option<usize>> = vec![None; program.nodes.len()];
        let lowered = program.lower((needed, dense), given, outputs);
        for (n, lowered) in lowered.into_iter().enumerate() {
            let (width, differentiable) = (program.nodes[n].width, setting.differentiable[n]);
            let fused = match lowered {
                Lowered::Absent => {
                    numbers.push(usize::MAX);
                    continue;
                }
                Lowered::Given(slot) => {
                    let root = (self.nodes.len(), 0);
                    self.push(Work::Given { slot }, width, Domain::Rows(0), root, differentiable);
                    numbers.push(root.0);
                    continue;
                }
                Lowered::Computed(fused) => fused,
            };
            let (mut op, added) = (fused.op, fused.addend);
            let is_dense = if let Op::Slice { x, .. } = op {
                self.nodes[numbers[x]].domain != Domain::Fired
            } else {
                matches!(op, Op::Cells) || dense[n] || op.padding().is_some()
            };
            let domain = if is_dense { Domain::Rows(0) } else { Domain::Fired };
            let mut renumber = |x: usize| {
                let input = numbers[x];
                match (is_dense, self.nodes[input].domain) {
                    (true, Domain::Rows(_)) | (false, Domain::Fired) => input,
                    (true, Domain::Fired) => self.expand(input),
                    (false, Domain::Rows(_)) => *compressed[x].get_or_insert_with(|| self.compress(input)),
                }
            };
            op.renumber(&mut renumber);
            let addend = added.map(&mut renumber);
            if let (Some(x), Some(addend)) = (added, addend) {
                self.nodes[addend].fused = fused.scales && numbers[x] == addend;
            }
            let is_layer = |x: usize| matches!(self.nodes[x].work, Work::Op(Op::Linear { .. }));
            let own = (self.nodes.len(), 0);
            let mut root = own;
            if let Op::Slice { x, start } = op {
                root = (self.nodes[x].root, self.nodes[x].channel + start);
            } else if let Op::Map { x, .. } = op
                && fused.relu
                && is_layer(x)
            {
                self.nodes[x].relu = true;
                root = (x, 0);
            }
            self.push(Work::Op(op), width, domain, root, differentiable);
            self.nodes[own.0].addend = addend;
            numbers.push(own.0);
        }
        for &output in outputs {
            let mut output = numbers[output];
            // An output that is a slice of the cells, or given, is copied out.
            let root = self.nodes[output].root;
            let on_grid = root == 0 || matches!(self.nodes[root].work, Work::Given { .. });
            if on_grid || setting.sparse && self.nodes[output].domain != Domain::Fired {
                output = self.compress(output);
            }
            self.outputs.push(output);
        }
    }

    fn compress(&mut self, x: usize) -> usize {
        let (width, through) = (self.nodes[x].width, self.nodes[x].differentiable);
        let root = (self.nodes.len(), 0);
        self.push(Work::Compress { x }, width, Domain::Fired, root, through);
        self.nodes.len() - 1
    }

    fn expand(&mut self, x: usize) -> usize {
        let (width, through) = (self.nodes[x].width, self.nodes[x].differentiable);
        let root = (self.nodes.len(), 0);
        self.push(Work::Expand { x }, width, Domain::Rows(0), root, through);
        self.nodes.len() - 1
    }

    fn push(
        &mut self,
        work: Work,
        width: usize,
        domain: Domain,
        (root, channel): (usize, usize),
        differentiable: bool,
    ) {
        self.nodes.push(PlanNode {
            work,
            width,
            domain,
            root,
            channel,
            differentiable,
            relu: false,
            addend: None,
            fused: false,
            forward_only: false,
            in_place: false,
            last_use_of: vec![],
        });
    }

    /// How many rows around a band each value is needed on.
    fn find_halos(&mut self) {
        for n in (0..self.nodes.len()).rev() {
            let own = self.halo_of(n);
            for x in self.nodes[n].inputs() {
                let distance = match &self.nodes[n].work {
                    Work::Op(op) => op.halo(x),
                    Work::Compress { .. } | Work::Expand { .. } | Work::Given { .. } => 0,
                };
                for x in [x, self.nodes[x].root] {
                    if let Domain::Rows(halo) = &mut self.nodes[x].domain {
                        *halo = (*halo).max(own + distance);
                    }
                }
            }
        }
        for n in 0..self.nodes.len() {
            self.nodes[n].domain = self.nodes[self.nodes[n].root].domain;
        }
        let haloes = (0..self.nodes.len()).map(|n| self.halo_of(n));
        self.halo = haloes.max().unwrap_or(0);
    }

    fn find_last_uses(&mut self) {
        let reads = self.nodes.iter().map(|node| {
            let of_fused = |x: usize| match self.nodes[x].fused {
                // The factors of a fused product are read where it is added.
                true => self.nodes[x].inputs(),
                false => vec![],
            };
            let inputs = node.inputs().into_iter();
            let all = inputs.flat_map(|x| [vec![x], of_fused(x)].concat());
            all.map(|x| self.nodes[x].root).collect()
        });
        let mut last = last_uses(reads);
        // The cells are needed to the end, when the update is added to them.
        last[0] = usize::MAX;
        for &output in &self.outputs {
            last[self.nodes[output].root] = usize::MAX;
        }
        for (root, &n) in last.iter().enumerate() {
            if self.nodes[root].root == root && n != usize::MAX {
                self.nodes[n].last_use_of.push(root);
            }
        }
    }

    fn find_forward_only(&mut self) {
        for &n in &self.outputs {
            let read = self.nodes.iter().any(|node| node.inputs().contains(&n));
            let node = &mut self.nodes[n];
            node.forward_only = matches!(node.work, Work::Op(Op::Linear { .. })) && !node.relu && !read;
        }
    }

    fn find_in_place(&mut self) {
        for n in 0..self.nodes.len() {
            let is_given = matches!(self.nodes[n].work, Work::Given { .. }) && self.nodes[n].differentiable;
            let in_pieces = self.wraps && self.halo_of(n) > 0;
            self.nodes[n].in_place = is_given && (self.bands.len() == 1 || !in_pieces && self.adds_once(n));
        }
    }

    /// Whether a band adds at most once to the gradient of each channel of a given value.
    fn adds_once(&self, given: usize) -> bool {
        let mut taken = vec![false; self.nodes[given].width];
        for node in &self.nodes {
            let once = matches!(node.work, Work::Compress { .. } | Work::Op(Op::Attention(_)));
            for x in node.inputs().into_iter().filter(|&x| self.nodes[x].root == given) {
                if matches!(node.work, Work::Op(Op::Slice { .. })) {
                    continue;
                }
                let x = &self.nodes[x];
                let channels = &mut taken[x.channel..x.channel + x.width];
                if !once || channels.contains(&true) {
                    return false;
                }
                channels.fill(true);
            }
        }
        true
    }

    /// Cuts the grid into bands of rows whose values stay in the cache.
    fn cut(&mut self, training: bool) {
        let (channels, size) = match training {
            // The backward pass needs all values.
            true => (
                (0..self.nodes.len()).map(|n| self.own_channels(n)).sum(),
                4 * BAND_FLOATS,
            ),
            false => (self.most_alive(), BAND_FLOATS),
        };
        let floats: usize = channels * self.row();
        let rows = (size / floats.max(1)).saturating_sub(2 * self.halo);
        // Halos are computed twice, so bands have to be larger than halos.
        let rows = rows.max(4 * self.halo).max(LANES.div_ceil(self.row()));
        let bands = self.height.div_ceil(rows.clamp(1, self.height));
        self.band_rows = self.height.div_ceil(bands);
        self.bands = (0..self.height)
            .step_by(self.band_rows)
            .map(|start| start..self.height.min(start + self.band_rows))
            .collect();
        let each = self.bands.len().div_ceil(STRIPS);
        self.strips = (0..self.bands.len())
            .step_by(each)
            .map(|start| start..self.bands.len().min(start + each))
            .collect();
    }

    /// The most channels whose values are needed at the same time.
    fn most_alive(&self) -> usize {
        let (mut now, mut most) = (0, 0);
        for (n, node) in self.nodes.iter().enumerate() {
            now += self.own_channels(n);
            most = most.max(now);
            let done = node.last_use_of.iter();
            now -= done.map(|&root| self.own_channels(root)).sum::<usize>();
        }
        most
    }

    /// Floats of a step's trace.
    pub fn trace_floats(&self) -> usize {
        let of_node = |(n, node): (usize, &PlanNode)| (node.width + node.saved_channels()) * self.stride(n);
        let nodes = self.nodes.iter().enumerate();
        let band: usize = nodes.filter(|(_, node)| node.traced()).map(of_node).sum();
        band * self.bands.len()
    }

    /// Channels of a node that take memory of a band: 0 if it is given, fused, or part of another node's
    /// buffer.
    fn own_channels(&self, n: usize) -> usize {
        let node = &self.nodes[n];
        let elsewhere = matches!(node.work, Work::Given { .. }) || node.root != n || node.fused;
        if elsewhere { 0 } else { node.width }
    }
}

impl PlanNode {
    /// Channels that the node saves for the backward pass besides its values.
    fn saved_channels(&self) -> usize {
        match &self.work {
            Work::Compress { .. } | Work::Expand { .. } | Work::Given { .. } => 0,
            Work::Op(op) => match op {
                Op::Attention(of) => 9 * of.heads,
                Op::Dropout { .. } => self.width,
                Op::Cells
                | Op::Constant(_)
                | Op::Slice { .. }
                | Op::Concat(_)
                | Op::Linear { .. }
                | Op::Neighbourhood { .. }
                | Op::SumTaps { .. }
                | Op::Depthwise { .. }
                | Op::LayerNorm { .. }
                | Op::RmsNorm { .. }
                | Op::InverseRms { .. }
                | Op::Map { .. }
                | Op::Add { .. }
                | Op::Mul { .. }
                | Op::Affine { .. } => 0,
            },
        }
    }

    /// Whether its values may be stored for the backward pass: they are needed there, and cost more to
    /// recompute than to write and read.
    pub fn traced(&self) -> bool {
        let costs = matches!(self.work, Work::Op(Op::Linear { .. } | Op::Attention(_)));
        costs && !self.forward_only
    }

    /// The factors of a fused product: a value, and a single channel that scales all of its channels.
    pub fn factors(&self) -> Option<(usize, usize)> {
        if let Work::Op(Op::Mul { a, b }) = self.work
            && self.fused
        {
            return Some((a, b));
        }
        None
    }

    pub fn inputs(&self) -> Vec<usize> {
        match &self.work {
            Work::Op(op) => op.inputs().into_iter().chain(self.addend).collect(),
            Work::Compress { x } | Work::Expand { x } => vec![*x],
            Work::Given { .. } => vec![],
        }
    }
}

/// A channel stride with room for whole vectors that spreads channels over the cache's sets.
fn padded(lanes: usize) -> usize {
    let lines = (lanes + LANES).div_ceil(LANES);
    (lines | 1) * LANES
}
