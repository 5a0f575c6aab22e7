//! Adam with per-tensor gradient normalisation, learning-rate schedules and a state that can be saved.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

use super::adam_kernels::{Change, Mean, norm};
use super::trainer::Reading;
use super::unread::{Losses, Unread};
use crate::engine::cuda::{self, AdamNumbers, AdamTensors};
use crate::error::{Error, Result, check};
use crate::io::safetensors::{Tensors, add_prefixed, take_prefixed};

/// Settings of [`Adam`]; the defaults are the published ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamConfig {
    /// Learning rate of the first update: 1e-2.
    pub learning_rate: f64,
    /// Updates over which the learning rate falls to 0 along a cosine; with `None` it is constant.
    /// [`Fit`](super::Fit) sets it to the number of updates it will make.
    pub cosine_updates: Option<usize>,
    /// Pairs of an update and a factor by which the learning rate is multiplied from this update on; factors
    /// accumulate: none.
    pub drops: Vec<(usize, f64)>,
    /// Decay of the running mean of gradients: 0.9.
    pub beta1: f64,
    /// Decay of the running mean of their squares: 0.999.
    pub beta2: f64,
    /// Added to the root of the mean square: 1e-7.
    pub eps: f64,
    /// Whether eps is added after bias correction, as in the article and in PyTorch, or before it, as in
    /// Keras: false.
    pub eps_after_correction: bool,
    /// Whether each gradient tensor is first divided by its Euclidean norm (plus 1e-8): true. The learning
    /// rates of the published models depend on it.
    pub normalise: bool,
    /// Largest global norm of the gradients if they are not normalised: they are multiplied by `min(1, clip /
    /// (norm + 1e-6))`, with the norm over all weights: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-2,
            cosine_updates: None,
            drops: vec![],
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-7,
            eps_after_correction: false,
            normalise: true,
            clip: None,
        }
    }
}

impl AdamConfig {
    /// An error unless all numbers are in their ranges. A learning rate of 0 is: it measures a loss, and
    /// changes no weight.
    pub(super) fn check(&self) -> Result<()> {
        check::not_negative("learning_rate", self.learning_rate)?;
        let factors = self.drops.iter().map(|(_, factor)| *factor);
        factors
            .into_iter()
            .try_for_each(|factor| check::not_negative("drops", factor))?;
        if self.cosine_updates == Some(0) {
            return Err(Error::config("cosine_updates", "at least 1", 0));
        }
        check::below_one("beta1", self.beta1)?;
        check::below_one("beta2", self.beta2)?;
        check::positive("eps", self.eps)?;
        self.clip.map_or(Ok(()), |clip| check::positive("clip", clip))
    }

    /// The learning rate of update t, counted from 0: `lr / 2 * (1 + cos(pi * min(t, N) / N))`, times the
    /// drops so far.
    pub fn learning_rate_at(&self, update: usize) -> f64 {
        let progress = match self.cosine_updates {
            None => 0.0,
            Some(0) => 1.0,
            Some(updates) => update.min(updates) as f64 / updates as f64,
        };
        let dropped = self.drops.iter().filter(|(from, _)| update >= *from);
        let dropped: f64 = dropped.map(|(_, factor)| factor).product();
        self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()) * dropped
    }
}

/// Adam (Kingma and Ba 2015) in the form of Keras, `w -= lr sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v)
/// + eps)`, or with eps as in the article.
#[derive(Clone, Debug)]
pub struct Adam {
    config: AdamConfig,
    vars: Vec<(String, Var)>,
    moments: BTreeMap<String, (Tensor, Tensor)>,
    updates: usize,
    /// Where kernels note the first gradient that is not finite, and the names of the weights that they last
    /// changed.
    fault: Option<(Tensor, Vec<String>)>,
    is_deferred: bool,
    unread: Unread,
}

/// A weight with a gradient.
struct Used {
    name: String,
    var: Var,
    grad: Tensor,
}

impl Adam {
    /// An optimiser of `vars`. Variables that a loss does not depend on are not changed.
    ///
    /// # Errors
    /// [`Error::Config`] unless learning rate and drops are finite and 0 or more, betas in `[0, 1)`, and eps
    /// and clip finite and above 0.
    pub fn new(vars: Vec<(String, Var)>, config: AdamConfig) -> Result<Self> {
        config.check()?;
        Ok(Self {
            config,
            vars,
            moments: BTreeMap::new(),
            updates: 0,
            fault: None,
            is_deferred: false,
            unread: Unread::default(),
        })
    }

