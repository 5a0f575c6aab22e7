//! Why plain Candle operations run where no engine does.

use std::fmt::{self, Display};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, DeviceLocation, Tensor};

use crate::program::Program;

/// Why plain Candle operations run in place of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// The transition is written as Candle operations.
    NoProgram,
    /// The memory policy stores every intermediate of the graph.
    Everything,
    /// No engine works on this device.
    Device(&'static str, DeviceLocation),
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
            Self::Device(what, location) => {
                write!(
                    f,
                    "{what} on {location:?}, where there is no engine: expected Cpu"
                )
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
    let of = |what: &'static str, tensor: &Tensor, any_dtype: bool| match tensor.device().is_cpu() {
        false => Some(Fallback::Device(what, tensor.device().location())),
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
    of("cells", cells, false).or_else(|| program.params.iter().enumerate().find_map(of_param))
}
