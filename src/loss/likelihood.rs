//! Bounds of the likelihood of binary images under a variational autoencoder.
//!
//! Everything is in nats, summed over pixels or latent dimensions. Sources: Kingma and Welling,
//! "Auto-Encoding Variational Bayes" (2014); Burda, Grosse and Salakhutdinov, "Importance Weighted
//! Autoencoders" (2016).

use candle_core::{D, Tensor};

use crate::error::{Error, Result, check};
use crate::ops::Function;

/// `ln(1 + exp(x))`, elementwise, without overflow. Its gradient is the sigmoid of `x`, also at 0.
pub fn softplus(x: &Tensor) -> Result<Tensor> {
    check::float("x", x)?;
    // The gradient is set explicitly: composed of ReLU and |x|, it would be wrong at 0.
    let value = x.detach();
    let softplus = (value.relu()? + (value.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
    let slope = Function::Sigmoid.of(&value)?;
    Ok((softplus + (slope * (x - value)?)?)?)
}

/// The log-likelihood of binary images under independent pixels with these logits, `x l - softplus(l)` summed
/// over pixels.
///
/// `images` are `[B, H, W, 1]` of zeros and ones. `logits` have the same shape, for a result of `[B]`, or
/// `[B, S, H, W, 1]`, for `[B, S]`.
///
/// # Errors
/// [`Error::Shape`] if they do not fit.
pub fn log_bernoulli(images: &Tensor, logits: &Tensor) -> Result<Tensor> {
    check::as_other("images", images, "`logits`", logits)?;
    let images = match (images.dims(), logits.dims()) {
        (&[b, h, w, 1], &[b2, h2, w2, 1]) if (b, h, w) == (b2, h2, w2) => images.clone(),
        (&[b, h, w, 1], &[b2, _, h2, w2, 1]) if (b, h, w) == (b2, h2, w2) => {
            images.unsqueeze(1)?.broadcast_as(logits.shape())?
        }
        (images, found) => {
            let expected = format!("{images:?}, as `images`, of [B, H, W, 1], or with S after B");
            return Err(Error::shape("logits", expected, found));
        }
    };
    let each = ((images * logits)? - softplus(logits)?)?;
    Ok(each.flatten_from(logits.rank() - 3)?.sum(D::Minus1)?)
}

/// The posterior over the latents of images: independent normal distributions, both tensors `[B, Z]`.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// Their means.
    pub mean: Tensor,
    /// The logarithms of their variances.
    pub log_variance: Tensor,
}

impl Posterior {
    /// The same without a gradient.
    pub fn detach(&self) -> Self {
        Self {
            mean: self.mean.detach(),
            log_variance: self.log_variance.detach(),
        }
    }

    /// Samples `mean + exp(log_variance / 2) noise`, for standard normal `noise`, `[B, S, Z]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the noise does not fit.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        self.check("noise", noise)?;
        let deviation = (&self.log_variance * 0.5)?.exp()?.unsqueeze(1)?;
        Ok(noise
            .broadcast_mul(&deviation)?
            .broadcast_add(&self.mean.unsqueeze(1)?)?)
    }

    /// Its Kullback-Leibler divergence from the prior N(0, I), `1/2 sum(mean^2 + variance - 1 - ln
    /// variance)`: `[B]`.
    pub fn kl(&self) -> Result<Tensor> {
        let spread = ((self.log_variance.exp()? - &self.log_variance)? - 1.0)?;
        Ok(((self.mean.sqr()? + spread)?.sum(D::Minus1)? * 0.5)?)
    }

    /// The log-density of latents `z` (`[B, S, Z]`): `[B, S]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not fit.
    pub fn log_density(&self, z: &Tensor) -> Result<Tensor> {
        self.check("z", z)?;
        let log_variance = self.log_variance.unsqueeze(1)?;
        let gap = z.broadcast_sub(&self.mean.unsqueeze(1)?)?;
        let square = gap.sqr()?.broadcast_mul(&log_variance.neg()?.exp()?)?;
        half_sum(&square.broadcast_add(&log_variance)?)
    }

    fn check(&self, name: &'static str, z: &Tensor) -> Result<()> {
        check::as_other(name, z, "the means", &self.mean)?;
        let (b, latent) = self.mean.dims2()?;
        match *z.dims() {
            [b2, s, latent2] if (b, latent) == (b2, latent2) && s > 0 => Ok(()),
            _ => Err(Error::shape(name, format!("[{b}, S, {latent}]"), z.dims())),
        }
    }
}

