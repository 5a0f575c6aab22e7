//! Patterns: damage, rotation, hexagons, files, targets, styles of VGG-16.

use std::collections::HashMap;

use candle_core::{DType, Tensor, Var};
use lnca::data::{Emblem, Swatch, read_swatch, read_target};
use lnca::loss::{PatchTransport, StyleLoss, Vgg16, VggComparison, VggStyle, sliced_transport};
use lnca::random::Key;
use lnca::transition::Lattice;
use lnca::{
    Damage, Error, GrowingConfig, Pattern, PatternCard, PatternConfig, Result, Rollout, TextureConfig,
};

use crate::common::device::device;
use crate::common::{normal, randomise, values};

fn trained_like(config: PatternConfig, size: (usize, usize)) -> Result<Pattern> {
    let pattern = Pattern::new(PatternCard::new(config, size), 3, &device())?;
    randomise(pattern.weights(), 4, 0.1)?;
    Ok(pattern)
}

#[test]
fn damage_erases_what_it_says() -> Result<()> {
    let cells = normal(1, (2, 6, 8, 3), DType::F32);
    let erased = |damage: Damage| -> Result<usize> {
        let after = damage.apply(&cells)?;
        let same = values(&after)
            .iter()
            .zip(values(&cells))
            .filter(|(a, b)| *a == b)
            .count();
        let zero = values(&after).iter().filter(|x| **x == 0.0).count();
        assert_eq!(same + zero, cells.elem_count(), "{damage:?}");
        Ok(zero / 6)
    };
    for half in [
        Damage::LowerHalf,
        Damage::UpperHalf,
        Damage::LeftHalf,
        Damage::RightHalf,
    ] {
        assert_eq!(erased(half)?, 24, "{half:?}");
    }
    assert_eq!(erased(Damage::Centre(2))?, 4);
    assert_eq!(erased(Damage::Centre(99))?, 48);
    assert_eq!(erased(Damage::random_square(3, (6, 8), Key::new(1))?)?, 9);
    assert!(matches!(
        Damage::random_square(7, (6, 8), Key::new(1)),
        Err(Error::Config { .. })
    ));
    for n in 0..20 {
        let Damage::Circle { centre, radius } = Damage::random_circle(Key::new(n)) else {
            panic!("no circle");
        };
        assert!(centre.0.abs() <= 0.5 && centre.1.abs() <= 0.5 && (0.1..0.4).contains(&radius));
    }
    assert!(Damage::LowerHalf.apply(&normal(1, (6, 8), DType::F32)).is_err());
    Ok(())
}

/// `x` (`[B, H, W, C]`, square) rotated by 90 degrees: the right side becomes the bottom.
fn turned(x: &Tensor) -> Result<Tensor> {
    let n = x.dim(1)?;
    let back = Tensor::from_iter((0..n as u32).rev(), &device())?;
    Ok(x.transpose(1, 2)?.contiguous()?.index_select(&back, 2)?)
}

#[test]
fn a_turned_perception_turns_the_pattern() -> Result<()> {
    // A quarter turn maps the grid onto itself, so the rule turned back perceives turned cells as it did
    // before.
    let quarter = std::f64::consts::FRAC_PI_2;
    let growing = trained_like(PatternConfig::Growing(GrowingConfig::default()), (9, 9))?;
    let texture = trained_like(PatternConfig::Texture(TextureConfig::default()), (9, 9))?;
    for pattern in [growing, texture] {
        let turned_rule = pattern.reconfigured(|config| match config {
            PatternConfig::Growing(config) => config.angle = -quarter,
            PatternConfig::Texture(config) => config.angle = -quarter,
        })?;
        let channels = lnca::TransitionFn::layout(pattern.rule()).channels();
        let cells = normal(7, (1, 9, 9, channels), DType::F32);
        let after = turned(&Rollout::new(3).run(pattern.rule(), &cells)?)?;
        let found = Rollout::new(3).run(turned_rule.rule(), &turned(&cells)?)?;
        for (a, b) in values(&after).iter().zip(values(&found)) {
            assert!((a - b).abs() < 1e-3 * (1.0 + a.abs()), "{a} {b}");
        }
    }
    Ok(())
}

