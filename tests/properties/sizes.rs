//! Sizes that cannot be right give errors that name them: no panic, and no end of the process.

use candle_core::DType;
use lnca::data::{BinaryImages, Dataset, Emblem, Swatch, dead_leaves, derangement};
use lnca::loss::PatchTransport;
use lnca::model::baseline::{NafNet, NafNetConfig, Restormer, RestormerConfig};
use lnca::model::pattern::{Pattern, PatternCard, PatternConfig};
use lnca::nn::Linear;
use lnca::random::Key;
use lnca::transition::{polar_directions, positional_table};
use lnca::{
    Autoencoder, AutoencoderConfig, CellLayout, Damage, DecoderConfig, Function, Growing, GrowingConfig,
    Memory, Nafca, NafcaConfig, OutputStart, Padding, ProgramBuilder, Result, Rollout, Texture,
    TextureConfig, Vae, VaeCard, VaeConfig, Vitca, VitcaConfig, Vnca, VncaConfig,
};

use crate::common::device::device;
use crate::refusals::{HUGE, all_name, nothing, weights, zeros};

#[test]
fn sizes_that_are_too_large() -> Result<()> {
    let layout = CellLayout {
        input: 0,
        output: 4,
        hidden: 12,
    };
    let wide = CellLayout {
        hidden: HUGE,
        ..layout
    };
    let cells = zeros(&[1, 2, 2, 16]);
    let growing = Growing::new(GrowingConfig::default(), weights().builder())?;
    let pattern = |config| Pattern::new(PatternCard::new(config, (8, 8)), 1, &device());
    let growing_pattern = pattern(PatternConfig::Growing(GrowingConfig::default()))?;
    let texture_pattern = pattern(PatternConfig::Texture(TextureConfig::default()))?;
    let vae = Vae::new(VaeCard::new(VaeConfig::small()), 1, &device())?;
    let images = zeros(&[1, 32, 32, 1]);
    let single = |size| nothing(layout.single_cell(size, DType::F32, &device()));
    for side in [HUGE, 1 << 63, 1 << 32, 1 << 31, 3_000_000_000] {
        all_name(vec![
            ("(batch, height, width)", single((1, side, side))),
            ("(batch, height, width)", single((side, side, 1))),
            (
                "(batch, height, width)",
                nothing(growing_pattern.seed(1, (side, side))),
            ),
            (
                "(batch, height, width)",
                nothing(texture_pattern.seed(side, (side, 1))),
            ),
            (
                "size",
                nothing(Damage::LowerHalf.mask((side, side), DType::F32, &device())),
            ),
            ("side", nothing(Damage::random_square(side, (8, 8), Key::new(1)))),
            ("side", nothing(Emblem::Fish.draw(side, 0))),
            ("padding", nothing(Emblem::Fish.draw(8, side))),
            ("side", nothing(Swatch::Weave.draw(side))),
            ("(height, width)", nothing(dead_leaves(side, side, Key::new(1)))),
            ("size", nothing(Dataset::dead_leaves(1, side, 1))),
            ("(height, width)", nothing(polar_directions(side, side, &cells))),
            (
                "positions",
                nothing(positional_table(side, 64, Default::default(), &device())),
            ),
        ]);
    }
    for count in [HUGE, 1 << 60] {
        all_name(vec![
            ("count", nothing(Dataset::dead_leaves(count, 8, 1))),
            ("count", nothing(BinaryImages::digits(count, 1))),
            ("border", nothing(BinaryImages::digits(1, 1)?.padded(count))),
            ("n", nothing(derangement(count, Key::new(1)))),
            ("count", nothing(vae.prior(count, Key::new(1)))),
            ("samples", nothing(vae.estimate(&images, count, Key::new(1), 0))),
            (
                "first_image",
                nothing(vae.estimate(&images, 1, Key::new(1), HUGE)),
            ),
            ("steps", nothing(Rollout::new(count).run(&growing, &cells))),
            ("steps", nothing(Rollout::new(count).trajectory(&growing, &cells))),
            (
                "steps",
                nothing(Rollout::new(1 << 31).trajectory(&growing, &cells)),
            ),
            ("steps", nothing(Rollout::sampled(1..=count, Key::new(1)))),
            (
                "first_image",
                nothing(Rollout::new(1).first_image(count).run(&growing, &cells)),
            ),
            (
                "directions",
                nothing(PatchTransport::new(&zeros(&[8, 8, 3]), 1, count)),
            ),
        ]);
    }
    assert!(wide.channels() == HUGE && wide.update_channels() == HUGE);
    all_name(vec![
        (
            "(batch, height, width)",
            nothing(wide.single_cell((1, 2, 2), DType::F32, &device())),
        ),
        (
            "layout",
            nothing(wide.seed(&zeros(&[1, 2, 2, 0]), OutputStart::Half)),
        ),
        ("cells", nothing(wide.check(&cells))),
    ]);
    // What is large and right is not refused.
    assert!(Damage::Centre(HUGE).erases((0, 0), (4, 4)));
    Rollout::new(1)
        .memory(Memory::Every(HUGE))
        .run(&growing, &cells)?;
    Ok(())
}

