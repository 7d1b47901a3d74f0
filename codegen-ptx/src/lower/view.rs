//! Parts of tensors, their single elements, and checks: what every thread does alike.

use super::emitter::Cmp;
use super::value::{Lowered, View, elem_bytes, from_bits};
use super::{Check, Lowering, internal};
use crate::error::LowerError;
use melior::ir::ValueLike;
use melior::ir::operation::OperationLike;
use std::rc::Rc;
use tile_ir::context::Place;
use tile_ir::types::{Op, Val, root_view};
use tile_lang::dtype::DType;

impl<'c> Lowering<'c> {
    /// A slice: the base moves, and one extent is another. What starts beyond the end has no elements.
    pub(super) fn lower_slice(
        &mut self,
        op: Op<'c>,
        view: Val<'c>,
        axis: usize,
        start: Val<'c>,
        len: Val<'c>,
    ) -> Result<(), LowerError> {
        let whole = self.view(op, view)?;
        let moved = whole.facts.moved_elems(axis, start);
        let facts = whole.facts.clone().sliced(axis, start, len, whole.dtype.bits() as usize);
        let (start, len) = (self.scalar(op, start)?, self.scalar(op, len)?);
        let mut part = View { facts, ..(*whole).clone() };
        let &extent = whole.dims.get(axis).ok_or_else(|| internal(op, "no such axis"))?;
        let e = &mut self.e;
        // As unsigned, a negative start is past any extent and a negative length longer than any.
        let starts = e.icmp(Cmp::Ult, start, extent);
        let zero = e.i32(0);
        let left = e.binary("llvm.sub", extent, start);
        let left = e.select(starts, left, zero);
        part.dims[axis] = e.call("llvm.umin.i32", &[left, len], e.types.i32);
        let start = e.select(starts, start, zero);
        let wide = e.widen(start);
        let elements = e.mul(wide, whole.strides[axis]);
        if whole.dtype == DType::F4E2M1FN && !moved.is_multiple_of(2) {
            return Err(LowerError::Unsupported {
                what: "a slice of f4E2M1FN that may start in the middle of a byte".to_owned(),
                target: self.e.target.part,
                place: Place::of(op.location()),
            });
        }
        let bytes = super::global::bytes_of(&mut self.e, elements, whole.dtype.bits() as usize);
        part.pointer = self.e.offset(whole.pointer, bytes);
        self.set_result(op, Lowered::View(Rc::new(part)));
        Ok(())
    }

    /// One element: every thread reads the same address, none where it lies outside. What the kernel never writes
    /// may be read anywhere and once for several uses.
    pub(super) fn lower_at(
        &mut self,
        op: Op<'c>,
        view: Val<'c>,
        index: &[Val<'c>],
    ) -> Result<(), LowerError> {
        let is_fixed = !self.mutated.contains(&(root_view(view).to_raw().ptr as usize));
        self.order_access(view, false);
        let (address, elements, inside) = self.element_address(op, view, index)?;
        let view = self.view(op, view)?;
        let width = elem_bytes(view.dtype);
        let mut bits = match inside.filter(|_| is_fixed) {
            Some(inside) => self.fixed_load(address, width, inside),
            None => self.load((address, None), 0, width, inside)[0],
        };
        if view.dtype == DType::F4E2M1FN {
            let number = self.e.convert("llvm.trunc", elements, self.e.types.i32);
            let odd = self.e.and_const(number, 1);
            bits = self.nibble(bits, odd);
        }
        let element = from_bits(&mut self.e, bits, view.dtype);
        self.set_result(op, Lowered::Scalar(element));
        Ok(())
    }

    /// The address of one element, its number, and whether it lies inside the view.
    pub(super) fn element_address(
        &mut self,
        op: Op<'c>,
        view: Val<'c>,
        index: &[Val<'c>],
    ) -> Result<(Val<'c>, Val<'c>, Option<Val<'c>>), LowerError> {
        let view = self.view(op, view)?;
        if view.dims.len() != index.len() {
            return Err(internal(op, "index and tensor differ in rank"));
        }
        let mut inside = None;
        let mut elements = self.e.int(0, self.e.types.i64);
        for (d, &index) in index.iter().enumerate() {
            let index = self.scalar(op, index)?;
            let e = &mut self.e;
            // As unsigned, a negative index is past any extent.
            let here = e.icmp(Cmp::Ult, index, view.dims[d]);
            inside = e.both(inside, Some(here));
            let wide = e.widen(index);
            let distance = e.mul(wide, view.strides[d]);
            elements = e.add(elements, distance);
        }
        let bytes = super::global::bytes_of(&mut self.e, elements, view.dtype.bits() as usize);
        Ok((self.e.offset(view.pointer, bytes), elements, inside))
    }

    /// Loads a value of 1, 2 or 4 bytes that nobody changes while the kernel runs.
    fn fixed_load(&mut self, address: Val<'c>, bytes: usize, inside: Val<'c>) -> Val<'c> {
        let types = self.e.types;
        let (width, register, code, ty) = match bytes {
            1 => ("b8", "b16", "h", types.i16),
            2 => ("b16", "b16", "h", types.i16),
            _ => ("b32", "b32", "r", types.i32),
        };
        let text = format!("mov.{register} $0, 0; @$2 ld.global.{width} $0, [$1];");
        let loaded = self.e.pure_asm(&text, &format!("=&{code},l,b"), &[address, inside], ty);
        if bytes == 1 { self.e.convert("llvm.trunc", loaded, types.i8) } else { loaded }
    }

    /// A check: where it fails first, one thread records which it is and in which program.
    pub(super) fn lower_check(
        &mut self,
        op: Op<'c>,
        cond: Val<'c>,
        message: String,
    ) -> Result<(), LowerError> {
        let record = self.record.ok_or_else(|| internal(op, "there is no place for the record"))?;
        let cond = self.scalar(op, cond)?;
        self.checks.push(Check { place: Place::of(op.location()), message });
        let number = self.e.i32(self.checks.len() as i64);
        let ids =
            ["x", "y", "z"].map(|axis| self.e.in_prologue(|e| e.special_register(&format!("ctaid.{axis}"))));
        let no = self.e.int(0, self.e.types.i1);
        let failed = self.e.icmp(Cmp::Eq, cond, no);
        let first_thread = self.e.threads_without(u32::MAX, u32::MAX);
        let Some(records) = self.e.both(Some(failed), first_thread) else {
            return Err(internal(op, "no condition"));
        };
        let text = "{ .reg .pred first; .reg .b32 old; mov.b32 old, 1; \
                    @$0 atom.global.cas.b32 old, [$1], 0, $2; setp.eq.and.b32 first, old, 0, $0; \
                    @first st.global.b32 [$1 + 4], $3; @first st.global.b32 [$1 + 8], $4; \
                    @first st.global.b32 [$1 + 12], $5; }";
        let operands = [records, record, number, ids[0], ids[1], ids[2]];
        self.e.asm(text, "b,l,r,r,r,r,~{memory}", &operands, &[]);
        Ok(())
    }
}
