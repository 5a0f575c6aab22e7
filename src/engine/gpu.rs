//! Rollouts on a GPU of any maker, by wgpu: forwards, without a gradient.
//!
//! Cells stay on the GPU from call to call. Each kernel of a [`Shader`] is a pipeline, made once for the
//! structure of a program; a step is one dispatch for each.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use candle_core::Tensor;
use wgpu::util::{BufferInitDescriptor, DeviceExt};

use super::fallback::{self, Fallback};
use super::job::{PackedWeights, Task};
use super::wgsl::{BINDING, Shader};
use crate::error::{Error, Result};
use crate::grid::draws::FireRate;
use crate::program::{Program, Structure};

/// Steps of one submission, and the bytes between the arguments of two: the default limit.
const STEPS: usize = 64;
const STRIDE: usize = 256;
/// Words of the arguments of a step.
const ARGS: usize = 12;
/// Most programs whose pipelines are kept.
const KEPT: usize = 32;

/// A GPU with Vulkan, Metal or DirectX 12, on which rollouts run by
/// [`Rollout::run_on`](crate::Rollout::run_on).
///
/// It keeps the compiled kernels of the programs that it ran last, so one for a process is enough; clones are
/// the same GPU.
#[derive(Clone, Debug)]
pub struct Gpu {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    device: wgpu::Device,
    queue: wgpu::Queue,
    layout: wgpu::BindGroupLayout,
    /// By the structure of their programs, the latest last.
    pipelines: Mutex<Vec<(Structure, Arc<Pipelines>)>>,
    /// The first failure that wgpu told of.
    failure: Arc<Mutex<Option<String>>>,
}

#[derive(Debug)]
struct Pipelines {
    shader: Shader,
    kernels: Vec<wgpu::ComputePipeline>,
}

/// The value of a future. Those of wgpu on a native device do not wait for others of this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::yield_now();
    }
}

fn failed(reason: impl ToString) -> Error {
    candle_core::Error::msg(format!("the GPU failed: {}", reason.to_string())).into()
}

impl Gpu {
    /// The fastest GPU that wgpu finds, with the limits that WebGPU grants everywhere.
    ///
    /// # Errors
    /// [`Error::Config`] if there is none; [`Error::Candle`] if it fails.
    pub fn new() -> Result<Self> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = block_on(instance.request_adapter(&wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        }));
        let adapter = adapter.map_err(|error| {
            Error::config(
                "gpu",
                "one with Vulkan, Metal or DirectX 12",
                format!("none ({error})"),
            )
        })?;
        let (device, queue) = block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("lnca"),
            ..Default::default()
        }))
        .map_err(failed)?;
        let failure = Arc::new(Mutex::new(None));
        let told = failure.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            told.get_or_insert(error.to_string());
        }));
        let inner = Inner {
            name: adapter.get_info().name,
            layout: device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: None,
                entries: &entries(),
            }),
            device,
            queue,
            pipelines: Mutex::default(),
            failure,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// What its driver calls it.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The pipelines of a program, from the last time or made now.
    fn pipelines(&self, program: &Program) -> Result<Arc<Pipelines>> {
        let structure = program.structure();
        let mut kept = self
            .inner
            .pipelines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|(other, _)| *other == structure) {
            let entry = kept.remove(at);
            kept.push(entry);
        } else {
            let made = Arc::new(self.compile(Shader::new(program)));
            self.check()?;
            if kept.len() == KEPT {
                kept.remove(0);
            }
            kept.push((structure, made));
        }
        Ok(kept[kept.len() - 1].1.clone())
    }

    fn compile(&self, shader: Shader) -> Pipelines {
        let Inner { device, layout, .. } = &*self.inner;
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(shader.text.as_str().into()),
        });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(layout)],
            immediate_size: 0,
        });
        let kernel = |name: &String| {
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(name),
                layout: Some(&layout),
                module: &module,
                entry_point: Some(name),
                compilation_options: Default::default(),
                cache: None,
            })
        };
        let kernels = shader.kernels.iter().map(kernel).collect();
        Pipelines { shader, kernels }
    }

    /// A buffer that kernels use, of `values` or of so many words.
    fn buffer(&self, values: &[u32], words: usize) -> wgpu::Buffer {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        if values.is_empty() {
            return self.inner.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: 4 * words.max(4) as u64,
                usage,
                mapped_at_creation: false,
            });
        }
        self.inner.device.create_buffer_init(&BufferInitDescriptor {
            label: None,
            contents: &bytes(values),
            usage,
        })
    }

    /// What wgpu told of, as an error.
    fn check(&self) -> Result<()> {
        let mut failure = self.inner.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match failure.take() {
            Some(reason) => Err(failed(reason)),
            None => Ok(()),
        }
    }
}

