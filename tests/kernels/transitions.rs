//! The library's transitions at the sizes that they have in its models.

use candle_core::{DType, Device, Tensor};
use lnca::{
    Growing, GrowingConfig, Nafca, NafcaConfig, Result, Texture, TextureConfig, TransitionFn, Vitca,
    VitcaConfig, Vnca, VncaConfig, Weights,
};

use crate::programs::{Case, noise};

/// Each transition, on a grid of 4 x 4 cells, with its alive mask.
pub fn shipped() -> Vec<Case> {
    let new = || Weights::new(1, DType::F32, &Device::Cpu);
    let all = || -> Result<Vec<Case>> {
        let weights = [new(), new(), new(), new(), new(), new(), new()];
        let [growing, texture, nafca, vitca, pixels, doubling, broadcast] =
            weights.each_ref().map(|of| of.builder());
        Ok(vec![
            case(
                "growing",
                &weights[0],
                &Growing::new(GrowingConfig::default(), growing)?,
            )?,
            case(
                "texture",
                &weights[1],
                &Texture::new(TextureConfig::default(), texture)?,
            )?,
            case("nafca", &weights[2], &Nafca::new(NafcaConfig::default(), nafca)?)?,
            case(
                "latent vitca",
                &weights[3],
                &Vitca::new(VitcaConfig::latent(), vitca)?,
            )?,
            case("vitca", &weights[4], &Vitca::new(VitcaConfig::default(), pixels)?)?,
            case(
                "vnca doubling",
                &weights[5],
                &Vnca::new(VncaConfig::doubling(256), doubling)?,
            )?,
            case(
                "vnca",
                &weights[6],
                &Vnca::new(VncaConfig::broadcast(128), broadcast)?,
            )?,
        ])
    };
    all().unwrap()
}

fn case<T: TransitionFn>(what: &str, weights: &Weights, transition: &T) -> Result<Case> {
    // Away from initial values that are 0.
    for (i, (_, var)) in weights.vars().into_iter().enumerate() {
        let fan_in: usize = var.dims().iter().skip(1).product();
        let shift = (noise(var.dims(), i as u64) * (0.2 / (fan_in as f64).sqrt()))?;
        var.set(&(var.as_tensor() + shift)?)?;
    }
    let cells = Tensor::zeros(
        (1, 4, 4, transition.layout().channels()),
        DType::F32,
        &Device::Cpu,
    )?;
    let vars = weights.vars().into_iter();
    Ok(Case {
        what: what.to_string(),
        program: transition.program(&cells)?.unwrap(),
        vars: vars.map(|(_, var)| var.as_tensor().clone()).collect(),
    })
}
