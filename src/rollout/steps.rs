//! Steps by plain Candle operations: on any device and number type, for any transition.

use std::ops::Range;

use candle_core::{D, Tensor};

use super::Rollout;
use crate::error::{Error, Result};
use crate::grid::Step;
use crate::grid::draws::{Draws, Stream};
use crate::ops::replace;
use crate::transition::TransitionFn;

/// `x` where `mask` (`[B, H, W, 1]`) is not 0, else 0.
fn only_where(mask: &Tensor, x: &Tensor) -> Result<Tensor> {
    Ok(replace(x, &mask.eq(0.0)?.broadcast_as(x.shape())?, 0.0)?)
}

impl Rollout {
    /// The cells after `steps`, with a graph.
    pub(super) fn advance<T: TransitionFn>(
        &self,
        transition: &T,
        cells: &Tensor,
        steps: Range<usize>,
    ) -> Result<Tensor> {
        steps
            .into_iter()
            .try_fold(cells.clone(), |cells, step| self.step(transition, &cells, step))
    }

    /// The cells after `steps` without a graph, and the variables that the steps used.
    pub(super) fn advance_detached<T: TransitionFn>(
        &self,
        transition: &T,
        cells: &Tensor,
        steps: Range<usize>,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let mut vars: Vec<Tensor> = Vec::new();
        let mut cells = cells.detach();
        for step in steps {
            let next = self.step(transition, &cells, step)?;
            for node in next.sorted_nodes() {
                if node.is_variable() && vars.iter().all(|var| var.id() != node.id()) {
                    vars.push(node.clone());
                }
            }
            cells = next.detach();
        }
        Ok((cells, vars))
    }

    /// One step: the input channels stay, the cells that fire take their update, dead cells become 0.
    fn step<T: TransitionFn>(&self, transition: &T, cells: &Tensor, index: usize) -> Result<Tensor> {
        let layout = transition.layout();
        let (b, h, w) = layout.check(cells)?;
        let update = transition.update(cells, &self.step_at(index))?;
        let expected = [b, h, w, layout.update_channels()];
        if update.dims() != expected {
            return Err(Error::shape("update", format!("{expected:?}"), update.dims()));
        }
        let update = match self.mask(index, (b, h, w), cells)? {
            // Products with 0 would be NaN where an update is infinite or NaN.
            Some(mask) => only_where(&mask, &update.broadcast_mul(&mask)?)?,
            None => update,
        };
        let next = match layout.input {
            0 => (cells + update)?,
            input => (cells + update.pad_with_zeros(D::Minus1, input, 0)?)?,
        };
        match transition.alive_mask() {
            Some(rule) => {
                let alive = (rule.of(cells)? * rule.of(&next)?)?;
                only_where(&alive, &next)
            }
            None => Ok(next),
        }
    }

    fn step_at(&self, index: usize) -> Step {
        Step {
            index,
            training: self.training,
            key: self.key,
            first_image: self.first_image,
        }
    }

    /// The update mask of a step, `[B, H, W, 1]`, or `None` where every cell fires.
    fn mask(&self, step: usize, size: (usize, usize, usize), like: &Tensor) -> Result<Option<Tensor>> {
        if let Some(masks) = &self.masks {
            return Ok(Some(
                masks[step].to_device(like.device())?.to_dtype(like.dtype())?,
            ));
        }
        if self.fire_rate.is_full() {
            return Ok(None);
        }
        let draws = Draws {
            key: self.key,
            stream: Stream::Fire,
            step,
        };
        let below = |cell, draw| f32::from(u8::from(draw < self.fire_rate.of(cell)));
        let mask = draws.map((self.first_image, size.0), size.1 * size.2, below);
        let mask = Tensor::from_vec(mask, (size.0, size.1, size.2, 1), like.device())?;
        Ok(Some(mask.to_dtype(like.dtype())?))
    }
}
