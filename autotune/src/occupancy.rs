//! How many CTAs fit on one SM.

use crate::platform::Platform;
use serde::Serialize;

/// Registers are handed to a warp in multiples of this many.
const REGISTER_UNIT: u32 = 256;
/// An SM has this many partitions; the warps of all its CTAs are spread over them evenly, and registers do not move
/// between them. The assembler allots registers for `minnctapersm` by the same rule.
const PARTITIONS: u32 = 4;
/// Shared memory is handed out in multiples of this many bytes.
const SMEM_UNIT: usize = 128;
/// Shared memory that the system takes from each CTA.
const SMEM_RESERVED: usize = 1024;

/// What one CTA takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Threads.
    pub threads: u32,
    /// Registers a thread; 0 where it is not known, which then limits nothing.
    pub registers: u32,
    /// Shared memory in bytes.
    pub smem_bytes: usize,
}

/// What keeps one more CTA from fitting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limiter {
    /// Resident threads.
    Threads,
    /// Resident CTAs.
    Ctas,
    /// Registers.
    Registers,
    /// Shared memory.
    SharedMemory,
}

impl std::fmt::Display for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Limiter::Threads => "threads",
            Limiter::Ctas => "resident CTAs",
            Limiter::Registers => "registers",
            Limiter::SharedMemory => "shared memory",
        })
    }
}

/// How many CTAs fit, and why no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Occupancy {
    /// CTAs on one SM; 0 when not even one fits.
    pub ctas: u32,
    /// The scarcest resource.
    pub limiter: Limiter,
}

/// The occupancy of a CTA, as the CUDA occupancy calculator counts it.
///
/// # Source
/// CUDA C++ Programming Guide, "Hardware implementation" and compute-capability tables.
pub fn occupancy(platform: &Platform, usage: Usage) -> Occupancy {
    let warps = usage.threads.div_ceil(32).max(1);
    let by_threads = platform.threads_per_sm / (warps * 32);
    let by_registers = match usage.registers {
        0 => u32::MAX,
        registers if registers > platform.registers_per_thread => 0,
        registers => {
            let of_warp = (registers * 32).next_multiple_of(REGISTER_UNIT);
            let warps_fit = platform.registers_per_sm / PARTITIONS / of_warp * PARTITIONS;
            warps_fit / warps
        }
    };
    let by_smem = if usage.smem_bytes > platform.smem_per_cta_bytes {
        0
    } else {
        let of_cta = (usage.smem_bytes + SMEM_RESERVED).next_multiple_of(SMEM_UNIT);
        (platform.smem_per_sm_bytes / of_cta) as u32
    };
    let by_threads = if usage.threads > platform.threads_per_cta { 0 } else { by_threads };
    [
        (by_smem, Limiter::SharedMemory),
        (by_registers, Limiter::Registers),
        (by_threads, Limiter::Threads),
        (platform.ctas_per_sm, Limiter::Ctas),
    ]
    .into_iter()
    .min_by_key(|(ctas, _)| *ctas)
    .map_or(Occupancy { ctas: 0, limiter: Limiter::Ctas }, |(ctas, limiter)| Occupancy { ctas, limiter })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Source;
    use crate::platform::{BUILT_IN, parse_platforms, platform_of};

    fn of(part: &str, threads: u32, registers: u32, smem_bytes: usize) -> Occupancy {
        let platforms =
            parse_platforms(&Source::new("p.toml", BUILT_IN)).expect("the built-in table is right");
        let platform = platform_of(&platforms, part).expect("a known part");
        occupancy(platform, Usage { threads, registers, smem_bytes })
    }

    #[test]
    fn the_scarcest_resource_decides() {
        assert_eq!(of("sm_80", 128, 32, 0), Occupancy { ctas: 16, limiter: Limiter::Registers });
        assert_eq!(of("sm_80", 256, 24, 0), Occupancy { ctas: 8, limiter: Limiter::Threads });
        assert_eq!(of("sm_121", 128, 255, 0), Occupancy { ctas: 2, limiter: Limiter::Registers });
        assert_eq!(of("sm_121", 128, 64, 49 * 1024), Occupancy { ctas: 2, limiter: Limiter::SharedMemory });
        assert_eq!(
            of("sm_121", 128, 64, 49 * 1024 + 1),
            Occupancy { ctas: 1, limiter: Limiter::SharedMemory }
        );
        // Four warps that compute and one that copies, as the assembler allots for two CTAs.
        assert_eq!(of("sm_90", 160, 168, 0), Occupancy { ctas: 2, limiter: Limiter::Registers });
        assert_eq!(of("sm_121", 32, 16, 0), Occupancy { ctas: 24, limiter: Limiter::Ctas });
    }

    #[test]
    fn what_does_not_fit_at_all_has_none() {
        assert_eq!(of("sm_121", 128, 64, 101_377).ctas, 0);
        assert_eq!(of("sm_121", 128, 64, 101_376).ctas, 1);
        assert_eq!(of("sm_121", 2048, 16, 0).ctas, 0);
        assert_eq!(of("sm_80", 512, 200, 0).ctas, 0);
    }

    #[test]
    fn unknown_registers_limit_nothing() {
        assert_eq!(of("sm_80", 1024, 0, 0), Occupancy { ctas: 2, limiter: Limiter::Threads });
    }
}
