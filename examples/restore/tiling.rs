//! Restoring an image tile by tile.

use candle_core::{Device, Tensor};
use lnca::Model;
use lnca::io::Photograph;
use lnca::random::Key;
use lnca_examples::Result;
use lnca_examples::progress::bar;

/// Tiles that are restored at once.
const BATCH: usize = 8;

/// How an image is cut into tiles.
pub struct Tiling {
    /// Side of a tile in pixels.
    pub side: usize,
    /// Key of the update masks.
    pub key: Key,
}

impl Tiling {
    /// The restored colours of a photograph, `[height, width, 3]` row by row.
    ///
    /// Neighbouring tiles overlap by a quarter of their side. There the weight of each falls linearly towards
    /// its edge, where cells have the fewest neighbours.
    pub fn restore(&self, model: &Model, photograph: &Photograph) -> Result<Vec<f32>> {
        let (height, width) = (photograph.height, photograph.width);
        let overlap = self.side / 4;
        let rows = Cut::new(height, self.side, overlap);
        let columns = Cut::new(width, self.side, overlap);
        let lefts = || columns.starts.iter().copied();
        let tiles = rows
            .starts
            .iter()
            .flat_map(|&top| lefts().map(move |left| (top, left)));
        let tiles: Vec<(usize, usize)> = tiles.collect();
        let area = height * width;
        let (mut sums, mut weights) = (vec![0f32; area * 3], vec![0f32; area]);
        let bar = bar("tiles", tiles.len());
        for (batch, tiles) in tiles.chunks(BATCH).enumerate() {
            let mut input: Vec<f32> = Vec::with_capacity(tiles.len() * rows.len * columns.len * 3);
            for &(top, left) in tiles {
                for row in top..top + rows.len {
                    let first = (row * width + left) * 3;
                    input.extend(&photograph.colours[first..first + columns.len * 3]);
                }
            }
            let shape = (tiles.len(), rows.len, columns.len, 3);
            let input = Tensor::from_vec(input, shape, model.weights().device())?;
            let rollout = model.rollout(self.key).first_image(batch * BATCH);
            let output = model.restore_by(&input, &rollout)?.clamp(0.0, 1.0)?;
            let output = output.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
            for (&(top, left), tile) in tiles.iter().zip(output.chunks_exact(rows.len * columns.len * 3)) {
                for (place, value) in tile.chunks_exact(3).enumerate() {
                    let (y, x) = (place / columns.len, place % columns.len);
                    let weight = rows.weight(y) * columns.weight(x);
                    let at = (top + y) * width + left + x;
                    weights[at] += weight;
                    let sums = sums[at * 3..][..3].iter_mut();
                    sums.zip(value).for_each(|(sum, value)| *sum += weight * value);
                }
            }
            bar.inc(tiles.len() as u64);
        }
        bar.finish_and_clear();
        for (at, sum) in sums.iter_mut().enumerate() {
            *sum /= weights[at / 3];
        }
        Ok(sums)
    }
}

/// An axis cut into overlapping parts of one length.
struct Cut {
    starts: Vec<usize>,
    len: usize,
    overlap: usize,
}

impl Cut {
    fn new(size: usize, side: usize, overlap: usize) -> Self {
        let len = side.min(size);
        let last = size - len;
        let mut starts: Vec<usize> = (0..last).step_by(side - overlap).collect();
        starts.push(last);
        Self { starts, len, overlap }
    }

    /// The weight of a pixel in its tile, above 0 and at most 1.
    fn weight(&self, at: usize) -> f32 {
        let edge = at.min(self.len - 1 - at) + 1;
        edge.min(self.overlap + 1) as f32 / (self.overlap + 1) as f32
    }
}
