//! B200: TMA, `tcgen05` with tensor memory, clusters.

use super::{Features, Limits, Target};
use crate::gpu::passes::Pass;

/// The target.
pub(super) static TARGET: Target = Target {
    name: "sm_100a",
    part: "sm_100",
    compute_capability: (10, 0),
    ptx_version: (8, 6),
    passes: &[
        Pass::StreamLoads,
        Pass::SplitMasks,
        Pass::DecomposeScaled,
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
        smem_per_cta_bytes: 232_448,
        smem_per_sm_bytes: 228 * 1024,
        smem_reserved_per_cta_bytes: 1024,
        tmem_bytes: 256 * 1024,
        registers_per_sm: 65_536,
        registers_per_thread: 255,
        register_allocation_unit: 256,
        threads_per_sm: 2048,
        threads_per_cta: 1024,
        ctas_per_sm: 32,
        ctas_per_cluster: 8,
    },
    features: Features {
        tma: true,
        wgmma: false,
        tcgen05: true,
        fp8_cvt: true,
        fp4_cvt: true,
        fp8_mma_sync: false,
        block_scaled_mma: false,
        block_scaled_mma_emulated: false,
        setmaxnreg: true,
        multicast: true,
        stmatrix: true,
    },
};
