//! Reductions: within a thread's registers, then between lanes, then between warps through shared memory.

use super::emitter::Emitter;
use super::value::{Lowered, Tile, from_bits, to_bits};
use super::{Lowering, internal};
use crate::error::LowerError;
use crate::layout::LinearLayout;
use tile_ir::ops::ReduceKind;
use tile_ir::types::{Op, Val};
use tile_lang::dtype::DType;

/// `oeq` among the predicates of `llvm.fcmp`.
const ORDERED_EQUAL: i64 = 1;

impl<'c> Lowering<'c> {
    pub(super) fn lower_reduce(
        &mut self,
        op: Op<'c>,
        tile: Val<'c>,
        axis: usize,
        kind: ReduceKind,
        scratch_offset: Option<usize>,
    ) -> Result<(), LowerError> {
        let tile = self.tile(op, tile)?;
        let (slice, dtype) = self.result_tile(op)?;
        let layout = &tile.layout;
        let mut partial = self.reduce_own(op, &tile, &slice, (kind, dtype))?;
        for (bit, basis) in layout.lane.iter().enumerate() {
            if basis[axis] != 0 {
                for value in &mut partial {
                    let other = self.exchange(*value, dtype, 1 << bit);
                    *value = combine(&mut self.e, kind, dtype, *value, other);
                }
            }
        }
        if layout.warp.iter().any(|b| b[axis] != 0) {
            self.reduce_between_warps(op, layout, &slice, axis, (kind, dtype), scratch_offset, &mut partial)?;
        }
        self.set_result(op, Lowered::Tile(Tile::new(dtype, &slice, partial)));
        Ok(())
    }

    pub(super) fn lower_reduce_registers(
        &mut self,
        op: Op<'c>,
        tile: Val<'c>,
        axis: usize,
        kind: ReduceKind,
    ) -> Result<(), LowerError> {
        let tile = self.tile(op, tile)?;
        let (layout, dtype) = self.result_tile(op)?;
        // The result's registers are those of the slice, which all lanes that share a row have alike.
        let partial = self.reduce_own(op, &tile, &tile.layout.slice(axis), (kind, dtype))?;
        self.set_result(op, Lowered::Tile(Tile::new(dtype, &layout, partial)));
        Ok(())
    }

