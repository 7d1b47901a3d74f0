//! Which candidates cannot run well, before they are compiled and after, and why.

use crate::footprint::Footprint;
use crate::occupancy::{Limiter, Usage, occupancy};
use crate::platform::Platform;
use crate::record::{Outcome, Resources};
use codegen_ptx::Target;
use tile_lang::Config;

/// Why a candidate is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Pruned, or waiting for tensor memory.
    pub outcome: Outcome,
    /// The reason.
    pub reason: String,
}

fn pruned(reason: String) -> Option<Rejection> {
    Some(Rejection { outcome: Outcome::Pruned, reason })
}

/// What a configuration cannot do without against what the target has: threads, shared memory, registers.
pub fn before_compiling(
    platform: &Platform,
    target: &Target,
    config: &Config,
    least: &Footprint,
) -> Option<Rejection> {
    let threads = config.num_warps * 32;
    let asked = config.occupancy.max(1);
    if threads > platform.threads_per_cta {
        return pruned(format!("{threads} threads; a CTA has at most {}", platform.threads_per_cta));
    }
    if threads * asked > platform.threads_per_sm {
        let most = platform.threads_per_sm;
        return pruned(format!("{asked} CTAs of {threads} threads; an SM has room for {most} threads"));
    }
    let smem = least.smem_bytes;
    if smem > platform.smem_per_cta_bytes {
        let most = platform.smem_per_cta_bytes;
        return pruned(format!("needs {smem} bytes of shared memory; a CTA has at most {most}"));
    }
    let fits = occupancy(platform, Usage { threads, registers: 0, smem_bytes: smem }).ctas;
    if fits < asked {
        let sm = platform.smem_per_sm_bytes;
        return pruned(format!("{asked} CTAs need {smem} bytes of shared memory each; an SM has {sm}"));
    }
    let budget = register_budget(platform, config);
    let needed = (least.registers / threads as usize) as u32;
    if needed > budget {
        let reason =
            format!("accumulators need {needed} registers a thread; {budget} are left at occupancy {asked}");
        return Some(over_registers(target, config, least, reason));
    }
    None
}

/// What the assembler reports against what was asked for: spills, occupancy.
pub fn after_assembling(
    platform: &Platform,
    target: &Target,
    config: &Config,
    least: &Footprint,
    resources: &Resources,
    limiter: Limiter,
) -> Option<Rejection> {
    if resources.spill_bytes > 0 {
        let reason = format!("spills {} bytes a thread", resources.spill_bytes);
        let accumulators = (least.accumulator_registers / (config.num_warps * 32) as usize) as u32;
        if 2 * accumulators < register_budget(platform, config) {
            return pruned(reason);
        }
        return Some(over_registers(target, config, least, reason));
    }
    if resources.ctas_per_sm < config.occupancy {
        let (asked, fit) = (config.occupancy, resources.ctas_per_sm);
        return pruned(format!("asks for {asked} CTAs on an SM; {limiter}: room for {fit}"));
    }
    None
}

/// Registers a thread may have when as many CTAs as asked for are to fit.
fn register_budget(platform: &Platform, config: &Config) -> u32 {
    let threads = config.num_warps * 32 * config.occupancy.max(1);
    (platform.registers_per_sm / threads).min(platform.registers_per_thread)
}

/// A candidate whose accumulators are too large for registers: it waits for tensor memory where the target has
/// enough of it, and is pruned elsewhere.
fn over_registers(target: &Target, config: &Config, least: &Footprint, reason: String) -> Rejection {
    let tmem = least.accumulator_registers * 4 * config.occupancy.max(1) as usize;
    if target.has_tcgen05() && tmem <= target.limits.tmem_bytes {
        return Rejection {
            outcome: Outcome::AwaitsTcgen05,
            reason: format!("{reason}; tensor memory has room"),
        };
    }
    Rejection { outcome: Outcome::Pruned, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Source;
    use crate::live::LiveRegisters;
    use crate::platform::{BUILT_IN, parse_platforms, platform_of};

    fn judge(part: &str, least: Footprint, change: impl Fn(&mut Config)) -> Option<Rejection> {
        let platforms =
            parse_platforms(&Source::new("p.toml", BUILT_IN)).expect("the built-in table is right");
        let platform = platform_of(&platforms, part).expect("a known part");
        let mut config = Config::default();
        change(&mut config);
        before_compiling(platform, Target::from_name(part).expect("a target"), &config, &least)
    }

    /// The footprint of attention over 256x128 tiles of 128 elements: two accumulators of 128 KiB.
    const WIDE: Footprint = Footprint {
        smem_bytes: 64 << 10,
        scales_bytes: 0,
        held_bytes: 0,
        staged_bytes: 0,
        registers: 66_048,
        accumulator_registers: 65_536,
        live: LiveRegisters { by_warps: 0, by_groups: 0 },
    };

    #[test]
    fn wide_tiles_wait_for_tensor_memory_where_there_is_some() {
        let warps = |c: &mut Config| c.num_warps = 8;
        assert_eq!(judge("sm_100", WIDE, warps).map(|r| r.outcome), Some(Outcome::AwaitsTcgen05));
        assert_eq!(judge("sm_90", WIDE, warps).map(|r| r.outcome), Some(Outcome::Pruned));
        let twice = |c: &mut Config| (c.num_warps, c.occupancy) = (8, 2);
        assert_eq!(judge("sm_100", WIDE, twice).map(|r| r.outcome), Some(Outcome::Pruned));
    }

    #[test]
    fn reasons_name_the_numbers() {
        let smem = Footprint { smem_bytes: 120 << 10, ..Footprint::default() };
        let reason = judge("sm_121", smem, |_| {}).map(|r| r.reason);
        assert_eq!(reason.as_deref(), Some("needs 122880 bytes of shared memory; a CTA has at most 101376"));
        assert_eq!(judge("sm_80", smem, |_| {}), None);
        assert!(judge("sm_80", smem, |c| c.occupancy = 2).is_some());
        let threads = judge("sm_121", Footprint::default(), |c| (c.num_warps, c.occupancy) = (16, 4));
        assert!(threads.is_some_and(|r| r.reason.contains("1536 threads")));
    }

    #[test]
    fn platforms_agree_with_code_generation() {
        let platforms =
            parse_platforms(&Source::new("p.toml", BUILT_IN)).expect("the built-in table is right");
        for platform in &platforms {
            let limits = Target::from_name(&platform.target).expect("a target").limits;
            assert_eq!(platform.smem_per_cta_bytes, limits.smem_per_cta_bytes, "{}", platform.name);
            assert_eq!(platform.smem_per_sm_bytes, limits.smem_per_sm_bytes, "{}", platform.name);
            assert_eq!(platform.threads_per_sm, limits.threads_per_sm, "{}", platform.name);
            assert_eq!(platform.threads_per_cta, limits.threads_per_cta, "{}", platform.name);
            assert_eq!(platform.ctas_per_sm, limits.ctas_per_sm, "{}", platform.name);
            assert_eq!(platform.registers_per_sm, limits.registers_per_sm, "{}", platform.name);
            assert_eq!(platform.registers_per_thread, limits.registers_per_thread, "{}", platform.name);
        }
    }
}
