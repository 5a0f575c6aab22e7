//! The tables of efficiency as Markdown, JSON and charts.

use lnca::DeviceName;
use lnca::io::write_atomic;
use lnca_examples::Result;
use lnca_examples::output::print;
use serde_json::{Value, json};

use super::measure::STEPS;
use super::{Args, Cell, Results, charts};
use crate::paper::Efficiency;

/// Writes all tables, and prints the Markdown.
pub fn write(args: &Args, results: &Results) -> Result<()> {
    let mut text = heading(args);
    let mut tables = Vec::new();
    for &table in &args.tables {
        text += &markdown(args, table, results);
        tables.push(json(args, table, results));
        let path = args.out.join(format!("table{}.png", table.number()));
        charts::draw(&path, table, args, results)?;
    }
    let all = json!({
        "library": env!("CARGO_PKG_VERSION"),
        "threads": threads(),
        "processor": processor(),
        "device": args.device.name.to_string(),
        "seconds": args.seconds,
        "tables": tables,
    });
    let json = serde_json::to_string_pretty(&all)?;
    write_atomic(args.out.join("tables.json"), json.as_bytes())?;
    write_atomic(args.out.join("tables.md"), text.as_bytes())?;
    print(&text)?;
    let out = args.out.display();
    print(format_args!(
        "In {out}: tables.md, tables.json, table3.png and so on"
    ))
}

fn heading(args: &Args) -> String {
    let place = match args.device.name {
        DeviceName::Cpu => format!("{} ({} threads)", processor(), threads()),
        DeviceName::Cuda(_) => "a CUDA GPU".into(),
    };
    format!(
        "Measured on {place}, lnca {}; the paper's numbers are of an A100. A batch of training is all of its updates, \
         of {STEPS} steps each; for latent models it is one batch of the autoencoder and one of the automaton. \
         Times are medians. An epoch is 800 images of training and 200 of validation, from the time of its batches. \
         Memory is the peak of a process, without the states of a full pool.\n",
        env!("CARGO_PKG_VERSION"),
    )
}

fn markdown(args: &Args, table: Efficiency, results: &Results) -> String {
    let configurations = args.configurations();
    let mut reasons: Vec<String> = Vec::new();
    let mut text = format!("\n### Table {}: {}\n\n| model |", table.number(), table.title());
    for (size, batch) in &configurations {
        text += &format!(" {size}/{batch} |");
    }
    text += &format!("\n| --- |{}\n", " --- |".repeat(configurations.len()));
    for subject in args.subjects() {
        let cells = || {
            configurations
                .iter()
                .map(|&(size, batch)| Cell { subject, size, batch })
        };
        text += &format!("| {} |", subject.name());
        for cell in cells() {
            text += &match results.value(table, cell) {
                Ok(value) => format!(" {} |", short(value)),
                Err(reason) => {
                    let known = reasons.iter().position(|known| *known == reason);
                    let number = known.unwrap_or_else(|| {
                        reasons.push(reason);
                        reasons.len() - 1
                    });
                    format!(" – ({}) |", number + 1)
                }
            };
        }
        text += "\n";
        if !subject.plain {
            text += "| *the paper* |";
            for cell in cells() {
                let number = cell.paper(table);
                text += &number.map_or(" – |".into(), |number| format!(" *{number}* |"));
            }
            text += "\n";
        }
    }
    for (number, reason) in reasons.iter().enumerate() {
        text += &format!("\n({}) {reason}\n", number + 1);
    }
    text
}

fn json(args: &Args, table: Efficiency, results: &Results) -> Value {
    let row = |subject: super::Subject| {
        let value = |(size, batch)| {
            let cell = Cell { subject, size, batch };
            let value = results.value(table, cell);
            json!({
                "size": size, "batch": batch,
                "value": value.as_ref().ok(),
                "reason": value.as_ref().err(),
                "paper": cell.paper(table),
            })
        };
        json!({
            "model": subject.model().config().name(),
            "plain_candle": subject.plain,
            "values": args.configurations().into_iter().map(value).collect::<Vec<_>>(),
        })
    };
    json!({
        "table": table.number(),
        "what": table.title(),
        "rows": args.subjects().into_iter().map(row).collect::<Vec<_>>(),
    })
}

/// A number with three significant digits.
fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

/// Threads of a measuring process.
fn threads() -> usize {
    let asked = std::env::var("RAYON_NUM_THREADS")
        .ok()
        .and_then(|text| text.parse().ok());
    let there = || std::thread::available_parallelism().map_or(1, usize::from);
    asked.filter(|&threads| threads > 0).unwrap_or_else(there)
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name"));
    let name = name.and_then(|line| line.split_once(':'));
    name.map_or("an unknown processor".into(), |(_, name)| name.trim().to_string())
}
