//! Contact sheets: rows of images with labels, enlarged so that pixels can be seen.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use image::ColorType;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;

use super::{Result, at};

/// The typeface of every picture, registered by [`register_font`].
pub const FONT: &str = "sans-serif";

const MARGIN: usize = 16;
const TITLE: usize = 44;
/// Room for labels, and of one character of their names.
const LABELS: usize = 176;
const CHARACTER: usize = 11;
const GAP: usize = 8;

/// Sides of the enlarged images are about this many pixels.
const SHOWN_SIDE: usize = 128;

/// What stands before a row.
pub struct Label {
    pub name: String,
    pub note: String,
}

/// Rows of as many images each, `[B, H, W, 3]` in `[0, 1]`.
pub struct Sheet {
    pub title: String,
    pub rows: Vec<(Label, Tensor)>,
}

impl Sheet {
    /// Draws it as a PNG.
    pub fn save(&self, path: &Path) -> Result<()> {
        register_font()?;
        let Some((count, height, width)) = self
            .rows
            .first()
            .map(|(_, images)| images.dims4())
            .transpose()?
            .map(|d| (d.0, d.1, d.2))
        else {
            return Err("a contact sheet needs a row".into());
        };
        let scale = (SHOWN_SIDE / height.max(width)).max(1);
        let (cell_width, cell_height) = (width * scale + GAP, height * scale + GAP);
        let title_width = 2 * MARGIN + CHARACTER * self.title.len();
        let longest = self.rows.iter().map(|(label, _)| label.name.len()).max();
        let labels = LABELS.max(longest.unwrap_or_default() * CHARACTER);
        let full_width = (2 * MARGIN + labels + count * cell_width - GAP).max(title_width);
        let full_height = MARGIN + TITLE + self.rows.len() * cell_height - GAP + MARGIN;
        let mut canvas = Canvas::new(full_width, full_height);
        canvas.draw(|area| {
            let text = |text: &str, x: usize, y: usize, size: i32| {
                area.draw(&Text::new(
                    text.to_string(),
                    (x as i32, y as i32),
                    (FONT, size).into_font(),
                ))
            };
            text(&self.title, MARGIN, MARGIN, 22)?;
            for (row, (label, _)) in self.rows.iter().enumerate() {
                let middle = MARGIN + TITLE + row * cell_height + (cell_height - GAP) / 2;
                text(&label.name, MARGIN, middle.saturating_sub(20), 19)?;
                text(&label.note, MARGIN, middle + 4, 16)?;
            }
            Ok(())
        })?;
        for (row, (_, images)) in self.rows.iter().enumerate() {
            let pixels = to_bytes(images)?;
            for (column, image) in pixels.chunks_exact(height * width * 3).enumerate() {
                let corner = (
                    MARGIN + labels + column * cell_width,
                    MARGIN + TITLE + row * cell_height,
                );
                canvas.paste(image, width, scale, corner);
            }
        }
        canvas.save(path)
    }
}

/// Images in `[0, 1]` as 8-bit values.
pub fn to_bytes(images: &Tensor) -> Result<Vec<u8>> {
    let images = ((images.clamp(0.0, 1.0)? * 255.0)?.round()?).to_dtype(DType::U8)?;
    Ok(images.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}

/// An RGB picture to draw on, white at first.
pub struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

/// Where plotters draws.
pub type Area<'a> = DrawingArea<BitMapBackend<'a>, plotters::coord::Shift>;

/// What plotters says when it cannot draw.
pub type DrawError<'a> = DrawingAreaErrorKind<<BitMapBackend<'a> as DrawingBackend>::ErrorType>;

impl Canvas {
    pub fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            pixels: vec![255; width * height * 3],
        }
    }

    /// Draws with plotters.
    pub fn draw<'a>(&'a mut self, with: impl FnOnce(&Area<'a>) -> Result<(), DrawError<'a>>) -> Result<()> {
        let size = (self.width as u32, self.height as u32);
        let area = BitMapBackend::with_buffer(&mut self.pixels, size).into_drawing_area();
        Ok(with(&area)
            .and_then(|()| area.present())
            .map_err(|error| error.to_string())?)
    }

    /// Puts an image of `width` columns here, each pixel as a square of `scale`.
    fn paste(&mut self, image: &[u8], width: usize, scale: usize, (left, top): (usize, usize)) {
        for (y, row) in image.chunks_exact(width * 3).enumerate() {
            let wide: Vec<u8> = row
                .chunks_exact(3)
                .flat_map(|pixel| pixel.repeat(scale))
                .collect();
            for line in 0..scale {
                let start = ((top + y * scale + line) * self.width + left) * 3;
                self.pixels[start..start + wide.len()].copy_from_slice(&wide);
            }
        }
    }

    /// Writes it as a PNG.
    pub fn save(&self, path: &Path) -> Result<()> {
        let (width, height) = (self.width as u32, self.height as u32);
        Ok(image::save_buffer(path, &self.pixels, width, height, ColorType::Rgb8).map_err(at(path))?)
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

/// Gives plotters a typeface that is part of the program, so that pictures are the same everywhere.
pub fn register_font() -> Result<()> {
    plotters::style::register_font(FONT, FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| "the typeface cannot be read".into())
}