    /// Its settings.
    pub fn config(&self) -> &AdamConfig {
        &self.config
    }

    /// Sets [`AdamConfig::cosine_updates`].
    pub fn anneal_over(&mut self, updates: usize) {
        self.config.cosine_updates = Some(updates);
    }

    /// The number of updates made.
    pub fn updates(&self) -> usize {
        self.updates
    }

    /// The learning rate of the next update.
    pub fn learning_rate(&self) -> f64 {
        self.config.learning_rate_at(self.updates)
    }

    /// Leaves losses, and on a GPU gradients, unread until [`Adam::settle`], so that no update waits for the
    /// device; off unless set. Trainers then return no readings.
    pub fn defer(&mut self, is_deferred: bool) {
        self.is_deferred = is_deferred;
    }

    /// The mean of each loss term over the updates since the last call; nothing unless [`Adam::defer`] is on.
    ///
    /// # Errors
    /// [`Error::Diverged`] if a loss or the norm of a gradient was not finite in one of them. Where that was
    /// a gradient, no weight was changed since.
    pub fn settle(&mut self) -> Result<Vec<Reading>> {
        let means = self.unread.means();
        self.unread.clear();
        let means = means?;
        match self.told_fault() {
            Ok(()) => Ok(means),
            Err(error) => {
                // Told once: whoever goes on after it starts anew.
                self.fault = None;
                Err(error)
            }
        }
    }

    /// An error if a loss or gradient was not finite since the last [`Adam::settle`].
    pub(super) fn check_unread(&self) -> Result<()> {
        self.unread.means()?;
        self.told_fault()
    }

    /// The losses of the next update: read, or, if that is deferred, kept. Unless they are `told`,
    /// [`Adam::settle`] only checks them.
    pub(super) fn note(&mut self, losses: Losses, told: bool) -> Result<Vec<Reading>> {
        if !self.is_deferred {
            return losses.read();
        }
        self.unread.push(losses, told);
        Ok(vec![])
    }

    /// One update by the gradients of a loss.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the norm of a gradient is not finite, [`Error::Config`] if no weight has one;
    /// then nothing was changed. With [`Adam::defer`], on a GPU the first is the error of
    /// [`Adam::settle`].
    pub fn step(&mut self, grads: &GradStore) -> Result<()> {
        let mut used = Vec::with_capacity(self.vars.len());
        for (name, var) in &self.vars {
            let Some(grad) = grads.get(var) else { continue };
            used.push(Used {
                name: name.clone(),
                var: var.clone(),
                grad: grad.contiguous()?,
            });
        }
        if used.is_empty() && !self.vars.is_empty() {
            let expected = "one that depends on a weight";
            return Err(Error::config("loss", expected, "independent of all of them"));
        }
        let tensors = used.iter().flat_map(|used| [used.var.as_tensor(), &used.grad]);
        match cuda::runs_adam(tensors) {
            true => self.step_by_kernels(&used)?,
            false => self.step_by_operations(&used)?,
        }
        self.updates += 1;
        Ok(())
    }

    /// Learning rate and eps of the next update, corrected for the bias of the moments.
    fn corrected(&self) -> (f64, f64) {
        let AdamConfig { beta1, beta2, .. } = self.config;
        let t = i32::try_from(self.updates).map_or(i32::MAX, |updates| updates.saturating_add(1));
        let correction = (1.0 - beta2.powi(t)).sqrt();
        let rate = self.learning_rate() * correction / (1.0 - beta1.powi(t));
        let eps = match self.config.eps_after_correction {
            true => self.config.eps * correction,
            false => self.config.eps,
        };
        (rate, eps)
    }

    /// Moments of 0 for weights that have none.
    fn add_moments(&mut self, used: &[Used]) -> Result<()> {
        for Used { name, var, .. } in used {
            if let Entry::Vacant(entry) = self.moments.entry(name.clone()) {
                let zeros = || var.as_detached_tensor().zeros_like();
                entry.insert((zeros()?, zeros()?));
            }
        }
        Ok(())
    }

