//! Why plain Candle operations run where no engine does.

use std::fmt::{self, Display};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, DeviceLocation, Tensor};

use crate::program::Program;

/// Why plain Candle operations run in place of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// The transition is written as Candle operations.
    NoProgram,
    /// The memory policy stores every intermediate of the graph.
    Everything,
    /// No engine works on the device of the cells: which it is, and what was expected.
    Device(String, &'static str),
    /// Something lies elsewhere than the cells.
    Elsewhere(&'static str, DeviceLocation, DeviceLocation),
    /// Engines work on f32 alone.
    DType(&'static str, DType),
    /// A given update mask holds values other than 0 and 1.
    Mask,
    /// A constant of the program has another grid size than the cells.
    Constant(Vec<usize>, Vec<usize>),
}

impl Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProgram => write!(f, "a transition without a program: expected one with"),
            Self::Everything => write!(f, "`Memory::Everything`: expected a policy that recomputes"),
            Self::Device(found, expected) => {
                write!(
                    f,
                    "cells on {found}, where there is no engine: expected {expected}"
                )
            }
            Self::Elsewhere(what, found, cells) => {
                write!(f, "{what} on {found:?}: expected {cells:?}, as the cells")
            }
            Self::DType(what, dtype) => write!(f, "{what} of {dtype:?}: expected F32"),
            Self::Mask => write!(
                f,
                "a given update mask with other values than 0 and 1: expected only these"
            ),
            Self::Constant(table, grid) => {
                write!(f, "a constant of {table:?} cells on a grid of {grid:?}")
            }
        }
    }
}

impl Fallback {
    /// Warns by `tracing`, once for each reason, that plain operations run: they are several times slower,
    /// and users should know why.
    pub fn tell(&self) {
        static TOLD: Mutex<Vec<Fallback>> = Mutex::new(vec![]);
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        if !told.contains(self) {
            tracing::warn!(reason = %self, "rollouts run on plain Candle operations, not on an engine");
            told.push(self.clone());
        }
    }
}

/// Why no engine can run `program` on `cells`; `None` if one can.
pub(super) fn reason(program: &Program, cells: &Tensor) -> Option<Fallback> {
    let constants: Vec<usize> = program.constants().map(|(_, param)| param).collect();
    let here = cells.device().location();
    let of = |what: &'static str, tensor: &Tensor, any_dtype: bool| match tensor.device().location() == here {
        false => Some(Fallback::Elsewhere(what, tensor.device().location(), here)),
        true if !any_dtype && tensor.dtype() != DType::F32 => Some(Fallback::DType(what, tensor.dtype())),
        true => None,
    };
    let of_param = |(n, param): (usize, &Tensor)| {
        // Constants of another type are converted to f32.
        let is_constant = constants.contains(&n);
        let (table, grid) = (param.dims(), &cells.dims()[1..3]);
        match is_constant && table[..2] != *grid {
            true => Some(Fallback::Constant(table[..2].to_vec(), grid.to_vec())),
            false => of(
                if is_constant { "a constant" } else { "a weight" },
                param,
                is_constant,
            ),
        }
    };
    no_engine(cells.device())
        .or_else(|| of("cells", cells, false))
        .or_else(|| program.params.iter().enumerate().find_map(of_param))
}

/// Why there is no engine for a device; `None` if there is one.
fn no_engine(device: &Device) -> Option<Fallback> {
    let found = format!("{:?}", device.location());
    match device {
        Device::Cpu => None,
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            let (major, minor) = super::cuda::too_old(cuda)?;
            let found = format!("{found} of compute capability {major}.{minor}");
            Some(Fallback::Device(found, "8.0 or later"))
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => Some(Fallback::Device(found, "Cpu, or Cuda with the feature `cuda`")),
        Device::Metal(_) => Some(Fallback::Device(found, "Cpu, or Cuda with the feature `cuda`")),
    }
}
