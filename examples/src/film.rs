//! Films: a pattern run step by step, damaged on the way, as an animation and a strip of stills.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use candle_core::{Device, Tensor};
use lnca::io::{Animation, Background, enlarged, pictures, sheet, unskewed, write_png};
use lnca::random::Key;
use lnca::{Damage, Pattern};

use super::Result;
use super::args::positive;

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

/// How a pattern is filmed
#[derive(clap::Args)]
pub struct Filming {
    /// Steps in all
    #[arg(long, value_name = "N", default_value_t = 300)]
    steps: usize,

    /// Damage at a step, such as lower-half@150; also upper-half, left-half, right-half, centre and circle. May be
    /// given several times [default: one at step 150]
    #[arg(long, value_name = "WHAT@STEP")]
    damage: Vec<Cut>,

    /// No damage
    #[arg(long, conflicts_with = "damage")]
    intact: bool,

    /// Cells of the right half are updated so many times less often
    #[arg(long, value_name = "TIMES", default_value_t = 1.0)]
    slow_half: f64,

    /// Steps between two frames
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = positive)]
    every: usize,

    /// Seed of the update masks
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Folder for animation.gif, animation.png, strip.png and last.png [default: out/ and the name of this example]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// How the cells of a pattern are shown.
#[derive(Clone, Copy)]
pub struct Look {
    pub background: Background,
    /// Whether they are hexagons.
    pub hexagonal: bool,
}

impl Filming {
    /// Runs `pattern` by its automaton `rule` from `cells` (`[1, H, W, C]`), with the damage `healing` at step 150
    /// unless another or none was asked for.
    ///
    /// Writes `animation.gif`, `animation.png` (animated, without loss), `strip.png` of six stills and `last.png`.
    pub fn write<T>(
        &self,
        (pattern, rule): (&Pattern, &T),
        cells: &Tensor,
        healing: &str,
        look: Look,
        example: &str,
    ) -> Result<()>
    where
        T: lnca::TransitionFn + Clone + 'static,
    {
        let folder = self.out.clone().unwrap_or_else(|| Path::new("out").join(example));
        let healing = Cut {
            damage: damage(healing)?,
            step: 150,
        };
        let cuts = match (self.intact, self.damage.is_empty()) {
            (true, _) => vec![],
            (false, true) => vec![healing],
            (false, false) => self.damage.clone(),
        };
        let scale = (SHOWN_SIDE / cells.dim(1)?.max(cells.dim(2)?)).max(1);
        let frame = |cells: &Tensor| -> Result<_> {
            let rgba = pattern.rgba(cells)?;
            let mut frame = pictures(&rgba, look.background)?.remove(0);
            if look.hexagonal {
                frame = unskewed(&frame);
            }
            Ok(enlarged(&frame, scale))
        };
        let mut cells = cells.clone();
        let mut animation = Animation::new();
        animation.push(frame(&cells)?)?;
        let mut stops: Vec<usize> = (0..=self.steps).step_by(self.every.max(1)).skip(1).collect();
        stops.extend(cuts.iter().map(|cut| cut.step).chain([self.steps]));
        stops.retain(|&stop| stop <= self.steps);
        stops.sort_unstable();
        stops.dedup();
        let (mut at, key) = (0, Key::new(self.seed));
        let rates = self.rates(pattern, &cells)?;
        for stop in stops {
            let mut rollout = pattern.rollout(stop - at, key.fold_in(at as u64));
            if let Some(rates) = &rates {
                rollout = rollout.fire_rates(rates)?;
            }
            cells = rollout.run(rule, &cells)?;
            at = stop;
            animation.push(frame(&cells)?)?;
            for cut in cuts.iter().filter(|cut| cut.step == at) {
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
        let (folder, card) = (folder.display(), pattern.card());
        let (target, trained_by) = (&card.target, &card.trained_by);
        eprintln!("{folder}: animation.gif, animation.png, strip.png, last.png ({target}; {trained_by})");
        Ok(())
    }

    /// A fire rate for each cell where they differ: `[H, W]`.
    fn rates(&self, pattern: &Pattern, cells: &Tensor) -> Result<Option<Tensor>> {
        if self.slow_half == 1.0 {
            return Ok(None);
        }
        let (_, height, width, _) = cells.dims4()?;
        let rate = pattern.card().fire_rate;
        let rates = (0..height * width).map(|cell| match cell % width < width / 2 {
            true => rate,
            false => rate / self.slow_half,
        });
        Ok(Some(
            Tensor::from_iter(rates, &Device::Cpu)?.reshape((height, width))?,
        ))
    }
}
