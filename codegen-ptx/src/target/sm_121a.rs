//! DGX Spark: as `sm_120a`, another binary.

use super::{Features, Target, sm_90a, sm_120a};
use crate::gpu::passes::Pass;

/// The target.
pub(super) static TARGET: Target = Target {
    name: "sm_121a",
    part: "sm_121",
    compute_capability: (12, 1),
    ptx_version: (8, 8),
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
    limits: sm_120a::TARGET.limits,
    features: sm_120a::TARGET.features,
};

/// The target's code with what only it has replaced, for a GPU at hand.
pub(super) static ON_SM_90A: Target = Target {
    name: sm_90a::TARGET.name,
    part: sm_90a::TARGET.part,
    compute_capability: sm_90a::TARGET.compute_capability,
    ptx_version: sm_90a::TARGET.ptx_version,
    passes: TARGET.passes,
    limits: TARGET.limits,
    features: Features {
        fp4_cvt: false,
        fp8_mma_sync: false,
        block_scaled_mma_emulated: true,
        ..sm_120a::TARGET.features
    },
};
