//! The name of a device, as command lines and environment variables have it.

use std::fmt::{self, Display};
use std::str::FromStr;

use candle_core::Device;

use crate::error::{Error, Result};

/// The name of a device: `cpu`, `cuda` for the first NVIDIA GPU, or `cuda:1` for the second.
///
/// ```
/// use lnca::DeviceName;
///
/// let name: DeviceName = "cpu".parse()?;
/// assert!(name.open()?.is_cpu());
/// # Ok::<(), lnca::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The CPU.
    #[default]
    Cpu,
    /// An NVIDIA GPU, counted from 0.
    Cuda(usize),
}

impl DeviceName {
    /// The device.
    ///
    /// # Errors
    /// [`Error::Config`] if the crate was built without the feature `cuda`, or CUDA has no such device.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(_) if !cfg!(feature = "cuda") => {
                let expected = "cpu: this program was built without CUDA, which `--features cuda` adds";
                Err(Error::config("device", expected, self))
            }
            Self::Cuda(index) => Device::new_cuda(index).map_err(|error| {
                let expected = format!("a GPU that the driver knows: {error}");
                Error::config("device", expected, self)
            }),
        }
    }
}

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let index = |index: &str| index.parse().ok().filter(|_| !index.starts_with('+'));
        let known = match name {
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            _ => name.strip_prefix("cuda:").and_then(index).map(Self::Cuda),
        };
        known.ok_or_else(|| Error::config("device", "cpu, cuda or cuda:N", name))
    }
}

impl Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(0) => f.write_str("cuda"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (text, name) in [
            ("cpu", DeviceName::Cpu),
            ("cuda", DeviceName::Cuda(0)),
            ("cuda:3", DeviceName::Cuda(3)),
        ] {
            assert_eq!(text.parse::<DeviceName>().unwrap(), name);
            assert_eq!(name.to_string(), text);
        }
        assert_eq!("cuda:0".parse::<DeviceName>().unwrap(), DeviceName::Cuda(0));
        for wrong in [
            "", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:+1", "cuda:x", "CUDA",
        ] {
            let error = wrong.parse::<DeviceName>().unwrap_err().to_string();
            assert!(error.contains("expected cpu, cuda or cuda:N"), "{error}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_told() {
        let error = DeviceName::Cuda(999).open().unwrap_err().to_string();
        assert!(error.starts_with("`device` is cuda:999, expected "), "{error}");
        if !cfg!(feature = "cuda") {
            assert!(error.contains("--features cuda"), "{error}");
        }
    }
}
