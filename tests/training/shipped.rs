//! The patterns that come with the crate: they grow, heal, turn, and fill grids of other sizes than in
//! training.

use candle_core::{DType, Tensor};
use lnca::data::{Emblem, Swatch, shuffled};
use lnca::loss::{ImageLoss, PatternLoss};
use lnca::metric::FilterBank;
use lnca::random::Key;
use lnca::transition::Lattice;
use lnca::{Damage, Pattern, PatternConfig, Result};

use crate::common::device::{device, root};
use crate::common::values;

fn model(name: &str) -> Result<Pattern> {
    let folder = root().join("models");
    Pattern::load(folder.join(format!("{name}.safetensors")), &device())
}

fn advance(pattern: &Pattern, cells: &Tensor, steps: usize, seed: u64) -> Result<Tensor> {
    pattern.rollout(steps, Key::new(seed)).run(pattern.rule(), cells)
}

/// log10 of the loss of one state.
fn log_loss(cells: &Tensor, target: &Tensor) -> Result<f64> {
    Ok(ImageLoss::new(target.clone())?.each(cells)?[0].log10())
}

#[test]
fn the_fish_grows_stays_and_heals() -> Result<()> {
    let fish = model("fish")?;
    let target = Emblem::Fish.draw(40, 16)?;
    let grown = advance(&fish, &fish.seed(1, (72, 72))?, 96, 1)?;
    let early = log_loss(&grown, &target)?;
    let grown = advance(&fish, &grown, 200, 2)?;
    let late = log_loss(&grown, &target)?;
    assert!(early < -2.2 && late < early, "{early:.2} {late:.2}");
    for damage in [Damage::RightHalf, Damage::Centre(16)] {
        let cut = damage.apply(&grown)?;
        let hurt = log_loss(&cut, &target)?;
        let healed = log_loss(&advance(&fish, &cut, 200, 3)?, &target)?;
        assert!(
            healed < -1.9 && healed < hurt - 0.5,
            "{damage:?}: {hurt:.2} {healed:.2}"
        );
    }
    Ok(())
}

#[test]
fn the_lizard_becomes_again_what_it_was() -> Result<()> {
    let lizard = model("lizard")?;
    let grown = advance(&lizard, &lizard.seed(1, (72, 72))?, 200, 1)?;
    let before = lizard.rgba(&grown)?.squeeze(0)?;
    for damage in [Damage::LowerHalf, Damage::UpperHalf, Damage::Centre(16)] {
        let cut = damage.apply(&grown)?;
        let hurt = log_loss(&cut, &before)?;
        let healed = log_loss(&advance(&lizard, &cut, 200, 2)?, &before)?;
        assert!(
            healed < -2.3 && healed < hurt - 0.6,
            "{damage:?}: {hurt:.2} {healed:.2}"
        );
    }
    Ok(())
}

#[test]
fn the_fish_grows_turned_in_a_larger_grid_and_with_a_slower_half() -> Result<()> {
    let fish = model("fish")?;
    // A quarter turn of the perception, and the target with it: its rows from the right become columns.
    let quarter = fish.reconfigured(|config| {
        if let PatternConfig::Growing(config) = config {
            config.angle = -std::f64::consts::FRAC_PI_2;
        }
    })?;
    let grown = advance(&quarter, &fish.seed(1, (101, 101))?, 150, 1)?;
    let target = Emblem::Fish.draw(40, 16)?;
    let back = Tensor::from_iter((0..72u32).rev(), &device())?;
    let turned = target.transpose(0, 1)?.contiguous()?.index_select(&back, 1)?;
    // The seed is right of and below the middle, which a turn moves by one cell.
    let nearest = |target: &Tensor| -> Result<f64> {
        let corners = (13..=16).flat_map(|top| (13..=16).map(move |left| (top, left)));
        let losses =
            corners.map(|(top, left)| log_loss(&grown.narrow(1, top, 72)?.narrow(2, left, 72)?, target));
        Ok(losses
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .fold(0.0, f64::min))
    };
    let (as_turned, as_it_was) = (nearest(&turned)?, nearest(&target)?);
    assert!(
        as_turned < -1.9 && as_it_was > -1.5,
        "{as_turned:.2} {as_it_was:.2}"
    );

    let slow = (0..72 * 72).map(|cell| if cell % 72 < 36 { 0.5f32 } else { 0.25 });
    let rates = Tensor::from_iter(slow, &device())?.reshape((72, 72))?;
    let rollout = fish.rollout(200, Key::new(4)).fire_rates(&rates)?;
    let grown = rollout.run(fish.rule(), &fish.seed(1, (72, 72))?)?;
    let loss = log_loss(&grown, &target)?;
    assert!(loss < -1.9, "{loss:.2}");
    Ok(())
}

