//! Workloads for comparing NCA programs: times a rollout or a training step.
//!
//! With `--serve` it works for a driver that interleaves several programs: it prints `{"ready": true}`, runs
//! one repetition for each line `go` and prints its seconds, and at the end prints a record of all of them.
//!
//! It uses nothing that the other examples share, not even their allocator: it measures the library alone.

use std::io::{BufRead, ErrorKind, Write, stderr, stdin, stdout};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use clap::Parser;
use lnca::cuda;
use lnca::random::Key;
use lnca::train::{Adam, AdamConfig};
use lnca::transition::Perception;
use lnca::{
    DeviceName, Growing, GrowingConfig, Memory, Nafca, NafcaConfig, Precision, Result, Rollout, TransitionFn,
    Vitca, VitcaConfig, Weights,
};
use rand::Rng;
use rand_distr::StandardNormal;

/// The arguments.
#[derive(Parser)]
#[command(
    version,
    about = "Times one of the workloads for comparing NCA programs.",
    long_about = "\
Times one of the workloads for comparing NCA programs.

W1, W2: Growing NCA, 16 channels, 64 steps, fire rate 0.5
W3: ViTCA, 38 channels, fire rate 0.5; W4: NAFCA, 64 channels, all cells fire; W5: ViTCA, 64 channels, fire
rate 0.5; 64 steps to infer, 20 to train

A training step is a rollout, the mean squared error of the output channels after its last step, the
backward pass and an update by Adam; W2 divides each gradient by its norm."
)]
struct Args {
    /// W<1..5>_<infer|train>_b<batch>_<side>, and _s<steps> for another number of steps
    #[arg(long)]
    case: Case,
    /// Threads of the rollout
    #[arg(long, default_value_t = 2, value_parser = whole::<1024>)]
    threads: usize,
    /// Wait for lines `go` on standard input
    #[arg(long)]
    serve: bool,
    /// Repetitions without --serve
    #[arg(long, default_value_t = 7, value_parser = whole::<1_000_000>)]
    reps: usize,
    /// Where to compute: cpu; or, in a build with `--features cuda`, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// Plain Candle operations instead of the engine
    #[arg(long)]
    plain: bool,
    /// Precision of matrix products
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Dtype,
    /// Bytes of states that training may store [default: all states]
    #[arg(long)]
    budget: Option<usize>,
}

/// Parses a whole number from 1.
fn whole<const MOST: usize>(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=MOST).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from 1 to {MOST}")),
    }
}

/// Precision of matrix products.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Dtype {
    F32,
    /// On a GPU; on a CPU it is f32
    Tf32,
    Bf16,
}

/// Most cells and most steps of a case.
const MOST_CELLS: usize = 1 << 24;
const MOST_STEPS: usize = 1_000_000;

/// A workload: a number, its grid and its length.
#[derive(Clone)]
struct Case {
    name: String,
    workload: u32,
    train: bool,
    batch: usize,
    side: usize,
    steps: usize,
}

impl FromStr for Case {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, Self::Err> {
        Self::parse(name).ok_or_else(|| {
            format!(
                "not of the form W4_train_b8_8 or W2_train_b8_72_s8, at most {MOST_CELLS} cells and {MOST_STEPS} steps"
            )
        })
    }
}

impl Case {
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('_');
        let workload = parts.next()?.strip_prefix('W')?.parse().ok()?;
        let train = match parts.next()? {
            "infer" => false,
            "train" => true,
            _ => return None,
        };
        let batch: usize = parts.next()?.strip_prefix('b')?.parse().ok()?;
        let side: usize = parts.next()?.parse().ok()?;
        let cells = side.checked_mul(side)?.checked_mul(batch)?;
        let usual = if train && workload > 2 { 20 } else { 64 };
        let steps = match parts.next() {
            Some(steps) => steps.strip_prefix('s')?.parse().ok()?,
            None => usual,
        };
        let fits = (1..=MOST_CELLS).contains(&cells) && (1..=MOST_STEPS).contains(&steps);
        let ends = parts.next().is_none() && (1..=5).contains(&workload);
        (ends && fits).then(|| Self {
            name: name.to_string(),
            workload,
            train,
            batch,
            side,
            steps,
        })
    }

    /// Nominal floating-point operations for a cell and a step: linear layers and neighbourhoods, backward
    /// twice forward.
    fn flops(&self) -> usize {
        let vitca = |cell: usize, update: usize| {
            2 * (cell * 128 + 128 * 384 + 2 * 9 * 128 + 128 * 128 + 2 * 128 * 64 + 128 * update)
        };
        let forward = match self.workload {
            1 | 2 => 2 * (48 * 128 + 128 * 16) + 2 * 2 * 9 * 16,
            3 => vitca(38, 35),
            4 => 2 * (64 * 128 + 256 + 9 * 128 + 128 * 64 + 64 * 256 + 128 * 64 + 64 * 48),
            _ => vitca(64, 48),
        };
        if self.train { 3 * forward } else { forward }
    }
}

