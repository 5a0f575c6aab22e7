//! The paper's figures 2 to 4 with ours beside them: a line a model, ours and the paper's.

use std::path::Path;

use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::*;

use super::efficiency::{Subject, paper};
use super::paper::Efficiency;
use lnca_examples::Result;
use lnca_examples::sheet::{Canvas, FONT, legend, register_font};

const SIZE: (usize, usize) = (1100, 620);

/// Colours that people who confuse red and green can tell apart, one a model.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
];

/// Draws a table of efficiency: ours on the left, the paper's on the right, on one scale.
pub fn efficiency(
    path: &Path,
    table: Efficiency,
    subjects: &[Subject],
    configurations: &[(usize, usize)],
    value: impl Fn((Subject, usize, usize)) -> Result<f64, String>,
) -> Result<()> {
    register_font()?;
    let ours = |subject: Subject| -> Vec<Option<f64>> {
        let values = configurations
            .iter()
            .map(|&(size, batch)| value((subject, size, batch)).ok());
        values.collect()
    };
    let theirs = |subject: Subject| -> Vec<Option<f64>> {
        let values = configurations
            .iter()
            .map(|&(size, batch)| paper(table, subject, size, batch));
        values.collect()
    };
    let ours: Vec<_> = subjects.iter().map(|&subject| (subject, ours(subject))).collect();
    let theirs: Vec<_> = subjects
        .iter()
        .filter(|subject| !subject.plain)
        .map(|&subject| (subject, theirs(subject)))
        .collect();
    let all = || {
        ours.iter()
            .chain(&theirs)
            .flat_map(|(_, values)| values)
            .flatten()
            .copied()
    };
    let (least, greatest) = all().fold((f64::MAX, f64::MIN_POSITIVE), |(a, b), v| (a.min(v), b.max(v)));
    if least > greatest {
        return Ok(());
    }
    let mut canvas = Canvas::new(2 * SIZE.0, SIZE.1);
    canvas.draw(|area| {
        let halves = area.split_evenly((1, 2));
        for (half, (who, lines)) in halves
            .iter()
            .zip([("here", &ours), ("the paper, on an A100", &theirs)])
        {
            let title = format!("Table {}: {}; {who}", table.number(), table.title());
            let last = configurations.len() as f64;
            let mut chart = ChartBuilder::on(half)
                .caption(title, (FONT, 18))
                .margin(14)
                .x_label_area_size(44)
                .y_label_area_size(72)
                .build_cartesian_2d(-0.5..last + 1.9, (least * 0.7..greatest * 1.5).log_scale())?;
            chart
                .configure_mesh()
                .x_desc("pixels / images in a batch")
                .label_style((FONT, 14))
                .axis_desc_style((FONT, 15))
                .light_line_style(WHITE)
                .x_labels(configurations.len() + 4)
                .x_label_formatter(
                    &|x| match (x.fract(), configurations.get(x.round().max(0.0) as usize)) {
                        (fraction, Some((size, batch))) if fraction == 0.0 && *x >= 0.0 => {
                            format!("{size}/{batch}")
                        }
                        _ => String::new(),
                    },
                )
                .y_label_formatter(&|y| {
                    format!("{y:.4}")
                        .trim_end_matches('0')
                        .trim_end_matches('.')
                        .to_string()
                })
                .draw()?;
            for (subject, values) in lines.iter() {
                let colour = COLOURS[super::paper::MODELS
                    .iter()
                    .position(|m| *m == subject.model())
                    .unwrap_or(0)];
                let colour = if subject.plain {
                    colour.mix(0.35)
                } else {
                    colour.mix(1.0)
                };
                let points: Vec<(f64, f64)> = (0..)
                    .zip(values)
                    .filter_map(|(place, value)| Some((f64::from(place), (*value)?)))
                    .collect();
                chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
                chart
                    .draw_series(
                        points
                            .into_iter()
                            .map(|point| Circle::new(point, 4, colour.filled())),
                    )?
                    .label(subject.name())
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], colour.stroke_width(2)));
            }
            legend(&mut chart, SeriesLabelPosition::LowerRight)?;
        }
        Ok(())
    })?;
    canvas.save(path)
}
