//! The structure of the sources: which file imports which, the length of files and the width of comments.
//!
//! Every rule is a function from sources to its findings, and is tested on made-up sources below.

mod imports;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use imports::{Crate, File, Import};

/// The top-level modules from the bottom up: each may import itself and those before it.
const ORDER: [&str; 15] = [
    "error",
    "random",
    "grid",
    "ops",
    "nn",
    "program",
    "engine",
    "transition",
    "rollout",
    "io",
    "data",
    "metric",
    "loss",
    "model",
    "train",
];

/// Allowed upward imports: a file, the file it imports, and the reason.
const UPWARD: [(&str, &str, &str); 0] = [];

/// Files of `src` that name the CPU or read values of tensors on the host outside of their tests, and why.
/// Elsewhere either would fail on a GPU, or make it wait.
const ON_HOST: [(&str, &str); 36] = [
    (
        "data/corrupt/corruption.rs",
        "noise is drawn on the host, once a batch",
    ),
    (
        "data/corrupt/motion_blur.rs",
        "images are blurred on the host, once a batch",
    ),
    (
        "data/generated/growing_target.rs",
        "pictures are drawn on the host",
    ),
    (
        "data/generated/texture_target.rs",
        "pictures are drawn on the host",
    ),
    ("data/images/dataset.rs", "images are in memory of the host"),
    ("data/images/hub.rs", "images are in memory of the host"),
    (
        "engine/cuda/adam.rs",
        "whether a gradient was finite, when that is asked",
    ),
    ("engine/cuda/memory.rs", "it is about devices"),
    ("engine/device_name.rs", "it is about devices"),
    ("engine/fallback.rs", "it is about devices"),
    ("engine/gpu.rs", "cells and weights are handed to another library"),
    ("error/check.rs", "arguments are checked where they are given"),
    ("grid/draws.rs", "rates of cells, once a rollout has been set up"),
    ("io/page/manifest.rs", "pages are files"),
    ("io/render.rs", "pictures are files"),
    (
        "loss/pattern.rs",
        "the losses by which states are ranked, once an update",
    ),
    (
        "loss/sliced_transport.rs",
        "Candle sorts at most 1024 numbers on a GPU",
    ),
    ("loss/style.rs", "the fingerprint of a target, once a training"),
    ("metric/evaluate.rs", "a score is the result"),
    ("metric/texture.rs", "a score is the result"),
    ("model/baseline/classical.rs", "filters of the host"),
    ("model/pattern/page.rs", "pages are files"),
    ("model/pattern/released.rs", "files are read on the host"),
    ("model/vae/model.rs", "estimates are the result"),
    ("nn/weights.rs", "no weights have no device"),
    ("ops/neighbours.rs", "taps that are 0, on plain operations alone"),
    ("rollout/fused.rs", "given masks"),
    ("rollout/on_gpu.rs", "cells are handed to another library"),
    ("train/adam_kernels.rs", "norms, where no kernel runs"),
    ("train/autoencoder_trainer.rs", "scores of a validation"),
    ("train/network_trainer.rs", "scores of a validation"),
    (
        "train/pattern_trainer.rs",
        "which states are sound, once an update",
    ),
    ("train/pool_trainer.rs", "scores of a validation"),
    ("train/unread.rs", "losses, when they are asked for"),
    ("train/vae_trainer.rs", "which grids are sound, once an update"),
    (
        "transition/texture.rs",
        "the largest weight, where weights are quantised",
    ),
];

/// Most modules of `src/lib.rs`: a reader should take them in at a glance.
const TOP_LEVEL: usize = 15;

/// Most files that may import each other in a circle: a module and the files behind it.
const CIRCLE: usize = 3;

/// Most lines of a file.
const LINES: usize = 600;

struct Source {
    /// Its path from the root of the repository.
    path: String,
    text: String,
}

impl Source {
    /// The path of its module, which is empty for the root.
    fn module(&self) -> Vec<String> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let names = path.split('/').map(String::from);
        names.filter(|name| name != "mod" && name != "lib").collect()
    }
}

