//! Shared memory to and from registers.

use super::emitter::ThreadValue;
use super::value::{Lowered, Registers, Run, Shared, Tile, elem_bytes, packing};
use super::{Lowering, internal};
use crate::error::LowerError;
use crate::layout::LinearLayout;
use std::rc::Rc;
use tile_ir::types::{Op, Val};
use tile_lang::dtype::DType;

impl<'c> Lowering<'c> {
    /// Byte offset in a slot of this thread's first register.
    pub(super) fn shared_thread_offset(
        &mut self,
        shared: &Shared<'c>,
        layout: &LinearLayout,
        transposed: bool,
    ) -> ThreadValue<'c> {
        let of = |bases: &[Vec<u32>]| -> Vec<u32> {
            bases.iter().map(|b| shared.offset(layout, b, transposed) as u32).collect()
        };
        self.e.linear(&of(&layout.lane), &of(&layout.warp))
    }

    /// The address of a slot.
    pub(super) fn slot_base(
        &mut self,
        op: Op,
        shared: &Shared<'c>,
        slot: Val<'c>,
    ) -> Result<Val<'c>, LowerError> {
        let slot = self.scalar(op, slot)?;
        let size = self.e.i32(shared.slot_bytes as i64);
        let distance = self.e.mul(slot, size);
        Ok(self.e.add(shared.base, distance))
    }

    /// Address and constant displacement of the byte at `at ^ offset` of a slot.
    pub(super) fn shared_address_of(
        &mut self,
        base: Val<'c>,
        at: ThreadValue<'c>,
        offset: u32,
    ) -> (Val<'c>, u32) {
        let crossed = self.e.in_prologue(|e| e.xor_const(at.value, offset & at.mask));
        (self.e.add(base, crossed), offset & !at.mask)
    }

    /// The registers of a layout that are consecutive in a slot, at most 16 bytes of them.
    fn shared_run(shared: &Shared<'c>, layout: &LinearLayout, transposed: bool) -> Run {
        let offsets = layout.register.iter().map(|b| shared.bit_offset(layout, b, transposed));
        Run::of(offsets, shared.elem_bits(), 16)
    }

    pub(super) fn lower_local_load(
        &mut self,
        op: Op<'c>,
        smem: Val<'c>,
        slot: Val<'c>,
        transposed: bool,
    ) -> Result<(), LowerError> {
        let shared = self.shared(op, smem)?;
        let (layout, _) = self.result_tile(op)?;
        let base = self.slot_base(op, &shared, slot)?;
        let tile = self.load_tile(&shared, base, &layout, transposed);
        self.set_result(op, Lowered::Tile(tile));
        Ok(())
    }

    /// A slot's tile in registers, by `ldmatrix` where the layout is one of its.
    pub(super) fn load_tile(
        &mut self,
        shared: &Shared<'c>,
        base: Val<'c>,
        layout: &Rc<LinearLayout>,
        transposed: bool,
    ) -> Tile<'c> {
        let mut fragment = self.fragment(shared, base, layout, transposed, &[0, 1]);
        if fragment.is_matrices() {
            let words = layout.num_registers() / packing(shared.dtype);
            let registers = (0..words).map(|i| self.fragment_register(&mut fragment, i)).collect();
            return if packing(shared.dtype) > 1 {
                Tile::packed(shared.dtype, layout, registers)
            } else {
                let ty = self.e.types.element(shared.dtype);
                let elements = registers.iter().map(|&r| self.e.convert("llvm.bitcast", r, ty)).collect();
                Tile::new(shared.dtype, layout, elements)
            };
        }
        self.load_vectors(shared, base, layout, transposed)
    }

    /// A slot's tile in registers, by plain loads.
    pub(super) fn load_vectors(
        &mut self,
        shared: &Shared<'c>,
        base: Val<'c>,
        layout: &Rc<LinearLayout>,
        transposed: bool,
    ) -> Tile<'c> {
        let at = self.shared_thread_offset(shared, layout, transposed);
        let run = Self::shared_run(shared, layout, transposed);
        let bytes = (run.len() * shared.elem_bits()).div_ceil(8);
        let half_bytes = run.len() < shared.per_byte;
        let mut loaded = Vec::new();
        for first in run.starts(layout.num_registers()) {
            let offset = layout.apply(first as u32, 0, 0);
            let offset = shared.offset(layout, &offset, transposed);
            let (address, constant) = self.shared_address_of(base, at, offset as u32);
            let mut words = self.shared_load(address, constant, bytes);
            if half_bytes {
                let odd = self.shared_parity(shared, layout, first, transposed);
                words[0] = self.nibble(words[0], odd);
            }
            loaded.push((first, words));
        }
        let per_byte = if half_bytes { 1 } else { shared.per_byte };
        self.tile_of_runs(shared.dtype, per_byte, layout, &run, loaded)
    }

    /// Whether this thread's element of a register is the second of its byte, as an i32.
    fn shared_parity(
        &mut self,
        shared: &Shared<'c>,
        layout: &LinearLayout,
        register: usize,
        transposed: bool,
    ) -> Val<'c> {
        let odd = |at: &[u32]| (shared.bit_offset(layout, at, transposed) / 4 % 2) as u32;
        let of = |bases: &[Vec<u32>]| bases.iter().map(|b| odd(b)).collect::<Vec<_>>();
        let at = self.e.linear(&of(&layout.lane), &of(&layout.warp));
        let own = odd(&layout.apply(register as u32, 0, 0));
        self.e.in_prologue(|e| e.xor_const(at.value, own))
    }

    /// A tile from the words of its runs, each with its first register. `per_byte` elements lie in a byte.
    pub(super) fn tile_of_runs(
        &mut self,
        dtype: DType,
        per_byte: usize,
        layout: &Rc<LinearLayout>,
        run: &Run,
        loaded: Vec<(usize, Vec<Val<'c>>)>,
    ) -> Tile<'c> {
        let count = layout.num_registers();
        if per_byte > 1 {
            let (mut all, mut places) = (Vec::new(), vec![0; count]);
            for (first, words) in loaded {
                for i in 0..run.len() {
                    places[first | run.register(i)] = (8 * all.len() + i) as u32;
                }
                all.extend(words.into_iter().map(|w| self.e.convert("llvm.zext", w, self.e.types.i32)));
            }
            let registers = Registers::Nibbles(all.into(), places.into());
            return Tile { dtype, layout: Rc::clone(layout), registers };
        }
        let mut elements: Vec<Option<Val>> = vec![None; count];
        for (first, words) in loaded {
            let mut of_run = Vec::with_capacity(run.len());
            self.elements_of_words(&words, dtype, run.len(), &mut of_run);
            for (i, element) in of_run.into_iter().enumerate() {
                elements[first | run.register(i)] = Some(element);
            }
        }
        Tile::new(dtype, layout, elements.into_iter().flatten().collect())
    }

    pub(super) fn lower_local_store(
        &mut self,
        op: Op<'c>,
        tile: Val<'c>,
        smem: Val<'c>,
        slot: Val<'c>,
    ) -> Result<(), LowerError> {
        let (tile, shared) = (self.tile(op, tile)?, self.shared(op, smem)?);
        let base = self.slot_base(op, &shared, slot)?;
        if !self.store_matrices(&shared, base, &tile) {
            self.store_tile(&shared, base, &tile);
        }
        Ok(())
    }

    /// Registers into a slot; of replicas, one is stored.
    pub(super) fn store_tile(&mut self, shared: &Shared<'c>, base: Val<'c>, tile: &Tile<'c>) {
        let layout = Rc::clone(&tile.layout);
        let free = layout.free_variable_masks();
        let once = self.e.threads_without(free.lane, free.warp);
        let at = self.shared_thread_offset(shared, &layout, false);
        // Elements of a run that does not start with the lowest bits would have to be gathered first.
        let run = Self::shared_run(shared, &layout, false).leading();
        let count = run.len();
        let per_word = packing(tile.dtype);
        let packed = per_word > 1 && count >= per_word && tile.dtype != DType::F4E2M1FN;
        let registers = if packed { tile.packed_registers(&mut self.e) } else { tile.elements(&mut self.e) };
        for register in (0..layout.num_registers()).step_by(count) {
            if register as u32 & free.register != 0 {
                continue;
            }
            let offset = layout.apply(register as u32, 0, 0);
            let offset = shared.offset(&layout, &offset, false);
            let (address, constant) = self.shared_address_of(base, at, offset as u32);
            let words = if packed {
                registers[register / per_word..(register + count) / per_word].to_vec()
            } else {
                self.words_of_elements(&registers[register..register + count], tile.dtype)
            };
            self.shared_store(address, constant, &words, count * elem_bytes(tile.dtype), once);
        }
    }

    /// Loads `bytes` from shared memory: one value of 8 or 16 bits, or words.
    pub(super) fn shared_load(&mut self, address: Val<'c>, constant: u32, bytes: usize) -> Vec<Val<'c>> {
        let types = self.e.types;
        let (suffix, code, ty, count) = match bytes {
            1 => ("b8", "=h", types.i16, 1),
            2 => ("b16", "=h", types.i16, 1),
            _ => ("b32", "=r", types.i32, bytes / 4),
        };
        let list: Vec<String> = (0..count).map(|i| format!("${i}")).collect();
        let text = if count > 1 {
            format!("ld.shared.v{count}.{suffix} {{{}}}, [${count} + {constant}];", list.join(", "))
        } else {
            format!("ld.shared.{suffix} $0, [$1 + {constant}];")
        };
        let constraints = format!("{},r,~{{memory}}", vec![code; count].join(","));
        let loaded = self.e.asm(&text, &constraints, &[address], &vec![ty; count]);
        if bytes == 1 { vec![self.e.convert("llvm.trunc", loaded[0], types.i8)] } else { loaded }
    }

    /// Stores words, or one value of 8 or 16 bits, to shared memory.
    pub(super) fn shared_store(
        &mut self,
        address: Val<'c>,
        constant: u32,
        words: &[Val<'c>],
        bytes: usize,
        only: Option<Val<'c>>,
    ) {
        let (suffix, code) = match bytes {
            1 => ("b8", "h"),
            2 => ("b16", "h"),
            _ => ("b32", "r"),
        };
        let mut operands = words.to_vec();
        if bytes == 1 {
            operands[0] = self.e.convert("llvm.zext", operands[0], self.e.types.i16);
        }
        let count = words.len();
        let list: Vec<String> = (0..count).map(|i| format!("${i}")).collect();
        let mut text = String::new();
        if only.is_some() {
            text += &format!("@${} ", count + 1);
        }
        text += &if count > 1 {
            format!("st.shared.v{count}.{suffix} [${count} + {constant}], {{{}}};", list.join(", "))
        } else {
            format!("st.shared.{suffix} [$1 + {constant}], $0;")
        };
        operands.push(address);
        let mut constraints = vec![code; count].join(",") + ",r";
        if let Some(only) = only {
            operands.push(only);
            constraints += ",b";
        }
        self.e.asm(&text, &(constraints + ",~{memory}"), &operands, &[]);
    }

    /// A slot-like region of scratch memory for a whole tile.
    pub(super) fn scratch(
        &mut self,
        op: Op,
        offset: Option<usize>,
        layout: &LinearLayout,
        dtype: DType,
    ) -> Result<Shared<'c>, LowerError> {
        let offset = offset.ok_or_else(|| internal(op, "no scratch memory was allocated"))?;
        let columns = layout.shape.last().copied().unwrap_or(1);
        let rows = layout.num_elements() / columns;
        let shape = crate::layout::SharedLayout::new(rows, columns, elem_bytes(dtype));
        let base = self.shared_address(offset);
        Ok(Shared { dtype, layout: shape, per_byte: 1, base, slot_bytes: shape.bytes() })
    }
}