/// The bindings of every kernel, as `library.wgsl` has them.
fn entries() -> [wgpu::BindGroupLayoutEntry; 7] {
    std::array::from_fn(|binding| wgpu::BindGroupLayoutEntry {
        binding: binding as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: match binding {
                0 => wgpu::BufferBindingType::Uniform,
                1..=3 => wgpu::BufferBindingType::Storage { read_only: true },
                _ => wgpu::BufferBindingType::Storage { read_only: false },
            },
            has_dynamic_offset: binding == 0,
            min_binding_size: None,
        },
        count: None,
    })
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Cells on a GPU, between two steps of a rollout.
#[derive(Debug)]
pub(crate) struct Grid {
    gpu: Gpu,
    pipelines: Arc<Pipelines>,
    /// Two buffers that take turns.
    states: [wgpu::Buffer; 2],
    groups: [wgpu::BindGroup; 2],
    args: wgpu::Buffer,
    numbers: usize,
    cells: usize,
    task: Task,
    common: [u32; ARGS],
    /// The next step.
    step: usize,
}

impl Grid {
    /// `cells` on `gpu` before the first step of `task`, or why no engine runs the program on them.
    pub fn new(
        gpu: &Gpu,
        program: Program,
        task: Task,
        cells: &Tensor,
    ) -> Result<std::result::Result<Self, Fallback>> {
        if let Some(reason) = fallback::reason(&program, cells) {
            return Ok(Err(reason));
        }
        let (images, height, width, channels) = cells.dims4()?;
        let count = images * height * width;
        let pipelines = gpu.pipelines(&program)?;
        pipelines.shader.check(count, channels)?;
        let weights = PackedWeights::new(&program, cells.device())?;
        let packed = bits(&weights.tensor.flatten_all()?.to_vec1::<f32>()?);
        let draws = draws(&task);
        for (what, words) in [("weights", packed.len()), ("masks", draws.len())] {
            if words > BINDING / 4 {
                let expected = format!("at most {} numbers, which fill a binding", BINDING / 4);
                return Err(Error::config(what, expected, words));
            }
        }
        let common = common(&task, [count, height, width]);
        let cells = cells.flatten_all()?.to_vec1::<f32>()?;
        let states = [gpu.buffer(&bits(&cells), 0), gpu.buffer(&[], cells.len())];
        let args = gpu.inner.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: (STEPS * STRIDE) as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let buries = pipelines.shader.buries;
        let spare = gpu.buffer(&[], if buries { cells.len() } else { 0 });
        let fixed = [
            gpu.buffer(&packed, 1),
            gpu.buffer(&draws, 1),
            gpu.buffer(&[], count * pipelines.shader.scratch),
        ];
        let group = |turn: usize| {
            let (state, next) = (&states[turn], &states[1 - turn]);
            let (updated, next) = if buries { (&spare, next) } else { (next, &spare) };
            let [weights, draws, scratch] = &fixed;
            let of_args = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &args,
                offset: 0,
                size: std::num::NonZeroU64::new(4 * ARGS as u64),
            });
            let buffers =
                [weights, state, draws, scratch, updated, next].map(wgpu::Buffer::as_entire_binding);
            let resources = [of_args].into_iter().chain(buffers);
            let entries = (0..)
                .zip(resources)
                .map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource });
            gpu.inner.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &gpu.inner.layout,
                entries: &entries.collect::<Vec<_>>(),
            })
        };
        let groups = [group(0), group(1)];
        gpu.check()?;
        Ok(Ok(Self {
            gpu: gpu.clone(),
            groups,
            pipelines,
            states,
            args,
            numbers: cells.len(),
            cells: count,
            step: task.steps.start,
            task,
            common,
        }))
    }

    /// The number of the next step.
    pub fn step(&self) -> usize {
        self.step
    }

    /// Makes so many steps, without waiting for them.
    pub fn advance(&mut self, steps: usize) -> Result<()> {
        let end = self.step + steps;
        while self.step < end {
            let some = self.step..end.min(self.step + STEPS);
            let args = some.clone().flat_map(|step| {
                let mut args = self.common;
                args[3] = step as u32;
                // Given masks follow each other, bit by bit.
                args[10] = ((step - self.task.steps.start) * self.cells) as u32;
                let mut padded = vec![0; STRIDE / 4];
                padded[..ARGS].copy_from_slice(&args);
                padded
            });
            let args: Vec<u32> = args.collect();
            let Inner { device, queue, .. } = &*self.gpu.inner;
            queue.write_buffer(&self.args, 0, &bytes(&args));
            let mut encoder = device.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            let [columns, rows] = Shader::groups(self.cells).map(|groups| groups as u32);
            for (n, step) in some.clone().enumerate() {
                pass.set_bind_group(0, &self.groups[self.turn(step)], &[(n * STRIDE) as u32]);
                for kernel in &self.pipelines.kernels {
                    pass.set_pipeline(kernel);
                    pass.dispatch_workgroups(columns, rows, 1);
                }
            }
            drop(pass);
            queue.submit([encoder.finish()]);
            self.gpu.check()?;
            self.step = some.end;
        }
        Ok(())
    }

    /// Which of the two buffers holds the cells before a step.
    fn turn(&self, step: usize) -> usize {
        (step - self.task.steps.start) % 2
    }

    /// The cells, when all steps are done.
    pub fn read(&self) -> Result<Vec<f32>> {
        let Inner { device, queue, .. } = &*self.gpu.inner;
        let size = 4 * self.numbers as u64;
        let copy = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&self.states[self.turn(self.step)], 0, &copy, 0, size);
        queue.submit([encoder.finish()]);
        let (sender, receiver) = std::sync::mpsc::channel();
        copy.map_async(wgpu::MapMode::Read, .., move |mapped| {
            // Nobody waits any more if the receiver is gone.
            let _ = sender.send(mapped);
        });
        device.poll(wgpu::PollType::wait_indefinitely()).map_err(failed)?;
        self.gpu.check()?;
        receiver.recv().map_err(failed)?.map_err(failed)?;
        let view = copy.get_mapped_range(..).map_err(failed)?;
        let values = view.chunks_exact(4).map(|bytes| {
            let bytes = bytes.try_into().unwrap_or_default();
            f32::from_le_bytes(bytes)
        });
        Ok(values.collect())
    }

    /// Other cells in place of these.
    pub fn write(&self, cells: &[f32]) -> Result<()> {
        let state = &self.states[self.turn(self.step)];
        self.gpu.inner.queue.write_buffer(state, 0, &bytes(&bits(cells)));
        self.gpu.check()
    }
}