/// Circles of imports of more than [`CIRCLE`] files.
fn circles(sources: &[Source]) -> Vec<String> {
    let imports = Crate::read(sources).imports();
    let mut reached = vec![BTreeSet::new(); sources.len()];
    for (file, reached) in reached.iter_mut().enumerate() {
        let mut next = vec![file];
        while let Some(from) = next.pop() {
            let imported = imports.iter().filter(|import| import.from == from);
            next.extend(imported.map(|import| import.to).filter(|&to| reached.insert(to)));
        }
    }
    let circle_of = |file: File| -> BTreeSet<File> {
        let others = reached[file].iter().copied();
        others.filter(|&other| reached[other].contains(&file)).collect()
    };
    let circles: BTreeSet<BTreeSet<File>> = (0..sources.len()).map(circle_of).collect();
    let long = circles.into_iter().filter(|circle| circle.len() > CIRCLE);
    let told = long.map(|circle| {
        let inside = imports
            .iter()
            .filter(|import| circle.contains(&import.from) && circle.contains(&import.to));
        let lines = inside.map(|Import { from, to, line }| {
            format!("\n  {}:{line} imports {}", sources[*from].path, sources[*to].path)
        });
        let count = circle.len();
        format!(
            "a circle of {count} files, allowed are {CIRCLE}:{}",
            lines.collect::<String>()
        )
    });
    told.collect()
}

/// Imports from a module of `order` to a later one that are not in `allowed`; those of `src/lib.rs` do not
/// count.
fn upward(sources: &[Source], order: &[&str], allowed: &[(&str, &str, &str)]) -> Vec<String> {
    let place = |path: &str| {
        let top = path.trim_start_matches("src/").split(['/', '.']).next()?;
        order.iter().position(|module| *module == top)
    };
    let imports = Crate::read(sources).imports();
    let found = imports.into_iter().filter_map(|Import { from, to, line }| {
        let (from, to) = (&sources[from].path, &sources[to].path);
        let (low, high) = (place(from)?, place(to)?);
        let is_allowed = allowed.iter().any(|(a, b, _)| a == from && b == to);
        (low < high && !is_allowed).then(|| {
            let (low, high) = (order[low], order[high]);
            format!("{from}:{line} imports {to}, allowed are modules below: `{low}` is below `{high}`")
        })
    });
    found.collect()
}

/// Top-level modules: too many, or not those of `order`.
fn top_level(sources: &[Source], order: &[&str]) -> Vec<String> {
    let modules: BTreeSet<String> = sources
        .iter()
        .filter_map(|source| source.module().into_iter().next())
        .collect();
    let ordered: BTreeSet<String> = order.iter().map(ToString::to_string).collect();
    let mut found = vec![];
    if modules.len() > TOP_LEVEL {
        found.push(format!(
            "src/lib.rs: {} modules, allowed are {TOP_LEVEL}",
            modules.len()
        ));
    }
    for module in modules.difference(&ordered) {
        found.push(format!(
            "src/lib.rs: a module `{module}`, which the order of modules lacks"
        ));
    }
    for module in ordered.difference(&modules) {
        found.push(format!(
            "src/lib.rs: no module `{module}`, which the order of modules has"
        ));
    }
    found
}

/// Rust files of more than [`LINES`] lines.
fn long_files(sources: &[Source]) -> Vec<String> {
    let rust = sources.iter().filter(|source| source.path.ends_with(".rs"));
    let counted = rust.map(|source| (&source.path, source.text.lines().count()));
    let long = counted.filter(|(_, count)| *count > LINES);
    long.map(|(path, count)| format!("{path}: {count} lines, allowed are {LINES}"))
        .collect()
}

/// Comment lines, of Rust or of a script, of more than `max` columns.
fn wide_comments(sources: &[Source], max: usize) -> Vec<String> {
    let mut found = vec![];
    for Source { path, text } in sources {
        let mark = if path.ends_with(".rs") { "//" } else { "#" };
        for (number, line) in (1..).zip(text.lines()) {
            let columns = line.chars().count();
            if line.trim_start().starts_with(mark) && columns > max {
                found.push(format!(
                    "{path}:{number}: a comment of {columns} columns, allowed are {max}"
                ));
            }
        }
    }
    found
}

