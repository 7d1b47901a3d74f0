//! Conversions between layouts: within threads, between lanes, or through shared memory.

use super::Lowering;
use super::emitter::Cmp;
use super::value::{Lowered, Registers, Tile, from_bits, packing, to_bits};
use crate::error::LowerError;
use crate::layout::{Conversion, LinearLayout, Shuffle, conversion};
use melior::ir::ValueLike;
use std::rc::Rc;
use tile_ir::types::{Op, Val};

impl<'c> Lowering<'c> {
    pub(super) fn lower_convert_layout(
        &mut self,
        op: Op<'c>,
        tile: Val<'c>,
        scratch_offset: Option<usize>,
    ) -> Result<(), LowerError> {
        let tile = self.tile(op, tile)?;
        let (layout, dtype) = self.result_tile(op)?;
        let converted = match self.within_warps(tile.clone(), &layout) {
            Some(converted) => converted,
            None => {
                let scratch = self.scratch(op, scratch_offset, &layout, dtype)?;
                // Others may still read what the scratch memory held before.
                self.barrier();
                self.store_tile(&scratch, scratch.base, &tile);
                self.barrier();
                self.load_tile(&scratch, scratch.base, &layout, false)
            }
        };
        self.set_result(op, Lowered::Tile(converted));
        Ok(())
    }

    /// The tile in another layout, if its elements need not leave their warps.
    pub(super) fn within_warps(&mut self, tile: Tile<'c>, layout: &Rc<LinearLayout>) -> Option<Tile<'c>> {
        match conversion(&tile.layout, layout) {
            Conversion::Identity => Some(Tile { layout: Rc::clone(layout), ..tile }),
            Conversion::Registers(source) => Some(self.permute(&tile, layout, &source)),
            Conversion::Shuffle(shuffle) => Some(self.shuffle(&tile, layout, &shuffle)),
            Conversion::Shared => None,
        }
    }

    /// The registers of `tile` that `source` names, in a layout of as many registers.
    pub(super) fn permute(&mut self, tile: &Tile<'c>, layout: &Rc<LinearLayout>, source: &[u32]) -> Tile<'c> {
        let per_word = packing(tile.dtype);
        let registers = match &tile.registers {
            Registers::Packed(words) if keeps_words(source, per_word) => {
                let words: Vec<Val> =
                    source.iter().step_by(per_word).map(|&s| words[s as usize / per_word]).collect();
                Registers::Packed(words.into())
            }
            Registers::Nibbles(words, places) => {
                let places: Vec<u32> = source.iter().map(|&s| places[s as usize]).collect();
                Registers::Nibbles(Rc::clone(words), places.into())
            }
            _ => {
                let elements = tile.elements(&mut self.e);
                Registers::Elements(source.iter().map(|&s| elements[s as usize]).collect::<Vec<_>>().into())
            }
        };
        Tile { dtype: tile.dtype, layout: Rc::clone(layout), registers }
    }

    fn shuffle(&mut self, tile: &Tile<'c>, layout: &Rc<LinearLayout>, shuffle: &Shuffle) -> Tile<'c> {
        let per_word = packing(tile.dtype);
        let offset = shuffle.register_offsets().get(1).copied();
        let source: Vec<u32> = shuffle.registers.iter().map(|&(register, _)| register).collect();
        let one_lane = shuffle.registers.chunks(per_word).all(|c| c.iter().all(|&(_, lane)| lane == c[0].1));
        let whole_words = per_word > 1
            && one_lane
            && tile.layout.num_registers() >= per_word
            && keeps_words(&source, per_word)
            && offset.is_none_or(|o| (o as usize).is_multiple_of(per_word));
        let step = if whole_words { per_word } else { 1 };
        let values =
            if whole_words { tile.packed_registers(&mut self.e) } else { tile.elements(&mut self.e) };

        let lanes: Vec<u32> = shuffle.lanes.iter().map(|&(_, lane)| lane).collect();
        let from_lane = self.e.linear(&lanes, &[]);
        // Lanes for which the source register is the other one.
        let other = offset.map(|_| {
            let flags: Vec<u32> =
                shuffle.lanes.iter().map(|&(register, _)| u32::from(register != 0)).collect();
            let parity = self.e.linear(&flags, &[]);
            let zero = self.e.i32(0);
            let one = self.e.int(1, self.e.types.i1);
            let even = self.e.icmp(Cmp::Eq, parity.value, zero);
            self.e.binary("llvm.xor", even, one)
        });
        let mut results = Vec::new();
        for &(register, lane) in shuffle.registers.iter().step_by(step) {
            let lane = self.e.in_prologue(|e| e.xor_const(from_lane.value, lane));
            let first = self.fetch(values[register as usize / step], tile, whole_words, lane);
            results.push(match (offset, other) {
                (Some(offset), Some(other)) => {
                    let second = values[(register ^ offset) as usize / step];
                    let second = self.fetch(second, tile, whole_words, lane);
                    self.e.select(other, second, first)
                }
                _ => first,
            });
        }
        if whole_words {
            Tile::packed(tile.dtype, layout, results)
        } else {
            Tile::new(tile.dtype, layout, results)
        }
    }

    /// The value that another lane holds.
    fn fetch(&mut self, value: Val<'c>, tile: &Tile<'c>, is_word: bool, lane: Val<'c>) -> Val<'c> {
        let e = &mut self.e;
        let bits = if is_word { value } else { to_bits(e, value, tile.dtype) };
        let word = e.convert("llvm.zext", bits, e.types.i32);
        let (all, clamp) = (e.i32(-1), e.i32(31));
        let word = e.call("llvm.nvvm.shfl.sync.idx.i32", &[all, word, lane, clamp], e.types.i32);
        let bits = e.convert("llvm.trunc", word, bits.r#type());
        if is_word { bits } else { from_bits(e, bits, tile.dtype) }
    }
}

/// Whether registers move in whole words of `per_word` consecutive ones.
fn keeps_words(source: &[u32], per_word: usize) -> bool {
    source.len() >= per_word
        && source.chunks(per_word).all(|chunk| {
            (chunk[0] as usize).is_multiple_of(per_word)
                && chunk.iter().enumerate().all(|(i, &s)| s == chunk[0] + i as u32)
        })
}
