//! The configuration of a launch that no record is for: chosen by the cost model, without compiling.

use crate::cost::Timing;
use crate::error::TuneError;
use crate::footprint::footprint;
use crate::platform::Platform;
use crate::record::Resources;
use crate::roles::{registers_needed, roles};
use crate::subject::{Planned, Subject};
use crate::sweep::{refused_before_compiling, time_of};
use codegen_ptx::Target;
use tile_lang::Config;

/// How much longer the kernel's default must be predicted to take than another configuration for that to be chosen:
/// the model's error is of this size.
const CLEAR_GAIN: f64 = 1.2;

/// The predicted time of a configuration that was not compiled; none where it cannot run, or is estimated to spill.
pub fn foreseen(subject: &Subject, target: &Target, platform: &Platform, config: &Config) -> Option<Timing> {
    let launches = subject.programs(config).ok()?;
    if refused_before_compiling(platform, target, &launches).is_some()
        || launches.iter().any(|launch| overflows(platform, target, launch))
    {
        return None;
    }
    // Nothing was assembled: what each launch cannot do without counts instead.
    let resources = Resources { registers: 0, smem_bytes: 0, spill_bytes: 0, ctas_per_sm: config.occupancy };
    Some(time_of(subject, platform, config, &launches, &resources))
}

/// Bytes of shared memory for barriers and what reductions exchange.
const OTHER_SMEM_BYTES: usize = 2048;

/// Whether a launch is estimated to need more registers than its threads may have, and will spill, or more shared
/// memory than there is.
fn overflows(platform: &Platform, target: &Target, Planned { step, program }: &Planned) -> bool {
    let least = footprint(program, step.config.num_stages);
    let smem_bytes = least.bytes_with(&step.config) + OTHER_SMEM_BYTES;
    let asked = step.config.occupancy.max(1) as usize;
    smem_bytes > (platform.smem_per_sm_bytes / asked).min(platform.smem_per_cta_bytes)
        || registers_needed(&step.config, &least) > roles(platform, target, &step.config, &least).registers
}

/// Whether all that the launches of a configuration do can be counted: not where loops are as long as memory says.
fn is_counted(subject: &Subject, config: &Config) -> bool {
    let launches = subject.programs(config).unwrap_or_default();
    launches.iter().all(|launch| subject.work(launch, config, false).mean.uncounted == 0.0)
}

/// The model's choice without compiling: of the candidates that nothing rules out the one with the least predicted
/// time, if that is clearly less than the time of the kernel's default, and if the model can count what a launch does.
///
/// # Errors
/// When the space is declared wrongly.
pub fn model_choice(
    subject: &Subject,
    target: &Target,
    platform: &Platform,
) -> Result<Option<Config>, TuneError> {
    let time = |config: &Config| Some(foreseen(subject, target, platform, config)?.us);
    let default = subject.contract.default_config(&subject.problem);
    let of_default = time(&default);
    if of_default.is_some() && !is_counted(subject, &default) {
        return Ok(Some(default));
    }
    let timed = subject.candidates()?.into_iter().filter_map(|config| Some((time(&config)?, config)));
    let best = timed.min_by(|a, b| a.0.total_cmp(&b.0));
    Ok(match (best, of_default) {
        (Some((least, config)), Some(of_default)) if least * CLEAR_GAIN < of_default => Some(config),
        (_, Some(_)) => Some(default),
        (best, None) => best.map(|(_, config)| config),
    })
}