/// Lines of `src`, tests and documentation left out, that name the CPU or read a tensor's values, in files
/// that are not in `allowed`; and files of `allowed` without such a line.
fn on_host(sources: &[Source], allowed: &[(&str, &str)]) -> Vec<String> {
    let is_known = |path: &str| allowed.iter().any(|(known, _)| path == format!("src/{known}"));
    let mut found = vec![];
    let mut used = BTreeSet::new();
    for Source { path, text } in sources
        .iter()
        .filter(|source| !source.path.ends_with("/tests.rs"))
    {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in (1..).zip(code.lines()) {
            let is_comment = line.trim_start().starts_with("//");
            let reads = [
                "Device::Cpu",
                "to_scalar",
                "to_vec0",
                "to_vec1",
                "to_vec2",
                "to_vec3",
            ];
            let Some(what) = reads.iter().find(|what| !is_comment && line.contains(*what)) else {
                continue;
            };
            used.insert(path.clone());
            if !is_known(path) {
                found.push(format!(
                    "{path}:{number}: `{what}`, expected values to stay on the device of their tensors"
                ));
            }
        }
    }
    let idle = allowed
        .iter()
        .filter(|(path, _)| !used.contains(&format!("src/{path}")));
    found.extend(idle.map(|(path, _)| format!("src/{path}: reads nothing on the host, and is in ON_HOST")));
    found
}

/// Pages whose Rust blocks are not included as doctests by `src/lib.rs`.
fn untested_pages(sources: &[Source]) -> Vec<String> {
    let front = sources.iter().find(|source| source.path == "src/lib.rs");
    let included = |path: &str| front.is_some_and(|front| front.text.contains(&format!("\"../{path}\"")));
    let pages = sources.iter().filter(|source| source.path.ends_with(".md"));
    let untested = pages.filter(|page| page.text.contains("```rust") && !included(&page.path));
    untested
        .map(|page| format!("{}: Rust blocks, expected in `doctests` of src/lib.rs", page.path))
        .collect()
}

