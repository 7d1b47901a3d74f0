//! The warps that a launch will have, and the registers of their threads, known before it is compiled.
//!
//! Where a loop has buffers to fill and more than one of each, code generation adds warps that only copy, one or, to
//! take registers from, four. Where it does not after all, a launch has more room than is counted here.

use crate::footprint::Footprint;
use crate::platform::Platform;
use codegen_ptx::Target;
use codegen_ptx::gpu::resources::copying_warps;
use tile_lang::Config;

/// Registers of a thread that hold no tiles: addresses, masks, what arithmetic is under way (fitted to the assembler's
/// reports of spills).
const OTHER_REGISTERS: u32 = 32;
/// The most of these that the assembler uses where nothing is to fit beside a CTA (fitted to its reports).
const MOST_OTHER_REGISTERS: u32 = 64;
/// Registers are allotted in multiples of this many a thread.
const REGISTER_STEP: u32 = 8;
/// An SM's registers are divided among this many partitions, and a CTA's warps too.
const PARTITIONS: u32 = 4;

/// The warps of a CTA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Warps that only copy.
    pub copying: u32,
    /// Registers that a thread of the others may have at the wanted occupancy.
    pub registers: u32,
}

/// What code generation will make of a configuration's warps.
pub fn roles(platform: &Platform, target: &Target, config: &Config, least: &Footprint) -> Roles {
    let asked = config.occupancy.max(1);
    let fills = least.smem_bytes > 0 && config.num_stages > 1 && config.warp_specialize;
    let allotted = |warps: u32| {
        let of_partition = (warps * asked).div_ceil(PARTITIONS) * 32;
        let registers = platform.registers_per_sm / PARTITIONS / of_partition / REGISTER_STEP * REGISTER_STEP;
        registers.min(platform.registers_per_thread)
    };
    if !(fills && target.has_tma()) {
        return Roles { copying: 0, registers: allotted(config.num_warps) };
    }
    let (copying, handed) = copying_warps(target, config.num_warps as usize, asked as usize);
    let copying = copying as u32;
    let registers = handed.map_or_else(|| allotted(config.num_warps + copying), |[_, others]| others as u32);
    Roles { copying, registers }
}

/// Registers of a thread that a kernel is estimated to need; with fewer it spills.
pub fn registers_needed(target: &Target, config: &Config, least: &Footprint) -> u32 {
    of_tiles(target, config, least) + OTHER_REGISTERS
}

/// Registers of a thread that a kernel is estimated to have where it may have any number.
pub fn registers_wanted(target: &Target, config: &Config, least: &Footprint) -> u32 {
    of_tiles(target, config, least) + MOST_OTHER_REGISTERS
}

fn of_tiles(target: &Target, config: &Config, least: &Footprint) -> u32 {
    let live = if target.has_wgmma() { least.live.by_groups } else { least.live.by_warps };
    (live / (config.num_warps * 32) as usize) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Source;
    use crate::live::LiveRegisters;
    use crate::platform::{BUILT_IN, parse_platforms, platform_of};

    fn of(part: &str, num_warps: u32, occupancy: u32) -> Roles {
        let platforms =
            parse_platforms(&Source::new("p.toml", BUILT_IN)).expect("the built-in table is right");
        let platform = platform_of(&platforms, part).expect("a known part");
        let config = Config { num_warps, num_stages: 2, occupancy, ..Config::default() };
        let least = Footprint { smem_bytes: 1, ..Footprint::default() };
        roles(platform, Target::from_name(part).expect("a target"), &config, &least)
    }

    #[test]
    fn warps_that_copy_take_registers_or_hand_them_over() {
        // As the assembler's reports and `setmaxnreg` in the code of these have it.
        assert_eq!(of("sm_90", 8, 1), Roles { copying: 4, registers: 240 });
        assert_eq!(of("sm_90", 4, 1), Roles { copying: 1, registers: 255 });
        assert_eq!(of("sm_90", 4, 2), Roles { copying: 1, registers: 168 });
        assert_eq!(of("sm_90", 8, 2), Roles { copying: 1, registers: 96 });
        assert_eq!(of("sm_80", 8, 2), Roles { copying: 0, registers: 128 });
    }

    #[test]
    fn a_kernel_needs_registers_for_more_than_tiles() {
        let config = Config { num_warps: 4, ..Config::default() };
        let live = LiveRegisters { by_warps: 128 * 100, by_groups: 128 * 120 };
        let least = Footprint { live, ..Footprint::default() };
        let [warps, groups] = ["sm_121", "sm_90"].map(|part| Target::from_name(part).expect("a target"));
        assert!(registers_needed(warps, &config, &least) > 100);
        assert!(registers_needed(groups, &config, &least) > registers_needed(warps, &config, &least));
        assert!(registers_wanted(warps, &config, &least) > registers_needed(warps, &config, &least));
    }
}