#[test]
fn hexagonal_cells_see_six_neighbours() -> Result<()> {
    let config = TextureConfig {
        lattice: Lattice::Hexagonal,
        ..TextureConfig::default()
    };
    let pattern = trained_like(PatternConfig::Texture(config), (5, 5))?;
    let one = Damage::Rectangle {
        rows: (2, 3),
        columns: (2, 3),
    };
    let one = (1.0 - one.mask((5, 5), DType::F32, &device())?)?;
    let cells = one.broadcast_as((1, 5, 5, 12))?.contiguous()?;
    let zeros = pattern.seed(1, (5, 5))?;
    let update =
        |cells: &Tensor| -> Result<Tensor> { Ok((Rollout::new(1).run(pattern.rule(), cells)? - cells)?) };
    let change = (update(&cells)? - update(&zeros)?)?.sqr()?.sum(3)?;
    let seen = values(&change).iter().filter(|x| **x > 1e-9).count();
    assert_eq!(seen, 7);
    Ok(())
}

#[test]
fn half_of_the_grid_may_be_slower() -> Result<()> {
    let pattern = trained_like(PatternConfig::Texture(TextureConfig::default()), (8, 8))?;
    let rates = Tensor::cat(
        &[
            Tensor::zeros((8, 4), DType::F32, &device())?,
            Tensor::ones((8, 4), DType::F32, &device())?,
        ],
        1,
    )?;
    let cells = normal(2, (2, 8, 8, 12), DType::F32);
    let after = Rollout::new(2).fire_rates(&rates)?.run(pattern.rule(), &cells)?;
    let left = |x: &Tensor| -> Result<Vec<f64>> { Ok(values(&x.narrow(2, 0, 4)?)) };
    assert_eq!(left(&after)?, left(&cells)?);
    let all = Rollout::new(1).run(pattern.rule(), &cells)?;
    let once = Rollout::new(1).fire_rates(&rates)?.run(pattern.rule(), &cells)?;
    let right = |x: &Tensor| -> Result<Vec<f64>> { Ok(values(&x.narrow(2, 4, 4)?)) };
    assert_eq!(right(&once)?, right(&all)?);
    // Equal rates for all cells give the same bits as a single rate.
    let half = Tensor::full(0.5f32, (8, 8), &device())?;
    let each = Rollout::new(3).fire_rates(&half)?.run(pattern.rule(), &cells)?;
    let same = Rollout::new(3).fire_rate(0.5).run(pattern.rule(), &cells)?;
    assert_eq!(values(&each), values(&same));
    // Rates of another grid, or outside `[0, 1]`, are errors.
    let wide = Tensor::full(0.5f32, (8, 9), &device())?;
    assert!(
        Rollout::new(1)
            .fire_rates(&wide)?
            .run(pattern.rule(), &cells)
            .is_err()
    );
    let above = Tensor::full(1.5f32, (8, 8), &device())?;
    assert!(
        Rollout::new(1)
            .fire_rates(&above)?
            .run(pattern.rule(), &cells)
            .is_err()
    );
    Ok(())
}

