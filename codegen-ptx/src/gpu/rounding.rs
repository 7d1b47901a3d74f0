//! Checks that f32 operands of `wgmma` are rounded to tf32, and that nothing else sees them rounded.
//!
//! `wgmma` ignores the bits that tf32 lacks. So its operands of f32 lie in shared memory, and all that fills it are
//! bulk copies whose tensor maps round. What such copies have filled, products alone read.

use super::dialect::Smem;
use super::ops::{GpuOp, MmaOperand};
use tile_ir::Module;
use tile_ir::types::{Op, Val, dtype_of, nested_ops, type_of};
use tile_lang::DType;

/// How an operation breaks that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoundingError {
    /// A `wgmma` would cut an operand.
    #[error("takes an f32 operand that no tensor map rounds")]
    Unrounded,
    /// Something that is no product sees rounded elements.
    #[error("reads elements that a tensor map has rounded")]
    Rounded,
    /// Only f32 has a tf32.
    #[error("rounds elements that are not of f32")]
    Dtype,
}

/// The buffers from which `wgmma` reads f32.
pub(super) fn buffers<'c>(module: &Module<'c>) -> Vec<Val<'c>> {
    let operands = nested_ops(module.function()).into_iter().filter_map(|op| match GpuOp::of(op) {
        Some(GpuOp::Wgmma { lhs, rhs, .. }) => Some([lhs, rhs]),
        _ => None,
    });
    let in_memory = operands.flatten().filter_map(|operand| match operand {
        MmaOperand::Shared { smem, .. } => Some(smem),
        MmaOperand::Registers(_) => None,
    });
    in_memory.filter(|smem| element(*smem) == Some(DType::F32)).collect()
}

/// Every operation that breaks it, in a module in which it is decided which copies are bulk copies.
pub(crate) fn check<'c>(module: &Module<'c>) -> Vec<(Op<'c>, RoundingError)> {
    let ops = nested_ops(module.function());
    let (mut rounded, mut exact) = (Vec::new(), Vec::new());
    for op in &ops {
        match GpuOp::of(*op) {
            Some(GpuOp::TmaCopy { smem, rounds: true, .. }) => rounded.push(smem),
            Some(
                GpuOp::TmaCopy { smem, .. }
                | GpuOp::AsyncCopy { smem, .. }
                | GpuOp::Copy { smem, .. }
                | GpuOp::LocalStore { smem, .. },
            ) => exact.push(smem),
            _ => {}
        }
    }
    let is_cut = |operand: MmaOperand<'c>| match operand {
        MmaOperand::Registers(tile) => dtype_of(type_of(tile)) == Some(DType::F32),
        MmaOperand::Shared { smem, .. } => {
            element(smem) == Some(DType::F32) && (!rounded.contains(&smem) || exact.contains(&smem))
        }
    };
    let broken = |op: &Op<'c>| match GpuOp::of(*op)? {
        GpuOp::Wgmma { lhs, rhs, .. } => (is_cut(lhs) || is_cut(rhs)).then_some(RoundingError::Unrounded),
        GpuOp::LocalLoad { smem, .. } => rounded.contains(&smem).then_some(RoundingError::Rounded),
        GpuOp::TmaCopy { smem, rounds: true, .. } => {
            (element(smem) != Some(DType::F32)).then_some(RoundingError::Dtype)
        }
        _ => None,
    };
    ops.iter().filter_map(|op| Some((*op, broken(op)?))).collect()
}

/// The dtype of a buffer's elements.
fn element(smem: Val) -> Option<DType> {
    Smem::of(type_of(smem)).map(|s| s.dtype)
}
