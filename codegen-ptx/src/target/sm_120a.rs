//! RTX 50: `mma.sync` with f8 and block scales, TMA within the CTA.

use super::{Features, Limits, Target};
use crate::gpu::passes::Pass;

/// The target.
pub(super) static TARGET: Target = Target {
    name: "sm_120a",
    part: "sm_120",
    compute_capability: (12, 0),
    ptx_version: (8, 7),
    passes: &[
        Pass::StreamLoads,
        Pass::SplitMasks,
        Pass::Persist,
        Pass::AssignLayouts,
        Pass::JoinParts,
        Pass::DeferSums,
        Pass::HoistLoads,
        Pass::PipelineLoads,
        Pass::SkipOnes,
        Pass::SkipMaxima,
        Pass::AllocateShared,
    ],
    limits: Limits {
        smem_per_cta_bytes: 101_376,
        smem_per_sm_bytes: 100 * 1024,
        smem_reserved_per_cta_bytes: 1024,
        tmem_bytes: 0,
        registers_per_sm: 65_536,
        registers_per_thread: 255,
        register_allocation_unit: 256,
        threads_per_sm: 1536,
        threads_per_cta: 1024,
        ctas_per_sm: 24,
        ctas_per_cluster: 1,
    },
    features: Features {
        tma: true,
        wgmma: false,
        tcgen05: false,
        fp8_cvt: true,
        fp4_cvt: true,
        fp8_mma_sync: true,
        block_scaled_mma: true,
        block_scaled_mma_emulated: false,
        setmaxnreg: true,
        multicast: false,
        stmatrix: true,
    },
};
