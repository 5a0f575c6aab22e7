//! Contact sheets: labelled rows of images, enlarged so that their pixels can be seen.

use std::path::Path;

use candle_core::Tensor;
use lnca::io::Picture;
use lnca::io::{Background, enlarged, pictures, sheet};
use plotters::prelude::*;

use crate::Result;
use crate::canvas::{Canvas, FONT};

const MARGIN: usize = 16;
const TITLE: usize = 44;
const GAP: usize = 8;

/// Least width of the labels, and the width of a character of their names.
const LABELS: usize = 176;
const CHARACTER: usize = 11;

/// Images are enlarged to about this many pixels a side.
const SHOWN_SIDE: usize = 128;

/// The text before a row.
#[derive(Default)]
pub struct Label {
    /// The upper line.
    pub name: String,
    /// The lower line, smaller.
    pub note: String,
}

impl Label {
    /// A name without a note.
    pub fn new(name: &str) -> Self {
        Self::with_ssim(name, None)
    }

    /// A name, and a mean SSIM as its note.
    pub fn with_ssim(name: &str, ssim: Option<f64>) -> Self {
        Self {
            name: name.into(),
            note: ssim.map_or(String::new(), |ssim| format!("SSIM {ssim:.3}")),
        }
    }
}

/// Labelled rows of images.
pub struct ContactSheet {
    /// The line above.
    pub title: String,
    /// Images of one size, `[B, H, W, 3]` in `[0, 1]`.
    pub rows: Vec<(Label, Tensor)>,
}

impl ContactSheet {
    /// Writes it as a PNG.
    ///
    /// # Errors
    /// There is no row, an image has not three channels, or the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let Some((_, first)) = self.rows.first() else {
            return Err("a contact sheet needs a row".into());
        };
        let (_, height, width, _) = first.dims4()?;
        let scale = (SHOWN_SIDE / height.max(width)).max(1);
        let row = |(_, images): &(Label, Tensor)| -> Result<Vec<Picture>> {
            let pictures = pictures(images, Background::White)?;
            Ok(pictures.iter().map(|picture| enlarged(picture, scale)).collect())
        };
        let rows = self.rows.iter().map(row).collect::<Result<Vec<_>>>()?;
        // The gap around it lies in the margins.
        let images = sheet(&rows, GAP);

        let longest = self.rows.iter().map(|(label, _)| label.name.len()).max();
        let labels = LABELS.max(longest.unwrap_or_default() * CHARACTER);
        let (left, top) = (MARGIN + labels - GAP, MARGIN + TITLE - GAP);
        let title_width = 2 * MARGIN + CHARACTER * self.title.len();
        let full_width = (left + images.width + MARGIN - GAP).max(title_width);
        let mut canvas = Canvas::new(full_width, top + images.height + MARGIN - GAP)?;
        canvas.paste(&images, left, top)?;
        canvas.draw(|area| {
            let text = |text: &str, y: usize, size: i32| {
                let place = (MARGIN as i32, y as i32);
                area.draw(&Text::new(text.to_string(), place, (FONT, size).into_font()))
            };
            text(&self.title, MARGIN, 22)?;
            for (row, (label, _)) in self.rows.iter().enumerate() {
                let middle = MARGIN + TITLE + row * (height * scale + GAP) + height * scale / 2;
                text(&label.name, middle.saturating_sub(20), 19)?;
                text(&label.note, middle + 4, 16)?;
            }
            Ok(())
        })?;
        canvas.save(path)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn images_stand_behind_their_labels() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("sheet.png");
        let black = Tensor::zeros((2, 32, 32, 3), DType::F32, &Device::Cpu)?;
        ContactSheet {
            title: "two rows".into(),
            rows: vec![
                (Label::new("black"), black.clone()),
                (Label::with_ssim("white", Some(1.0)), black.ones_like()?),
            ],
        }
        .save(&path)?;
        let drawn = Picture::read(&path)?;
        let first = (MARGIN + LABELS, MARGIN + TITLE);
        assert_eq!(
            (drawn.width, drawn.height),
            (first.0 + 2 * 128 + GAP + MARGIN, first.1 + 2 * 128 + GAP + MARGIN)
        );
        let at = |x: usize, y: usize| drawn.pixels[(y * drawn.width + x) * 3];
        for column in [first.0, first.0 + 128 + GAP] {
            assert_eq!((at(column - 1, first.1), at(column, first.1 - 1)), (255, 255));
            assert_eq!((at(column, first.1), at(column + 127, first.1 + 127)), (0, 0));
            assert_eq!(at(column, first.1 + 128 + GAP), 255);
        }
        let label = drawn.crop(first.1, MARGIN, 128, LABELS - GAP)?;
        assert!(label.pixels.contains(&0), "a label is drawn");
        Ok(())
    }

    #[test]
    fn a_sheet_without_rows_is_an_error() {
        let sheet = ContactSheet {
            title: String::new(),
            rows: vec![],
        };
        assert!(sheet.save(Path::new("never")).is_err());
    }
}