#[test]
fn a_pattern_file_is_the_pattern() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let configs = [
        PatternConfig::Growing(GrowingConfig::default()),
        PatternConfig::Texture(TextureConfig::released()),
    ];
    for (n, config) in configs.into_iter().enumerate() {
        let path = folder.path().join(format!("{n}.safetensors"));
        let pattern = trained_like(config, (12, 10))?;
        pattern.save(&path)?;
        let loaded = Pattern::load(&path, &device())?;
        assert_eq!(loaded.card(), pattern.card());
        let run = |pattern: &Pattern| -> Result<Vec<f64>> {
            let cells = pattern.seed(1, (12, 10))?;
            let cells = pattern.rollout(5, Key::new(1)).run(pattern.rule(), &cells)?;
            Ok(values(&pattern.rgba(&cells)?))
        };
        assert_eq!(run(&pattern)?, run(&loaded)?);
    }
    // A card that asks for more weights than the file has, and more than memory holds.
    let mut liar = trained_like(PatternConfig::Growing(GrowingConfig::default()), (12, 10))?;
    if let PatternConfig::Growing(config) = &mut liar.card_mut().config {
        config.hidden_dim = 1 << 40;
    }
    let path = folder.path().join("liar.safetensors");
    liar.save(&path)?;
    assert!(matches!(Pattern::load(&path, &device()), Err(Error::File { .. })));
    // Files of other kinds.
    let text = folder.path().join("x.json");
    std::fs::write(&text, "[]").unwrap();
    assert!(matches!(Pattern::load(&text, &device()), Err(Error::File { .. })));
    assert!(matches!(
        Pattern::released_growing(&text),
        Err(Error::File { .. })
    ));
    assert!(matches!(
        Pattern::released_texture(&text, "dots"),
        Err(Error::File { .. })
    ));
    assert!(matches!(
        Pattern::released_growing(folder.path().join("none")),
        Err(Error::Io { .. })
    ));
    let layer = r#"{"data_b64": "AAAA", "in_ch": 48, "out_ch": 16, "weight_scale": 1.0, "bias_scale": 1.0}"#;
    std::fs::write(&text, format!("[{layer}, {layer}]")).unwrap();
    assert!(matches!(
        Pattern::released_growing(&text),
        Err(Error::File { .. })
    ));
    Ok(())
}

#[test]
fn targets_keep_their_aspect_and_no_colour_exceeds_alpha() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wide.png");
    let image = image::RgbaImage::from_fn(60, 30, |x, y| {
        image::Rgba([255, (4 * x) as u8, 0, if y < 15 { 255 } else { 0 }])
    });
    image.save(&path).unwrap();
    let target = read_target(&path, 20, 3)?;
    assert_eq!(target.dims(), [16, 26, 4]);
    for pixel in values(&target).chunks(4) {
        assert!(pixel[..3].iter().all(|colour| *colour <= pixel[3] + 1e-6));
    }
    assert_eq!(values(&target.get(0)?).iter().sum::<f64>(), 0.0);
    assert_eq!(read_swatch(&path, 40)?.dims(), [20, 40, 3]);
    assert_eq!(read_swatch(&path, 400)?.dims(), [30, 60, 3]);
    assert!(read_target(&path, 0, 3).is_err());
    for emblem in [Emblem::Fish, Emblem::Flower] {
        let drawn = emblem.draw(40, 16)?;
        assert_eq!(drawn.dims(), [72, 72, 4]);
        let covered = values(&drawn.narrow(2, 3, 1)?).iter().sum::<f64>() / 1600.0;
        assert!((0.2..0.8).contains(&covered), "{covered}");
        // The target covers the seed in the middle of the grid.
        assert!(values(&drawn.get(36)?.get(36)?)[3] > 0.9, "{emblem:?}");
    }
    for swatch in [Swatch::Bubbles, Swatch::Weave] {
        let drawn = values(&swatch.draw(64)?);
        assert!(drawn.iter().all(|v| (0.0..=1.0).contains(v)));
    }
    Ok(())
}

#[test]
fn transport_is_zero_between_equal_sets_in_any_order() -> Result<()> {
    let set = normal(1, (1, 30, 4), DType::F64);
    let order = Tensor::from_iter((0..30u32).map(|i| i * 7 % 30), &device())?;
    let directions = lnca::loss::directions((4, 9), Key::new(2), DType::F64, &device())?;
    let distance = |x: &Tensor| -> Result<f64> { Ok(sliced_transport(x, &set, &directions)?.to_scalar()?) };
    assert!(distance(&set.index_select(&order, 1)?)? < 1e-20);
    // For a set moved by v, the distance along each direction d is |<v, d>|^2.
    let moved = distance(&(&set + 0.5)?)?;
    let along = values(&(directions.sum(0)? * 0.5)?.sqr()?).iter().sum::<f64>() * 30.0;
    assert!((moved - along).abs() < 1e-9 * along);
    assert!(sliced_transport(&set, &normal(1, (1, 30, 3), DType::F64), &directions).is_err());
    Ok(())
}

