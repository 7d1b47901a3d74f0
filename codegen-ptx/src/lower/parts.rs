//! Parts of sums that are split over CTAs, in global memory as threads hold them.
//!
//! A slot holds a tile's registers, four of each thread side by side and the threads' one behind the other, so that
//! each instruction of a warp moves 512 bytes that lie together. The thread that puts is the thread that gets.

use super::value::{Lowered, Tile, from_bits, to_bits};
use super::{Lowering, internal};
use crate::error::LowerError;
use tile_ir::types::{Op, Val};
use tile_lang::DType;

/// Bytes of a register.
const REGISTER_BYTES: usize = 4;
/// Registers that an instruction moves, at most.
const AT_ONCE: usize = 4;

impl<'c> Lowering<'c> {
    /// Where a thread's registers start in a slot of `registers` a thread; bytes from there to the next ones that it
    /// moves, and how many it moves at once.
    fn place_of_part(
        &mut self,
        op: Op<'c>,
        [parts, slot]: [Val<'c>; 2],
        registers: usize,
    ) -> Result<(Val<'c>, usize, usize), LowerError> {
        let (base, slot) = (self.scalar(op, parts)?, self.scalar(op, slot)?);
        let threads = self.num_warps(op)? * 32;
        let at_once = registers.min(AT_ONCE);
        let e = &mut self.e;
        let thread = e.in_prologue(|e| e.special_register("tid.x"));
        let [slot, thread] = [slot, thread].map(|value| e.widen(value));
        let [slot_bytes, thread_bytes] = [registers * threads * REGISTER_BYTES, at_once * REGISTER_BYTES]
            .map(|bytes| e.int(bytes as i64, e.types.i64));
        let slot = e.mul(slot, slot_bytes);
        let within = e.mul(thread, thread_bytes);
        let base = e.add(base, slot);
        Ok((e.add(base, within), threads * at_once * REGISTER_BYTES, at_once))
    }

    pub(super) fn lower_put_part(
        &mut self,
        op: Op<'c>,
        tile: Val<'c>,
        place: [Val<'c>; 2],
    ) -> Result<(), LowerError> {
        let tile = self.tile(op, tile)?;
        if tile.dtype != DType::F32 {
            return Err(internal(op, "parts are of f32"));
        }
        let elements = tile.elements(&mut self.e);
        let (address, stride, at_once) = self.place_of_part(op, place, elements.len())?;
        for (number, elements) in elements.chunks(at_once).enumerate() {
            let words: Vec<Val> = elements.iter().map(|x| to_bits(&mut self.e, *x, tile.dtype)).collect();
            let count = words.len();
            let list: Vec<String> = (0..count).map(|i| format!("${}", i + 1)).collect();
            let vector = if count > 1 { format!(".v{count}") } else { String::new() };
            let value = if count > 1 { format!("{{{}}}", list.join(", ")) } else { list[0].clone() };
            let text = format!("st.relaxed.gpu.global{vector}.b32 [$0 + {}], {value};", number * stride);
            let constraints = format!("l{},~{{memory}}", ",r".repeat(count));
            let operands: Vec<Val> = [address].into_iter().chain(words).collect();
            self.e.asm(&text, &constraints, &operands, &[]);
        }
        Ok(())
    }

    pub(super) fn lower_get_part(&mut self, op: Op<'c>, place: [Val<'c>; 2]) -> Result<(), LowerError> {
        let (layout, dtype) = self.result_tile(op)?;
        let registers = layout.num_registers();
        let (address, stride, at_once) = self.place_of_part(op, place, registers)?;
        let mut elements = Vec::with_capacity(registers);
        for number in 0..registers / at_once {
            let list: Vec<String> = (0..at_once).map(|i| format!("${i}")).collect();
            let vector = if at_once > 1 { format!(".v{at_once}") } else { String::new() };
            let value = if at_once > 1 { format!("{{{}}}", list.join(", ")) } else { list[0].clone() };
            let text =
                format!("ld.relaxed.gpu.global{vector}.b32 {value}, [${at_once} + {}];", number * stride);
            let constraints = format!("{}l,~{{memory}}", "=&r,".repeat(at_once));
            let types = vec![self.e.types.i32; at_once];
            let words = self.e.asm(&text, &constraints, &[address], &types);
            elements.extend(words.into_iter().map(|word| from_bits(&mut self.e, word, dtype)));
        }
        self.set_result(op, Lowered::Tile(Tile::new(dtype, &layout, elements)));
        Ok(())
    }

    pub(super) fn lower_arrive_at(&mut self, op: Op<'c>, counted: [Val<'c>; 3]) -> Result<(), LowerError> {
        let (address, count) = self.counter(op, counted)?;
        self.arrive(op, address, None, count)
    }

    pub(super) fn lower_others_arrived(
        &mut self,
        op: Op<'c>,
        counted: [Val<'c>; 3],
    ) -> Result<(), LowerError> {
        let (address, count) = self.counter(op, counted)?;
        self.other_arrived(op, address, count)
    }

    /// The address of a counter, and how many count there.
    fn counter(
        &mut self,
        op: Op<'c>,
        [counters, place, count]: [Val<'c>; 3],
    ) -> Result<(Val<'c>, Val<'c>), LowerError> {
        let (counters, place) = (self.scalar(op, counters)?, self.scalar(op, place)?);
        let bytes = self.e.shift(place, 2);
        let bytes = self.e.widen(bytes);
        Ok((self.e.add(counters, bytes), self.scalar(op, count)?))
    }
}
