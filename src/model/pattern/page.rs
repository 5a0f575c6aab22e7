//! A pattern as a page for a browser.

use candle_core::Tensor;

use super::{Pattern, PatternConfig};
use crate::error::{Error, Result};
use crate::io::page::{Page, Start, Turning, View, filters};
use crate::program::Program;
use crate::transition::{Lattice, TransitionFn};

impl Pattern {
    /// A page that grows the pattern on a grid of height and width `size`, titled `title`. Its perception can
    /// be turned there, and the cells of a texture made hexagonal.
    ///
    /// # Errors
    /// As [`Page::new`].
    pub fn page(&self, title: &str, size: (usize, usize)) -> Result<Page> {
        let page = Page::new(title, self.program_for(size)?, size)?
            .about(&self.card.target)
            .fire_rate(self.card.fire_rate)?;
        let (page, hexagonal) = match &self.card.config {
            PatternConfig::Growing(_) => (page.start(Start::Cell), None),
            PatternConfig::Texture(config) => {
                let view = View {
                    scale: config.clip.map_or(1.0, |clip| 1.0 / f64::from(clip)),
                    shift: 0.5,
                    alpha: false,
                };
                (page.view(view)?, Some(self.taps(Lattice::Hexagonal)?))
            }
        };
        let turning = Turning {
            square: self.taps(Lattice::Square)?,
            hexagonal,
        };
        let is_straight = match &self.card.config {
            PatternConfig::Growing(config) => config.angle == 0.0,
            PatternConfig::Texture(config) => config.angle == 0.0 && config.lattice == Lattice::Square,
        };
        Ok(if is_straight { page.turning(turning) } else { page })
    }

    fn program_for(&self, size: (usize, usize)) -> Result<Program> {
        let rule = self.rule();
        let program = rule.program(&self.seed(1, size)?)?;
        let program = program.ok_or_else(|| Error::config("pattern", "a rule with a program", "none"))?;
        program.with_alive_mask(rule.alive_mask())
    }

    /// The filters of perception on a lattice, not turned: nine taps each.
    fn taps(&self, on: Lattice) -> Result<Vec<f32>> {
        let straight = self.reconfigured(|config| match config {
            PatternConfig::Growing(config) => config.angle = 0.0,
            PatternConfig::Texture(config) => {
                config.angle = 0.0;
                config.lattice = on;
            }
        })?;
        let program = straight.program_for((3, 3))?;
        let first = |(_, kernel): (usize, &Tensor)| kernel.get(0)?.flatten_all()?.to_vec1::<f32>();
        Ok(filters(&program).map(first).transpose()?.unwrap_or_default())
    }
}
