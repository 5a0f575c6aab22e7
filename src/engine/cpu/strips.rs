//! Runs the strips of a grid: each has its own working memory, and its own sums of weight gradients.

use rayon::prelude::*;

use super::scratch::Scratch;

/// The gradients that a backward step updates.
pub(super) struct Grads<'a> {
    /// Of the state.
    pub state: &'a mut [f32],
    /// Of the weights, summed separately for each strip.
    pub weights: &'a mut [Vec<f32>],
}

/// Calls `f` for each strip, each with working memory of its own: in parallel where there is more than one.
pub(super) fn each_strip<T: Send, R: Send>(
    scratch: &mut [Scratch],
    strips: Vec<T>,
    f: impl Fn(T, &mut Scratch) -> R + Sync,
) -> Vec<R> {
    match scratch {
        [scratch] => strips.into_iter().map(|strip| f(strip, scratch)).collect(),
        _ => {
            let strips = strips.into_par_iter().zip(scratch);
            strips.map(|(strip, scratch)| f(strip, scratch)).collect()
        }
    }
}
