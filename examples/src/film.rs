//! Films of patterns: an animation of a run with damage, and a strip of stills.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use candle_core::{Device, Tensor};
use lnca::io::{Animation, Background, enlarged, pictures, sheet, unskewed, write_png};
use lnca::random::Key;
use lnca::{Damage, Pattern};

use crate::args::{amount, count, whole};
use crate::{Result, folder, note};

/// Frames are enlarged to about this many pixels a side.
const SHOWN_SIDE: usize = 288;

/// Most steps of a film, and most frames, which are all in memory.
const MOST_STEPS: usize = 1_000_000;
const MOST_FRAMES: usize = 10_000;

/// Side in cells of the square that `centre` erases.
const CENTRE: usize = 16;

/// Damage at a step, as in `lower-half@100`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cut {
    damage: Damage,
    step: usize,
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
    /// Number of steps
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = whole::<0, MOST_STEPS>)]
    steps: usize,

    /// Damage at a step, such as lower-half@150; also upper-half, left-half, right-half, centre and circle.
    /// May be given several times [default: one at step 150]
    #[arg(long, value_name = "WHAT@STEP")]
    damage: Vec<Cut>,

    /// No damage
    #[arg(long, conflicts_with = "damage")]
    intact: bool,

    /// Divide the fire rate of the right half by this
    #[arg(long, value_name = "TIMES", default_value_t = 1.0, allow_negative_numbers = true, value_parser = amount)]
    slow_half: f64,

    /// Steps between two frames
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = count)]
    every: usize,

    /// Seed of the update masks
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Folder for animation.gif, animation.png, strip.png and last.png [default: out/ and the name of this
    /// example]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// How cells are shown.
#[derive(Clone, Copy)]
pub struct Look {
    /// What is seen through transparent cells.
    pub background: Background,
    /// Whether cells are hexagons.
    pub hexagonal: bool,
}

impl Filming {
    /// Runs `pattern` with the transition `rule` from `cells` (`[1, H, W, C]`). Unless the arguments say
    /// otherwise, it is damaged by `damage` at step 150.
    ///
    /// Writes `animation.gif`, `animation.png` (animated, lossless), `strip.png` of six stills, and
    /// `last.png`.
    ///
    /// # Errors
    /// `damage` has no such name, the cells do not fit the pattern, or a file cannot be written.
    pub fn write<T>(
        &self,
        (pattern, rule): (&Pattern, &T),
        cells: &Tensor,
        damage: &str,
        look: Look,
        example: &str,
    ) -> Result<()>
    where
        T: lnca::TransitionFn + Clone + 'static,
    {
        let out = self.out.clone().unwrap_or_else(|| Path::new("out").join(example));
        folder(&out)?;
        let film = self.film((pattern, rule), cells, &self.cuts(damage)?, look)?;
        let folder = out;
        film.write(folder.join("animation.gif"), 60)?;
        film.write(folder.join("animation.png"), 60)?;
        let frames = film.frames();
        let stills = (0..6).map(|n| frames[(frames.len() - 1) * n / 5].clone());
        write_png(&sheet(&[stills.collect()], 8), folder.join("strip.png"))?;
        write_png(&frames[frames.len() - 1], folder.join("last.png"))?;
        let (folder, card) = (folder.display(), pattern.card());
        let (target, trained_by) = (&card.target, &card.trained_by);
        note!("{folder}: animation.gif, animation.png, strip.png, last.png ({target}; {trained_by})");
        Ok(())
    }

    /// The damage to do: what the arguments ask for, or `default` at step 150, if there is such a step.
    fn cuts(&self, default: &str) -> Result<Vec<Cut>> {
        let last = self.steps;
        if let Some(late) = self.damage.iter().find(|cut| cut.step > last) {
            let step = late.step;
            return Err(
                format!("`--damage` at step {step} comes after the last, `--steps` is {last}").into(),
            );
        }
        let default = Cut {
            damage: damage(default)?,
            step: 150,
        };
        Ok(match (self.intact, self.damage.is_empty()) {
            (true, _) => vec![],
            (false, true) if default.step > last => {
                note!(
                    "no damage: it would come at step {}, after the last",
                    default.step
                );
                vec![]
            }
            (false, true) => vec![default],
            (false, false) => self.damage.clone(),
        })
    }

    /// The frames: the first state, one every few steps, one before and one after each damage, and the last
    /// state.
    fn film<T>(
        &self,
        (pattern, rule): (&Pattern, &T),
        cells: &Tensor,
        cuts: &[Cut],
        look: Look,
    ) -> Result<Animation>
    where
        T: lnca::TransitionFn + Clone + 'static,
    {
        let stops = self.stops(cuts);
        if stops.len() > MOST_FRAMES {
            let least = self.steps.div_ceil(MOST_FRAMES);
            return Err(format!(
                "`--every` is {}, expected at least {least} for so many steps",
                self.every
            )
            .into());
        }
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
        let mut film = Animation::new();
        film.push(frame(&cells)?)?;
        let (mut at, key) = (0, Key::new(self.seed));
        let rates = self.rates(pattern, &cells)?;
        for stop in stops {
            let mut rollout = pattern.rollout(stop - at, key.fold_in(at as u64));
            if let Some(rates) = &rates {
                rollout = rollout.fire_rates(rates)?;
            }
            cells = rollout.run(rule, &cells)?;
            at = stop;
            film.push(frame(&cells)?)?;
            for cut in cuts.iter().filter(|cut| cut.step == at) {
                cells = cut.damage.apply(&cells)?;
                film.push(frame(&cells)?)?;
            }
        }
        Ok(film)
    }

    /// The steps after which there is a frame, in order.
    fn stops(&self, cuts: &[Cut]) -> Vec<usize> {
        let mut stops: Vec<usize> = (0..=self.steps).step_by(self.every.max(1)).skip(1).collect();
        stops.extend(cuts.iter().map(|cut| cut.step).chain([self.steps]));
        stops.retain(|&stop| stop <= self.steps);
        stops.sort_unstable();
        stops.dedup();
        stops
    }

    /// The fire rate of each cell, `[H, W]`, where they differ.
    fn rates(&self, pattern: &Pattern, cells: &Tensor) -> Result<Option<Tensor>> {
        if self.slow_half == 1.0 {
            return Ok(None);
        }
        let (_, height, width, _) = cells.dims4()?;
        let (rate, times) = (pattern.card().fire_rate, self.slow_half);
        if times < rate {
            return Err(format!("`--slow-half` is {times}, expected at least {rate}, the fire rate").into());
        }
        let rates = (0..height * width).map(|cell| match cell % width < width / 2 {
            true => rate,
            false => rate / times,
        });
        Ok(Some(
            Tensor::from_iter(rates, &Device::Cpu)?.reshape((height, width))?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_after_the_last_step_is_an_error() -> Result<()> {
        use clap::Parser;
        #[derive(Parser)]
        struct Command {
            #[command(flatten)]
            filming: Filming,
        }
        let cuts = |words: &str| {
            let words = ["run"].into_iter().chain(words.split_whitespace());
            Command::parse_from(words).filming.cuts("circle")
        };
        let error = cuts("--steps 20 --damage lower-half@999")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("999") && error.contains("`--steps` is 20"),
            "{error}"
        );
        assert!(cuts("--steps 20 --damage centre@20 --damage centre@21").is_err());
        assert_eq!(cuts("--steps 20 --damage centre@20")?.len(), 1);
        assert_eq!(
            (
                cuts("--steps 20")?.len(),
                cuts("")?.len(),
                cuts("--intact")?.len()
            ),
            (0, 1, 0)
        );
        assert!(Command::try_parse_from(["run", "--steps", "18446744073709551615"]).is_err());
        Ok(())
    }

    #[test]
    fn damage_is_named_with_its_step() {
        let cut = |damage, step| Ok(Cut { damage, step });
        assert_eq!("lower-half@30".parse(), cut(Damage::LowerHalf, 30));
        assert_eq!("centre".parse(), cut(Damage::Centre(CENTRE), 100));
        for wrong in ["middle@30", "centre@soon", "centre@-1", ""] {
            assert!(wrong.parse::<Cut>().is_err(), "{wrong}");
        }
    }
}
