//! Work shared among measurers, one a GPU.

use super::{Measurer, Refusal};
use crate::error::TuneError;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Runs every task on whichever measurer is free, in order, and gives the results in the tasks' order. A task whose
/// measurer is lost goes to another; the lost ones are taken out of `crew`.
///
/// # Errors
/// [`TuneError::Measure`] when no measurer is left, and the first error of a task that is not its measurer's.
pub fn share<M: Measurer, T: Sync, R: Send>(
    crew: &mut Vec<M>,
    tasks: &[T],
    work: impl Fn(&mut M, &T) -> Result<R, Failure> + Sync,
) -> Result<Vec<R>, TuneError> {
    let queue: Mutex<VecDeque<usize>> = Mutex::new((0..tasks.len()).collect());
    let results: Mutex<Vec<Option<R>>> = Mutex::new(tasks.iter().map(|_| None).collect());
    let fatal: Mutex<Option<TuneError>> = Mutex::new(None);
    let mut last_loss = "there is none".to_owned();
    while !lock(&queue).is_empty() {
        if crew.is_empty() {
            return Err(TuneError::Measure { reason: last_loss });
        }
        let measurer_loop = |measurer: &mut M| -> Option<String> {
            loop {
                if lock(&fatal).is_some() {
                    return None;
                }
                let index = lock(&queue).pop_front()?;
                match work(measurer, &tasks[index]) {
                    Ok(result) => lock(&results)[index] = Some(result),
                    Err(Failure::Measurer(reason)) => {
                        lock(&queue).push_front(index);
                        return Some(reason);
                    }
                    Err(Failure::Sweep(error)) => {
                        lock(&fatal).get_or_insert(*error);
                        return None;
                    }
                }
            }
        };
        let losses: Vec<Option<String>> = std::thread::scope(|scope| {
            let threads: Vec<_> = crew.iter_mut().map(|m| scope.spawn(|| measurer_loop(m))).collect();
            let joined = threads.into_iter().map(|t| t.join());
            joined.map(|t| t.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        if let Some(error) = lock(&fatal).take() {
            return Err(error);
        }
        let mut lost = losses.iter().map(Option::is_some);
        crew.retain(|_| !lost.next().unwrap_or(false));
        last_loss = losses.into_iter().flatten().next_back().unwrap_or(last_loss);
    }
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(results.into_iter().flatten().collect())
}

/// Why a task of [`share`] has no result.
#[derive(Debug)]
pub enum Failure {
    /// Its measurer is lost.
    Measurer(String),
    /// The sweep as a whole cannot go on.
    Sweep(Box<TuneError>),
}

impl<E: Into<TuneError>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Sweep(Box::new(error.into()))
    }
}

/// A candidate's refusal is a result; a measurer's is a failure.
pub fn verdict<T>(result: Result<T, Refusal>) -> Result<Result<T, String>, Failure> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Refusal::Candidate(reason)) => Ok(Err(reason)),
        Err(Refusal::Measurer(reason)) => Err(Failure::Measurer(reason)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Pair;
    use std::sync::Barrier;
    use tile_lang::Config;

    /// A measurer that is lost after a number of tasks.
    struct Mortal {
        tasks_left: usize,
        /// Not yet met those that start beside it.
        alone: bool,
    }

    impl Mortal {
        fn new(tasks_left: usize) -> Mortal {
            Mortal { tasks_left, alone: true }
        }
    }

    impl Measurer for Mortal {
        fn admit(&mut self, _: &Config, _: Option<&Config>) -> Result<(), Refusal> {
            if self.tasks_left == 0 {
                return Err(Refusal::Measurer("worn out".to_owned()));
            }
            self.tasks_left -= 1;
            Ok(())
        }

        fn time(&mut self, _: &Config, _: &Config, _: usize) -> Result<Vec<Pair>, Refusal> {
            Ok(Vec::new())
        }
    }

    /// Shares `tasks` among measurers that last for `lives` of them; each has a task before any has done one.
    fn run(lives: &[usize], tasks: usize) -> (usize, Result<Vec<usize>, TuneError>) {
        let mut crew: Vec<Mortal> = lives.iter().copied().map(Mortal::new).collect();
        let together = Barrier::new(crew.len());
        let tasks: Vec<usize> = (0..tasks).collect();
        let result = share(&mut crew, &tasks, |measurer, task| {
            if std::mem::take(&mut measurer.alone) {
                together.wait();
            }
            verdict(measurer.admit(&Config::default(), None))?
                .map_err(|_| Failure::Measurer(String::new()))?;
            Ok(*task * 10)
        });
        (crew.len(), result)
    }

    #[test]
    fn results_come_in_the_order_of_the_tasks() {
        let (left, result) = run(&[100, 100, 100], 50);
        assert_eq!(left, 3);
        assert_eq!(result.expect("results"), (0..50).map(|i| i * 10).collect::<Vec<_>>());
    }

    #[test]
    fn what_a_lost_measurer_had_goes_to_another() {
        let (left, result) = run(&[0, 3, 100], 20);
        assert!((1..=2).contains(&left), "{left}");
        assert_eq!(result.expect("results").len(), 20);
        let (left, result) = run(&[5, 5], 20);
        assert_eq!(left, 0);
        assert!(result.is_err_and(|e| e.to_string().contains("worn out")));
    }

    #[test]
    fn measurers_work_at_the_same_time() {
        // Every task waits for the other two: one thread alone would wait for ever.
        let together = Barrier::new(3);
        let mut crew: Vec<Mortal> = (0..3).map(|_| Mortal::new(9)).collect();
        let result = share(&mut crew, &[(); 3], |_, ()| {
            together.wait();
            Ok(())
        });
        assert_eq!(result.expect("results").len(), 3);
    }
}
