//! Cases of the adjusted convolution, the autoencoders and whole latent models.

use candle_core::{DType, Tensor, Var};
use lnca::model::autoencoder::{Activation, AdjustedConv, Depth, Direction};
use lnca::{Autoencoder, AutoencoderConfig, LatentNca, Restorer, Rollout, TransitionFn, Weights};

use super::case::Result;
use super::cells::{masks, nafca, vitca};
use super::check::{Check, Grade, Limit};
use super::weights::{self, library_layout, library_name};

pub fn adj_conv(check: &mut Check) -> Result<()> {
    adjusted_conv(check, Direction::Down)
}

pub fn adj_conv_transpose(check: &mut Check) -> Result<()> {
    adjusted_conv(check, Direction::Up)
}

fn adjusted_conv(check: &mut Check, direction: Direction) -> Result<()> {
    for subcase in check.case.subcases() {
        check.enter(&subcase);
        let config = format!("config.subcases.{subcase}");
        let count = |key: &str| check.case.count(&format!("{config}.{key}"));
        let words = |key: &str| check.case.text(&format!("{config}.{key}"));
        let channels = (count("channels_in")?, count("channels_out")?);
        let stride = count("stride")?;
        let training = words("batch_norm")?.contains("batch");
        let activation = match words("activation")? {
            "swish" => Activation::Swish,
            "sigmoid" => Activation::Sigmoid,
            other => return Err(format!("unknown activation `{other}`").into()),
        };
        let (layer, weights) = weights::model(check, "w.", |weights| {
            AdjustedConv::new(channels, (direction, stride), activation, true, weights.builder())
        })?;
        let x = Var::from_tensor(&check.input("in.x")?)?;
        let y = layer.forward(x.as_tensor(), training)?;
        check.output("out.y", &y, Grade::Step)?;
        for (name, var) in [
            ("out.new_moving_mean", "bn.running_mean"),
            ("out.new_moving_variance", "bn.running_var"),
        ] {
            if training {
                check.output(name, &weights.snapshot()?[var], Grade::Step)?;
            }
        }
        let grads = weights::weighted(&[(&y, &check.input("r.y")?)])?.backward()?;
        let grad = grads.get(&x).ok_or("no gradient of the input")?;
        check.gradient("grad.in.x", grad, Grade::Step)?;
        let limit = gradient_limit(check, Grade::Step, training);
        weights::gradients(check, &weights, &grads, limit)?;
    }
    Ok(())
}

/// The gradient of a bias is exactly zero where a batch norm over the batch follows.
fn gradient_limit(check: &Check, grade: Grade, training: bool) -> impl Fn(&str) -> Limit + use<> {
    let (limit, dtype) = (grade.gradient(check.dtype), check.dtype);
    move |name| match training && name.ends_with("conv.bias") {
        true if dtype == DType::F64 => Limit::absolute(1e-9),
        true => Limit::absolute(1e-6),
        false => limit,
    }
}

/// An autoencoder with the weights named `prefix..`.
pub fn build(check: &Check, prefix: &str) -> Result<(Autoencoder, Weights)> {
    let config = AutoencoderConfig {
        depth: match check.has(&format!("{prefix}enc3.conv.kernel")) {
            true => Depth::Down3,
            false => Depth::Down2,
        },
        latent_channels: check.case.count("config.latent_channels")?,
        conv_bias: check.has(&format!("{prefix}enc1.conv.bias")),
    };
    weights::model(check, prefix, |weights| {
        Autoencoder::new(config, weights.builder())
    })
}

pub fn autoencoder(check: &mut Check) -> Result<()> {
    let (autoencoder, weights) = build(check, "w.")?;
    let training = check.case.text("config.mode")?.contains("training");
    let x = Var::from_tensor(&check.input("in.x")?)?;
    let encoded = autoencoder.encode(x.as_tensor(), training)?;
    let image = autoencoder.decode(&encoded.latent, &encoded.skip, training)?;
    let outputs = [
        ("rec", &image),
        ("latent", &encoded.latent),
        ("skip", &encoded.skip),
    ];
    let mut loss = Vec::new();
    for (name, output) in outputs {
        check.output(&format!("out.{name}"), output, Grade::Rollout)?;
        loss.push((output, check.input(&format!("r.{name}"))?));
    }
    let loss: Vec<_> = loss.iter().map(|(output, r)| (*output, r)).collect();
    let loss = weights::weighted(&loss)?;
    let limit = Grade::Rollout.output(check.dtype);
    check.scalar("out.loss", weights::value(&loss)?, limit)?;
    let grads = loss.backward()?;
    let grad = grads.get(&x).ok_or("no gradient of the images")?;
    check.gradient("grad.in.x", grad, Grade::Rollout)?;
    let limit = gradient_limit(check, Grade::Rollout, training);
    weights::gradients(check, &weights, &grads, limit)?;
    // Statistics were updated once; evaluation must not change them.
    let limit = Grade::Rollout.output(check.dtype);
    weights::values(check, &weights, "out.after.", |_| limit)?;
    if !training {
        unchanged_statistics(check, &weights)?;
    }
    if check.has("in.x2") {
        let other = autoencoder.encode(&check.input("in.x2")?, training)?;
        check.output("out.latent2", &other.latent, Grade::Rollout)?;
        check.output("out.skip2", &other.skip, Grade::Rollout)?;
        let swapped = autoencoder.decode(&other.latent, &encoded.skip, training)?;
        check.output("out.rec_swap", &swapped, Grade::Rollout)?;
    }
    Ok(())
}

fn unchanged_statistics(check: &mut Check, weights: &Weights) -> Result<()> {
    let now = weights.snapshot()?;
    for name in check
        .names("w.")
        .into_iter()
        .filter(|name| name.contains("moving_"))
    {
        let before = library_layout(&name, &check.stored(&format!("w.{name}"))?)?;
        check.compare(
            &format!("w.{name}"),
            &now[&library_name(&name)],
            &before,
            Limit::EXACT,
        )?;
    }
    Ok(())
}

pub fn lnca_forward_vitca(check: &mut Check) -> Result<()> {
    let (core, _) = vitca(check, "w.core.")?;
    latent_forward(check, core)
}

pub fn lnca_forward_nafca(check: &mut Check) -> Result<()> {
    let (core, _) = nafca(check, "w.core.")?;
    latent_forward(check, core)
}

fn latent_forward<T: TransitionFn + Clone + 'static>(check: &mut Check, core: T) -> Result<()> {
    let (autoencoder, _) = build(check, "w.ae.")?;
    let images = check.input("in.x")?;
    let encoded = autoencoder.encode(&images, false)?;
    check.output("out.fresh.latent", &encoded.latent, Grade::Rollout)?;
    check.output("out.fresh.skip", &encoded.skip, Grade::Rollout)?;
    let model = LatentNca::new(&autoencoder, core)?;
    let masks = masks(check, "in.mask")?;
    let rollout = Rollout::new(masks.len()).masks(masks);
    let starts: [(&str, Tensor); 2] = [("fresh", model.seed(&images)?), ("pool", check.input("in.pool")?)];
    for (name, start) in starts {
        let state = model.evolve(&start, &rollout)?;
        check.output(&format!("out.{name}.state"), &state, Grade::Rollout)?;
        let image = model.readout(&state, &images)?;
        check.output(&format!("out.{name}.rec"), &image, Grade::Rollout)?;
    }
    check.output(
        "out.fresh.rec",
        &model.restore(&images, &rollout)?,
        Grade::Rollout,
    )
}
