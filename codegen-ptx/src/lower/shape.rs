//! Operations that only name registers anew: splat, iota, broadcast, columns, reshape, transpose.

use super::value::{Lowered, Tile};
use super::{Lowering, internal};
use crate::error::LowerError;
use tile_ir::types::{Op, Val};
use tile_lang::dtype::DType;

impl<'c> Lowering<'c> {
    pub(super) fn lower_splat(&mut self, op: Op<'c>, scalar: Val<'c>) -> Result<(), LowerError> {
        let scalar = self.scalar(op, scalar)?;
        let (layout, dtype) = self.result_tile(op)?;
        let elements = vec![scalar; layout.num_registers()];
        self.set_result(op, Lowered::Tile(Tile::new(dtype, &layout, elements)));
        Ok(())
    }

    pub(super) fn lower_iota(&mut self, op: Op<'c>) -> Result<(), LowerError> {
        let (layout, _) = self.result_tile(op)?;
        let at = self.thread_coordinates(&layout)[0];
        let elements: Vec<_> = (0..layout.num_registers() as u32)
            .map(|r| {
                let offset = layout.apply(r, 0, 0)[0];
                self.e.in_prologue(|e| e.displace(at, offset))
            })
            .collect();
        self.set_result(op, Lowered::Tile(Tile::new(DType::I32, &layout, elements)));
        Ok(())
    }

    pub(super) fn lower_broadcast(&mut self, op: Op<'c>, tile: Val<'c>) -> Result<(), LowerError> {
        let tile = self.tile(op, tile)?;
        let (layout, dtype) = self.result_tile(op)?;
        let source =
            layout.registers_from(&tile.layout).ok_or_else(|| internal(op, "a broadcast between threads"))?;
        let broadcast = self.permute(&tile, &layout, &source);
        debug_assert_eq!(broadcast.dtype, dtype);
        self.set_result(op, Lowered::Tile(broadcast));
        Ok(())
    }

    /// Some of a tile's columns, which each thread has in registers of its own.
    pub(super) fn lower_columns(
        &mut self,
        op: Op<'c>,
        tile: Val<'c>,
        first: usize,
    ) -> Result<(), LowerError> {
        let tile = self.tile(op, tile)?;
        let (layout, _) = self.result_tile(op)?;
        let count = layout.shape.last().copied().unwrap_or(0);
        let source = tile.layout.registers_of_columns(first, count);
        let source = source.ok_or_else(|| internal(op, "threads share the columns"))?;
        let columns = self.permute(&tile, &layout, &source);
        self.set_result(op, Lowered::Tile(columns));
        Ok(())
    }

    /// Reshape and transpose: the same registers under another layout.
    pub(super) fn lower_rename(&mut self, op: Op<'c>, tile: Val<'c>) -> Result<(), LowerError> {
        let tile = self.tile(op, tile)?;
        let (layout, dtype) = self.result_tile(op)?;
        if layout.num_registers() != tile.layout.num_registers() {
            return Err(internal(op, "the layouts have different numbers of registers"));
        }
        self.set_result(op, Lowered::Tile(Tile { dtype, layout, registers: tile.registers }));
        Ok(())
    }
}
