pub mod error;
pub mod random;
pub use error::{Error, Result};