#[test]
fn a_style_is_nearest_to_itself_and_blind_to_place() -> Result<()> {
    let target = Swatch::Weave.draw(32)?;
    let style = PatchTransport::new(&target, 3, 24)?;
    let distance = |image: &Tensor| -> Result<f64> {
        Ok(f64::from(
            style
                .distance(&image.unsqueeze(0)?, Key::new(1))?
                .to_scalar::<f32>()?,
        ))
    };
    let own = distance(&target)?;
    let moved = Tensor::cat(&[target.narrow(0, 16, 16)?, target.narrow(0, 0, 16)?], 0)?;
    let other = Swatch::Bubbles.draw(32)?;
    assert!((distance(&moved)? - own).abs() < 1e-3 * (1.0 + own));
    assert!(own < 0.1 * distance(&other)?, "{own} {}", distance(&other)?);
    assert!(PatchTransport::new(&target.narrow(0, 0, 4)?, 3, 24).is_err());
    Ok(())
}

#[test]
fn vgg_styles_by_weights_of_a_file() -> Result<()> {
    let mut channels = 3;
    let mut weights = HashMap::new();
    let sizes = [
        (0, 64),
        (2, 64),
        (5, 128),
        (7, 128),
        (10, 256),
        (12, 256),
        (14, 256),
        (17, 512),
        (19, 512),
        (21, 512),
        (24, 512),
    ];
    for (layer, output) in sizes {
        let deviation = (2.0 / (9 * channels) as f64).sqrt();
        let kernel = (normal(layer, (output, channels, 3, 3), DType::F32) * deviation)?;
        weights.insert(format!("features.{layer}.weight"), kernel);
        weights.insert(
            format!("features.{layer}.bias"),
            (normal(layer + 100, output, DType::F32) * 0.1)?,
        );
        channels = output;
    }
    // A layer of the whole network that is not needed.
    weights.insert(
        "classifier.0.weight".into(),
        Tensor::zeros((2, 2), DType::F32, &device())?,
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vgg16.safetensors");
    candle_core::safetensors::save(&weights, &path)?;
    let network = Vgg16::load(&path, &device())?;
    let target = Swatch::Weave.draw(36)?;
    let features = network.features(&target.unsqueeze(0)?)?;
    let shapes: Vec<_> = features.iter().map(|set| set.dims().to_vec()).collect();
    let expected =
        [(36, 64), (18, 128), (9, 256), (4, 512), (2, 512)].map(|(side, c)| vec![1, side * side, c]);
    assert_eq!(shapes, expected);
    for comparison in [
        VggComparison::Gram,
        VggComparison::CompressedGram,
        VggComparison::Transport,
    ] {
        let style = VggStyle::new(network.clone(), comparison, &target)?;
        let distance = |image: &Tensor| -> Result<Tensor> { style.distance(image, Key::new(1)) };
        let own: f32 = distance(&target.unsqueeze(0)?)?.to_scalar()?;
        let other = Var::from_tensor(&Swatch::Bubbles.draw(32)?.unsqueeze(0)?)?;
        let far = distance(other.as_tensor())?;
        assert!(
            own.abs() < 1e-6 && far.to_scalar::<f32>()? > 1e-3,
            "{}",
            style.name()
        );
        // Against its gradient the distance falls by what the gradient predicts.
        let grads = far.backward()?;
        let slope = grads.get(&other).expect("a gradient");
        let steepness = f64::from(slope.sqr()?.sum_all()?.to_scalar::<f32>()?);
        let far = f64::from(far.to_scalar::<f32>()?);
        let step = 1e-4 * far / steepness;
        let nearer = distance(&(other.as_tensor() - (slope * step)?)?)?.to_scalar::<f32>()?;
        let fall = (far - f64::from(nearer)) / (step * steepness);
        assert!((0.8..1.1).contains(&fall), "{}: {fall}", style.name());
    }
    weights.remove("features.24.bias");
    candle_core::safetensors::save(&weights, &path)?;
    match Vgg16::load(&path, &device()) {
        Err(Error::Weight { key, .. }) => assert_eq!(key, "features.24.bias"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        Vgg16::load(folder.path(), &device()),
        Err(Error::Io { .. })
    ));
    assert!(
        network
            .features(&Tensor::zeros((1, 8, 8, 3), DType::F32, &device())?)
            .is_err()
    );
    Ok(())
}
