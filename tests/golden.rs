//! Runs every golden case and prints how close the library comes to it.
//!
//! Cases lie in `tests/golden`, and a larger set in the folder that the variable `LNCA_GOLDEN` names.
//! `LNCA_TEST_DEVICE` names the device they run on.
//! A case without a checker, a result without a check and anything that is not finite are failures.

#[path = "golden_cases/mod.rs"]
mod cases;
#[path = "common/device.rs"]
mod device;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cases::{Case, Check, Plan, Result, Worst};

fn main() -> ExitCode {
    let options = Options::parse(std::env::args().skip(1));
    let found = match device::check().map_err(Into::into).and_then(|()| find()) {
        Ok(found) => found,
        Err(error) => {
            println!("golden cases: {error}");
            return ExitCode::FAILURE;
        }
    };
    let chosen: Vec<_> = found
        .into_iter()
        .filter(|(label, ..)| options.chooses(label))
        .collect();
    if options.list {
        chosen.iter().for_each(|(label, ..)| println!("{label}: test"));
        return ExitCode::SUCCESS;
    }
    let mut counts = [0; 2];
    for (label, folder, name) in &chosen {
        let (outcome, line) = match run(folder, name) {
            Ok(outcome) => outcome,
            Err(error) => (Outcome::Failed, error.to_string()),
        };
        let word = ["ok", "FAILED"][outcome as usize];
        println!("{word:6} {label:36} {line}");
        counts[outcome as usize] += 1;
    }
    let [ok, failed] = counts;
    println!("golden cases: {ok} ok, {failed} failed");
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

#[derive(Clone, Copy)]
enum Outcome {
    Ok,
    Failed,
}

/// Checks one case in each precision; the text describes the result.
fn run(folder: &Path, name: &str) -> Result<(Outcome, String)> {
    let (checker, dtypes) = match cases::plan(name) {
        Plan::Check(checker, dtypes) => (checker, dtypes),
        Plan::Unknown => return Err("no checker knows this case".into()),
    };
    let case = Case::read(folder, name)?;
    let (mut line, mut failures) = (String::new(), Vec::new());
    for &dtype in dtypes {
        let mut check = Check::new(&case, dtype);
        let result = catch_unwind(AssertUnwindSafe(|| checker(&mut check)));
        match result {
            Ok(Ok(())) => check.close(),
            Ok(Err(error)) => check.failures.push(error.to_string()),
            Err(_) => check.failures.push("panicked".into()),
        }
        let Worst { ratio, error, name } = &check.worst;
        let dtype = dtype.as_str();
        line += &format!("{dtype}: {ratio:.0e} of tolerance at {name}, largest error {error:.0e}; ");
        failures.extend(
            check
                .failures
                .iter()
                .map(|failure| format!("\n          {dtype}: {failure}")),
        );
    }
    match failures.is_empty() {
        true => Ok((Outcome::Ok, line)),
        false => Ok((Outcome::Failed, line + &failures.concat())),
    }
}

/// Every case, by a label for it, its folder and its name.
fn find() -> Result<Vec<(String, PathBuf, String)>> {
    let mut found = Vec::new();
    let shipped = device::root().join("tests/golden");
    collect("shipped", &shipped, &mut found)?;
    let named = std::env::var_os("LNCA_GOLDEN").map(PathBuf::from);
    let root = named.clone().unwrap_or_else(cases::default_folder);
    if !root.is_dir() {
        // If a folder that was asked for by name is missing, nothing would be tested.
        return match named {
            Some(_) => Err(format!("no folder {}, which LNCA_GOLDEN names", root.display()).into()),
            None => {
                eprintln!(
                    "golden cases: no folder {}; only the shipped ones",
                    root.display()
                );
                Ok(found)
            }
        };
    }
    let before = found.len();
    for set in ["", "lnca", "gtv"] {
        let folder = root.join(set);
        if folder.is_dir() {
            collect(if set.is_empty() { "golden" } else { set }, &folder, &mut found)?;
        }
    }
    match found.len() > before {
        true => Ok(found),
        false => Err(format!("no cases in {}", root.display()).into()),
    }
}

fn collect(set: &str, folder: &Path, found: &mut Vec<(String, PathBuf, String)>) -> Result<()> {
    for name in cases::names(folder)? {
        found.push((format!("{set}/{name}"), folder.to_path_buf(), name));
    }
    Ok(())
}

/// The arguments of Rust's own test harness that make sense here; others are ignored.
#[derive(Default)]
struct Options {
    list: bool,
    exact: bool,
    /// Only ignored tests are asked for, and there are none.
    nothing: bool,
    filters: Vec<String>,
    skip: Vec<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Self {
        let mut options = Self::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => options.list = true,
                "--exact" => options.exact = true,
                "--ignored" => options.nothing = true,
                "--skip" => options.skip.extend(arguments.next()),
                "--color" | "--format" | "--logfile" | "--shuffle-seed" | "--test-threads" | "-Z" => {
                    arguments.next();
                }
                flag if flag.starts_with('-') => {
                    options.skip.extend(flag.strip_prefix("--skip=").map(Into::into))
                }
                filter => options.filters.push(filter.to_string()),
            }
        }
        options
    }

    fn chooses(&self, label: &str) -> bool {
        let fits = |filter: &String| {
            if self.exact {
                label == filter
            } else {
                label.contains(filter.as_str())
            }
        };
        let chosen = self.filters.is_empty() || self.filters.iter().any(fits);
        chosen && !self.nothing && !self.skip.iter().any(fits)
    }
}
