//! Weights: trained tensors by name, initialised from a seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::init::NormalOrUniform;
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::error::{Error, Result, check};
use crate::random::Key;

/// The weights of a model: variables by name, in name order.
///
/// Takes the place of Candle's `VarMap`, with two differences that training needs: initial values depend only
/// on the seed and each weight's name, and the order never changes. Clones share the variables.
///
/// ```
/// use candle_core::{DType, Device};
/// use lnca::Weights;
///
/// let weights = Weights::new(7, DType::F32, &Device::Cpu);
/// let layer = candle_nn::linear(4, 2, weights.builder().pp("layer"))?;
/// assert_eq!(weights.vars().len(), 2); // layer.weight and layer.bias
/// # Ok::<(), lnca::Error>(())
/// ```
#[derive(Clone)]
pub struct Weights {
    vars: Arc<Mutex<BTreeMap<String, Var>>>,
    given: Option<Arc<BTreeMap<String, Tensor>>>,
    key: Key,
    dtype: DType,
    device: Device,
}

impl Weights {
    /// No weights yet; a model built from [`Weights::builder`] adds its own.
    pub fn new(seed: u64, dtype: DType, device: &Device) -> Self {
        Self {
            vars: Arc::default(),
            given: None,
            key: Key::new(seed).fold_in_name("weights"),
            dtype,
            device: device.clone(),
        }
    }

    /// No weights yet; those that a model asks for are taken from `values`. A missing one or one of another
    /// shape is an error, before anything of that size is allocated.
    pub(crate) fn given(values: BTreeMap<String, Tensor>, dtype: DType, device: &Device) -> Self {
        Self {
            given: Some(Arc::new(values)),
            ..Self::new(0, dtype, device)
        }
    }

    /// The weights of several parts as one, each name under the prefix of its part. The variables are shared,
    /// and no new ones can be created.
    pub fn union(parts: &[(&str, &Weights)]) -> Self {
        let (dtype, device) = match parts.first() {
            Some((_, part)) => (part.dtype, part.device.clone()),
            None => (DType::F32, Device::Cpu),
        };
        let all = Self::given(BTreeMap::new(), dtype, &device);
        for (prefix, part) in parts {
            let vars = part.vars().into_iter();
            all.lock()
                .extend(vars.map(|(name, var)| (format!("{prefix}{name}"), var)));
        }
        all
    }

