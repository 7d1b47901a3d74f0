//! A100: `cp.async`, `ldmatrix` and `mma.sync`.

use super::{Features, Limits, Target};
use crate::gpu::passes::Pass;

/// The target.
pub(super) static TARGET: Target = Target {
    name: "sm_80",
    part: "sm_80",
    compute_capability: (8, 0),
    ptx_version: (8, 0),
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
        smem_per_cta_bytes: 166_912,
        smem_per_sm_bytes: 164 * 1024,
        smem_reserved_per_cta_bytes: 1024,
        tmem_bytes: 0,
        registers_per_sm: 65_536,
        registers_per_thread: 255,
        register_allocation_unit: 256,
        threads_per_sm: 2048,
        threads_per_cta: 1024,
        ctas_per_sm: 32,
        ctas_per_cluster: 1,
    },
    features: Features {
        tma: false,
        wgmma: false,
        tcgen05: false,
        fp8_cvt: false,
        fp4_cvt: false,
        fp8_mma_sync: false,
        block_scaled_mma: false,
        block_scaled_mma_emulated: false,
        setmaxnreg: false,
        multicast: false,
        stmatrix: false,
    },
};
