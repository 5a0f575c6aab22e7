//! Comparing what the library computes with what a case holds, within stated tolerances.

use std::cell::RefCell;
use std::collections::BTreeSet;

use candle_core::{DType, Tensor};

use super::case::{Case, Result};
use crate::device::device;

/// How much rounding a result has accumulated.
#[derive(Clone, Copy, PartialEq)]
pub enum Grade {
    /// One step or layer, or a loss.
    Step,
    /// Many steps, or a whole network.
    Rollout,
    /// Optimiser updates.
    Training,
}

impl Grade {
    pub fn output(self, dtype: DType) -> Limit {
        let relative = match (dtype, self) {
            (DType::F64, _) => 1e-10,
            (_, Grade::Step) => 1e-5,
            (_, Grade::Rollout) => 5e-5,
            (_, Grade::Training) => 2e-4,
        };
        Limit::relative(relative, 1.0)
    }

    pub fn gradient(self, dtype: DType) -> Limit {
        let relative = match (dtype, self) {
            (DType::F64, _) => 1e-9,
            (_, Grade::Step) => 1e-4,
            (_, Grade::Rollout | Grade::Training) => 3e-4,
        };
        Limit::relative(relative, 0.0)
    }
}

/// The allowed difference: `relative` times the largest magnitude expected, at least that of `floor`, or
/// `absolute` if that is larger.
#[derive(Clone, Copy)]
pub struct Limit {
    pub relative: f64,
    pub floor: f64,
    pub absolute: f64,
}

impl Limit {
    pub const EXACT: Self = Self::absolute(0.0);

    pub const fn absolute(absolute: f64) -> Self {
        Self {
            relative: 0.0,
            floor: 0.0,
            absolute,
        }
    }

    pub const fn relative(relative: f64, floor: f64) -> Self {
        Self {
            relative,
            floor,
            absolute: 0.0,
        }
    }

    /// The same, and at least `absolute`.
    pub fn or_absolute(self, absolute: f64) -> Self {
        Self { absolute, ..self }
    }

    fn of(self, magnitude: f64) -> f64 {
        self.absolute.max(self.relative * magnitude.max(self.floor))
    }
}

/// The errors of results: the one nearest to its tolerance, and the largest difference of all.
#[derive(Clone, Default)]
pub struct Worst {
    /// The difference divided by the allowed one.
    pub ratio: f64,
    /// The result with that ratio.
    pub name: String,
    pub error: f64,
}

/// One case checked in one precision.
pub struct Check<'a> {
    pub case: &'a Case,
    pub dtype: DType,
    pub worst: Worst,
    pub failures: Vec<String>,
    prefix: String,
    used: RefCell<BTreeSet<String>>,
}

impl<'a> Check<'a> {
    pub fn new(case: &'a Case, dtype: DType) -> Self {
        Self {
            case,
            dtype,
            worst: Worst::default(),
            failures: Vec::new(),
            prefix: String::new(),
            used: RefCell::default(),
        }
    }

    /// From here on tensors are those of a sub-case.
    pub fn enter(&mut self, subcase: &str) {
        self.prefix = match subcase {
            "" => String::new(),
            name => format!("{name}/"),
        };
    }

    pub fn has(&self, name: &str) -> bool {
        self.case.tensors.contains_key(&format!("{}{name}", self.prefix))
    }

