//! Global memory: blocks of views to and from registers, asynchronous copies to shared memory, gather and
//! scatter.

mod copy;

use super::emitter::{Cmp, Emitter, ThreadValue};
use super::policy::Hint;
use super::value::{Lowered, Run, Tile, View, elem_bytes, from_bits, pack, packing, to_bits, unpack};
use super::{Lowering, internal};
use crate::error::LowerError;
use crate::gpu::facts::never_negative;
use crate::layout::{LinearLayout, blocked};

use std::collections::HashMap;
use std::rc::Rc;
use tile_ir::types::{Op, Val};
use tile_lang::dtype::DType;

/// A block of a view, and which part of it this thread deals with.
pub(super) struct Block<'c> {
    view: Rc<View<'c>>,
    /// Coordinates within the block when the register is 0.
    thread: Vec<ThreadValue<'c>>,
    /// Extents left from the block's start on, i32.
    left: Vec<Val<'c>>,
    /// Number of the block's first element, i64, and its address.
    first: Val<'c>,
    start: Val<'c>,
    inside: HashMap<(usize, u32), Val<'c>>,
    /// Address of register 0, by the offset bits that cross the thread's.
    threads: HashMap<Vec<u32>, Val<'c>>,
    /// Addresses by the offset in dimensions that the instruction does not add.
    rows: HashMap<Vec<u32>, Val<'c>>,
}