/// A tensor of normal draws with standard deviation `scale`.
fn normal(shape: &[usize], scale: f64, seed: u64, device: &Device) -> Result<Tensor> {
    let mut rng = Key::new(seed).rng();
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| (rng.sample::<f64, _>(StandardNormal) * scale) as f32)
        .collect();
    Ok(Tensor::from_vec(values, shape, device)?)
}

/// Random weights: layers with gain 1, a small head.
fn randomise(weights: &Weights) -> Result<()> {
    let device = weights.device();
    for (i, (name, var)) in weights.vars().into_iter().enumerate() {
        let head = ["head", "conv_out", "output"]
            .iter()
            .any(|head| name.starts_with(head));
        let value = match *var.dims() {
            [n] if name.contains("norm") && name.ends_with("weight") => {
                (normal(&[n], 0.02, i as u64, device)? + 1.0)?
            }
            [n] => normal(&[n], 0.02, i as u64, device)?,
            ref dims => {
                let fan_in: usize = dims[1..].iter().product();
                let gain = if head { 0.02 } else { 1.0 };
                normal(dims, gain / (fan_in as f64).sqrt(), i as u64, device)?
            }
        };
        var.set(&value)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        // Help that nobody reads any more is no error.
        Err(error) => match error.print() {
            Err(failure) if !error.use_stderr() && failure.kind() != ErrorKind::BrokenPipe => {
                return ExitCode::FAILURE;
            }
            _ => return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
        },
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        // The driver has gone.
        Err(Failure::Print(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            let message = match failure {
                Failure::Print(error) => format!("standard output: {error}"),
                Failure::Measure(error) => error.to_string(),
            };
            let _ = writeln!(stderr(), "error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Why there is no record.
enum Failure {
    Measure(lnca::Error),
    Print(std::io::Error),
}

impl<E: Into<lnca::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Measure(error.into())
    }
}

fn run(args: &Args) -> std::result::Result<(), Failure> {
    let case = args.case.clone();
    // It fails only if the number was set before.
    let _ = rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads)
        .build_global();
    let weights = Weights::new(0, DType::F32, &args.device.open()?);
    let vb = weights.builder();
    match case.workload {
        1 | 2 => measure(
            &Growing::new(GrowingConfig::default(), vb)?,
            &weights,
            args,
            &case,
        ),
        4 => {
            let config = NafcaConfig {
                dropout: 0.0,
                eps: 1e-5,
                perception: Perception::Grouped,
                ..NafcaConfig::default()
            };
            measure(&Nafca::new(config, vb)?, &weights, args, &case)
        }
        workload => {
            let config = VitcaConfig {
                eps: 1e-5,
                ..if workload == 3 {
                    VitcaConfig::default()
                } else {
                    VitcaConfig::latent()
                }
            };
            measure(&Vitca::new(config, vb)?, &weights, args, &case)
        }
    }
}

/// Times rollouts or training steps of `transition`, and prints the record.
fn measure<T>(transition: &T, weights: &Weights, args: &Args, case: &Case) -> std::result::Result<(), Failure>
where
    T: TransitionFn + Clone + 'static,
{
    randomise(weights)?;
    let device = weights.device();
    let layout = transition.layout();
    let shape = |channels| [case.batch, case.side, case.side, channels];
    let mut start = normal(&shape(layout.channels()), 0.1, 100, device)?;
    // Visible channels are in [0, 1], so that a growing NCA is alive nearly everywhere.
    let visible = if layout.input == 0 { 4 } else { layout.input };
    let image = normal(&shape(visible), 1.0, 101, device)?
        .tanh()?
        .affine(0.5, 0.5)?;
    start = Tensor::cat(
        &[&image, &start.narrow(3, visible, layout.channels() - visible)?],
        3,
    )?;
    let target = normal(&shape(layout.output), 1.0, 102, device)?
        .tanh()?
        .affine(0.5, 0.5)?;
    let config = AdamConfig {
        normalise: case.workload == 2,
        learning_rate: 1e-6,
        ..AdamConfig::default()
    };
    let mut adam = Adam::new(weights.vars(), config)?;
    let mut rollout = Rollout::new(case.steps).fire_rate(if case.workload == 4 { 1.0 } else { 0.5 });
    rollout = rollout.memory(match (case.train, args.budget) {
        (false, _) => Memory::Nothing,
        (true, None) => Memory::Every(1),
        (true, Some(bytes)) => Memory::Budget(bytes),
    });
    rollout = rollout.precision(match args.dtype {
        Dtype::F32 => Precision::F32,
        Dtype::Tf32 => Precision::Tf32,
        Dtype::Bf16 => Precision::Bf16,
    });
    if args.plain {
        rollout = rollout.plain();
    }
    let mut draw = 0;
    let once = || -> Result<f64> {
        draw += 1;
        let began = Instant::now();
        let cells = rollout.clone().key(Key::new(draw)).run(transition, &start)?;
        if case.train {
            let loss = (layout.output(&cells)? - &target)?.sqr()?.mean_all()?;
            adam.step(&loss.backward()?)?;
        }
        // A GPU works on after the call.
        device.synchronize()?;
        Ok(began.elapsed().as_secs_f64())
    };
    if let Some(timing) = time(args, device, once)? {
        report(args, case, &timing).map_err(Failure::Print)?;
    }
    Ok(())
}

/// The times of all repetitions, and memory around them.
struct Timing {
    /// Seconds, in ascending order.
    times: Vec<f64>,
    /// Calls in a repetition.
    inner: usize,
    first_call: f64,
    /// Bytes, of all calls.
    gpu_peak: Option<u64>,
    memory_before: f64,
    memory_warm: f64,
}

/// Times `once`, which returns its seconds; `None` if the driver wants no repetition.
fn time(
    args: &Args,
    device: &Device,
    mut once: impl FnMut() -> Result<f64>,
) -> std::result::Result<Option<Timing>, Failure> {
    let memory_before = peak_memory();
    let first_call = once()?;
    if first_call < 60.0 {
        once()?;
    }
    let memory_warm = peak_memory();
    // Restarts the peak, so that it is that of the timed repetitions. Only Linux can do this.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let inner = (0.2 / once()?.max(1e-6)).ceil().max(1.0) as usize;
    let mut repeat = || -> Result<f64> {
        let times: Result<Vec<f64>> = (0..inner).map(|_| once()).collect();
        Ok(times?.into_iter().sum::<f64>() / inner as f64)
    };
    let mut times = vec![];
    if args.serve {
        say(serde_json::json!({ "ready": true })).map_err(Failure::Print)?;
        for line in stdin().lock().lines() {
            match line {
                Ok(line) if line.trim() == "go" => times.push(repeat()?),
                _ => break,
            }
            say(serde_json::json!({ "t": times.last() })).map_err(Failure::Print)?;
        }
    } else {
        for _ in 0..args.reps {
            times.push(repeat()?);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok((!times.is_empty()).then_some(Timing {
        times,
        inner,
        first_call,
        gpu_peak: cuda::peak_memory(device),
        memory_before,
        memory_warm,
    }))
}

/// Prints the record of a case.
fn report(args: &Args, case: &Case, timing: &Timing) -> std::io::Result<()> {
    let times = &timing.times;
    let median = (times[times.len() / 2] + times[(times.len() - 1) / 2]) / 2.0;
    let updates = (case.batch * case.side * case.side * case.steps) as f64;
    let run = peak_memory();
    say(serde_json::json!({
        "workload": format!("W{}", case.workload),
        "case": case.name,
        "phase": if case.train { "train" } else { "infer" },
        "peer": match (args.plain, args.dtype) {
            (true, _) => "lnca-plain",
            (_, Dtype::F32) => "lnca",
            (_, Dtype::Tf32) => "lnca-tf32",
            (_, Dtype::Bf16) => "lnca-bf16",
        },
        "device": args.device.to_string(),
        "version": env!("CARGO_PKG_VERSION"),
        "threads": args.threads,
        "batch": case.batch,
        "grid": [case.side, case.side],
        "steps": case.steps,
        "reps": times.len(),
        "median_s": median,
        "min_s": times.first(),
        "max_s": times.last(),
        "cell_updates_per_s": updates / median,
        "gflops": updates * case.flops() as f64 / median / 1e9,
        "flop_per_cell_step": case.flops(),
        "inner": timing.inner,
        "first_call_s": timing.first_call,
        // Of a GPU: what tensors took of it, null elsewhere.
        "gpu_peak_mb": timing.gpu_peak.map(|bytes| bytes as f64 / f64::from(1 << 20)),
        "rss_import_mb": timing.memory_before,
        "rss_run_mb": run,
        "rss_peak_mb": run.max(timing.memory_warm),
    }))
}

/// Peak memory of this process in MiB, as Linux tells it; 0 elsewhere.
fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1024.0
}

fn say(value: serde_json::Value) -> std::io::Result<()> {
    let mut stdout = stdout().lock();
    writeln!(stdout, "{value}")?;
    // A driver waits for each line.
    stdout.flush()
}
