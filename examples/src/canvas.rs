//! A picture to draw on with plotters.

use std::path::Path;

use lnca::io::Picture;
use lnca::io::write_png;
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;

use crate::Result;

/// The typeface of all text.
pub const FONT: &str = "sans-serif";

/// Where plotters draws.
pub type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// The error of plotters.
pub type DrawError<'a> = DrawingAreaErrorKind<<BitMapBackend<'a> as DrawingBackend>::ErrorType>;

/// An RGB picture, white at first.
pub struct Canvas(Picture);

impl Canvas {
    /// A white picture of so many pixels.
    ///
    /// # Errors
    /// The typeface cannot be read.
    pub fn new(width: usize, height: usize) -> Result<Self> {
        // It is part of the program, so that pictures look the same on every machine.
        plotters::style::register_font(FONT, FontStyle::Normal, dejavu::sans::regular())
            .map_err(|_| "the typeface cannot be read")?;
        Ok(Self(Picture {
            height,
            width,
            pixels: vec![255; width * height * 3],
        }))
    }

    /// Draws with plotters.
    pub fn draw<'a>(&'a mut self, with: impl FnOnce(&Area<'a>) -> Result<(), DrawError<'a>>) -> Result<()> {
        let size = (self.0.width as u32, self.0.height as u32);
        let area = BitMapBackend::with_buffer(&mut self.0.pixels, size).into_drawing_area();
        Ok(with(&area)
            .and_then(|()| area.present())
            .map_err(|error| error.to_string())?)
    }

    /// Copies `picture` here, its upper left corner at column `left` of row `top`.
    ///
    /// # Errors
    /// It does not fit.
    pub fn paste(&mut self, picture: &Picture, left: usize, top: usize) -> Result<()> {
        if left + picture.width > self.0.width || top + picture.height > self.0.height {
            return Err("the picture does not fit on the canvas".into());
        }
        let rows = picture.pixels.chunks_exact(3 * picture.width.max(1));
        for (row, pixels) in rows.enumerate() {
            let start = ((top + row) * self.0.width + left) * 3;
            self.0.pixels[start..start + pixels.len()].copy_from_slice(pixels);
        }
        Ok(())
    }

    /// Writes it as a PNG.
    pub fn save(&self, path: &Path) -> Result<()> {
        Ok(write_png(&self.0, path)?)
    }
}

/// Draws the legend of a chart.
pub fn legend<'a, X, Y>(
    chart: &mut ChartContext<'a, BitMapBackend<'a>, Cartesian2d<X, Y>>,
    position: SeriesLabelPosition,
) -> Result<(), DrawError<'a>>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(position)
        .label_font((FONT, 14))
        .legend_area_size(28)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()
}