impl<'c> Lowering<'c> {
    /// Where a thread's first register lies, for each dimension.
    pub(super) fn thread_coordinates(&mut self, layout: &LinearLayout) -> Vec<ThreadValue<'c>> {
        (0..layout.rank())
            .map(|d| {
                let of = |bases: &[Vec<u32>]| bases.iter().map(|b| b[d]).collect::<Vec<_>>();
                self.e.linear(&of(&layout.lane), &of(&layout.warp))
            })
            .collect()
    }

    pub(super) fn block(
        &mut self,
        op: Op,
        view: Val<'c>,
        index: &[Val<'c>],
        layout: &LinearLayout,
    ) -> Result<Block<'c>, LowerError> {
        let view = self.view(op, view)?;
        if view.dims.len() != layout.rank() || index.len() != layout.rank() {
            return Err(internal(op, "tile and tensor differ in rank"));
        }
        let thread = self.thread_coordinates(layout);
        let mut left = Vec::new();
        let mut elements: Option<Val> = None;
        for (d, &index) in index.iter().enumerate() {
            let is_place = never_negative(index);
            let index = self.scalar(op, index)?;
            let e = &mut self.e;
            let size = e.i32(layout.shape[d] as i64);
            let start = e.mul(index, size);
            let here = e.sub(view.dims[d], start);
            left.push(if is_place { here } else { left_from(e, index, here, view.dims[d], layout.shape[d]) });
            let wide = e.widen(start);
            let distance = e.mul(wide, view.strides[d]);
            elements = Some(match elements {
                Some(sum) => e.add(sum, distance),
                None => distance,
            });
        }
        let e = &mut self.e;
        let elements = elements.unwrap_or_else(|| e.int(0, e.types.i64));
        let bytes = bytes_of(&mut self.e, elements, view.dtype.bits() as usize);
        let start = self.e.offset(view.pointer, bytes);
        Ok(Block {
            view,
            thread,
            left,
            first: elements,
            start,
            inside: HashMap::new(),
            threads: HashMap::new(),
            rows: HashMap::new(),
        })
    }

    /// The address of an element of this thread, and a displacement that the instruction adds.
    ///
    /// It is the sum of three parts: where the block starts, where the thread lies in it (for register 0), and
    /// the distance to the register, which is the same in all threads and so costs no register of each.
    pub(super) fn address(&mut self, block: &mut Block<'c>, offset: &[u32]) -> (Val<'c>, usize) {
        let bits = block.view.dtype.bits() as usize;
        let mut rest = offset.to_vec();
        let mut constant = 0;
        if let Some(unit) = block.view.facts.unit_stride {
            constant = (offset[unit] & !block.thread[unit].mask) as usize * bits / 8;
            rest[unit] &= block.thread[unit].mask;
        }
        if let Some(&row) = block.rows.get(&rest) {
            return (row, constant);
        }
        // Bits that cross the thread's own change its coordinate; the others add to it.
        let crossed: Vec<u32> = rest.iter().zip(&block.thread).map(|(&o, t)| o & t.mask).collect();
        let thread = match block.threads.get(&crossed) {
            Some(&thread) => thread,
            None => {
                let distance = self.e.in_prologue(|e| {
                    let mut elements = e.int(0, e.types.i64);
                    for ((at, &crossed), &stride) in
                        block.thread.iter().zip(&crossed).zip(&block.view.strides)
                    {
                        let coordinate = e.displace(*at, crossed);
                        let coordinate = e.widen(coordinate);
                        let distance = e.mul(coordinate, stride);
                        elements = e.add(elements, distance);
                    }
                    elements
                });
                let bytes = self.e.in_prologue(|e| bytes_of(e, distance, bits));
                let thread = self.e.offset(block.start, bytes);
                block.threads.insert(crossed.clone(), thread);
                thread
            }
        };
        let added: Vec<u32> = rest.iter().zip(&crossed).map(|(&o, &c)| o ^ c).collect();
        let row = if added.iter().all(|&o| o == 0) {
            thread
        } else {
            let bytes = self.e.in_prologue(|e| {
                let mut elements = e.int(0, e.types.i64);
                for (&added, &stride) in added.iter().zip(&block.view.strides) {
                    let added = e.int(added.into(), e.types.i64);
                    let distance = e.mul(added, stride);
                    elements = e.add(elements, distance);
                }
                bytes_of(e, elements, bits)
            });
            self.e.offset(thread, bytes)
        };
        block.rows.insert(rest, row);
        (row, constant)
    }

    /// Whether the coordinate at `offset` of dimension `d` lies inside the view.
    fn inside(&mut self, block: &mut Block<'c>, d: usize, offset: u32) -> Val<'c> {
        if let Some(&found) = block.inside.get(&(d, offset)) {
            return found;
        }
        let at = block.thread[d];
        let e = &mut self.e;
        let crossed = e.in_prologue(|e| e.xor_const(at.value, offset & at.mask));
        // What is the same in all threads is taken from the bound.
        let added = e.i32(i64::from(offset & !at.mask));
        let bound = e.sub(block.left[d], added);
        let inside = e.icmp(Cmp::Slt, crossed, bound);
        block.inside.insert((d, offset), inside);
        inside
    }

    /// Whether an element lies inside the view.
    pub(super) fn all_inside(&mut self, block: &mut Block<'c>, offset: &[u32]) -> Option<Val<'c>> {
        let mut inside = None;
        for (d, &offset) in offset.iter().enumerate() {
            let here = self.inside(block, d, offset);
            inside = self.e.both(inside, Some(here));
        }
        inside
    }

    /// The registers of one access: consecutive in memory, at most `vec_bytes`. Of 4-bit elements it is a single
    /// one unless an access of two bytes is known to be aligned.
    fn global_run(view: &View, layout: &LinearLayout, vec_bytes: usize) -> Run {
        let bits = view.dtype.bits() as usize;
        let unit = view.facts.unit_stride.filter(|_| bits >= 8 || vec_bytes >= 2);
        let Some(unit) = unit else { return Run::of(std::iter::empty(), bits, vec_bytes) };
        let along = |basis: &Vec<u32>| {
            let other = basis.iter().enumerate().any(|(d, &step)| d != unit && step != 0);
            if other { usize::MAX } else { basis[unit] as usize * bits }
        };
        let run = Run::of(layout.register.iter().map(along), bits, vec_bytes);
        if run.len() * bits < 8 { Run::of(std::iter::empty(), bits, vec_bytes) } else { run }
    }

    pub(super) fn lower_global_load(
        &mut self,
        op: Op<'c>,
        view: Val<'c>,
        index: &[Val<'c>],
        vec_bytes: usize,
    ) -> Result<(), LowerError> {
        self.order_access(view, false);
        let (layout, dtype) = self.result_tile(op)?;
        let mut block = self.block(op, view, index, &layout)?;
        let run = Self::global_run(&block.view, &layout, vec_bytes);
        let bits = dtype.bits() as usize;
        let half_bytes = run.len() * bits < 8;
        let mut loaded = Vec::new();
        for first in run.starts(layout.num_registers()) {
            let offset = layout.apply(first as u32, 0, 0);
            let inside = self.all_inside(&mut block, &offset);
            if half_bytes {
                let (address, odd) = self.half_byte_address(&block, &offset);
                let byte = self.load((address, block.view.policy), 0, 1, inside)[0];
                loaded.push((first, vec![self.nibble(byte, odd)]));
            } else {
                let (address, constant) = self.address(&mut block, &offset);
                let words = self.load((address, block.view.policy), constant, run.len() * bits / 8, inside);
                loaded.push((first, words));
            }
        }
        let per_byte = if half_bytes { 1 } else { (8 / bits).max(1) };
        let tile = self.tile_of_runs(dtype, per_byte, &layout, &run, loaded);
        self.set_result(op, Lowered::Tile(tile));
        Ok(())
    }

    /// The address of the byte that holds a 4-bit element, and which half of it that is, as i32.
    fn half_byte_address(&mut self, block: &Block<'c>, offset: &[u32]) -> (Val<'c>, Val<'c>) {
        let mut elements = block.first;
        for (d, &offset) in offset.iter().enumerate() {
            let coordinate = self.e.displace(block.thread[d], offset);
            let coordinate = self.e.widen(coordinate);
            let distance = self.e.mul(coordinate, block.view.strides[d]);
            elements = self.e.add(elements, distance);
        }
        let bytes = bytes_of(&mut self.e, elements, 4);
        let address = self.e.offset(block.view.pointer, bytes);
        (address, self.is_odd(elements))
    }

    /// The lowest bit of an element's number, as i32.
    fn is_odd(&mut self, elements: Val<'c>) -> Val<'c> {
        let narrow = self.e.convert("llvm.trunc", elements, self.e.types.i32);
        self.e.and_const(narrow, 1)
    }

    /// Writes one 4-bit element where `inside` holds. Its neighbours in the word may be written by others at the
    /// same time, so its bits are first cleared and then set, each at once for the word.
    fn store_nibble(&mut self, address: Val<'c>, odd: Val<'c>, element: Val<'c>, inside: Option<Val<'c>>) {
        let e = &mut self.e;
        let types = e.types;
        let low = e.pure_asm("cvt.u32.u64 $0, $1;", "=r,l", &[address], types.i32);
        let within = e.and_const(low, 3);
        let byte_bits = e.shift(within, 3);
        let odd_bits = e.shift(odd, 2);
        let distance = e.add(byte_bits, odd_bits);
        let element = e.convert("llvm.zext", element, types.i32);
        let set = e.binary("llvm.shl", element, distance);
        let fifteen = e.i32(15);
        let hole = e.binary("llvm.shl", fifteen, distance);
        let ones = e.i32(-1);
        let kept = e.binary("llvm.xor", hole, ones);
        let back = e.convert("llvm.zext", within, types.i64);
        let zero = e.int(0, types.i64);
        let back = e.binary("llvm.sub", zero, back);
        let word = e.offset(address, back);
        let mut operands = vec![word, kept, set];
        let mut constraints = String::from("l,r,r");
        let mut guard = "";
        if let Some(inside) = inside {
            operands.push(inside);
            constraints += ",b";
            guard = "@$3 ";
        }
        let text = format!("{guard}red.global.and.b32 [$0], $1; {guard}red.global.or.b32 [$0], $2;");
        e.asm(&text, &(constraints + ",~{memory}"), &operands, &[]);
    }

    /// The low or, when `odd`, the high four bits of a byte.
    pub(super) fn nibble(&mut self, byte: Val<'c>, odd: Val<'c>) -> Val<'c> {
        let e = &mut self.e;
        let distance = e.shift(odd, 2);
        let distance = e.convert("llvm.trunc", distance, e.types.i8);
        let low = e.binary("llvm.lshr", byte, distance);
        e.and_const(low, 15)
    }

    /// Splits loaded words into elements.
    pub(super) fn elements_of_words(
        &mut self,
        words: &[Val<'c>],
        dtype: DType,
        count: usize,
        elements: &mut Vec<Val<'c>>,
    ) {
        let bits = elem_bytes(dtype) * 8;
        if count * bits < 32 && count == 1 {
            elements.push(from_bits(&mut self.e, words[0], dtype));
            return;
        }
        let per_word = 32 / bits;
        if packing(dtype) == per_word && count >= per_word {
            for &word in words {
                elements.extend(unpack(&mut self.e, word, dtype));
            }
            return;
        }
        // Bytes that no 32-bit register form exists for, or half a register of them.
        let narrow = if bits == 8 { self.e.types.i8 } else { self.e.types.i16 };
        for i in 0..count {
            let word = words[i / per_word];
            let moved = self.e.shift(word, -((i % per_word * bits) as i32));
            let piece = self.e.convert("llvm.trunc", moved, narrow);
            elements.push(from_bits(&mut self.e, piece, dtype));
        }
    }

    /// Joins elements into the words of one access of their total size.
    pub(super) fn words_of_elements(&mut self, elements: &[Val<'c>], dtype: DType) -> Vec<Val<'c>> {
        let bits = elem_bytes(dtype) * 8;
        if elements.len() == 1 {
            return vec![to_bits(&mut self.e, elements[0], dtype)];
        }
        let per_word = 32 / bits;
        if packing(dtype) == per_word && elements.len() >= per_word {
            return elements.chunks(per_word).map(|c| pack(&mut self.e, c, dtype)).collect();
        }
        let total = (elements.len().min(per_word) * bits) as u32;
        let (i16, i32) = (self.e.types.i16, self.e.types.i32);
        let ty = if total == 16 { i16 } else { i32 };
        let mut words = Vec::new();
        for chunk in elements.chunks(per_word) {
            let mut word: Option<Val> = None;
            for (i, &element) in chunk.iter().enumerate() {
                let piece = to_bits(&mut self.e, element, dtype);
                let piece = self.e.convert("llvm.zext", piece, ty);
                let piece = self.e.shift(piece, (i * bits) as i32);
                word = Some(match word {
                    Some(word) => self.e.binary("llvm.or", word, piece),
                    None => piece,
                });
            }
            words.extend(word);
        }
        words
    }

    /// Loads `bytes` from an address, under an L2 policy, zeros where `inside` does not hold. One value of 8 or 16 bits,
    /// or words.
    pub(super) fn load(
        &mut self,
        (address, policy): (Val<'c>, Option<Val<'c>>),
        constant: usize,
        bytes: usize,
        inside: Option<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let types = self.e.types;
        let (suffix, code, ty, count) = match bytes {
            1 => ("b8", "h", types.i16, 1),
            2 => ("b16", "h", types.i16, 1),
            _ => ("b32", "r", types.i32, bytes / 4),
        };
        let list: Vec<String> = (0..count).map(|i| format!("${i}")).collect();
        let vector = if count > 1 { format!(".v{count}") } else { String::new() };
        let target = if count > 1 { format!("{{{}}}", list.join(", ")) } else { list[0].clone() };
        let mut text = String::new();
        let mut operands = vec![address];
        // A result must not share a register with the address or predicate, read after it is written.
        let mut constraints = vec![format!("=&{code}"); count];
        constraints.push("l".to_owned());
        let zero = if suffix == "b32" { "mov.b32" } else { "mov.b16" };
        if let Some(inside) = inside {
            for register in &list {
                text += &format!("{zero} {register}, 0; ");
            }
            text += &format!("@${} ", count + 1);
            operands.push(inside);
            constraints.push("b".to_owned());
        }
        let hint = Hint::of(policy, count + operands.len());
        text += &format!(
            "ld.global{}{vector}.{suffix} {target}, [${count} + {constant}]{};",
            hint.modifier, hint.operand
        );
        constraints.extend(hint.policy.map(|_| "l".to_owned()));
        operands.extend(hint.policy);
        let results = vec![ty; count];
        let loaded = self.e.asm(&text, &(constraints.join(",") + ",~{memory}"), &operands, &results);
        if bytes == 1 {
            return vec![self.e.convert("llvm.trunc", loaded[0], types.i8)];
        }
        loaded
    }

    /// Stores words, or one value of 8 or 16 bits, where `inside` holds.
    pub(super) fn store(
        &mut self,
        address: Val<'c>,
        constant: usize,
        words: &[Val<'c>],
        bytes: usize,
        inside: Option<Val<'c>>,
    ) {
        let types = self.e.types;
        let (suffix, code) = match bytes {
            1 => ("b8", "h"),
            2 => ("b16", "h"),
            4.. => ("b32", "r"),
            _ => ("b16", "h"),
        };
        let mut operands: Vec<_> = words.to_vec();
        if bytes == 1 {
            operands[0] = self.e.convert("llvm.zext", operands[0], types.i16);
        }
        let count = words.len();
        let list: Vec<String> = (0..count).map(|i| format!("${i}")).collect();
        let vector = if count > 1 { format!(".v{count}") } else { String::new() };
        let source = if count > 1 { format!("{{{}}}", list.join(", ")) } else { list[0].clone() };
        let mut constraints = vec![code; count];
        operands.push(address);
        constraints.push("l");
        let mut text = String::new();
        if let Some(inside) = inside {
            operands.push(inside);
            constraints.push("b");
            text += &format!("@${} ", count + 1);
        }
        text += &format!("st.global{vector}.{suffix} [${count} + {constant}], {source};");
        self.e.asm(&text, &(constraints.join(",") + ",~{memory}"), &operands, &[]);
    }

    pub(super) fn lower_global_store(
        &mut self,
        op: Op<'c>,
        (view, index): (Val<'c>, &[Val<'c>]),
        tile: Val<'c>,
        vec_bytes: usize,
    ) -> Result<(), LowerError> {
        self.order_access(view, true);
        let tile = self.tile(op, tile)?;
        let layout = Rc::clone(&tile.layout);
        let mut block = self.block(op, view, index, &layout)?;
        let free = layout.free_variable_masks();
        let once = self.e.threads_without(free.lane, free.warp);
        let dtype = tile.dtype;
        let four_bits = dtype == DType::F4E2M1FN;
        let bits = dtype.bits() as usize;
        let run = Self::global_run(&block.view, &layout, vec_bytes).leading();
        let elems = run.len();
        let half_bytes = elems * bits < 8;
        let packed = packing(dtype) > 1 && elems >= packing(dtype);
        let registers = if packed { tile.packed_registers(&mut self.e) } else { tile.elements(&mut self.e) };
        for register in (0..layout.num_registers()).step_by(elems) {
            if register as u32 & free.register != 0 {
                continue;
            }
            let offset = layout.apply(register as u32, 0, 0);
            let inside = self.all_inside(&mut block, &offset);
            let inside = self.e.both(inside, once);
            if half_bytes {
                let (address, odd) = self.half_byte_address(&block, &offset);
                self.store_nibble(address, odd, registers[register], inside);
                continue;
            }
            let (address, constant) = self.address(&mut block, &offset);
            let words = if packed {
                let per_word = packing(dtype);
                registers[register / per_word..(register + elems) / per_word].to_vec()
            } else if four_bits {
                let word = pack(&mut self.e, &registers[register..register + elems], dtype);
                let narrow = if elems == 2 { self.e.types.i8 } else { self.e.types.i16 };
                vec![self.e.convert("llvm.trunc", word, narrow)]
            } else {
                self.words_of_elements(&registers[register..register + elems], dtype)
            };
            self.store(address, constant, &words, elems * bits / 8, inside);
        }
        Ok(())
    }

    /// The whole CTA copies a block to a slot, `vec_bytes` a thread and instruction.
    pub(super) fn lower_async_copy(
        &mut self,
        op: Op<'c>,
        (view, index): (Val<'c>, &[Val<'c>]),
        (smem, slot): (Val<'c>, Val<'c>),
        tile_shape: &[usize],
        vec_bytes: usize,
    ) -> Result<(), LowerError> {
        self.order_access(view, false);
        let shared = self.shared(op, smem)?;
        let elems = vec_bytes * 8 / shared.elem_bits();
        let source = self.view(op, view)?;
        let unit = source.facts.unit_stride;
        if !matches!(vec_bytes, 4 | 8 | 16) || (elems > 1 && unit != Some(tile_shape.len() - 1)) {
            return Err(internal(op, "a copy of this width cannot be asynchronous"));
        }
        let order: Vec<usize> = (0..tile_shape.len()).rev().collect();
        let warps = self.num_warps(op)?;
        let layout = blocked(tile_shape, warps, elems, &order);
        if layout.contiguous_registers(tile_shape.len() - 1) < elems {
            return Err(internal(op, "rows are shorter than one copy"));
        }
        let mut block = self.block(op, view, index, &layout)?;
        let free = layout.free_variable_masks();
        let once = self.e.threads_without(free.lane, free.warp);
        let at = self.shared_thread_offset(&shared, &layout, false);
        let base = self.slot_base(op, &shared, slot)?;
        for register in (0..layout.num_registers()).step_by(elems) {
            let offset = layout.apply(register as u32, 0, 0);
            let inside = self.all_inside(&mut block, &offset);
            let (address, constant) = self.address(&mut block, &offset);
            let target = shared.offset(&layout, &offset, false);
            let (target, target_constant) = self.shared_address_of(base, at, target as u32);
            let e = &mut self.e;
            // Beside a policy, ptxas 13.0 encodes a sum of a register and a uniform register wrongly: the launch ends
            // with an illegal instruction. The maximum, which is the address itself, keeps it from seeing the sum.
            let target = match source.policy {
                Some(_) => e.pure_asm("max.u32 $0, $1, 1;", "=r,r", &[target], e.types.i32),
                None => target,
            };
            let mut operands = vec![target, address];
            let mut constraints = String::from("r,l");
            let mut text = String::new();
            if once.is_some() {
                text += &format!("@${} ", 2 + inside.iter().count());
            }
            let kind = if vec_bytes == 16 { "cg" } else { "ca" };
            let hint = Hint::of(source.policy, 2 + inside.iter().chain(&once).count());
            text += &format!(
                "cp.async.{kind}.shared.global{} [$0 + {target_constant}], [$1 + {constant}], {vec_bytes}",
                hint.modifier
            );
            if let Some(inside) = inside {
                // Outside of the tensor the source is ignored, and zeros are written.
                operands.push(inside);
                constraints += ",b";
                text += ", !$2";
            }
            text += &hint.operand;
            text += ";";
            if let Some(once) = once {
                operands.push(once);
                constraints += ",b";
            }
            operands.extend(hint.policy);
            constraints += hint.constraint;
            e.asm(&text, &(constraints + ",~{memory}"), &operands, &[]);
        }
        Ok(())
    }

    /// Pointers and predicates of gathered or scattered elements.
    fn element_addresses(
        &mut self,
        op: Op,
        view: &View<'c>,
        index: &[Val<'c>],
        mask: Option<Val<'c>>,
        registers: usize,
    ) -> Result<Vec<(Val<'c>, Val<'c>, Option<Val<'c>>)>, LowerError> {
        let mut columns = Vec::new();
        for &tile in index {
            let tile = self.tile(op, tile)?;
            columns.push(tile.elements(&mut self.e));
        }
        let mask = match mask {
            Some(mask) => {
                let tile = self.tile(op, mask)?;
                Some(tile.elements(&mut self.e))
            }
            None => None,
        };
        let mut found = Vec::new();
        for register in 0..registers {
            let mut inside = mask.as_ref().map(|m| m[register]);
            let e = &mut self.e;
            let mut elements = e.int(0, e.types.i64);
            for (d, column) in columns.iter().enumerate() {
                let at = column[register];
                // As unsigned, a negative index is past any extent.
                let here = e.icmp(Cmp::Ult, at, view.dims[d]);
                inside = e.both(inside, Some(here));
                let wide = e.widen(at);
                let distance = e.mul(wide, view.strides[d]);
                elements = e.add(elements, distance);
            }
            let bytes = bytes_of(&mut self.e, elements, view.dtype.bits() as usize);
            let address = self.e.offset(view.pointer, bytes);
            found.push((address, elements, inside));
        }
        Ok(found)
    }

    pub(super) fn lower_gather(
        &mut self,
        op: Op<'c>,
        view: Val<'c>,
        index: &[Val<'c>],
        mask: Option<Val<'c>>,
    ) -> Result<(), LowerError> {
        self.order_access(view, false);
        let (layout, dtype) = self.result_tile(op)?;
        let view = self.view(op, view)?;
        let addresses = self.element_addresses(op, &view, index, mask, layout.num_registers())?;
        let mut elements = Vec::new();
        for (address, number, inside) in addresses {
            let loaded = self.load((address, None), 0, elem_bytes(dtype), inside);
            if dtype == DType::F4E2M1FN {
                let odd = self.is_odd(number);
                let nibble = self.nibble(loaded[0], odd);
                elements.push(nibble);
            } else {
                elements.push(from_bits(&mut self.e, loaded[0], dtype));
            }
        }
        self.set_result(op, Lowered::Tile(Tile::new(dtype, &layout, elements)));
        Ok(())
    }

    pub(super) fn lower_scatter(
        &mut self,
        op: Op<'c>,
        view: Val<'c>,
        index: &[Val<'c>],
        value: Val<'c>,
        mask: Option<Val<'c>>,
    ) -> Result<(), LowerError> {
        self.order_access(view, true);
        let tile = self.tile(op, value)?;
        let view = self.view(op, view)?;
        let free = tile.layout.free_variable_masks();
        let once = self.e.threads_without(free.lane, free.warp);
        let registers = tile.layout.num_registers();
        let addresses = self.element_addresses(op, &view, index, mask, registers)?;
        let elements = tile.elements(&mut self.e);
        for (register, (address, number, inside)) in addresses.into_iter().enumerate() {
            if register as u32 & free.register == 0 {
                let inside = self.e.both(inside, once);
                if tile.dtype == DType::F4E2M1FN {
                    let odd = self.is_odd(number);
                    self.store_nibble(address, odd, elements[register], inside);
                    continue;
                }
                let bits = to_bits(&mut self.e, elements[register], tile.dtype);
                self.store(address, 0, &[bits], elem_bytes(tile.dtype), inside);
            }
        }
        Ok(())
    }

    /// Warps of the CTA.
    pub(super) fn num_warps(&self, op: Op<'c>) -> Result<usize, LowerError> {
        self.num_warps.ok_or_else(|| internal(op, "the number of warps is not known"))
    }
}

/// What `here` says is left of an extent from block `index` on, or nothing where there is no such block: the index
/// may be any number, also one below zero or too large to multiply.
fn left_from<'c>(
    e: &mut Emitter<'c>,
    index: Val<'c>,
    here: Val<'c>,
    extent: Val<'c>,
    size: usize,
) -> Val<'c> {
    let more = e.i32(size as i64 - 1);
    let rounded = e.binary("llvm.add", extent, more);
    let blocks = e.shift(rounded, -(size.trailing_zeros() as i32));
    let exists = e.icmp(Cmp::Ult, index, blocks);
    let none = e.i32(0);
    e.select(exists, here, none)
}

/// A number of elements as bytes; of 4 bits, two are one byte.
pub(super) fn bytes_of<'c>(e: &mut Emitter<'c>, elements: Val<'c>, bits: usize) -> Val<'c> {
    e.shift(elements, (bits / 4).trailing_zeros() as i32 - 1)
}