/// The log-density of latents `z` (`[.., Z]`) under the prior N(0, I): `[..]`.
pub fn log_prior(z: &Tensor) -> Result<Tensor> {
    half_sum(&z.sqr()?)
}

/// `-1/2 sum(ln 2 pi + x)` over the last axis.
fn half_sum(x: &Tensor) -> Result<Tensor> {
    Ok(((x + (2.0 * std::f64::consts::PI).ln())?.sum(D::Minus1)? * -0.5)?)
}

/// The evidence lower bound (ELBO): the mean over samples of the log-likelihoods (`[B, S]`) minus `beta`
/// times the KL divergence (`[B]`): `[B]`.
///
/// # Errors
/// [`Error::Shape`] if they do not fit.
pub fn elbo(log_likelihood: &Tensor, kl: &Tensor, beta: f64) -> Result<Tensor> {
    samples(log_likelihood, kl)?;
    Ok((log_likelihood.mean(1)? - (kl * beta)?)?)
}

/// The logarithm of the mean over samples of `exp(log-likelihood - beta kl)`, with arguments as in [`elbo`].
/// A reproduction of the article trains on it with several samples; only with one is it a lower bound.
///
/// # Errors
/// As [`elbo`].
pub fn elbo_of_mean(log_likelihood: &Tensor, kl: &Tensor, beta: f64) -> Result<Tensor> {
    samples(log_likelihood, kl)?;
    log_mean_exp(&log_likelihood.broadcast_sub(&(kl * beta)?.unsqueeze(1)?)?)
}

/// The importance-weighted bound (IWELBO): the logarithm of the mean over samples of `p(x|z) p(z) / q(z|x)`,
/// from the logarithms of the three (`[B, S]`): `[B]`. It approaches the log-likelihood with more samples.
///
/// # Errors
/// [`Error::Shape`] if they do not fit.
pub fn iwelbo(log_likelihood: &Tensor, log_prior: &Tensor, log_posterior: &Tensor) -> Result<Tensor> {
    for (name, other) in [("log_prior", log_prior), ("log_posterior", log_posterior)] {
        if other.dims() != log_likelihood.dims() {
            let expected = format!("{:?}, as `log_likelihood`", log_likelihood.dims());
            return Err(Error::shape(name, expected, other.dims()));
        }
    }
    log_mean_exp(&((log_likelihood + log_prior)? - log_posterior)?)
}

/// `ln(mean(exp(x)))` over the last axis of `x` (`[B, S]`): `[B]`.
///
/// # Errors
/// [`Error::Shape`] for another rank or zero samples.
pub fn log_mean_exp(x: &Tensor) -> Result<Tensor> {
    let count = match *x.dims() {
        [_, count] if count > 0 => count,
        _ => return Err(Error::shape("x", "[B, S]", x.dims())),
    };
    // Detached, since subtracting and adding it back cancels in the gradient.
    let most = x.detach().max_keepdim(1)?;
    let mean = (x.broadcast_sub(&most)?.exp()?.sum(1)? / count as f64)?;
    Ok((mean.log()? + most.squeeze(1)?)?)
}

fn samples(log_likelihood: &Tensor, kl: &Tensor) -> Result<()> {
    match (log_likelihood.dims(), kl.dims()) {
        (&[b, s], &[b2]) if b == b2 && s > 0 => Ok(()),
        (found, kl) => {
            let expected = format!("[B, S] with B of `kl`, {kl:?}");
            Err(Error::shape("log_likelihood", expected, found))
        }
    }
}
