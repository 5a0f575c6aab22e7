//! Losses: of the latent NCA paper and the restoration networks it compares with, of growing patterns, of
//! textures, and bounds of likelihoods.
//!
//! Each returns a scalar, except the bounds, which have one value per image. `MSE` is the mean of squared
//! differences over all elements, batch included. Names in capitals are the paper's.

mod likelihood;
mod overflow;
mod pattern;
mod restoration;
mod sliced_transport;
mod style;
mod term;
mod vgg;

pub use likelihood::{
    Posterior, elbo, elbo_of_mean, iwelbo, log_bernoulli, log_mean_exp, log_prior, softplus,
};
pub use overflow::{OverflowNorm, cell_overflow, excess, overflow};
pub use pattern::{ImageLoss, PatternLoss, TextureLoss};
pub use restoration::{
    Distance, RestorationLoss, corruption_mask, dist, mae, masked_mse, mse, psnr_loss, total_variation,
};
pub use sliced_transport::{directions, sliced_transport, unit_columns};
pub use style::{PatchTransport, StyleLoss, compress, gram_distance};
pub use term::{Term, total};
pub use vgg::{Vgg16, VggComparison, VggStyle};
