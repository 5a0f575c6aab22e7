//! The curves of a training: the loss of each batch and the validation SSIM of each epoch, two panels a
//! phase.

use std::path::Path;

use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::*;

use super::log::{Epoch, Log, PHASES};
use crate::Result;
use crate::canvas::{Area, Canvas, DrawError, FONT, legend};

const PANEL: (usize, usize) = (640, 400);

/// Colours that can be told apart by those who confuse red and green.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
];

/// Name of a curve, and its value for each batch.
type Series = (String, Vec<f64>);

/// Draws the curves of every phase in the log, as a PNG.
pub fn save(path: &Path, task: &str, model: &str, log: &Log) -> Result<()> {
    let phases: Vec<(&str, Vec<Epoch>)> = PHASES
        .map(|phase| (phase, log.epochs(phase)))
        .into_iter()
        .filter(|(_, epochs)| !epochs.is_empty())
        .collect();
    let mut canvas = Canvas::new(2 * PANEL.0, phases.len() * PANEL.1)?;
    canvas.draw(|area| {
        let panels = area.split_evenly((phases.len(), 2));
        for ((phase, epochs), panels) in phases.iter().zip(panels.chunks(2)) {
            let title = format!("{model}, {task}: {phase}");
            draw_losses(&panels[0], &title, &series(log, phase))?;
            draw_ssim(&panels[1], &title, epochs)?;
        }
        Ok(())
    })?;
    canvas.save(path)
}

fn series(log: &Log, phase: &str) -> Vec<Series> {
    let names = log
        .batches(phase)
        .next()
        .into_iter()
        .flat_map(|losses| losses.keys());
    let values = |name: &String| {
        log.batches(phase)
            .filter_map(|losses| losses.get(name).copied())
            .collect()
    };
    let mut series: Vec<Series> = names.map(|name| (name.clone(), values(name))).collect();
    // Terms with weight 0 are left out.
    series.retain(|(_, values)| values.iter().any(|value| *value != 0.0));
    series.push((
        "total".into(),
        log.batches(phase).map(|losses| losses.values().sum()).collect(),
    ));
    series
}

fn draw_losses<'a>(area: &Area<'a>, title: &str, series: &[Series]) -> Result<(), DrawError<'a>> {
    let batches = series
        .iter()
        .map(|(_, values)| values.len())
        .max()
        .unwrap_or(0)
        .max(2);
    // Single batches are noisy: the mean over a fiftieth of the training is drawn over them.
    let window = (batches / 50).max(1);
    let means: Vec<Series> = series
        .iter()
        .map(|(name, values)| (name.clone(), moving_mean(values, window)))
        .collect();
    let shown = || {
        means
            .iter()
            .flat_map(|(_, values)| values)
            .copied()
            .filter(|value| *value > 0.0)
    };
    let greatest = shown().fold(f64::MIN_POSITIVE, f64::max);
    // A term may reach 0, which a logarithmic axis cannot show.
    let least = shown().fold(greatest, f64::min).max(greatest * 1e-5) * 0.7;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{title}, training loss"), (FONT, 19))
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(72)
        // With room for the legend on the right.
        .build_cartesian_2d(0.0..batches as f64 * 1.28, (least..greatest * 2.0).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("batch")
        .y_desc("term of the loss, weighted")
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 15))
        .light_line_style(WHITE)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| short(*y))
        .draw()?;
    for (at, ((name, means), (_, values))) in means.iter().zip(series).enumerate() {
        let colour = if name == "total" {
            BLACK
        } else {
            COLOURS[at % COLOURS.len()]
        };
        // A curve has a gap where its term is 0.
        let pieces = |values: &[f64]| -> Vec<Vec<(f64, f64)>> {
            let points: Vec<_> = (0..)
                .map(|batch| f64::from(batch) + 0.5)
                .zip(values.iter().copied())
                .collect();
            points
                .split(|(_, value)| *value < least)
                .map(<[_]>::to_vec)
                .collect()
        };
        if window > 1 {
            for piece in pieces(values) {
                chart.draw_series(LineSeries::new(piece, colour.mix(0.2)))?;
            }
        }
        for piece in pieces(means) {
            chart.draw_series(LineSeries::new(piece, colour.stroke_width(2)))?;
        }
        chart
            .draw_series(LineSeries::new([], colour))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], colour.stroke_width(2)));
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight)
}

fn draw_ssim<'a>(area: &Area<'a>, title: &str, epochs: &[Epoch]) -> Result<(), DrawError<'a>> {
    let points: Vec<(f64, f64)> = epochs.iter().map(|e| (e.epoch as f64 + 1.0, e.ssim)).collect();
    let (least, greatest) = points.iter().fold((f64::MAX, f64::MIN), |(a, b), (_, ssim)| {
        (a.min(*ssim), b.max(*ssim))
    });
    let room = ((greatest - least) * 0.15).max(0.01);
    let last = points.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{title}, validation"), (FONT, 19))
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(0.5..last + 0.5, least - room..greatest + room)?;
    chart
        .configure_mesh()
        .x_desc("epoch")
        .y_desc("mean SSIM")
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 15))
        .light_line_style(WHITE)
        .x_labels(points.len().min(20))
        .x_label_formatter(&|x| {
            if x.fract() == 0.0 {
                format!("{x:.0}")
            } else {
                String::new()
            }
        })
        .y_label_formatter(&|y| format!("{y:.3}"))
        .draw()?;
    let colour = COLOURS[0];
    chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
    chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
    if let Some(best) = epochs.iter().rfind(|epoch| epoch.best) {
        let colour = COLOURS[1];
        let point = Circle::new((best.epoch as f64 + 1.0, best.ssim), 7, colour.stroke_width(2));
        chart
            .draw_series([point])?
            .label(format!(
                "best: {:.4} in epoch {}, kept",
                best.ssim,
                best.epoch + 1
            ))
            .legend(move |(x, y)| Circle::new((x + 10, y), 6, colour.stroke_width(2)));
    }
    legend(&mut chart, SeriesLabelPosition::LowerRight)
}

/// The mean of each value and the `window - 1` before it.
fn moving_mean(values: &[f64], window: usize) -> Vec<f64> {
    let mean = |end: usize| {
        let part = &values[(end + 1).saturating_sub(window)..=end];
        part.iter().sum::<f64>() / part.len() as f64
    };
    (0..values.len()).map(mean).collect()
}

/// A number for an axis.
fn short(value: f64) -> String {
    match value {
        v if !(1e-3..1e5).contains(&v) => format!("{v:.0e}"),
        v if v < 1.0 => format!("{v:.3}").trim_end_matches('0').to_string(),
        v => format!("{v:.0}"),
    }
}
