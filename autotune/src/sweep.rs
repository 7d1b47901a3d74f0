//! The sweep: every candidate pruned, compiled, assembled and ranked, each with its verdict.

use crate::cost::{Candidate, Limit, Resource, Timing, limiter, limits, predict};
use crate::error::TuneError;
use crate::explain::{PassNote, passes};
use crate::journal::Journal;
use crate::measured::{Measured, Report};
use crate::occupancy::{Limiter, Usage, occupancy};
use crate::plan::Planned;
use crate::platform::Platform;
use crate::prune::{Rejection, after_assembling, before_compiling};
use crate::record::{Outcome, Provenance, Record, Resources, TrialNote};
use crate::roles::{registers_wanted, roles};
use crate::subject::{Subject, values};
use codegen_ptx::gpu::passes::PassError;
use codegen_ptx::gpu::resources::Role;
use codegen_ptx::{LowerError, Ptxas, PtxasError, Target};
use indexmap::IndexMap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tile_lang::Config;

/// The compiler, as records name it.
pub const COMPILER: &str = concat!("tilewright ", env!("CARGO_PKG_VERSION"));

/// Where and how to sweep.
pub struct SweepOptions<'a> {
    /// The target that code is generated for.
    pub target: &'static Target,
    /// The GPU whose times are predicted.
    pub platform: &'a Platform,
    /// The assembler, where one was found.
    pub ptxas: Option<&'a Ptxas>,
    /// Configurations to try beside the declared space: the rows of vendors' tables.
    pub vendor: Vec<Config>,
    /// Values that every candidate must have.
    pub pinned: IndexMap<String, i64>,
    /// Keeps what was found if the sweep is interrupted.
    pub journal: Option<&'a Journal>,
    /// Called after each candidate with how many are done, and how many there are.
    pub progress: &'a (dyn Fn(usize, usize) + Sync),
}

/// One candidate and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// The configuration.
    #[serde(serialize_with = "as_values")]
    pub config: Config,
    /// A vendor's table has it.
    pub vendor: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it was not ranked.
    pub reason: Option<String>,
    /// What the assembler reported.
    pub resources: Option<Resources>,
    /// Shared memory of a CTA in bytes, known once it compiled.
    pub smem_bytes: Option<usize>,
    /// Warps by role, and the registers they ask for, known once it compiled.
    pub roles: Vec<Role>,
    /// What passes did, known once it compiled.
    pub passes: Vec<PassNote>,
    /// What keeps one more CTA from an SM, where the assembler reported.
    pub fit_limiter: Option<Limiter>,
    /// The predicted time.
    pub time: Option<Timing>,
    /// What is predicted to hold it up.
    pub limiter: Option<Resource>,
    /// The measured one.
    pub measured: Option<Measured>,
}

/// What compiling and assembling one candidate gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Finding {
    /// It compiled.
    Compiled {
        /// Dynamic shared memory of a CTA in bytes.
        smem_bytes: usize,
        /// Registers a thread and bytes it spills, where there is an assembler.
        assembled: Option<(u32, u32)>,
        /// Threads of a CTA.
        threads: u32,
        /// Warps by role.
        roles: Vec<Role>,
        /// What passes did.
        passes: Vec<PassNote>,
    },
    /// It did not.
    Rejected {
        /// Pruned or failed.
        outcome: Outcome,
        /// Why.
        reason: String,
    },
}

fn as_values<S: serde::Serializer>(config: &Config, serializer: S) -> Result<S::Ok, S::Error> {
    values(config).serialize(serializer)
}

/// The result of a sweep.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// Every candidate: the ranked ones by time, then those that await tensor memory, the pruned, the failed.
    pub trials: Vec<Trial>,
    /// What was set by hand, so that a part of the space was tried.
    pub pinned: IndexMap<String, i64>,
    /// Candidates taken over from an interrupted sweep.
    pub resumed: usize,
    /// How long it took.
    pub elapsed: Duration,
}

impl Sweep {
    /// The candidate with the least time.
    pub fn best(&self) -> Option<&Trial> {
        self.trials.first().filter(|t| t.outcome == Outcome::Ranked)
    }
}

