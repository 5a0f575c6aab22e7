//! Transitions: how an update is computed from a cell's neighbourhood.

mod filters;
mod gated;
mod growing;
mod nafca;
mod program;
mod split_linear;
mod texture;
mod vitca;
mod vnca;

use std::sync::Arc;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::grid::{AliveMask, CellLayout, Step};
use crate::program::Program;

pub use filters::Lattice;
pub use gated::{Gated, GatedConfig};
pub use growing::{Growing, GrowingConfig};
pub use nafca::{Nafca, NafcaConfig, Perception};
pub use texture::{Quantisation, Texture, TextureConfig, bipolar_directions, polar_directions};
pub use vitca::{PositionalOrder, Vitca, VitcaConfig, positional_table};
pub use vnca::{Vnca, VncaConfig};

/// A rule that computes every cell's update from its 3x3 neighbourhood.
///
/// A [`Rollout`](crate::rollout::Rollout) applies it many times; the transition does not depend on the number
/// of steps, the loss or the device. It may be any Candle code whose operations have gradients. To be rolled
/// out, a transition must also be `Clone` (a struct of tensors is cheap to clone).
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{Linear, Module};
/// use lnca::{CellLayout, Padding, Result, Rollout, Step, TransitionFn, Weights, neighbourhood};
///
/// #[derive(Clone)]
/// struct Diffusion {
///     mix: Linear,
/// }
///
/// impl TransitionFn for Diffusion {
///     fn layout(&self) -> CellLayout {
///         CellLayout { input: 0, output: 3, hidden: 5 }
///     }
///
///     fn update(&self, cells: &Tensor, _: &Step) -> Result<Tensor> {
///         let seen = neighbourhood(cells, Padding::Circular)?.flatten_from(3)?; // [B, H, W, 72]
///         Ok(self.mix.forward(&seen)?.tanh()?) // [B, H, W, 8]
///     }
/// }
///
/// let weights = Weights::new(0, DType::F32, &Device::Cpu);
/// let transition = Diffusion { mix: candle_nn::linear(72, 8, weights.builder())? };
/// let cells = transition.layout().single_cell((1, 16, 16), DType::F32, &Device::Cpu)?;
/// let grown = Rollout::new(20).fire_rate(0.5).run(&transition, &cells)?;
/// assert_eq!(grown.dims(), [1, 16, 16, 8]);
/// # Ok::<(), lnca::Error>(())
/// ```
pub trait TransitionFn: Send + Sync {
    /// The channels of the cells that this transition works on.
    fn layout(&self) -> CellLayout;

    /// The update of every cell: `[B, H, W, C]` to `[B, H, W, output + hidden]`.
    ///
    /// Every cell is computed from the state before the step; the rollout decides which cells take their
    /// update. Randomness must come from `step`, so that a recomputed step is the same.
    ///
    /// A transition implements this or [`TransitionFn::program`]; by default this is the update of the
    /// program.
    fn update(&self, cells: &Tensor, step: &Step) -> Result<Tensor> {
        match self.program(cells)? {
            Some(program) => program.update(cells, step),
            None => Err(Error::config(
                "transition",
                "an update or a program",
                "neither of them",
            )),
        }
    }

    /// This transition as a cell program for a grid like `cells`, if it is one: a rollout of f32 cells
    /// on a CPU then runs fused, several times faster and in a fraction of the memory.
    ///
    /// The engine calls this once a rollout (plain operations once a step), so a program may hold tensors
    /// derived from weights. Its update must equal [`TransitionFn::update`]; its alive mask is that of
    /// [`TransitionFn::alive_mask`] if it has none itself, and a rollout with two that differ is an error.
    fn program(&self, cells: &Tensor) -> Result<Option<Program>> {
        let _ = cells;
        Ok(None)
    }

    /// The rule by which cells die, if there is one.
    fn alive_mask(&self) -> Option<AliveMask> {
        None
    }
}

impl<T: TransitionFn + ?Sized> TransitionFn for Arc<T> {
    fn layout(&self) -> CellLayout {
        (**self).layout()
    }

    fn update(&self, cells: &Tensor, step: &Step) -> Result<Tensor> {
        (**self).update(cells, step)
    }

    fn program(&self, cells: &Tensor) -> Result<Option<Program>> {
        (**self).program(cells)
    }

    fn alive_mask(&self) -> Option<AliveMask> {
        (**self).alive_mask()
    }
}
