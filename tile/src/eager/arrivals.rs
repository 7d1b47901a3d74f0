//! Arrivals of a launch's programs at counters.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Who arrived where. The counts are kept here and not in the tensor, which so stays as it is also when a program
/// stops, and whose contents cannot make two programs the last ones.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Programs that arrived, by the counter's address.
    counts: HashMap<usize, usize>,
    /// How a program arrived, by its number.
    of: HashMap<u32, Arrival>,
}

/// An arrival at a counter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// The counter's address.
    counter: usize,
    /// How many arrivals there were before, at all counters.
    number: usize,
}

impl Arrivals {
    /// Counts a program's arrival; what it is, if it is the last of `count`. The lock orders what the others did
    /// before theirs in front of what the last one does.
    pub fn arrive(&self, program: u32, counter: usize, count: usize) -> Option<Arrival> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let arrival = Arrival { counter, number: state.of.len() };
        state.of.insert(program, arrival);
        let arrived = state.counts.entry(counter).or_default();
        *arrived += 1;
        (*arrived == count).then_some(arrival)
    }

    /// True when the program arrived at the same counter earlier.
    pub fn is_before(&self, program: u32, last: Arrival) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.of.get(&program).is_some_and(|a| a.counter == last.counter && a.number < last.number)
    }
}
