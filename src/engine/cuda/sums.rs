//! The gradients of weights: which sums over cells they are, and how each is shared out to blocks.

use super::layout::{Base, RawJob, RawTerm, SumKind};
use crate::engine::kernel_plan::{Home, Packing, Plan};
use crate::grid::Padding;
use crate::program::{AdjointOp, CellSum, Op};

/// The neighbour that is the cell itself.
const ITSELF: usize = 4;

/// Where channels of a value lie, that of a neighbour.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Its first channel in the value that it is a piece of.
    channel: usize,
    width: usize,
    base: Base,
    /// In scratch, channels before the value; of a constant, its parameter.
    at: usize,
    first: usize,
    pitch: usize,
    near: usize,
    padding: Padding,
}

/// One sum over cells: the gradient of a part of a parameter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sum {
    kind: SumKind,
    a: Piece,
    b: Option<Piece>,
    /// Of taps: filters a channel, and how many the first channel lacks.
    filters: usize,
    skip: usize,
    param: usize,
    /// Where the part begins in the parameter, and elements between its rows.
    offset: usize,
    pitch: usize,
    rows: usize,
    columns: usize,
}

impl Sum {
    /// Multiplications of a matrix product a cell; 0 for another sum.
    pub fn multiplications(&self) -> usize {
        match self.kind {
            SumKind::Outer => self.rows * self.columns,
            SumKind::Channelwise | SumKind::Products | SumKind::Taps | SumKind::Images => 0,
        }
    }

    /// Floats that it reads a cell, each once.
    pub fn floats(&self) -> usize {
        self.a.width + self.b.map_or(0, |b| b.width)
    }
}

/// The sums that a backward step adds to.
pub(super) fn sums(plan: &Plan) -> Vec<Sum> {
    let mut sums = vec![];
    for node in &plan.nodes {
        if let AdjointOp::Weight { param, sum } = &node.op {
            of_weight(plan, *param, sum, &mut sums);
        }
    }
    // One kernel runs the products, another the rest.
    sums.sort_by_key(|sum| sum.kind != SumKind::Outer);
    sums
}

fn of_weight(plan: &Plan, param: usize, sum: &CellSum, sums: &mut Vec<Sum>) {
    let width = |n: usize| plan.nodes[n].width;
    let of = |kind, a: Piece, b, offset, pitch, rows, columns| Sum {
        kind,
        a,
        b,
        filters: 1,
        skip: 0,
        param,
        offset,
        pitch,
        rows,
        columns,
    };
    match *sum {
        CellSum::Outer { dy, x } => {
            for a in pieces(plan, dy) {
                for b in pieces(plan, x) {
                    let offset = a.channel * width(x) + b.channel;
                    sums.push(of(SumKind::Outer, a, Some(b), offset, width(x), a.width, b.width));
                }
            }
        }
        CellSum::Channels { x } => {
            for a in pieces(plan, x) {
                sums.push(of(SumKind::Channelwise, a, None, a.channel, 1, a.width, 1));
            }
        }
        CellSum::Products { a, b } => {
            for a in pieces(plan, a) {
                for b in pieces(plan, b) {
                    let start = a.channel.max(b.channel);
                    let end = (a.channel + a.width).min(b.channel + b.width);
                    if start < end {
                        let from = |piece: Piece| Piece {
                            first: piece.first + start - piece.channel,
                            ..piece
                        };
                        let (a, b) = (from(a), from(b));
                        sums.push(of(SumKind::Products, a, Some(b), start, 1, end - start, 1));
                    }
                }
            }
        }
        CellSum::Taps { dy, x, padding } => {
            let filters = width(dy) / width(x);
            for b in pieces(plan, x) {
                let (start, rows) = (b.channel * filters, b.width * filters);
                for a in pieces(plan, dy).into_iter().filter_map(|a| a.cut(start, rows)) {
                    // The part of `dy` may begin at any filter of a channel.
                    let first = b.first + a.channel / filters;
                    let b = Piece { padding, first, ..b };
                    let offset = 9 * (start + a.channel);
                    let sum = of(SumKind::Taps, a, Some(b), offset, 9, a.width, 9);
                    let skip = a.channel % filters;
                    sums.push(Sum { filters, skip, ..sum });
                }
            }
        }
        CellSum::Images { x } => {
            for a in pieces(plan, x) {
                sums.push(of(SumKind::Images, a, None, a.channel, width(x), 0, a.width));
            }
        }
    }
}

