//! The kernels for GPUs, run on a CPU: they compute what plain operations do.

#[path = "../common/device.rs"]
mod device;
#[path = "../common/emulator.rs"]
mod emulator;
#[path = "../common/programs.rs"]
mod programs;

mod agreement;
