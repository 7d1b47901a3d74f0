//! Running a kernel's programs on the CPU.

use super::arena;
use super::arrivals::{Arrival, Arrivals};
use super::fault::{Fault, fault};
use crate::error::{KernelError, LaunchError, Place};
use rayon::prelude::*;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// The program that a thread runs.
#[derive(Clone, Copy)]
struct Current {
    id: [usize; 3],
    grid: [usize; 3],
    /// Position in the grid, the first axis innermost.
    linear: u32,
    /// Whether the launch is checked.
    checked: bool,
    /// The launch's; they outlive its programs.
    arrivals: NonNull<Arrivals>,
    /// Whether the program has arrived at a counter.
    arrived: bool,
    /// Its arrival, if it was the last one at its counter.
    last: Option<Arrival>,
}

impl Current {
    fn arrivals(&self) -> &Arrivals {
        // SAFETY: `run_grid` keeps them until the last program has ended.
        unsafe { self.arrivals.as_ref() }
    }
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

/// Counts the running program's arrival at a counter, known by its address; true in the last of `count` programs.
#[track_caller]
pub(super) fn arrive(counter: usize, count: usize) -> bool {
    let current = current("arrive_last", 0);
    let last = current.arrivals().arrive(current.linear, counter, count);
    CURRENT.set(Some(Current { arrived: true, last, ..current }));
    last.is_some()
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
    let arrivals = Arrivals::default();
    let run = |linear: usize| run_program(kernel, grid, (linear, checked), &arrivals, &program).err();
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
    arrivals: &Arrivals,
    program: &(impl Fn() + Sync),
) -> Result<(), LaunchError> {
    let id = [linear % grid[0], linear / grid[0] % grid[1], linear / (grid[0] * grid[1])];
    let restore = Restore { outer: CURRENT.get(), mark: arena::mark() };
    let (linear, arrivals) = (linear as u32, NonNull::from(arrivals));
    CURRENT.set(Some(Current { id, grid, linear, checked, arrivals, arrived: false, last: None }));
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

/// Set in the owner of an access that a program made after its arrival at a counter: no other's arrival orders it.
const AFTER: u64 = 1 << 32;

/// The program of an owner, counted from 1.
fn program_of(owner: u64) -> u64 {
    owner & !AFTER
}

/// Which program touched each element of a mutable tensor: finds two that meet.
///
/// What programs did before they arrived at a counter is in order with what the last one there does. Of the readers
/// of an element two are kept, so that among more a race with another one may be missed.
pub(crate) struct Shadow {
    tensor: &'static str,
    shape: Vec<usize>,
    strides: Vec<usize>,
    grid: [usize; 3],
    /// Program number plus one, with [`AFTER`]; 0 for nobody.
    writer: Vec<AtomicU64>,
    /// The first reader, and the first other one.
    readers: Vec<[AtomicU64; 2]>,
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
            writer: (0..elements).map(|_| AtomicU64::new(0)).collect(),
            readers: (0..elements).map(|_| Default::default()).collect(),
        }
    }

    /// Notes that the running program is about to access the element at `place`; the race, if that is one. The
    /// access must not happen then: so a checked run has no data race.
    pub fn touch(&self, place: usize, stores: bool) -> Option<KernelError> {
        let current = CURRENT.get();
        let me = current.map_or(0, |c| (u64::from(c.linear) + 1) | if c.arrived { AFTER } else { 0 });
        let is_ordered = |owner: u64| {
            let last = current.and_then(|c| Some((c, c.last?)));
            owner & AFTER == 0
                && last.is_some_and(|(c, last)| c.arrivals().is_before((owner - 1) as u32, last))
        };
        let other = |owner: u64| {
            let meets = owner != 0 && program_of(owner) != program_of(me) && !is_ordered(owner);
            meets.then_some(owner)
        };
        let readers = &self.readers[place];
        let met = if stores {
            let before = self.writer[place].swap(me, SeqCst);
            other(before).or_else(|| readers.iter().find_map(|r| other(r.load(SeqCst))))
        } else {
            for reader in readers {
                match reader.compare_exchange(0, me, SeqCst, SeqCst) {
                    Ok(_) => break,
                    Err(seen) if program_of(seen) == program_of(me) => {
                        reader.fetch_or(me, SeqCst);
                        break;
                    }
                    Err(_) => {}
                }
            }
            other(self.writer[place].load(SeqCst))
        };
        met.map(|first| KernelError::Race {
            tensor: self.tensor,
            element: self.coordinates(place),
            first: self.program(program_of(first) - 1),
            second: self.program(program_of(me) - 1),
        })
    }

    fn program(&self, linear: u64) -> [usize; 3] {
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
