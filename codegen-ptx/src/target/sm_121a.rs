//! DGX Spark: as `sm_120a`, another binary.

use super::{Target, sm_120a};
use crate::gpu::passes::Pass;

/// The target.
pub(super) static TARGET: Target = Target {
    name: "sm_121a",
    part: "sm_121",
    compute_capability: (12, 1),
    ptx_version: (8, 8),
    passes: &[Pass::AssignLayouts, Pass::PipelineLoads, Pass::AllocateShared],
    limits: sm_120a::TARGET.limits,
    features: sm_120a::TARGET.features,
};