    /// What the elements that a thread holds reduce to, for each of its registers in the slice of the tile's layout.
    fn reduce_own(
        &mut self,
        op: Op<'c>,
        tile: &Tile<'c>,
        slice: &LinearLayout,
        (kind, dtype): (ReduceKind, DType),
    ) -> Result<Vec<Val<'c>>, LowerError> {
        let layout = &tile.layout;
        let rows = slice.num_registers();
        // For each register of the tile, the register of the result that it adds to.
        let row_of = layout
            .registers_from(slice)
            .ok_or_else(|| internal(op, "the result is not in the slice of the operand's layout"))?;
        let elements = tile.elements(&mut self.e);
        let replicas = layout.free_variable_masks().register;
        let mut partial: Vec<Val> = Vec::with_capacity(rows);
        for row in 0..rows {
            let mut level: Vec<Val> = (0..elements.len())
                .filter(|&r| row_of[r] as usize == row && r as u32 & replicas == 0)
                .map(|r| elements[r])
                .collect();
            // As a tree, so that the chain of dependencies is short.
            while level.len() > 1 {
                level =
                    level
                        .chunks(2)
                        .map(|pair| {
                            if let &[a, b] = pair { combine(&mut self.e, kind, dtype, a, b) } else { pair[0] }
                        })
                        .collect();
            }
            partial.push(
                level.first().copied().ok_or_else(|| internal(op, "a row of the result has no elements"))?,
            );
        }
        Ok(partial)
    }

    /// Every thread of the warp looks at what it holds, then they vote.
    pub(super) fn lower_all_ones(&mut self, op: Op<'c>, tile: Val<'c>) -> Result<(), LowerError> {
        let tile = self.tile(op, tile)?;
        let replicas = tile.layout.free_variable_masks().register;
        let e = &mut self.e;
        let one = e.f32(1.0);
        let elements = tile.elements(e);
        let distinct = elements.iter().enumerate().filter(|(r, _)| *r as u32 & replicas == 0);
        let is_one = |(_, element): (usize, &Val<'c>)| match tile.dtype {
            DType::Bool => *element,
            _ => e.compare("llvm.fcmp", ORDERED_EQUAL, *element, one),
        };
        let holds: Vec<Val> = distinct.map(is_one).collect();
        let own = holds.into_iter().reduce(|a, b| e.binary("llvm.and", a, b));
        let (own, all) = (own.ok_or_else(|| internal(op, "a tile has no elements"))?, e.i32(-1));
        let agreed = e.call("llvm.nvvm.vote.all.sync", &[all, own], e.types.i1);
        self.set_result(op, Lowered::Scalar(agreed));
        Ok(())
    }

    /// The value that the lane at XOR distance `distance` holds.
    fn exchange(&mut self, value: Val<'c>, dtype: DType, distance: i64) -> Val<'c> {
        let e = &mut self.e;
        let bits = to_bits(e, value, dtype);
        let word = e.convert("llvm.zext", bits, e.types.i32);
        let (all, distance, clamp) = (e.i32(-1), e.i32(distance), e.i32(31));
        let word = e.call("llvm.nvvm.shfl.sync.bfly.i32", &[all, word, distance, clamp], e.types.i32);
        let ty = melior::ir::ValueLike::r#type(&bits);
        let bits = e.convert("llvm.trunc", word, ty);
        from_bits(e, bits, dtype)
    }

    /// Each warp writes its part of a row, of those with the same part one; after a barrier, all read the parts of
    /// their rows.
    #[allow(clippy::too_many_arguments)]
    fn reduce_between_warps(
        &mut self,
        op: Op,
        layout: &LinearLayout,
        slice: &LinearLayout,
        axis: usize,
        (kind, dtype): (ReduceKind, DType),
        scratch_offset: Option<usize>,
        partial: &mut [Val<'c>],
    ) -> Result<(), LowerError> {
        let offset = scratch_offset.ok_or_else(|| internal(op, "no scratch memory was allocated"))?;
        let base = self.shared_address(offset);
        // A row's parts lie side by side: words numbered row * sharers + sharer.
        let sharers = 1usize << layout.warp.iter().filter(|b| b[axis] != 0).count();
        let row_bytes = (sharers * 4) as u32;
        let of = |bases: &[Vec<u32>]| -> Vec<u32> {
            bases.iter().map(|b| slice.flatten(b) as u32 * row_bytes).collect()
        };
        let mut sharer = 4;
        let writer: Vec<u32> = layout
            .warp
            .iter()
            .zip(of(&slice.warp))
            .map(|(b, row)| {
                if b[axis] == 0 {
                    return row;
                }
                sharer *= 2;
                row | (sharer / 2)
            })
            .collect();
        let once = self.e.threads_without(0, layout.free_variable_masks().warp);
        let write_at = self.e.linear(&of(&slice.lane), &writer);
        let read_at = self.e.linear(&of(&slice.lane), &of(&slice.warp));
        self.barrier();
        for (register, &value) in partial.iter().enumerate() {
            let row = slice.flatten(&slice.apply(register as u32, 0, 0)) as u32 * row_bytes;
            let (address, constant) = self.shared_address_of(base, write_at, row);
            let bits = to_bits(&mut self.e, value, dtype);
            let word = self.e.convert("llvm.zext", bits, self.e.types.i32);
            self.shared_store(address, constant, &[word], 4, once);
        }
        self.barrier();
        for (register, value) in partial.iter_mut().enumerate() {
            let row = slice.flatten(&slice.apply(register as u32, 0, 0)) as u32 * row_bytes;
            let (address, constant) = self.shared_address_of(base, read_at, row);
            let mut parts = Vec::new();
            let mut at = 0;
            while at < sharers {
                let words = (sharers - at).min(4);
                parts.extend(self.shared_load(address, constant + 4 * at as u32, 4 * words));
                at += words;
            }
            let mut sum: Option<Val> = None;
            for word in parts {
                let e = &mut self.e;
                let narrow = match dtype.bits() {
                    16 => e.convert("llvm.trunc", word, e.types.i16),
                    _ => word,
                };
                let part = from_bits(e, narrow, dtype);
                sum = Some(match sum {
                    Some(sum) => combine(e, kind, dtype, sum, part),
                    None => part,
                });
            }
            *value = sum.ok_or_else(|| internal(op, "no warp holds a row"))?;
        }
        Ok(())
    }
}

/// One step of a reduction; maximum and minimum propagate NaN.
fn combine<'c>(e: &mut Emitter<'c>, kind: ReduceKind, dtype: DType, a: Val<'c>, b: Val<'c>) -> Val<'c> {
    let ty = e.types.element(dtype);
    let suffix = match dtype {
        DType::F16 => "f16",
        DType::BF16 => "bf16",
        DType::F32 => "f32",
        _ => "i32",
    };
    match (kind, dtype.is_float()) {
        (ReduceKind::Sum, true) => e.float_binary("llvm.fadd", a, b),
        (ReduceKind::Sum, false) => e.binary("llvm.add", a, b),
        (ReduceKind::Max, true) => e.call(&format!("llvm.maximum.{suffix}"), &[a, b], ty),
        (ReduceKind::Min, true) => e.call(&format!("llvm.minimum.{suffix}"), &[a, b], ty),
        (ReduceKind::Max, false) => e.call("llvm.smax.i32", &[a, b], ty),
        (ReduceKind::Min, false) => e.call("llvm.smin.i32", &[a, b], ty),
    }
}
