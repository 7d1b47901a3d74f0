//! How an operation stops the running program: a typed error with the kernel's source line.

use super::grid;
use crate::error::{KernelError, Place};
use std::panic::{Location, resume_unwind};

/// What unwinds from an operation to [`grid::run_grid`].
pub(crate) struct Fault {
    /// What happened.
    pub error: KernelError,
    /// The kernel's line.
    pub place: Place,
}

/// Ends the running program. Outside a kernel, where nobody would catch it, this is an ordinary panic.
#[cold]
#[track_caller]
pub(crate) fn fault(error: KernelError) -> ! {
    if grid::is_running() {
        resume_unwind(Box::new(Fault { error, place: Location::caller().into() }));
    }
    panic!("{error}");
}
