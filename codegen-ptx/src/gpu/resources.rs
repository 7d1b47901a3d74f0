//! What a kernel takes, read off its gpu level: shared memory by buffer, warps and registers by role.

use super::dialect::Smem;
use super::ops::GpuOp;
use super::passes::scratch_bytes;
use crate::layout::wgmma;
use crate::target::Target;
use serde::{Deserialize, Serialize};
use std::fmt;
use tile_ir::Module;
use tile_ir::context::Place;
use tile_ir::types::{Val, args_of, nested_ops, results_of, root_view, type_of, view_of};

/// Iterations of a part of a sum that CTAs share, at least: fewer cost more to join than they save.
pub const LEAST_PART_ITERATIONS: i64 = 4;
/// Registers of a thread that only copies; the least that can be asked for.
const COPYING_REGISTERS: usize = 24;
/// The most registers that a thread can ask for, as multiples of 8 go.
const MAX_REGISTERS: usize = 240;

/// How many warps copy beside `num_warps` that compute, and the registers of their threads and the others' where they
/// are handed over. Where the CTA's warps leave a thread less than it can have, a whole warpgroup copies, so that it
/// can hand registers over.
pub fn copying_warps(target: &Target, num_warps: usize, occupancy: usize) -> (usize, Option<[usize; 2]>) {
    let registers = target.limits.registers_per_sm as usize / occupancy.max(1);
    // Registers are a quarter of the SM's for each quarter of the warps.
    let alone = registers / 4 / ((num_warps + 1).div_ceil(4) * 32) / 8 * 8;
    if alone >= MAX_REGISTERS
        || occupancy > 1
        || !target.has_setmaxnreg()
        || !num_warps.is_multiple_of(wgmma::WARPS)
    {
        return (1, None);
    }
    // What a CTA is launched with is what its warps can hand each other.
    let left = alone * (num_warps + wgmma::WARPS) * 32 - wgmma::WARPS * 32 * COPYING_REGISTERS;
    let others = (left / (num_warps * 32) / 8 * 8).min(MAX_REGISTERS);
    (wgmma::WARPS, Some([COPYING_REGISTERS, others]))
}

/// What a CTA is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Stretches of shared memory by offset. Two may share bytes, when one is done with before the other is used.
    pub buffers: Vec<Buffer>,
    /// Groups of warps that do different things.
    pub roles: Vec<Role>,
}

/// A stretch of shared memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// What it is for.
    pub purpose: Purpose,
    /// Numbers of the tensor arguments that are copied into it.
    pub tensors: Vec<usize>,
    /// The kernel's source line.
    pub place: Option<Place>,
    /// Where it starts.
    pub offset: usize,
    /// How long it is.
    pub bytes: usize,
}

/// What a stretch of shared memory is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Tiles, one a slot.
    Tiles {
        /// How many there are.
        slots: usize,
        /// Rows and columns of one.
        shape: [usize; 2],
        /// Their elements.
        dtype: String,
        /// Who fills it.
        filled: Filled,
    },
    /// Barriers of memory, one a slot of a ring.
    Barriers(usize),
    /// What a layout conversion or a reduction exchanges between warps.
    Scratch(String),
}

/// Who fills a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filled {
    /// Bulk copies.
    BulkCopies,
    /// Asynchronous copies of every thread.
    AsyncCopies,
    /// Threads, out of their registers.
    Threads,
}

/// Warps that do one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// `compute` or `copy`.
    pub name: String,
    /// How many they are.
    pub warps: usize,
    /// Registers of a thread that they ask for, where roles have different numbers.
    pub registers: Option<usize>,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Purpose::Tiles { slots, shape: [rows, cols], dtype, filled } => {
                let filled = match filled {
                    Filled::BulkCopies => "bulk copies",
                    Filled::AsyncCopies => "asynchronous copies",
                    Filled::Threads => "stores of threads",
                };
                match slots {
                    1 => write!(f, "{rows}x{cols} {dtype}, {filled}"),
                    slots => write!(f, "ring of {slots} x {rows}x{cols} {dtype}, {filled}"),
                }
            }
            Purpose::Barriers(count) => write!(f, "{count} barriers"),
            Purpose::Scratch(what) => write!(f, "scratch of {what}"),
        }
    }
}

impl Resources {
    /// Reads a module whose buffers have offsets; `num_warps` are those that tiles are spread over.
    pub fn of(module: &Module, num_warps: usize) -> Resources {
        let ops = nested_ops(module.function());
        let arguments = args_of(module.entry());
        let views: Vec<Val> = arguments.into_iter().filter(|a| view_of(type_of(*a)).is_some()).collect();
        // Each buffer's copies: by whom, and from which tensor.
        let mut copies: Vec<(Val, Filled, Option<usize>)> = Vec::new();
        for op in &ops {
            let (smem, filled, view) = match GpuOp::of(*op) {
                Some(GpuOp::TmaCopy { smem, view, .. }) => (smem, Filled::BulkCopies, view),
                Some(GpuOp::AsyncCopy { smem, view, .. }) => (smem, Filled::AsyncCopies, view),
                Some(GpuOp::Copy { smem, view, .. }) => (smem, Filled::Threads, view),
                _ => continue,
            };
            copies.push((smem, filled, views.iter().position(|v| *v == root_view(view))));
        }
        let mut resources = Resources { buffers: Vec::new(), roles: vec![role("compute", num_warps, None)] };
        for op in ops {
            let known = GpuOp::of(op);
            if let Some(GpuOp::Producer { warps, registers }) = known {
                let [copying, computing] = registers.map_or([None, None], |r| r.map(Some));
                resources.roles = vec![role("compute", num_warps, computing), role("copy", warps, copying)];
                continue;
            }
            let (mut tensors, mut filled) = (Vec::new(), Filled::Threads);
            let (purpose, offset, bytes) = match known {
                Some(GpuOp::Alloc { offset: Some(offset) }) => {
                    let value = results_of(op)[0];
                    let Some(smem) = Smem::of(type_of(value)) else { continue };
                    for (_, by, tensor) in copies.iter().filter(|(to, ..)| *to == value) {
                        filled = *by;
                        tensors.extend(*tensor);
                    }
                    let (shape, dtype) = ([smem.layout.rows, smem.cols()], smem.dtype.to_string());
                    (Purpose::Tiles { slots: smem.slots, shape, dtype, filled }, offset, smem.bytes())
                }
                Some(GpuOp::Mbarriers { offset: Some(offset), .. }) => {
                    let Some(smem) = Smem::of(type_of(results_of(op)[0])) else { continue };
                    (Purpose::Barriers(smem.slots * smem.layout.rows * smem.cols()), offset, smem.bytes())
                }
                Some(GpuOp::ConvertLayout { scratch_offset: Some(offset), .. }) => {
                    (Purpose::Scratch("a layout conversion".to_owned()), offset, scratch_bytes(op))
                }
                Some(GpuOp::Reduce { scratch_offset: Some(offset), .. }) => {
                    (Purpose::Scratch("a reduction".to_owned()), offset, scratch_bytes(op))
                }
                _ => continue,
            };
            tensors.sort_unstable();
            tensors.dedup();
            let place = Place::of(melior::ir::operation::OperationLike::location(&op));
            resources.buffers.push(Buffer { purpose, tensors, place, offset, bytes });
        }
        resources.buffers.sort_by_key(|b| (b.offset, b.bytes));
        resources
    }
}

fn role(name: &str, warps: usize, registers: Option<usize>) -> Role {
    Role { name: name.to_owned(), warps, registers }
}