/// The arguments that all steps have in common.
fn common(task: &Task, [cells, height, width]: [usize; 3]) -> [u32; ARGS] {
    let (fire, rate) = match (&task.masks, &task.fire_rate) {
        (Some(_), _) => (3, 0.0),
        (None, FireRate::Each(..)) => (2, 0.0),
        (None, rate) if rate.is_full() => (0, 0.0),
        (None, FireRate::Same(rate)) => (1, *rate as f32),
    };
    let [cells, height, width, first] = [cells, height, width, task.first_image].map(|count| count as u32);
    let ([low, high], rate) = (task.key.halves(), rate.to_bits());
    [cells, height, width, 0, first, 0, low, high, fire, rate, 0, 0]
}

/// The rates of each cell, or the given masks of all steps, a bit for each cell.
fn draws(task: &Task) -> Vec<u32> {
    match (&task.masks, &task.fire_rate) {
        (Some(masks), _) => {
            let fires: Vec<bool> = masks[task.steps.clone()].iter().flatten().copied().collect();
            let word = |fires: &[bool]| {
                let bits = fires.iter().enumerate();
                bits.fold(0, |word, (n, &fires)| word | u32::from(fires) << n)
            };
            fires.chunks(32).map(word).collect()
        }
        (None, FireRate::Each(_, rates)) => bits(rates),
        (None, FireRate::Same(_)) => vec![],
    }
}