#[test]
fn layouts_without_channels() -> Result<()> {
    let layout = CellLayout {
        input: 0,
        output: 0,
        hidden: 0,
    };
    let p = ProgramBuilder::new(layout);
    let cells = p.cells();
    all_name(vec![
        ("layout", nothing(p.finish(cells))),
        (
            "layout",
            nothing(layout.single_cell((1, 2, 2), DType::F32, &device())),
        ),
        ("cells", nothing(layout.check(&zeros(&[1, 2, 2, 0])))),
        ("cells", nothing(layout.check(&zeros(&[0, 2, 2, 0])))),
    ]);
    let mut p = ProgramBuilder::new(CellLayout { output: 3, ..layout });
    let mut x = p.cells();
    let error = loop {
        match p.neighbourhood(x, Padding::Zero) {
            Ok(wider) => x = wider,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("`x`"), "{error}");
    let cells = p.cells();
    all_name(vec![
        ("table", nothing(p.constant(&zeros(&[0, 2, 0])))),
        ("slice", nothing(p.slice(cells, HUGE, HUGE))),
        (
            "heads",
            nothing(p.attention(cells, cells, cells, 0, Padding::Zero)),
        ),
        ("eps", nothing(p.inverse_rms(cells, f64::NAN))),
        ("eps", nothing(p.inverse_std(cells, -1.0))),
        (
            "clamp",
            nothing(p.map(cells, Function::Clamp { min: 1.0, max: -1.0 })),
        ),
        (
            "clamp",
            nothing(p.map(
                cells,
                Function::Clamp {
                    min: f32::NAN,
                    max: 1.0,
                },
            )),
        ),
        (
            "clamp",
            nothing(Function::Clamp { min: 1.0, max: -1.0 }.of(&zeros(&[2]))),
        ),
        ("quantise", nothing(p.map(cells, Function::quantise(1.0, 1.0)))),
        (
            "quantise",
            nothing(p.map(cells, Function::quantise(f32::NAN, 1.0))),
        ),
    ]);
    Ok(())
}

/// The default settings, changed.
fn changed<C: Default>(change: impl FnOnce(&mut C)) -> C {
    let mut config = C::default();
    change(&mut config);
    config
}

const TOO_LARGE: [usize; 2] = [HUGE, 1 << 40];

#[test]
fn sizes_of_transitions() {
    let layout = |hidden: usize| CellLayout {
        input: 3,
        output: 3,
        hidden,
    };
    let weights = weights();
    let vb = || weights.builder();
    let vitca = |config| nothing(Vitca::new(config, vb()));
    let nafca = |config| nothing(Nafca::new(config, vb()));
    let growing = |config| nothing(Growing::new(config, vb()));
    let texture = |config| nothing(Texture::new(config, vb()));
    let vnca = |config| nothing(Vnca::new(config, vb()));
    for size in TOO_LARGE {
        let wide = layout(size);
        all_name(vec![
            (
                "layout",
                vitca(changed(|config: &mut VitcaConfig| config.layout = wide)),
            ),
            (
                "embed_dim",
                vitca(changed(|config: &mut VitcaConfig| config.embed_dim = size)),
            ),
            (
                "mlp_dim",
                vitca(changed(|config: &mut VitcaConfig| config.mlp_dim = size)),
            ),
            (
                "depth",
                vitca(changed(|config: &mut VitcaConfig| config.depth = size)),
            ),
            (
                "heads",
                vitca(changed(|config: &mut VitcaConfig| config.heads = size)),
            ),
            (
                "eps",
                vitca(changed(|config: &mut VitcaConfig| config.eps = f64::NAN)),
            ),
            (
                "layout",
                nafca(changed(|config: &mut NafcaConfig| config.layout = wide)),
            ),
            (
                "embed_dim",
                nafca(changed(|config: &mut NafcaConfig| config.embed_dim = size)),
            ),
            (
                "ffn_expand",
                nafca(changed(|config: &mut NafcaConfig| config.ffn_expand = size)),
            ),
            (
                "eps",
                nafca(changed(|config: &mut NafcaConfig| config.eps = -1.0)),
            ),
            (
                "layout",
                growing(changed(|config: &mut GrowingConfig| config.layout = wide)),
            ),
            (
                "hidden_dim",
                growing(changed(|config: &mut GrowingConfig| config.hidden_dim = size)),
            ),
            (
                "angle",
                growing(changed(|config: &mut GrowingConfig| config.angle = f64::NAN)),
            ),
            (
                "layout",
                texture(changed(|config: &mut TextureConfig| config.layout = wide)),
            ),
            (
                "hidden_dim",
                texture(changed(|config: &mut TextureConfig| config.hidden_dim = size)),
            ),
            (
                "filter_scale",
                texture(changed(|config: &mut TextureConfig| {
                    config.filter_scale = f64::NAN
                })),
            ),
            (
                "clip",
                texture(changed(|config: &mut TextureConfig| {
                    config.clip = Some(f32::INFINITY)
                })),
            ),
            ("layout", vnca(VncaConfig::broadcast(size))),
            ("layout", vnca(VncaConfig::doubling(size))),
            (
                "blocks",
                vnca(changed(|config: &mut VncaConfig| config.blocks = size)),
            ),
            ("weight", nothing(Linear::glorot(size, size, vb()))),
        ]);
    }
}

#[test]
fn sizes_of_models() {
    let weights = weights();
    let vb = || weights.builder();
    let autoencoder = |config| nothing(Autoencoder::new(config, vb()));
    let vae = |config| nothing(Vae::new(VaeCard::new(config), 1, &device()));
    let nafnet = |config| nothing(NafNet::new(&config, vb()));
    let restormer = |config| nothing(Restormer::new(&config, vb()));
    for size in TOO_LARGE {
        let latent = size / 4 * 4;
        let blocks = DecoderConfig::Doubling {
            steps: 1,
            blocks: size,
        };
        let steps = DecoderConfig::Doubling {
            steps: HUGE,
            blocks: 1,
        };
        let width = DecoderConfig::Baseline { width: size };
        all_name(vec![
            (
                "latent_channels",
                autoencoder(changed(|config: &mut AutoencoderConfig| {
                    config.latent_channels = latent
                })),
            ),
            ("size", vae(changed(|config: &mut VaeConfig| config.size = size))),
            (
                "latent",
                vae(changed(|config: &mut VaeConfig| config.latent = size)),
            ),
            ("latent", vae(changed(|config: &mut VaeConfig| config.latent = 0))),
            (
                "encoder",
                vae(changed(|config: &mut VaeConfig| config.encoder = size)),
            ),
            (
                "border",
                vae(changed(|config: &mut VaeConfig| config.border = size)),
            ),
            (
                "blocks",
                vae(changed(|config: &mut VaeConfig| config.decoder = blocks)),
            ),
            (
                "steps",
                vae(changed(|config: &mut VaeConfig| config.decoder = steps)),
            ),
            (
                "width",
                vae(changed(|config: &mut VaeConfig| config.decoder = width)),
            ),
            (
                "width",
                nafnet(changed(|config: &mut NafNetConfig| config.width = size)),
            ),
            (
                "blocks",
                nafnet(changed(|config: &mut NafNetConfig| config.middle = size)),
            ),
            (
                "blocks",
                nafnet(changed(|config: &mut NafNetConfig| config.encoder[0] = size)),
            ),
            (
                "width",
                restormer(changed(|config: &mut RestormerConfig| config.width = size)),
            ),
            (
                "blocks",
                restormer(changed(|config: &mut RestormerConfig| config.refinement = size)),
            ),
            (
                "expansion",
                restormer(changed(|config: &mut RestormerConfig| {
                    config.expansion = size as f64
                })),
            ),
            (
                "expansion",
                restormer(changed(|config: &mut RestormerConfig| {
                    config.expansion = f64::NAN
                })),
            ),
        ]);
    }
}
