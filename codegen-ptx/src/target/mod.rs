//! Targets: what each SM can do, how large it is, and which passes lead to it.
//!
//! Every capability is asked for by name ([`Target::has_wgmma`]); nothing outside this folder compares
//! architecture numbers.

mod sm_100a;
mod sm_120a;
mod sm_121a;
mod sm_80;
mod sm_90a;

use crate::gpu::passes::Pass;
use std::fmt;

/// The targets, oldest first.
static ALL: [&Target; 5] =
    [&sm_80::TARGET, &sm_90a::TARGET, &sm_100a::TARGET, &sm_120a::TARGET, &sm_121a::TARGET];

/// An SM that code is generated for.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// What the code is built for, as the assembler spells it: `sm_121a`.
    pub name: &'static str,
    /// The part, as users and `configs/` spell it: `sm_121`.
    pub part: &'static str,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// PTX version that the code declares; at most 9.0, which a CUDA 13.0 driver loads.
    pub ptx_version: (u32, u32),
    /// The passes from the tile dialect to the gpu level, in order.
    pub passes: &'static [Pass],
    /// How large it is.
    pub limits: Limits,
    /// What it can do.
    features: Features,
}

/// Sizes of an SM that bound a kernel and its occupancy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Shared memory one CTA can have, in bytes.
    pub smem_per_cta_bytes: usize,
    /// Shared memory of an SM, in bytes.
    pub smem_per_sm_bytes: usize,
    /// Shared memory the system takes from each CTA, in bytes.
    pub smem_reserved_per_cta_bytes: usize,
    /// Tensor memory of an SM, in bytes.
    pub tmem_bytes: usize,
    /// 32-bit registers of an SM.
    pub registers_per_sm: u32,
    /// Registers a thread can have.
    pub registers_per_thread: u32,
    /// Registers are handed to warps in multiples of this many.
    pub register_allocation_unit: u32,
    /// Threads resident on an SM.
    pub threads_per_sm: u32,
    /// Threads of one CTA.
    pub threads_per_cta: u32,
    /// CTAs resident on an SM.
    pub ctas_per_sm: u32,
    /// CTAs of a cluster; 1 where clusters bring nothing.
    pub ctas_per_cluster: u32,
}

/// Instructions a target has natively.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Features {
    tma: bool,
    wgmma: bool,
    tcgen05: bool,
    fp8_cvt: bool,
    fp4_cvt: bool,
    fp8_mma_sync: bool,
    block_scaled_mma: bool,
    block_scaled_mma_emulated: bool,
    setmaxnreg: bool,
    multicast: bool,
    stmatrix: bool,
}

/// A target as text, by its name.
pub(crate) mod by_name {
    use super::Target;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(target: &&'static Target, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(target.name)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static Target, D::Error> {
        Target::from_name(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A name that is not a target's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown target `{name}`; did you mean `{nearest}`? known targets: {known}")]
pub struct UnknownTarget {
    /// The name.
    pub name: String,
    /// The target whose name is most like it.
    pub nearest: &'static str,
    /// All targets.
    pub known: String,
}

impl Target {
    /// Every target, oldest first.
    pub fn all() -> &'static [&'static Target] {
        &ALL
    }

    /// A target by name: `sm_121`, `sm_121a`, `121` or `12.1`.
    ///
    /// # Errors
    /// [`UnknownTarget`], with the nearest name.
    pub fn from_name(name: &str) -> Result<&'static Target, UnknownTarget> {
        let plain = name.trim().to_ascii_lowercase();
        let number = plain.trim_start_matches("sm").trim_start_matches('_').replace('.', "");
        let number = number.strip_suffix('a').unwrap_or(&number);
        if let Some(target) = ALL.iter().find(|t| t.part["sm_".len()..] == *number) {
            return Ok(target);
        }
        let nearest = ALL.iter().min_by_key(|t| edit_distance(number, &t.part["sm_".len()..]));
        let known = ALL.map(|t| t.part).join(", ");
        Err(UnknownTarget { name: name.to_owned(), nearest: nearest.map_or("", |t| t.part), known })
    }

    /// Whether what suits one target is a fair guess for the other: the same SM design in another part.
    pub fn same_family(&self, other: &Target) -> bool {
        self.compute_capability.0 == other.compute_capability.0
    }

    /// The target of a device by its compute capability.
    pub fn for_device(major: u32, minor: u32) -> Option<&'static Target> {
        ALL.into_iter().find(|t| t.compute_capability == (major, minor))
    }

