//! Running a kernel's programs on the CPU.

use super::arena;
use super::fault::{Fault, fault};
use crate::error::{KernelError, LaunchError, Place};
use rayon::prelude::*;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// The program that a thread runs.
#[derive(Clone, Copy)]
struct Current {
    id: [usize; 3],
    grid: [usize; 3],
    /// Position in the grid, the first axis innermost.
    linear: u32,
    /// Whether the launch is checked.
    checked: bool,
}

thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
    /// Message and place of the last panic inside a kernel.
    static PANIC: RefCell<Option<(String, Option<Place>)>> = const { RefCell::new(None) };
}

/// True on a thread that runs a program.
pub(crate) fn is_running() -> bool {
    CURRENT.get().is_some()
}

#[track_caller]
fn current(what: &'static str, axis: usize) -> Current {
    if axis > 2 {
        fault(KernelError::GridAxis { axis });
    }
    match CURRENT.get() {
        Some(current) => current,
        None => fault(KernelError::OutsideKernel { what }),
    }
}

/// The running program's position along a grid axis: 0, 1 or 2.
#[track_caller]
pub fn program_id(axis: usize) -> usize {
    current("program_id", axis).id[axis]
}

/// How many programs there are along a grid axis: 0, 1 or 2.
#[track_caller]
pub fn num_programs(axis: usize) -> usize {
    current("num_programs", axis).grid[axis]
}

/// `a / b`, rounded up.
pub fn cdiv(a: usize, b: usize) -> usize {
    a.div_ceil(b)
}

/// True inside a checked launch.
pub fn checking() -> bool {
    CURRENT.get().is_some_and(|current| current.checked)
}

/// Stops a checked launch where `cond` is false, with `message`, the kernel's line and the program's ids. In any
/// other launch nothing happens, and inside a kernel `cond` is not even evaluated.
#[track_caller]
pub fn check(cond: bool, message: &'static str) {
    if !cond && checking() {
        fault(KernelError::Check { message: message.to_owned() });
    }
}

/// Runs `program` once for each point of the grid, on all cores; the first error by program order is returned.
pub(crate) fn run_grid(
    kernel: &'static str,
    grid: [usize; 3],
    checked: bool,
    program: impl Fn() + Sync,
) -> Result<(), LaunchError> {
    watch_panics();
    let total: usize = grid.iter().product();
    let run = |linear: usize| run_program(kernel, grid, (linear, checked), &program).err();
    let error = if total == 1 { run(0) } else { (0..total).into_par_iter().find_map_first(run) };
    error.map_or(Ok(()), Err)
}

/// Undoes what a program leaves behind, also when it unwinds: an outer program may be running on this thread.
struct Restore {
    outer: Option<Current>,
    mark: usize,
}

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.outer);
        arena::release(self.mark, &mut []);
    }
}

fn run_program(
    kernel: &'static str,
    grid: [usize; 3],
    (linear, checked): (usize, bool),
    program: &(impl Fn() + Sync),
) -> Result<(), LaunchError> {
    let id = [linear % grid[0], linear / grid[0] % grid[1], linear / (grid[0] * grid[1])];
    let restore = Restore { outer: CURRENT.get(), mark: arena::mark() };
    CURRENT.set(Some(Current { id, grid, linear: linear as u32, checked }));
    let outcome = catch_unwind(AssertUnwindSafe(program));
    drop(restore);
    outcome.map_err(|payload| {
        let (place, error) = explain(payload);
        LaunchError::Kernel { kernel, program: id, place, error: Box::new(error) }
    })
}

/// The place and reason behind an unwinding program.
fn explain(payload: Box<dyn Any + Send>) -> (Place, KernelError) {
    match payload.downcast::<Fault>() {
        Ok(fault) => (fault.place, fault.error),
        Err(_) => {
            let (message, place) = PANIC.take().unwrap_or_default();
            let nowhere = Place { file: "<unknown>".into(), line: 0, col: 0 };
            (place.unwrap_or(nowhere), KernelError::Panic { message })
        }
    }
}

/// Makes panics of a kernel's scalar code silent, and keeps their message and place for the launch's error. Panics
/// elsewhere go to the hook that was set before.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !is_running() {
                return previous(info);
            }
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let message = text.unwrap_or("the kernel panicked").to_owned();
            let place = info.location().map(|l| Place {
                file: l.file().to_owned().into(),
                line: l.line(),
                col: l.column(),
            });
            PANIC.set(Some((message, place)));
        }));
    });
}

/// Which program touched each element of a mutable tensor: finds two that meet.
pub(crate) struct Shadow {
    tensor: &'static str,
    shape: Vec<usize>,
    strides: Vec<usize>,
    grid: [usize; 3],
    /// Program number plus one; 0 for nobody.
    writer: Vec<AtomicU32>,
    /// The first reader, and the first other one.
    readers: Vec<[AtomicU32; 2]>,
}

impl Shadow {
    pub fn new(
        tensor: &'static str,
        shape: &[usize],
        strides: &[usize],
        elements: usize,
        grid: [usize; 3],
    ) -> Shadow {
        Shadow {
            tensor,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
            grid,
            writer: (0..elements).map(|_| AtomicU32::new(0)).collect(),
            readers: (0..elements).map(|_| Default::default()).collect(),
        }
    }

    /// Notes that the running program is about to access the element at `place`; the race, if that is one. The
    /// access must not happen then: so a checked run has no data race.
    pub fn touch(&self, place: usize, stores: bool) -> Option<KernelError> {
        let me = CURRENT.get().map_or(0, |c| c.linear + 1);
        let other = |owner: u32| (owner != 0 && owner != me).then_some(owner);
        let readers = &self.readers[place];
        let met = if stores {
            let before = self.writer[place].swap(me, SeqCst);
            other(before).or_else(|| readers.iter().find_map(|r| other(r.load(SeqCst))))
        } else {
            for reader in readers {
                let seen = reader.compare_exchange(0, me, SeqCst, SeqCst);
                if seen.is_ok() || seen == Err(me) {
                    break;
                }
            }
            other(self.writer[place].load(SeqCst))
        };
        met.map(|first| KernelError::Race {
            tensor: self.tensor,
            element: self.coordinates(place),
            first: self.program(first - 1),
            second: self.program(me - 1),
        })
    }

    fn program(&self, linear: u32) -> [usize; 3] {
        let [x, y, _] = self.grid;
        let linear = linear as usize;
        [linear % x, linear / x % y, linear / (x * y)]
    }

    /// Element coordinates of a place: strides from the largest down.
    fn coordinates(&self, mut place: usize) -> Vec<usize> {
        let mut axes: Vec<usize> = (0..self.shape.len()).filter(|&a| self.shape[a] > 1).collect();
        axes.sort_by_key(|&axis| std::cmp::Reverse(self.strides[axis]));
        let mut coords = vec![0; self.shape.len()];
        for axis in axes {
            coords[axis] = place / self.strides[axis];
            place %= self.strides[axis];
        }
        coords
    }
}
