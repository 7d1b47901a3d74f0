//! Makes what threads write to shared memory visible to `wgmma`, which reads through another proxy.
//!
//! Input: a gpu-level module. Output: the same with a `tgpu.fence_async` after each wait for copies and each write
//! of a thread's own to a buffer that a `wgmma` reads. Invariant: a barrier stands between the fence and the
//! product, as it does between any write and its readers.

use super::{PassContext, PassError};
use crate::gpu::ops::{GpuBuilder, GpuOp, MmaOperand};
use melior::ir::operation::OperationLike;
use tile_ir::types::{Op, Val, nested_ops};
use tile_ir::{Builder, Module};

/// Runs the pass.
pub(super) fn run<'c>(module: Module<'c>, _: &mut PassContext) -> Result<Module<'c>, PassError> {
    let ops = nested_ops(module.function());
    let mut read: Vec<Val<'c>> = Vec::new();
    for op in &ops {
        if let Some(GpuOp::Wgmma { lhs, rhs, .. }) = GpuOp::of(*op) {
            read.extend([lhs, rhs].into_iter().filter_map(|operand| match operand {
                MmaOperand::Shared { smem, .. } => Some(smem),
                MmaOperand::Registers(_) => None,
            }));
        }
    }
    let copied = ops.iter().any(|op| match GpuOp::of(*op) {
        Some(GpuOp::AsyncCopy { smem, .. }) => read.contains(&smem),
        _ => false,
    });
    for op in ops {
        let writes = match GpuOp::of(op) {
            Some(GpuOp::Wait { .. }) => copied,
            Some(GpuOp::Copy { smem, .. } | GpuOp::LocalStore { smem, .. }) => read.contains(&smem),
            _ => false,
        };
        if writes {
            after(&module, op).fence_async();
        }
    }
    Ok(module)
}

/// A place right after an operation that ends no block.
fn after<'c>(module: &Module<'c>, op: Op<'c>) -> Builder<'c> {
    let block = op.block().expect("an operation in a block");
    let next = tile_ir::types::ops_of(block).skip_while(|o| *o != op).nth(1);
    let mut b = Builder::before(module.context(), next.expect("a terminator follows"));
    b.set_location(op.location());
    b
}
