//! The paper's figures 2 to 4: our numbers on the left and the paper's on the right, a line for each model.

use std::path::Path;

use lnca_examples::Result;
use lnca_examples::canvas::{Area, Canvas, DrawError, FONT, legend};
use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::*;

use super::{Args, Cell, Results, Subject};
use crate::paper::Efficiency;

const SIZE: (usize, usize) = (1100, 620);

/// Colours of the models, which can be told apart by those who confuse red and green.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
];

/// A line: its subject, and a value for each configuration that has one.
type Line = (Subject, Vec<Option<f64>>);

/// What both halves have in common: the columns of the table, and the least and greatest value.
struct Axes {
    configurations: Vec<(usize, usize)>,
    range: (f64, f64),
}

/// Draws a table of efficiency as a PNG, if any of its values is known.
pub fn draw(path: &Path, table: Efficiency, args: &Args, results: &Results) -> Result<()> {
    let configurations = args.configurations();
    let line = |subject: Subject, value: &dyn Fn(Cell) -> Option<f64>| -> Line {
        let cells = configurations
            .iter()
            .map(|&(size, batch)| Cell { subject, size, batch });
        (subject, cells.map(value).collect())
    };
    let subjects = args.subjects();
    let ours = subjects
        .iter()
        .map(|&subject| line(subject, &|cell| results.value(table, cell).ok()));
    let ours: Vec<Line> = ours.collect();
    let published = subjects.iter().filter(|subject| !subject.plain);
    let theirs: Vec<Line> = published
        .map(|&subject| line(subject, &|cell| cell.paper(table)))
        .collect();
    let values = ours
        .iter()
        .chain(&theirs)
        .flat_map(|(_, values)| values)
        .flatten();
    let range = values.fold((f64::MAX, f64::MIN_POSITIVE), |(a, b), &v| (a.min(v), b.max(v)));
    if range.0 > range.1 {
        return Ok(());
    }
    let axes = Axes {
        configurations,
        range,
    };
    let mut canvas = Canvas::new(2 * SIZE.0, SIZE.1)?;
    canvas.draw(|area| {
        let halves = area.split_evenly((1, 2));
        let title = |who: &str| format!("Table {}: {}; {who}", table.number(), table.title());
        draw_half(&halves[0], title("here"), &axes, &ours)?;
        draw_half(&halves[1], title("the paper, on an A100"), &axes, &theirs)
    })?;
    canvas.save(path)
}

fn draw_half<'a>(area: &Area<'a>, title: String, axes: &Axes, lines: &[Line]) -> Result<(), DrawError<'a>> {
    let last = axes.configurations.len() as f64;
    let (least, greatest) = axes.range;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 18))
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(72)
        // With room for the legend on the right.
        .build_cartesian_2d(-0.5..last + 1.9, (least * 0.7..greatest * 1.5).log_scale())?;
    let column = |x: &f64| match axes.configurations.get(x.round().max(0.0) as usize) {
        Some((size, batch)) if x.fract() == 0.0 && *x >= 0.0 => format!("{size}/{batch}"),
        _ => String::new(),
    };
    let value = |y: &f64| {
        let digits = format!("{y:.4}");
        digits.trim_end_matches('0').trim_end_matches('.').to_string()
    };
    chart
        .configure_mesh()
        .x_desc("pixels / images in a batch")
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 15))
        .light_line_style(WHITE)
        .x_labels(axes.configurations.len() + 4)
        .x_label_formatter(&column)
        .y_label_formatter(&value)
        .draw()?;
    for (subject, values) in lines {
        let colour = COLOURS[subject.at].mix(if subject.plain { 0.35 } else { 1.0 });
        let places = (0..).zip(values);
        let points = places.filter_map(|(place, value)| Some((f64::from(place), (*value)?)));
        let points: Vec<(f64, f64)> = points.collect();
        chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
        let dots = points
            .into_iter()
            .map(|point| Circle::new(point, 4, colour.filled()));
        chart
            .draw_series(dots)?
            .label(subject.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], colour.stroke_width(2)));
    }
    legend(&mut chart, SeriesLabelPosition::LowerRight)
}
