//! Films: a pattern run step by step, damaged on the way, as an animation and a strip of stills.

use std::path::Path;
use std::str::FromStr;

use candle_core::{Device, Tensor};
use lnca::random::Key;
use lnca::render::{Animation, Background, enlarged, pictures, sheet, unskewed, write_png};
use lnca::{Damage, Pattern, Rollout};

use super::Result;

/// Sides of pictures are enlarged to about this many pixels.
const SHOWN_SIDE: usize = 288;

/// Side of the square that `centre` erases.
const CENTRE: usize = 16;

/// Damage at a step, as in `lower-half@100`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    pub damage: Damage,
    pub step: usize,
}

impl FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, step) = text.split_once('@').unwrap_or((text, "100"));
        let step = step
            .parse()
            .map_err(|_| format!("`{step}` is no number of steps"))?;
        Ok(Self {
            damage: damage(name)?,
            step,
        })
    }
}

/// Damage by its name.
pub fn damage(name: &str) -> Result<Damage, String> {
    Ok(match name {
        "lower-half" => Damage::LowerHalf,
        "upper-half" => Damage::UpperHalf,
        "left-half" => Damage::LeftHalf,
        "right-half" => Damage::RightHalf,
        "centre" => Damage::Centre(CENTRE),
        "circle" => Damage::Circle {
            centre: (0.0, 0.0),
            radius: 0.3,
        },
        _ => {
            let known = "lower-half, upper-half, left-half, right-half, centre or circle";
            return Err(format!("`{name}` is no damage: expected {known}"));
        }
    })
}

/// A rate for each cell, in the right half divided by `times`: `[H, W]`.
pub fn half_slower((height, width): (usize, usize), rate: f64, times: f64) -> Result<Tensor> {
    let cells = (0..height * width).map(|cell| {
        if cell % width < width / 2 {
            rate
        } else {
            rate / times
        }
    });
    Ok(Tensor::from_iter(cells, &Device::Cpu)?.reshape((height, width))?)
}

/// How a pattern is filmed.
pub struct Film<'a> {
    pub pattern: &'a Pattern,
    pub steps: usize,
    /// Steps between two frames.
    pub every: usize,
    pub cuts: &'a [Cut],
    pub background: Background,
    /// Whether the cells are shown as hexagons.
    pub hexagonal: bool,
    /// Changes the rollout between two frames, for update rates that differ, say.
    pub rollout: &'a dyn Fn(Rollout) -> lnca::Result<Rollout>,
}

impl Film<'_> {
    /// Runs from `cells` (`[1, H, W, C]`) by an automaton `rule`; the cells at the end.
    ///
    /// Writes `animation.gif`, `animation.png` (animated, without loss), `strip.png` of six stills and `last.png`
    /// into `folder`.
    pub fn write<T>(&self, rule: &T, cells: &Tensor, key: Key, folder: &Path) -> Result<Tensor>
    where
        T: lnca::TransitionFn + Clone + 'static,
    {
        let scale = (SHOWN_SIDE / cells.dim(1)?.max(cells.dim(2)?)).max(1);
        let frame = |cells: &Tensor| -> Result<_> {
            let rgba = self.pattern.rgba(cells)?;
            let mut frame = pictures(&rgba, self.background)?.remove(0);
            if self.hexagonal {
                frame = unskewed(&frame);
            }
            Ok(enlarged(&frame, scale))
        };
        let mut cells = cells.clone();
        let mut animation = Animation::new();
        animation.push(frame(&cells)?)?;
        let mut stops: Vec<usize> = (0..=self.steps).step_by(self.every.max(1)).skip(1).collect();
        stops.extend(self.cuts.iter().map(|cut| cut.step).chain([self.steps]));
        stops.retain(|&stop| stop <= self.steps);
        stops.sort_unstable();
        stops.dedup();
        let mut at = 0;
        for stop in stops {
            let rollout = self.pattern.rollout(stop - at, key.fold_in(at as u64));
            cells = (self.rollout)(rollout)?.run(rule, &cells)?;
            at = stop;
            animation.push(frame(&cells)?)?;
            for cut in self.cuts.iter().filter(|cut| cut.step == at) {
                cells = cut.damage.apply(&cells)?;
                animation.push(frame(&cells)?)?;
            }
        }
        animation.write(folder.join("animation.gif"), 60)?;
        animation.write(folder.join("animation.png"), 60)?;
        let frames = animation.frames();
        let stills = (0..6)
            .map(|n| frames[(frames.len() - 1) * n / 5].clone())
            .collect();
        write_png(&sheet(&[stills], 8), folder.join("strip.png"))?;
        write_png(&frames[frames.len() - 1], folder.join("last.png"))?;
        Ok(cells)
    }
}
