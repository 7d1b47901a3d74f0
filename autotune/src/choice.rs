//! The configuration of a launch that no record is for: chosen by the cost model, without compiling.

use crate::cost::Timing;
use crate::error::TuneError;
use crate::plan::{Planned, Planner};
use crate::platform::Platform;
use crate::record::Resources;
use crate::roles::{registers_needed, roles};
use crate::subject::Subject;
use crate::sweep::{refused_before_compiling, time_of};
use codegen_ptx::Target;
use rayon::prelude::*;
use tile_lang::Config;

/// How much longer the kernel's default must be predicted to take than another configuration for that to be chosen:
/// the model's error is of this size.
const CLEAR_GAIN: f64 = 1.2;

/// The predicted time of a configuration that was not compiled; none where it cannot run, or is estimated to spill.
pub fn foreseen(subject: &Subject, target: &Target, platform: &Platform, config: &Config) -> Option<Timing> {
    foresee(subject, target, platform, config, &subject.programs(config).ok()?)
}

/// As [`foreseen`], of a configuration with these launches.
fn foresee(
    subject: &Subject,
    target: &Target,
    platform: &Platform,
    config: &Config,
    launches: &[Planned],
) -> Option<Timing> {
    if refused_before_compiling(platform, target, launches).is_some()
        || launches.iter().any(|launch| overflows(platform, target, launch))
    {
        return None;
    }
    // Nothing was assembled: what each launch cannot do without counts instead.
    let resources = Resources { registers: 0, smem_bytes: 0, spill_bytes: 0, ctas_per_sm: config.occupancy };
    Some(time_of(subject, platform, config, launches, &resources))
}

/// Bytes of shared memory for barriers and what reductions exchange.
const OTHER_SMEM_BYTES: usize = 2048;

/// Whether a launch is estimated to need more registers than its threads may have, and will spill, or more shared
/// memory than there is.
fn overflows(platform: &Platform, target: &Target, Planned { step, least, .. }: &Planned) -> bool {
    let smem_bytes = least.bytes_with(&step.config) + OTHER_SMEM_BYTES;
    let asked = step.config.occupancy.max(1) as usize;
    smem_bytes > (platform.smem_per_sm_bytes / asked).min(platform.smem_per_cta_bytes)
        || registers_needed(target, &step.config, least)
            > roles(platform, target, &step.config, least).registers
}

/// The model's choice without compiling: of the candidates that nothing rules out the one with the least predicted
/// time, if that is clearly less than the time of the kernel's default, and if the model can count what a launch does:
/// not where loops are as long as memory says.
///
/// # Errors
/// When the space is declared wrongly.
pub fn model_choice(
    subject: &Subject,
    target: &Target,
    platform: &Platform,
) -> Result<Option<Config>, TuneError> {
    let time = |config: &Config, launches: &[Planned]| {
        Some(foresee(subject, target, platform, config, launches)?.us)
    };
    let default = subject.contract.default_config(&subject.problem);
    let launches = subject.programs(&default).ok();
    let of_default = launches.as_deref().and_then(|launches| time(&default, launches));
    let is_counted = |launch: &Planned| subject.work(launch, &default, false).mean.uncounted == 0.0;
    if of_default.is_some() && !launches.iter().flatten().all(is_counted) {
        return Ok(Some(default));
    }
    let candidates = subject.candidates()?;
    let alike = candidates.par_chunk_by(|a, b| a.consts == b.consts);
    let timed: Vec<(f64, &Config)> = alike
        .flat_map_iter(|configs| {
            let mut planner = Planner::new(subject);
            configs.iter().filter_map(move |config| {
                let launches = planner.plan(config).ok()?;
                Some((time(config, &launches)?, config))
            })
        })
        .collect();
    let best = timed.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
    Ok(match (best, of_default) {
        (Some((least, config)), Some(of_default)) if least * CLEAR_GAIN < of_default => Some(config.clone()),
        (_, Some(_)) => Some(default),
        (best, None) => best.map(|(_, config)| config.clone()),
    })
}