/// The text files at these paths of the repository, or `None` if its sources are not there.
fn read(places: &[&str]) -> Option<Vec<Source>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join("src").is_dir() {
        eprintln!("skipped: there is no src/ in {}", root.display());
        return None;
    }
    let mut sources = vec![];
    let mut next: Vec<String> = places.iter().map(ToString::to_string).collect();
    while let Some(path) = next.pop() {
        let full = root.join(&path);
        if full.is_dir() {
            let entries = fs::read_dir(full)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            next.extend(entries.map(|name| format!("{path}/{}", name.to_str().unwrap())));
        } else if full.is_file()
            && let Ok(text) = fs::read_to_string(full)
        {
            sources.push(Source { path, text });
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Some(sources)
}

/// The Rust sources in these folders.
fn rust(places: &[&str]) -> Option<Vec<Source>> {
    let all = read(places)?.into_iter();
    Some(all.filter(|source| source.path.ends_with(".rs")).collect())
}

fn hold(found: &[String]) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn no_file_is_in_a_long_circle_of_imports() {
    hold(&rust(&["src"]).map_or(vec![], |sources| circles(&sources)));
}

#[test]
fn no_import_runs_up() {
    hold(&rust(&["src"]).map_or(vec![], |sources| upward(&sources, &ORDER, &UPWARD)));
}

#[test]
fn top_level_modules_are_few_and_in_order() {
    hold(&rust(&["src"]).map_or(vec![], |sources| top_level(&sources, &ORDER)));
}

#[test]
fn values_stay_on_their_device() {
    hold(&rust(&["src"]).map_or(vec![], |sources| on_host(&sources, &ON_HOST)));
}

#[test]
fn files_are_short() {
    let sources = rust(&["src", "tests", "benches", "examples", "fuzz"]);
    hold(&sources.map_or(vec![], |sources| long_files(&sources)));
}

#[test]
fn comments_are_as_narrow_as_code() {
    let (Some(mut sources), Some(format)) = (
        rust(&["src", "tests", "benches", "examples", "fuzz"]),
        read(&["rustfmt.toml"]),
    ) else {
        return;
    };
    sources.extend(read(&[".ci"]).unwrap_or_default());
    let width = format.iter().flat_map(|format| format.text.lines());
    let width = width
        .filter_map(|line| line.strip_prefix("max_width = ")?.parse().ok())
        .next();
    hold(&wide_comments(
        &sources,
        width.expect("`max_width` in rustfmt.toml"),
    ));
}

#[test]
fn rust_blocks_of_pages_are_tested() {
    hold(
        &read(&["README.md", "CONTRIBUTING.md", "docs", "src/lib.rs"]).map_or(vec![], |s| untested_pages(&s)),
    );
}

/// The rules themselves, on sources that break them.
mod rules {
    use super::*;

    fn made(files: &[(&str, &str)]) -> Vec<Source> {
        let source = |&(path, text): &(&str, &str)| Source {
            path: path.to_string(),
            text: text.to_string(),
        };
        files.iter().map(source).collect()
    }

    /// Pairs of files, `from` and `to`, and the line.
    fn imports(files: &[(&str, &str)]) -> Vec<(String, String, usize)> {
        let sources = made(files);
        let imports = Crate::read(&sources).imports().into_iter();
        let named = |Import { from, to, line }| (sources[from].path.clone(), sources[to].path.clone(), line);
        imports.map(named).collect()
    }

    #[test]
    fn an_import_leads_to_the_file_where_a_name_lives() {
        let files = |code| {
            [
                ("src/lib.rs", "mod a;\nmod b;\npub use a::deep::Deep;"),
                (
                    "src/a/mod.rs",
                    "pub mod deep;\npub use deep::{Deep, free};\npub struct Here;",
                ),
                ("src/a/deep.rs", "pub struct Deep;\npub fn free() {}"),
                ("src/b.rs", code),
            ]
        };
        for (code, to) in [
            ("\nuse crate::a::Deep;", "src/a/deep.rs"),
            ("\nuse crate::Deep as Other;", "src/a/deep.rs"),
            ("\nuse super::a::{deep::{self, Deep}};", "src/a/deep.rs"),
            ("\nfn f() { crate::a::free() }", "src/a/deep.rs"),
            ("use super::a;\nfn f(_: a::Deep) {}", "src/a/deep.rs"),
            ("\nfn f() { println!(\"{}\", crate::a::free()) }", "src/a/deep.rs"),
            ("\nuse crate::a::Here;", "src/a/mod.rs"),
            ("\nuse crate::a::*;", "src/a/mod.rs"),
        ] {
            let expected = ("src/b.rs".to_string(), to.to_string(), 2);
            assert_eq!(imports(&files(code)), [expected], "{code}");
        }
        let inner = [
            ("src/lib.rs", "mod a;\npub struct Top;"),
            ("src/a/mod.rs", "mod deep;\npub struct Here;"),
            ("src/a/deep.rs", "use super::Here;\nuse super::super::Top;"),
        ];
        let from_deep = |to: &str, line| ("src/a/deep.rs".to_string(), to.to_string(), line);
        assert_eq!(
            imports(&inner),
            [from_deep("src/lib.rs", 2), from_deep("src/a/mod.rs", 1)]
        );
        for code in [
            "use std::a::Deep;",
            "use a::a;\nfn f() { a() }",
            "pub(crate) use crate::a::Deep;",
            "pub(super) fn a() {}\nfn b() { let a = 1; }",
            "#[cfg(test)]\nmod tests {\n    use crate::a::Deep;\n}",
        ] {
            assert_eq!(imports(&files(code)), [], "{code}");
        }
    }

    #[test]
    fn a_long_circle_is_found() {
        let mut files = vec![
            ("src/a.rs", "use crate::b::B;"),
            ("src/b.rs", "use crate::c::C;"),
            ("src/c.rs", "use crate::a::A;\nuse crate::d::D;"),
            ("src/d.rs", ""),
            ("src/lib.rs", ""),
        ];
        assert_eq!(circles(&made(&files)), <[&str; 0]>::default());
        files[3].1 = "\nuse crate::a::A;";
        let found = circles(&made(&files));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("a circle of 4 files, allowed are 3:\n  src/a.rs:1 imports src/b.rs\n"));
        assert!(found[0].ends_with("src/d.rs:2 imports src/a.rs"));
    }

    #[test]
    fn an_import_that_runs_up_is_found() {
        let files = made(&[
            ("src/lib.rs", "mod high;\nmod low;\npub use high::High;"),
            ("src/low.rs", "\nuse crate::high::High;"),
            ("src/high.rs", "use crate::low::Low;"),
        ]);
        let expected = "src/low.rs:2 imports src/high.rs, allowed are modules below: `low` is below `high`";
        assert_eq!(upward(&files, &["low", "high"], &[]), [expected]);
        let allowed = [("src/low.rs", "src/high.rs", "a reason")];
        assert_eq!(upward(&files, &["low", "high"], &allowed), <[&str; 0]>::default());
    }

    #[test]
    fn too_many_modules_and_unknown_ones_are_found() {
        let names: Vec<String> = (0..16).map(|n| format!("src/m{n:02}/mod.rs")).collect();
        let files: Vec<(&str, &str)> = names.iter().map(|name| (&name[..], "")).collect();
        assert!(top_level(&made(&files), &[])[0].ends_with("16 modules, allowed are 15"));
        let files = made(&[("src/lib.rs", ""), ("src/a.rs", ""), ("src/a/inner.rs", "")]);
        assert_eq!(top_level(&files, &["a"]), <[&str; 0]>::default());
        let expected = [
            "src/lib.rs: a module `a`, which the order of modules lacks",
            "src/lib.rs: no module `b`, which the order of modules has",
        ];
        assert_eq!(top_level(&files, &["b"]), expected);
    }

    #[test]
    fn long_files_and_wide_comments_are_found() {
        let long = "\n".repeat(LINES + 1);
        let found = long_files(&made(&[("src/a.rs", &long), ("src/b.rs", &long[1..])]));
        assert_eq!(found, ["src/a.rs: 601 lines, allowed are 600"]);
        let files = made(&[
            (
                "src/a.rs",
                "//! ä\n    /// abc\nlet wide_code = 1; // abc\n# of no script",
            ),
            (".ci/run", "# abc\n# abcdefg\n// no comment"),
        ]);
        let expected = [
            "src/a.rs:2: a comment of 11 columns, allowed are 8",
            ".ci/run:2: a comment of 9 columns, allowed are 8",
        ];
        assert_eq!(wide_comments(&files, 8), expected);
    }

    #[test]
    fn values_that_leave_their_device_are_found() {
        let files = made(&[
            (
                "src/a.rs",
                "/// Device::Cpu\nlet x = y.to_scalar::<f32>()?;\n#[cfg(test)]\nDevice::Cpu",
            ),
            ("src/b.rs", "Tensor::new(0, &Device::Cpu)"),
            ("src/c.rs", ""),
            ("src/c/tests.rs", "x.to_vec1()"),
        ]);
        let found = on_host(&files, &[("b.rs", "a reason"), ("c.rs", "a reason")]);
        let expected = [
            "src/a.rs:2: `to_scalar`, expected values to stay on the device of their tensors",
            "src/c.rs: reads nothing on the host, and is in ON_HOST",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_page_that_is_not_tested_is_found() {
        let block = "```rust\nfn main() {}\n```";
        let files = made(&[
            ("README.md", block),
            ("docs/a.md", block),
            ("docs/b.md", "```sh\nls\n```"),
            ("src/lib.rs", "#[doc = include_str!(\"../README.md\")]"),
        ]);
        let expected = ["docs/a.md: Rust blocks, expected in `doctests` of src/lib.rs"];
        assert_eq!(untested_pages(&files), expected);
    }
}
