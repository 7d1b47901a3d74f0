//! Measured tuning: candidates timed on GPUs of the target, each in a process that may die of it.
//!
//! ```text
//! search ── share ──► one Measurer a GPU ── process (pipe, time limit) ──► serve ── bench: gpu | rehearsal
//! ```
//!
//! [`search`] decides what is measured next and when it is known well enough. It asks [`Measurer`]s, which are
//! [`process`]es of this program: a candidate that hangs or breaks its context costs one restart. Such a process
//! [`serve`]s requests from a [`Bench`]: the [`gpu`], or the made-up times of a [`rehearsal`].

pub mod gpu;
pub mod problem;
pub mod process;
pub mod protocol;
pub mod rehearsal;
pub mod search;
pub mod serve;
pub mod share;
pub mod stats;

use serde::{Deserialize, Serialize};
use tile_lang::Config;

/// A GPU of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuFacts {
    /// Its number.
    pub index: usize,
    /// As the driver names it.
    pub name: String,
    /// The part: `sm_90`.
    pub part: String,
    /// The driver's version.
    pub driver: String,
    /// The highest clock of its SMs in MHz, where the driver says.
    pub clock_mhz: Option<u32>,
}

/// The times of one run of a candidate and one of the reference right beside it, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The candidate's.
    pub candidate_us: f64,
    /// The reference's.
    pub reference_us: f64,
}

impl Pair {
    /// How many times as long the candidate takes.
    pub fn ratio(&self) -> f64 {
        self.candidate_us / self.reference_us
    }
}

/// Why something was not measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The candidate's own fault; others can be measured.
    Candidate(String),
    /// The candidate's own fault, after which the process that ran it is of no more use.
    Context(String),
    /// Nothing can be measured here.
    Bench(String),
}

/// What runs and times configurations of one problem on one GPU.
pub trait Bench {
    /// The GPUs there are.
    ///
    /// # Errors
    /// Why there are none.
    fn gpus(&mut self) -> Result<Vec<GpuFacts>, Fault>;

    /// Prepares a GPU for a problem.
    ///
    /// # Errors
    /// When the problem cannot be run there.
    fn open(&mut self, opening: &protocol::Opening) -> Result<(), Fault>;

    /// Runs a configuration once and compares its results: with the oracle, on a smaller problem of the same class
    /// where the oracle would take long, and with those of `anchor` on the problem itself.
    ///
    /// # Errors
    /// When it does not compile or run, or disagrees.
    fn admit(&mut self, config: &Config, anchor: Option<&Config>) -> Result<(), Fault>;

    /// Times a configuration and the reference in turn, caches cleared before each run.
    ///
    /// # Errors
    /// When one does not run.
    fn time(&mut self, config: &Config, reference: &Config, pairs: usize) -> Result<Vec<Pair>, Fault>;
}

/// Why a [`Measurer`] has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The candidate is out, for this reason.
    Candidate(String),
    /// The measurer cannot go on; another may do what it was asked for.
    Measurer(String),
}

/// One GPU as [`search`] sees it: a [`Bench`] that survives its candidates.
pub trait Measurer: Send {
    /// As [`Bench::admit`].
    ///
    /// # Errors
    /// When the candidate is out, or the measurer.
    fn admit(&mut self, config: &Config, anchor: Option<&Config>) -> Result<(), Refusal>;

    /// As [`Bench::time`].
    ///
    /// # Errors
    /// When the candidate is out, or the measurer.
    fn time(&mut self, config: &Config, reference: &Config, pairs: usize) -> Result<Vec<Pair>, Refusal>;
}
