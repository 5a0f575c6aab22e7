//! Ctrl-C and the signal by which systems end programs: a training stops after the update at hand, with its
//! checkpoint written.

use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::note;

/// What the shell reports of a program that Ctrl-C ended.
pub const STATUS: u8 = 130;

/// Whether there is a training that will see the flag.
static TRAINING: AtomicBool = AtomicBool::new(false);

/// While it lives, a request to stop raises its flag. Without it, and when asked again, the program ends at
/// once.
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on.
    pub fn listen() -> Self {
        static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
        let flag = FLAG.get_or_init(|| {
            let flag = Arc::new(AtomicBool::new(false));
            let raised = flag.clone();
            let raise = move || {
                if !TRAINING.load(Ordering::Relaxed) || raised.swap(true, Ordering::Relaxed) {
                    exit(STATUS.into());
                }
            };
            // Without a handler the system ends the program, and the last checkpoint is an older one.
            if let Err(error) = ctrlc::set_handler(raise) {
                note!("warning: no checkpoint will be written on Ctrl-C: {error}");
            }
            flag
        });
        TRAINING.store(true, Ordering::Relaxed);
        Self(flag.clone())
    }

    /// It is true once the training should stop.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }

    /// Whether the training should stop.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        TRAINING.store(false, Ordering::Relaxed);
    }
}
