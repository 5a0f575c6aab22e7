//! Variational autoencoders of binary images whose decoder is a cellular automaton, and a convolutional
//! baseline.
//!
//! The encoder maps an image to a normal distribution over latents. A latent is the first state of cells,
//! which the automaton turns into an image. [`loss`](crate::loss) has the bounds of the likelihood. Source:
//! Palm, González Duque, Sudhakaran and Risi, "Variational Neural Cellular Automata" (ICLR 2022).
//!
//! ```
//! use lnca::prelude::*;
//! use lnca::{Vae, VaeCard, VaeConfig};
//!
//! # fn main() -> lnca::Result<()> {
//! let vae = Vae::new(VaeCard::new(VaeConfig::small()), 7, &Device::Cpu)?; // untrained
//! let z = vae.prior(3, Key::new(1))?; // [3, 32]
//! let probabilities = candle_nn::ops::sigmoid(&vae.decode(&z, Key::new(1))?)?;
//! assert_eq!(probabilities.dims(), [3, 32, 32, 1]);
//! # Ok(())
//! # }
//! ```

mod config;
mod conv;
mod decoder;
mod encoder;
mod model;

pub use config::{DecoderConfig, VaeConfig};
pub use decoder::{Broadcast, Decoder, Deconvolution, Doubling};
pub use encoder::Encoder;
pub use model::{Estimate, Vae, VaeCard};