    /// Names of this sub-case that start with `start`, without it, in order.
    pub fn names(&self, start: &str) -> Vec<String> {
        let start = format!("{}{start}", self.prefix);
        let names = self
            .case
            .tensors
            .keys()
            .filter_map(|name| name.strip_prefix(&start));
        names
            .map(str::to_string)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Names of results that start with `start`, without it, each once: a float64 result and its float32
    /// twin are one.
    pub fn results(&self, start: &str) -> Vec<String> {
        let stem = |name: &String| {
            let stem = name.strip_suffix(".f64").or_else(|| name.strip_suffix(".f32"));
            stem.unwrap_or(name).to_string()
        };
        self.names(start)
            .iter()
            .map(stem)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// A tensor as it is stored.
    pub fn stored(&self, name: &str) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        let tensor = self
            .case
            .tensors
            .get(&name)
            .ok_or_else(|| format!("no tensor `{name}`"))?;
        self.used.borrow_mut().insert(name);
        Ok(tensor.clone())
    }

    /// An input in the precision of this check.
    pub fn input(&self, name: &str) -> Result<Tensor> {
        Ok(self.stored(name)?.to_dtype(self.dtype)?)
    }

    pub fn integers(&self, name: &str) -> Result<Vec<usize>> {
        let values = self
            .stored(name)?
            .to_dtype(DType::I64)?
            .flatten_all()?
            .to_vec1::<i64>()?;
        Ok(values.into_iter().map(|value| value as usize).collect())
    }

    /// The expected value of `name`, its float64 variant where there is one.
    pub fn expected(&self, name: &str) -> Result<Tensor> {
        let variants = [format!("{name}.f64"), format!("{name}_f64")];
        let exact = variants.iter().find(|variant| self.has(variant));
        self.stored(exact.map_or(name, String::as_str))
    }

    pub fn output(&mut self, name: &str, found: &Tensor, grade: Grade) -> Result<()> {
        let expected = self.expected(name)?;
        self.compare(name, found, &expected, grade.output(self.dtype))
    }

    pub fn gradient(&mut self, name: &str, found: &Tensor, grade: Grade) -> Result<()> {
        let expected = self.expected(name)?;
        self.compare(name, found, &expected, grade.gradient(self.dtype))
    }

    /// Compares a number with a tensor of one element.
    pub fn scalar(&mut self, name: &str, found: f64, limit: Limit) -> Result<()> {
        let expected = self.expected(name)?;
        let found = Tensor::full(found, expected.shape(), &device())?;
        self.compare(name, &found, &expected, limit)
    }

    /// Compares `found` with `expected`, which must have the same shape.
    pub fn compare(&mut self, name: &str, found: &Tensor, expected: &Tensor, limit: Limit) -> Result<()> {
        let label = format!("{}{name}", self.prefix);
        if found.dims() != expected.dims() {
            let (found, expected) = (found.dims(), expected.dims());
            self.failures
                .push(format!("{label} has shape {found:?}, expected {expected:?}"));
            return Ok(());
        }
        let mut limit = limit;
        if (expected.dtype(), self.dtype) == (DType::F32, DType::F64) && limit.relative > 0.0 {
            // Computed in float64, stored rounded.
            limit.relative = limit.relative.max(1.2e-7);
        }
        let (found, expected) = (numbers(found)?, numbers(expected)?);
        let finite = expected.iter().filter(|x| x.is_finite());
        let magnitude = finite.fold(0.0, |most: f64, x| most.max(x.abs()));
        // The PSNR of identical images is infinite; nothing else may be.
        let infinite = label.to_lowercase().contains("psnr");
        let difference = |(a, b): (&f64, &f64)| if infinite && a == b { 0.0 } else { (a - b).abs() };
        let errors: Vec<f64> = found.iter().zip(&expected).map(difference).collect();
        let error = match errors.iter().any(|error| !error.is_finite()) {
            true => f64::INFINITY,
            false => errors.iter().fold(0.0, |most: f64, &error| most.max(error)),
        };
        let allowed = limit.of(magnitude);
        let ratio = if error == 0.0 { 0.0 } else { error / allowed };
        if ratio > 1.0 {
            self.failures
                .push(format!("{label} differs by {error:.3e}, allowed {allowed:.1e}"));
        }
        self.worst.error = self.worst.error.max(error);
        if self.worst.name.is_empty() || ratio > self.worst.ratio {
            (self.worst.ratio, self.worst.name) = (ratio, label);
        }
        Ok(())
    }

    /// Fails for every tensor that no check has read, except those that need no check, and if nothing was
    /// compared.
    pub fn close(&mut self) {
        if self.worst.name.is_empty() {
            self.failures.push("nothing was compared".to_string());
        }
        let used = self.used.borrow();
        // Some results are checked several times, under different memory policies.
        let mut seen = BTreeSet::new();
        self.failures.retain(|failure| seen.insert(failure.clone()));
        for name in self.case.tensors.keys().collect::<BTreeSet<_>>() {
            if !used.contains(name) && !self.spare(name) {
                self.failures.push(format!("unchecked tensor {name}"));
            }
        }
    }

    /// Tensors that need no check: a float32 twin of a float64 result, the draws behind given masks,
    /// intermediates inside one update, which the library does not show, and results of an Adam with
    /// its eps elsewhere, which the library does not have.
    fn spare(&self, name: &str) -> bool {
        let twin = match name.strip_suffix(".f32") {
            Some(stem) => format!("{stem}.f64"),
            None => format!("{name}_f64"),
        };
        let local = name.rsplit_once('/').map_or(name, |(_, local)| local);
        self.case.tensors.contains_key(&twin)
            || self
                .case
                .tensors
                .contains_key(&name.replace("in.uniform", "in.mask"))
                && name.contains("in.uniform")
            || local.ends_with("_torchadam_f64")
            || HIDDEN.iter().any(|hidden| local == format!("mid.{hidden}.f64"))
    }
}

/// Intermediates of one update that no public function returns.
const HIDDEN: [&str; 10] = [
    "after_attention",
    "after_grouped_conv",
    "after_mlp",
    "after_perception",
    "after_update_block",
    "attn_weights",
    "embedded",
    "embedded_pe",
    "gated",
    "spatial_attention",
];

pub fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}