    /// A Candle `VarBuilder` that creates weights here, or hands out those that exist.
    pub fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), self.dtype, self.device.clone())
    }

    /// A `VarBuilder` without gradients: its tensors share the storage of the variables.
    pub(crate) fn frozen_builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(Frozen(self.clone())), self.dtype, self.device.clone())
    }

    /// All variables with their names, in name order.
    pub fn vars(&self) -> Vec<(String, Var)> {
        self.lock()
            .iter()
            .map(|(name, var)| (name.clone(), var.clone()))
            .collect()
    }

    /// The device of the variables.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Values of all variables, copied.
    pub fn snapshot(&self) -> Result<BTreeMap<String, Tensor>> {
        let copy = |(name, var): (&String, &Var)| Ok((name.clone(), var.as_detached_tensor().copy()?));
        self.lock().iter().map(copy).collect()
    }

    /// Sets every variable from `values`.
    ///
    /// # Errors
    /// [`Error::Weight`] if a weight is missing, left over, of another shape, or holds NaN or infinities;
    /// then nothing was set.
    pub fn load(&self, values: &BTreeMap<String, Tensor>) -> Result<()> {
        let vars = self.lock();
        let mismatch = |key: &str, expected: String, found: String| Error::Weight {
            key: key.to_string(),
            expected,
            found,
        };
        for (name, var) in vars.iter() {
            let expected = format!("shape {:?}", var.dims());
            match values.get(name) {
                None => return Err(mismatch(name, expected, "nothing".into())),
                Some(value) if value.dims() != var.dims() => {
                    return Err(mismatch(name, expected, format!("shape {:?}", value.dims())));
                }
                Some(value) => finite(name, value)?,
            }
        }
        if let Some((name, value)) = values.iter().find(|(name, _)| !vars.contains_key(*name)) {
            let found = format!("shape {:?}", value.dims());
            return Err(mismatch(name, "no such weight".into(), found));
        }
        for (name, var) in vars.iter() {
            var.set(&values[name].to_device(&self.device)?.to_dtype(self.dtype)?)?;
        }
        Ok(())
    }

    /// An error that names the first weight that holds NaN or an infinity, if there is one.
    pub(crate) fn check_finite(&self) -> Result<()> {
        self.lock()
            .iter()
            .try_for_each(|(name, var)| finite(name, var.as_tensor()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Var>> {
        // The map is never left half-changed, so a panic while it is locked does no harm.
        self.vars.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn finite(name: &str, value: &Tensor) -> Result<()> {
    match check::not_finite(value)? {
        None => Ok(()),
        Some(found) => Err(Error::Weight {
            key: name.to_string(),
            expected: "finite numbers".into(),
            found,
        }),
    }
}

impl SimpleBackend for Weights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let mut vars = self.lock();
        if let Some(var) = vars.get(name) {
            if var.shape() != &shape {
                candle_core::bail!("weight `{name}` has shape {:?}, expected {shape:?}", var.shape());
            }
            return Ok(var.as_tensor().clone());
        }
        if !dtype.is_float() {
            let (argument, expected) = ("dtype", "F32, or another type of floating-point numbers".into());
            return Err(Error::DType {
                argument,
                expected,
                found: dtype,
            }
            .into());
        }
        let value = match &self.given {
            Some(given) => match given.get(name) {
                Some(value) if value.shape() == &shape => value.to_device(device)?,
                found => candle_core::bail!(
                    "weight `{name}`: expected shape {shape:?}, found {}",
                    found.map_or("nothing".into(), |value| format!("shape {:?}", value.dims()))
                ),
            },
            None => {
                check::elements("weight", shape.dims()).map_err(|error| Error::Weight {
                    key: name.to_string(),
                    expected: "sizes for which there is memory".into(),
                    found: error.to_string(),
                })?;
                let values = initial_values(init, &shape, self.key.fold_in_name(name));
                Tensor::from_vec(values, shape, device)?
            }
        };
        let var = Var::from_tensor(&value.to_dtype(dtype)?)?;
        vars.insert(name.to_string(), var.clone());
        Ok(var.as_tensor().clone())
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        match self.lock().get(name) {
            Some(var) => Ok(var.as_tensor().clone()),
            None => candle_core::bail!("no weight `{name}`"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }
}

/// [`Weights`] whose tensors get no gradient.
struct Frozen(Weights);

impl SimpleBackend for Frozen {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        Ok(self.0.get(shape, name, init, dtype, device)?.detach())
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        Ok(self.0.get_unchecked(name, dtype, device)?.detach())
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains_tensor(name)
    }
}

/// Glorot-uniform initialisation: uniform within `sqrt(6 / (fan_in + fan_out))`.
pub fn glorot_uniform(fan_in: usize, fan_out: usize) -> Init {
    let limit = (6.0 / fan_in.saturating_add(fan_out) as f64).sqrt();
    Init::Uniform {
        lo: -limit,
        up: limit,
    }
}

/// Uniform within `1 / sqrt(fan_in)`: PyTorch's default, for weights and biases alike.
pub fn uniform(fan_in: usize) -> Init {
    let limit = 1.0 / (fan_in as f64).sqrt();
    Init::Uniform {
        lo: -limit,
        up: limit,
    }
}

fn initial_values(init: Init, shape: &Shape, key: Key) -> Vec<f64> {
    let mut rng = key.rng();
    let mut draw = |normal: bool, centre: f64, spread: f64| -> Vec<f64> {
        let mut one = || match normal {
            true => StandardNormal.sample(&mut rng),
            false => rng.random_range(-1.0..1.0),
        };
        (0..shape.elem_count()).map(|_| centre + spread * one()).collect()
    };
    match init {
        Init::Const(value) => vec![value; shape.elem_count()],
        Init::Randn { mean, stdev } => draw(true, mean, stdev),
        Init::Uniform { lo, up } => draw(false, (lo + up) / 2.0, (up - lo) / 2.0),
        Init::Kaiming {
            dist,
            fan,
            non_linearity,
        } => {
            let deviation = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
            match dist {
                NormalOrUniform::Normal => draw(true, 0.0, deviation),
                NormalOrUniform::Uniform => draw(false, 0.0, 3f64.sqrt() * deviation),
            }
        }
    }
}