    fn step_by_operations(&mut self, used: &[Used]) -> Result<()> {
        let mut sizes = Vec::with_capacity(used.len());
        for Used { name, grad, .. } in used {
            let size = norm(grad)?;
            if !size.is_finite() {
                return Err(Error::Diverged {
                    what: format!("the gradient of `{name}`"),
                    value: size,
                    at: format!("update {}", self.updates),
                });
            }
            sizes.push(size);
        }
        let norm = sizes.iter().map(|size| size * size).sum::<f64>().sqrt();
        let clipped = self
            .config
            .clip
            .map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
        let AdamConfig { beta1, beta2, .. } = self.config;
        let (rate, eps) = self.corrected();
        self.add_moments(used)?;
        for (Used { name, var, grad }, size) in used.iter().zip(sizes) {
            let scale = match self.config.normalise {
                true => 1.0 / (size + 1e-8),
                false => clipped,
            };
            let Some((m, v)) = self.moments.get_mut(name) else {
                continue;
            };
            let mean = |beta, squares| Mean { beta, scale, squares };
            mean(beta1, false).follow(m, grad)?;
            mean(beta2, true).follow(v, grad)?;
            Change { rate, eps }.make(var, m, v)?;
        }
        Ok(())
    }

    fn step_by_kernels(&mut self, used: &[Used]) -> Result<()> {
        let Some(first) = used.first() else { return Ok(()) };
        self.add_moments(used)?;
        let fault = match self.fault.take() {
            Some((place, _)) => place,
            None => cuda::no_fault(first.var.device())?,
        };
        let mut tensors = Vec::with_capacity(used.len());
        for Used { name, var, grad } in used {
            let Some((mean, square)) = self.moments.get(name) else {
                continue;
            };
            tensors.push(AdamTensors {
                values: var,
                mean,
                square,
                gradient: grad,
            });
        }
        let (rate, eps) = self.corrected();
        let numbers = AdamNumbers {
            beta1: self.config.beta1,
            beta2: self.config.beta2,
            rate,
            eps,
            normalise: self.config.normalise,
            clip: self.config.clip,
            update: self.updates,
        };
        cuda::adam(&tensors, &fault, &numbers)?;
        let names = used.iter().map(|used| used.name.clone()).collect();
        self.fault = Some((fault, names));
        if self.is_deferred {
            return Ok(());
        }
        self.told_fault().inspect_err(|_| self.fault = None)
    }

    /// An error if kernels met a gradient that is not finite.
    fn told_fault(&self) -> Result<()> {
        let Some((place, names)) = &self.fault else {
            return Ok(());
        };
        match cuda::fault(place)? {
            None => Ok(()),
            Some(fault) => {
                let name = names.get(fault.weight).map_or("", |name| name);
                Err(Error::Diverged {
                    what: format!("the gradient of `{name}`"),
                    value: fault.norm,
                    at: format!("update {}", fault.update),
                })
            }
        }
    }

    /// The moments, as `m.<weight>` and `v.<weight>`; with [`Adam::updates`] the whole state.
    pub fn state(&self) -> Result<Tensors> {
        let mut state = Tensors::new();
        for (name, (m, v)) in &self.moments {
            // Updates change moments in place.
            state.insert(format!("m.{name}"), m.copy()?);
            state.insert(format!("v.{name}"), v.copy()?);
        }
        Ok(state)
    }

    /// Restores a state of [`Adam::state`].
    ///
    /// # Errors
    /// [`Error::Weight`] if a moment belongs to no weight of this optimiser, has another shape or
    /// lacks its partner; then nothing was changed.
    pub fn restore(&mut self, mut state: Tensors, updates: usize) -> Result<()> {
        let (ms, mut vs) = (take_prefixed(&mut state, "m."), take_prefixed(&mut state, "v."));
        let mut moments = BTreeMap::new();
        for (name, m) in ms {
            let shape = self
                .vars
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, var)| var.shape());
            match vs.remove(&name) {
                Some(v) if Some(m.shape()) == shape && m.shape() == v.shape() => {
                    moments.insert(name, (m.copy()?, v.copy()?))
                }
                _ => return Err(Self::misfit(&name, shape, m.shape())),
            };
        }
        let mut rest = Tensors::new();
        add_prefixed(&mut rest, "v.", vs);
        rest.extend(state);
        if let Some((name, tensor)) = rest.first_key_value() {
            return Err(Self::misfit(name, None, tensor.shape()));
        }
        (self.moments, self.updates) = (moments, updates);
        self.fault = None;
        self.unread.clear();
        Ok(())
    }

    fn misfit(name: &str, expected: Option<&candle_core::Shape>, found: &candle_core::Shape) -> Error {
        Error::Weight {
            key: name.to_string(),
            expected: expected.map_or("no such moment".into(), |shape| {
                format!("two moments of shape {shape:?}")
            }),
            found: format!("shape {found:?}"),
        }
    }
}