/// Where the channels of a value lie.
fn pieces(plan: &Plan, n: usize) -> Vec<Piece> {
    let node = &plan.nodes[n];
    let whole = |base, at| Piece {
        channel: 0,
        width: node.width,
        base,
        at,
        first: 0,
        pitch: node.width,
        near: ITSELF,
        padding: Padding::Zero,
    };
    match (plan.homes[n], &node.op) {
        (Home::Stored { scratch: Some(at) }, _) => vec![whole(Base::Scratch, at)],
        (Home::Given, AdjointOp::Seed) => vec![whole(Base::Scratch, 0)],
        (Home::Given, AdjointOp::Ordinary(Op::Constant(param))) => vec![whole(Base::Weights, *param)],
        (Home::Given, _) => vec![whole(Base::State, 0)],
        (Home::Moved, AdjointOp::Ordinary(Op::Slice { x, start })) => pieces(plan, *x)
            .into_iter()
            .filter_map(|piece| piece.cut(*start, node.width))
            .collect(),
        (Home::Moved, AdjointOp::Ordinary(Op::Concat(parts))) => {
            let mut start = 0;
            let mut all = vec![];
            for &part in parts {
                all.extend(pieces(plan, part).into_iter().map(|piece| piece.shifted(start)));
                start += plan.nodes[part].width;
            }
            all
        }
        (Home::Moved, AdjointOp::Embed(parts)) => {
            let of = |&(start, part): &(usize, usize)| {
                pieces(plan, part)
                    .into_iter()
                    .map(move |piece| piece.shifted(start))
            };
            parts.iter().flat_map(of).collect()
        }
        (Home::Inline, AdjointOp::Ordinary(Op::Neighbourhood { x, padding })) => {
            let of = |near: usize| {
                let piece = move |piece: Piece| Piece {
                    near,
                    padding: *padding,
                    ..piece
                };
                let channels = plan.nodes[*x].width;
                pieces(plan, *x)
                    .into_iter()
                    .map(move |of| piece(of).shifted(near * channels))
            };
            (0..9).flat_map(of).collect()
        }
        _ => vec![],
    }
}

impl Piece {
    /// The part of it among `width` channels from `start` on, as a piece of these.
    fn cut(self, start: usize, width: usize) -> Option<Self> {
        let from = self.channel.max(start);
        let to = (self.channel + self.width).min(start + width);
        (from < to).then(|| Self {
            channel: from - start,
            width: to - from,
            first: self.first + from - self.channel,
            ..self
        })
    }

    fn shifted(self, channels: usize) -> Self {
        Self {
            channel: self.channel + channels,
            ..self
        }
    }

    fn term(&self, packing: &Packing, cells: usize, area: usize) -> RawTerm {
        let (offset, area) = match self.base {
            Base::State => (0, 0),
            Base::Scratch => (self.at * cells, 0),
            Base::Weights => (packing.element(self.at, area), area),
        };
        RawTerm {
            base: self.base as i32,
            first: self.first as i32,
            pitch: self.pitch as i32,
            area: area as i32,
            offset: offset as u64,
        }
    }
}

/// How sums are shared out on a grid.
pub(super) struct Shares {
    pub outer: Vec<RawJob>,
    pub rest: Vec<RawJob>,
    /// Blocks of each kernel.
    pub outer_blocks: usize,
    pub rest_blocks: usize,
    /// Floats of partial sums.
    pub partial: usize,
}

/// Side of the part of an outer product that a block takes, and numbers that it takes of another sum.
const SIDE: usize = 64;
const NUMBERS: usize = 32;
/// About so many blocks share a sum if it has few numbers, if there are cells enough.
const BLOCKS: usize = 256;
/// Cells that a chunk has at least.
const CHUNK: usize = 64;

/// The jobs for `cells` cells in images of `area`. They depend on sizes alone.
pub(super) fn share(sums: &[Sum], packing: &Packing, cells: usize, area: usize) -> Shares {
    let mut shares = Shares {
        outer: vec![],
        rest: vec![],
        outer_blocks: 0,
        rest_blocks: 0,
        partial: 0,
    };
    for sum in sums {
        let rows = if sum.kind == SumKind::Images {
            area
        } else {
            sum.rows
        };
        let is_outer = sum.kind == SumKind::Outer;
        let tiles = match is_outer {
            true => rows.div_ceil(SIDE) * sum.columns.div_ceil(SIDE),
            false => (rows * sum.columns).div_ceil(NUMBERS),
        };
        let (chunk, chunks) = match sum.kind {
            SumKind::Images => (cells, 1),
            SumKind::Outer | SumKind::Channelwise | SumKind::Products | SumKind::Taps => {
                let wanted = BLOCKS.div_ceil(tiles).min(cells.div_ceil(CHUNK)).max(1);
                let chunk = cells.div_ceil(wanted).next_multiple_of(CHUNK);
                (chunk, cells.div_ceil(chunk))
            }
        };
        let (jobs, blocks) = match is_outer {
            true => (&mut shares.outer, &mut shares.outer_blocks),
            false => (&mut shares.rest, &mut shares.rest_blocks),
        };
        let b = sum.b.unwrap_or(sum.a);
        jobs.push(RawJob {
            a: sum.a.term(packing, cells, area),
            b: b.term(packing, cells, area),
            kind: sum.kind as i32,
            near: b.near as i32,
            circular: i32::from(b.padding == Padding::Circular),
            filters: sum.filters as i32,
            rows: rows as i32,
            columns: sum.columns as i32,
            offset: (packing.element(sum.param, area) + sum.offset) as i32,
            pitch: sum.pitch as i32,
            chunk: chunk as i32,
            chunks: chunks as i32,
            first_block: *blocks as i32,
            skip: sum.skip as i32,
            partial: shares.partial as u64,
        });
        *blocks += tiles * chunks;
        shares.partial += chunks * rows * sum.columns;
    }
    shares
}
