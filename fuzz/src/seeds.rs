//! Writes the valid files that fuzzing starts from to `corpus/`, a folder for each target.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::Device;
use image::{ColorType, ImageEncoder};
use lnca::train::Learner;
use lnca::transition::Perception;
use lnca::{
    AutoencoderConfig, CellLayout, DecoderConfig, GrowingConfig, Model, ModelConfig, NafcaConfig, Pattern,
    PatternCard, PatternConfig, TextureConfig, Vae, VaeCard, VaeConfig, VitcaConfig,
};
use lnca_fuzz::training::learner;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn main() -> Result<()> {
    models()?;
    learner()?.save(&place("checkpoint", "start")?)?;
    released()?;
    digits()?;
    pictures()?;
    for (i, text) in [
        "nca.pool=7",
        "nca.adam.learning_rate=1e-3\n--model\nlatent-vitca",
        "end_to_end.pool=4\n--end-to-end=2",
        "model.transition.eps=0.5\n--paper",
    ]
    .iter()
    .enumerate()
    {
        fs::write(place("settings", &i.to_string())?, text)?;
    }
    let log = r#"{"event":"batch","phase":"nca","epoch":0,"batch":0,"learning_rate":0.1,"losses":{"a":1.0},"seconds":0.1}
{"event":"validated","phase":"nca","epoch":0,"ssim":0.5,"best":true,"seconds":0.2}
"#;
    fs::write(place("results", "log")?, log)?;
    fs::write(
        place("results", "run")?,
        r#"{"model":"latent-nafca","batch":4,"seed":0}"#,
    )?;
    // Choices: enough bytes for the longest programs.
    for seed in 0..32u32 {
        let byte = |i: u32| {
            (i.wrapping_mul(2_654_435_761)
                .wrapping_add(seed.wrapping_mul(40_503))
                >> 13) as u8
        };
        fs::write(
            place("program", &seed.to_string())?,
            (0..400).map(byte).collect::<Vec<_>>(),
        )?;
    }
    Ok(())
}

/// The path of a seed; its folder is there.
fn place(target: &str, name: &str) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("seed-{name}")))
}

/// A model of each kind, as small as it can be, and its card alone.
fn models() -> Result<()> {
    let autoencoder = AutoencoderConfig {
        latent_channels: 2,
        ..AutoencoderConfig::default()
    };
    let layout = CellLayout {
        input: 2,
        output: 2,
        hidden: 1,
    };
    let nafca = NafcaConfig {
        layout,
        embed_dim: 2,
        ffn_expand: 2,
        perception: Perception::Plain,
        ..NafcaConfig::default()
    };
    let vitca = VitcaConfig {
        layout,
        embed_dim: 4,
        heads: 2,
        mlp_dim: 2,
        ..VitcaConfig::default()
    };
    let latent = ModelConfig::LatentNafca {
        autoencoder: autoencoder.clone(),
        transition: nafca,
        start: Default::default(),
    };
    let attention = ModelConfig::LatentVitca {
        autoencoder,
        transition: vitca,
        start: Default::default(),
    };
    for config in [latent, attention] {
        let path = place("card", config.name())?;
        Model::new(config, 1, &Device::Cpu)?.save(&path)?;
        card(&path)?;
    }
    let growing = GrowingConfig {
        layout: CellLayout {
            input: 0,
            output: 4,
            hidden: 0,
        },
        hidden_dim: 1,
        ..GrowingConfig::default()
    };
    let texture = TextureConfig {
        hidden_dim: 1,
        ..TextureConfig::default()
    };
    for (name, config) in [
        ("growing", PatternConfig::Growing(growing)),
        ("texture", PatternConfig::Texture(texture)),
    ] {
        let path = place("card", name)?;
        Pattern::new(PatternCard::new(config, (8, 8)), 1, &Device::Cpu)?.save(&path)?;
        card(&path)?;
    }
    for (name, decoder) in [
        ("doubling", DecoderConfig::Doubling { steps: 1, blocks: 1 }),
        ("baseline", DecoderConfig::Baseline { width: 16 }),
    ] {
        let config = VaeConfig {
            size: 32,
            border: 2,
            latent: 4,
            encoder: 1,
            decoder,
        };
        let path = place("card", name)?;
        Vae::new(VaeCard::new(config), 1, &Device::Cpu)?.save(&path)?;
        card(&path)?;
    }
    Ok(())
}

/// Writes the card of a model file beside it.
fn card(path: &Path) -> Result<()> {
    let bytes = fs::read(path)?;
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes)?;
    let text = header.metadata().as_ref().and_then(|entries| entries.get("lnca"));
    fs::write(path.with_extension("card"), text.ok_or("a model without a card")?)?;
    Ok(())
}

fn released() -> Result<()> {
    let growing = r#"[{"data_b64":"AAAAAAAAAAAAAAAAAA==","in_ch":12,"out_ch":1,"weight_scale":1.0,"bias_scale":1.0},
{"data_b64":"AAAAAAAAAAA=","in_ch":1,"out_ch":4,"weight_scale":1.0,"bias_scale":1.0}]"#;
    fs::write(place("released", "growing")?, growing)?;
    let texture = r#"{"model_names":["a/b"],"layers":[{"scale":1.0,"data":"AAAA","shape":[13,1],"layout":[1,1]},
{"scale":1.0,"data":"AAAA","shape":[2,3],"layout":[1,1]}]}"#;
    fs::write(place("released", "texture")?, texture)?;
    Ok(())
}

fn digits() -> Result<()> {
    let mut idx = vec![0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 4];
    idx.extend((0..32).map(|i| (i * 8) as u8));
    fs::write(place("idx", "plain")?, &idx)?;
    let mut gzipped = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gzipped.write_all(&idx)?;
    fs::write(place("idx", "gzipped")?, gzipped.finish()?)?;
    fs::write(place("amat", "text")?, "0 1 0 1\n1 1 0 0\n")?;
    fs::write(
        place("cifar", "one")?,
        (0..3073u32).map(|i| i as u8).collect::<Vec<_>>(),
    )?;
    Ok(())
}

fn pictures() -> Result<()> {
    for (name, color, bytes) in [
        ("grey", ColorType::L8, 1),
        ("rgb", ColorType::Rgb8, 3),
        ("rgba", ColorType::Rgba8, 4),
        ("deep", ColorType::Rgb16, 6),
    ] {
        let pixels: Vec<u8> = (0..5 * 3 * bytes).map(|i| (i * 7) as u8).collect();
        let mut png = vec![];
        image::codecs::png::PngEncoder::new(&mut png).write_image(&pixels, 5, 3, color.into())?;
        fs::write(place("picture", &format!("{name}.png"))?, png)?;
        if bytes <= 3 {
            let mut jpeg = vec![];
            image::codecs::jpeg::JpegEncoder::new(&mut jpeg).write_image(&pixels, 5, 3, color.into())?;
            fs::write(place("picture", &format!("{name}.jpg"))?, jpeg)?;
        }
    }
    Ok(())
}