/// Colours of one state, `[H, W, 3]`.
fn colours(pattern: &Pattern, cells: &Tensor) -> Result<Tensor> {
    Ok(pattern
        .rgba(cells)?
        .squeeze(0)?
        .narrow(2, 0, 3)?
        .clamp(0.0, 1.0)?)
}

#[test]
fn textures_fill_a_larger_grid_heal_and_stay() -> Result<()> {
    let bank = FilterBank::new()?;
    for (name, swatch) in [("bubbles", Swatch::Bubbles), ("weave", Swatch::Weave)] {
        let texture = model(name)?;
        let target = swatch.draw(128)?;
        let order = shuffled(128 * 128, Key::new(1))
            .into_iter()
            .map(|pixel| pixel as u32);
        let order = Tensor::from_iter(order, &device())?;
        let noise = target
            .reshape((128 * 128, 3))?
            .index_select(&order, 0)?
            .reshape((128, 128, 3))?;
        let noise = bank.distance(&noise, &target)?;
        let distance = |cells: &Tensor| bank.distance(&colours(&texture, cells)?, &target);
        let made = advance(&texture, &texture.seed(1, (128, 128))?, 150, 1)?;
        let first = distance(&made)?;
        let hole = Damage::Circle {
            centre: (0.0, 0.0),
            radius: 0.4,
        };
        let hurt = hole.apply(&made)?;
        let healed = advance(&texture, &hurt, 300, 2)?;
        let last = distance(&healed)?;
        assert!(first < noise / 6.0, "{name}: {first:.4} of {noise:.4}");
        assert!(last < noise / 6.0, "{name} healed: {last:.4} of {noise:.4}");
        // The hole is filled: its colours vary as much as those of the whole texture.
        let middle = colours(&texture, &healed)?.narrow(0, 48, 32)?.narrow(1, 48, 32)?;
        let spread = |image: &Tensor| -> Result<f64> {
            let image = image.to_dtype(DType::F64)?.flatten_to(1)?;
            let centred = image.broadcast_sub(&image.mean_keepdim(0)?)?;
            Ok(centred.sqr()?.mean_all()?.to_scalar::<f64>()?)
        };
        let (inside, whole) = (spread(&middle)?, spread(&target)?);
        assert!(inside > 0.3 * whole, "{name}: {inside:.4} of {whole:.4}");
    }
    Ok(())
}

#[test]
fn textures_live_on_hexagons_and_with_a_slower_half() -> Result<()> {
    for name in ["bubbles", "weave"] {
        let texture = model(name)?;
        let hexagonal = texture.reconfigured(|config| {
            if let PatternConfig::Texture(config) = config {
                config.lattice = Lattice::Hexagonal;
            }
        })?;
        let seed = texture.seed(1, (64, 64))?;
        let slow = (0..64 * 64).map(|cell| if cell % 64 < 32 { 0.5f32 } else { 0.125 });
        let rates = Tensor::from_iter(slow, &device())?.reshape((64, 64))?;
        let on_hexagons = advance(&hexagonal, &seed, 200, 1)?;
        let halves = texture
            .rollout(300, Key::new(1))
            .fire_rates(&rates)?
            .run(texture.rule(), &seed)?;
        for cells in [on_hexagons, halves] {
            let values = values(&colours(&texture, &cells)?);
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let spread = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
            assert!(
                values.iter().all(|v| v.is_finite()) && spread > 0.01,
                "{name}: {spread}"
            );
        }
    }
    Ok(())
}