/// Runs a sweep; candidates are compiled and assembled in parallel.
///
/// # Errors
/// When the space is declared wrongly or the journal cannot be written. A candidate that fails keeps its reason
/// and fails alone.
pub fn sweep(subject: &Subject, options: &SweepOptions) -> Result<Sweep, TuneError> {
    let start = Instant::now();
    let candidates = candidates(subject, options)?;
    let done = AtomicUsize::new(0);
    let total = candidates.len();
    let trials: Result<Vec<Trial>, TuneError> = candidates
        .into_par_iter()
        .map(|(config, vendor)| {
            let trial = run_trial(subject, options, config, vendor);
            (options.progress)(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            trial
        })
        .collect();
    let mut trials = trials?;
    let order = |t: &Trial| (t.outcome as usize, t.time.map_or(u64::MAX, |time| (time.us * 1000.0) as u64));
    trials.sort_by_key(order);
    Ok(Sweep {
        trials,
        pinned: options.pinned.clone(),
        resumed: options.journal.map_or(0, Journal::resumed),
        elapsed: start.elapsed(),
    })
}

/// The declared space and the vendors' rows, each configuration once, and whether a vendor has it.
fn candidates(subject: &Subject, options: &SweepOptions) -> Result<Vec<(Config, bool)>, TuneError> {
    let mut configs = subject.candidates()?;
    for config in &options.vendor {
        if !configs.contains(config) {
            configs.push(config.clone());
        }
    }
    let pinned = |config: &Config| options.pinned.iter().all(|(name, v)| config.get(name) == Some(*v));
    let mut kept: Vec<Config> = configs.iter().filter(|c| pinned(c)).cloned().collect();
    if kept.is_empty() {
        // A value beyond the declared space: every candidate takes it instead of its own.
        for mut config in configs {
            options.pinned.iter().for_each(|(name, v)| config.set(name, *v));
            if !kept.contains(&config) {
                kept.push(config);
            }
        }
    }
    Ok(kept.into_iter().map(|c| (options.vendor.contains(&c), c)).map(|(vendor, c)| (c, vendor)).collect())
}

fn run_trial(
    subject: &Subject,
    options: &SweepOptions,
    config: Config,
    vendor: bool,
) -> Result<Trial, TuneError> {
    let mut trial = Trial {
        config,
        vendor,
        outcome: Outcome::Failed,
        reason: None,
        resources: None,
        smem_bytes: None,
        roles: Vec::new(),
        passes: Vec::new(),
        fit_limiter: None,
        time: None,
        limiter: None,
        measured: None,
    };
    let rejected = |mut trial: Trial, outcome, reason: String| {
        (trial.outcome, trial.reason) = (outcome, Some(reason));
        Ok(trial)
    };
    let launches = match subject.programs(&trial.config) {
        Ok(launches) => launches,
        Err(error) => return rejected(trial, Outcome::Failed, error.to_string()),
    };
    let (platform, target) = (options.platform, options.target);
    if let Some(Rejection { outcome, reason }) = refused_before_compiling(platform, target, &launches) {
        return rejected(trial, outcome, reason);
    }
    let least = launches[0].least;
    let named = values(&trial.config);
    let known = options.journal.and_then(|j| j.find("compile", &named).into_iter().next_back());
    let finding = match known {
        Some(finding) => finding,
        None => {
            let finding = compile_and_assemble(subject, options, &trial.config);
            if let Some(journal) = options.journal {
                journal.add("compile", &named, &finding)?;
            }
            finding
        }
    };
    let (smem_bytes, assembled, threads) = match finding {
        Finding::Compiled { smem_bytes, assembled, threads, roles, passes } => {
            (trial.roles, trial.passes) = (roles, passes);
            (smem_bytes, assembled, threads)
        }
        Finding::Rejected { outcome, reason } => return rejected(trial, outcome, reason),
    };
    let (registers, spill_bytes) = assembled.unwrap_or((0, 0));
    let fits = occupancy(platform, Usage { threads, registers, smem_bytes });
    trial.fit_limiter = assembled.map(|_| fits.limiter);
    let resources = Resources { registers, smem_bytes, spill_bytes, ctas_per_sm: fits.ctas };
    trial.smem_bytes = Some(smem_bytes);
    trial.resources = assembled.map(|_| resources);
    let verdict = after_assembling(platform, target, &trial.config, &least, &resources, fits.limiter);
    if let Some(Rejection { outcome, reason }) = verdict {
        return rejected(trial, outcome, reason);
    }
    trial.time = Some(time_of(subject, platform, &trial.config, &launches, &resources));
    trial.limiter = limiter(&limits_of(subject, platform, &trial.config, &launches, &resources));
    trial.outcome = Outcome::Ranked;
    Ok(trial)
}

/// Why a launch of a configuration cannot run well, seen before compiling.
pub(crate) fn refused_before_compiling(
    platform: &Platform,
    target: &Target,
    launches: &[Planned],
) -> Option<Rejection> {
    launches
        .iter()
        .find_map(|Planned { step, least, .. }| before_compiling(platform, target, &step.config, least))
}

/// Hands the model's view of each launch to `f`. Without the assembler's report, as many CTAs are assumed on an SM
/// as were asked for, since that is what registers are allotted for, or as fit with all the registers they want.
fn for_launches(
    subject: &Subject,
    platform: &Platform,
    config: &Config,
    launches: &[Planned],
    resources: &Resources,
    mut f: impl FnMut(&Candidate),
) {
    let target = Target::from_name(&platform.target).ok();
    for launch in launches {
        let own = &launch.step.config;
        let least = &launch.least;
        let copying = target.map_or(0, |target| roles(platform, target, own, least).copying);
        let threads = (own.num_warps + copying) * 32;
        let fits = |registers, smem_bytes| occupancy(platform, Usage { threads, registers, smem_bytes }).ctas;
        let ctas_per_sm = match resources.registers {
            0 => {
                let smem_bytes = resources.smem_bytes.max(least.bytes_with(own));
                let unasked = target.map_or(0, |t| fits(registers_wanted(t, own, least), smem_bytes));
                fits(0, smem_bytes).min(own.occupancy.max(unasked))
            }
            registers => fits(registers, resources.smem_bytes),
        };
        f(&Candidate {
            work: &subject.work(launch, config, target.is_some_and(Target::has_wgmma)),
            num_warps: own.num_warps,
            num_stages: own.num_stages,
            copies_ahead: copying > 0,
            walks: own.persistent,
            splits_tail: own.persistent && own.split_tail > 0,
            ctas_per_sm,
            spill_bytes: resources.spill_bytes,
            dram_bytes: subject.bytes(launches, launch, config),
        });
    }
}

/// The model's time of all launches, one after another.
pub(crate) fn time_of(
    subject: &Subject,
    platform: &Platform,
    config: &Config,
    launches: &[Planned],
    resources: &Resources,
) -> Timing {
    let mut total = Timing { us: 0.0, low_us: 0.0, high_us: 0.0 };
    for_launches(subject, platform, config, launches, resources, |candidate| {
        let time = predict(platform, candidate);
        total.us += time.us;
        total.low_us += time.low_us;
        total.high_us += time.high_us;
    });
    total
}

/// What all launches would take of each resource alone.
pub(crate) fn limits_of(
    subject: &Subject,
    platform: &Platform,
    config: &Config,
    launches: &[Planned],
    resources: &Resources,
) -> Vec<Limit> {
    let mut total: Vec<Limit> = Vec::new();
    for_launches(subject, platform, config, launches, resources, |candidate| {
        let of_launch = limits(platform, candidate);
        match total.is_empty() {
            true => total = of_launch,
            false => total.iter_mut().zip(&of_launch).for_each(|(sum, limit)| sum.us += limit.us),
        }
    });
    total
}

fn compile_and_assemble(subject: &Subject, options: &SweepOptions, config: &Config) -> Finding {
    let reject = |outcome, reason: String| Finding::Rejected { outcome, reason };
    let builds = match subject.build(config, options.target, false) {
        Ok(builds) => builds,
        Err(TuneError::Lower { source, .. }) => {
            let too_large = matches!(*source, LowerError::Pass(PassError::SharedMemory { .. }));
            return reject(if too_large { Outcome::Pruned } else { Outcome::Failed }, source.to_string());
        }
        Err(error) => return reject(Outcome::Failed, error.to_string()),
    };
    // Of several launches the most that any takes.
    let smem_bytes = builds.iter().map(|build| build.compiled.smem_bytes).max().unwrap_or(0);
    let threads = builds.iter().map(|build| build.compiled.num_threads).max().unwrap_or(0);
    let roles = builds.iter().flat_map(|build| build.compiled.resources.roles.clone()).collect();
    let notes = builds.iter().flat_map(|build| passes(&build.compiled)).collect();
    let mut assembled = None;
    for build in &builds {
        let report = match options.ptxas.map(|ptxas| ptxas.assemble(&build.compiled.ptx, options.target)) {
            None => continue,
            Some(Ok(report)) => report,
            Some(Err(PtxasError::Rejected { log, .. })) => {
                let first = log.lines().find(|l| !l.trim().is_empty()).unwrap_or_default();
                return reject(Outcome::Failed, format!("does not assemble: {}", first.trim()));
            }
            Some(Err(error)) => return reject(Outcome::Failed, error.to_string()),
        };
        let (registers, spills) = assembled.unwrap_or((0, 0));
        let more = report.spill_store_bytes + report.spill_load_bytes;
        assembled = Some((report.registers.max(registers), spills + more));
    }
    Finding::Compiled { smem_bytes, assembled, threads, roles, passes: notes }
}

/// The record of a sweep: its best candidate, with every other as a note. `report` is of the measuring, where that
/// was done.
pub fn to_record(
    subject: &Subject,
    sweep: &Sweep,
    ptxas: Option<&Ptxas>,
    report: Option<&Report>,
) -> Option<Record> {
    let best = sweep.best()?;
    let note = |t: &Trial| TrialNote {
        config: values(&t.config),
        outcome: t.outcome,
        us: t.measured.map_or(t.time, |m| Some(m.time)).map(|time| round(time.us)),
        predicted_us: t.measured.and(t.time).map(|time| round(time.us)),
        runs: t.measured.map(|m| m.runs),
        reason: t.reason.clone(),
    };
    let rounded = |t: Timing| Timing { us: round(t.us), low_us: round(t.low_us), high_us: round(t.high_us) };
    Some(Record {
        provenance: report.map_or(Provenance::Modelled, |_| Provenance::Measured),
        source: None,
        dtype: Some(subject.problem.dtype),
        shape: subject.bucket(),
        tuned_at: subject.problem.sizes.clone(),
        pinned: sweep.pinned.clone(),
        config: values(&best.config),
        source_hash: Some(subject.source_hash()),
        compiler: Some(COMPILER.to_owned()),
        assembler: ptxas
            .map(|p| format!("ptxas {}", p.version().unwrap_or_else(|| "of unknown version".to_owned()))),
        gpu: report.map(|r| r.gpu.name.clone()),
        driver: report.map(|r| r.gpu.driver.clone()),
        measurement: report.and_then(|r| r.measurement.clone()),
        model: report.and_then(|r| r.model),
        time: best.measured.map_or(best.time, |m| Some(m.time)).map(rounded),
        resources: best.resources,
        trials: sweep.trials.iter().map(note).collect(),
    })
}

/// Three decimals of a microsecond are more than the model knows, or an event resolves.
fn round(us: f64) -> f64 {
    (us * 1000.0).round() / 1000.0
}

/// What is known before compiling to stand in a configuration's way; [`Outcome::Ranked`] when nothing is.
pub fn obstacle(subject: &Subject, target: &Target, platform: &Platform, config: &Config) -> Outcome {
    let Ok(launches) = subject.programs(config) else { return Outcome::Failed };
    refused_before_compiling(platform, target, &launches).map_or(Outcome::Ranked, |r| r.outcome)
}