    /// The feature LLVM needs for the PTX version: `+ptx88`.
    pub fn llvm_features(&self) -> String {
        format!("+ptx{}{}", self.ptx_version.0, self.ptx_version.1)
    }

    /// Bulk tensor copies through tensor maps.
    pub fn has_tma(&self) -> bool {
        self.features.tma
    }

    /// Warpgroup `wgmma.mma_async`.
    pub fn has_wgmma(&self) -> bool {
        self.features.wgmma
    }

    /// `tcgen05` and tensor memory.
    pub fn has_tcgen05(&self) -> bool {
        self.features.tcgen05
    }

    /// Conversions between f8E4M3FN and f16 in one instruction.
    pub fn has_fp8_conversions(&self) -> bool {
        self.features.fp8_cvt
    }

    /// Conversions between f4E2M1FN and f16 or f32 in one instruction.
    pub fn has_fp4_conversions(&self) -> bool {
        self.features.fp4_cvt
    }

    /// `mma.sync` over f8E4M3FN that is not emulated with f16.
    pub fn has_fp8_mma_sync(&self) -> bool {
        self.features.fp8_mma_sync
    }

    /// `mma.sync` with block scales.
    pub fn has_block_scaled_mma(&self) -> bool {
        self.features.block_scaled_mma
    }

    /// Whether [`Target::has_block_scaled_mma`] is true only because other instructions take its place.
    pub fn emulates_block_scaled_mma(&self) -> bool {
        self.features.block_scaled_mma_emulated
    }

    /// Builds for `sm_90a` as for `sm_121a`: the same passes, layouts, limits and code, but for the product with block
    /// scales and the conversions of 4-bit elements, in the place of which stand equivalent sequences. It proves
    /// the code around them on a GPU that can run it; no device is its own.
    pub fn sm_121a_on_sm_90a() -> &'static Target {
        &sm_121a::ON_SM_90A
    }

    /// Registers moved between warpgroups at run time.
    pub fn has_setmaxnreg(&self) -> bool {
        self.features.setmaxnreg
    }

    /// `stmatrix`.
    pub fn has_stmatrix(&self) -> bool {
        self.features.stmatrix
    }

    /// TMA multicast within a cluster.
    pub fn has_multicast(&self) -> bool {
        self.features.multicast
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.part)
    }
}

/// Insertions, deletions and replacements that lead from `a` to `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_go_by_several_names() {
        for name in ["sm_121", "sm_121a", "12.1", "121", "SM_121"] {
            assert_eq!(Target::from_name(name).map(|t| t.name), Ok("sm_121a"), "{name}");
        }
        assert_eq!(Target::from_name("8.0").map(|t| t.name), Ok("sm_80"));
    }

    #[test]
    fn an_unknown_name_gets_the_nearest() {
        let error = Target::from_name("sm_122").unwrap_err();
        assert!(error.nearest == "sm_121" || error.nearest == "sm_120", "{error}");
        assert!(error.to_string().contains("sm_80, sm_90, sm_100, sm_120, sm_121"), "{error}");
    }

    #[test]
    fn a_device_has_its_own_target_or_none() {
        assert_eq!(Target::for_device(9, 0).map(|t| t.name), Some("sm_90a"));
        assert_eq!(Target::for_device(7, 5), None);
    }

    #[test]
    fn no_target_asks_for_more_than_ptx_9_0() {
        assert!(Target::all().iter().all(|t| t.ptx_version <= (9, 0)));
    }
}
