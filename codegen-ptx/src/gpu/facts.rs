//! What is known about tensor arguments when a kernel is compiled, and checked when it is launched.

use melior::ir::{BlockLike, ValueLike};
use tile_ir::TileOp;
use tile_ir::passes::int_constant;
use tile_ir::types::{Blk, Op, Val, defining_op, dtype_of, name_of, operands_of, type_of, view_of};
use tile_lang::{DType, config};

/// Facts about one tensor argument. Extents and strides are in elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorFacts {
    /// Alignment of the first element's address in bytes, a power of two.
    pub align_bytes: usize,
    /// A power of two that divides each extent.
    pub dim_divisor: Vec<usize>,
    /// A power of two that divides each stride; of no account for `unit_stride`.
    pub stride_divisor: Vec<usize>,
    /// The dimension whose stride is known to be 1.
    pub unit_stride: Option<usize>,
}

impl TensorFacts {
    /// Any strides, nothing known but the element's own alignment.
    pub fn none(rank: usize, elem_bits: usize) -> TensorFacts {
        TensorFacts {
            align_bytes: elem_bits.div_ceil(8),
            dim_divisor: vec![1; rank],
            stride_divisor: vec![1; rank],
            unit_stride: None,
        }
    }

    /// Row-major, 16-byte aligned, every row a multiple of 16 bytes.
    pub fn aligned(rank: usize, elem_bits: usize) -> TensorFacts {
        TensorFacts::known(&config::TensorFacts::ALIGNED, rank, elem_bits)
    }

    /// What the facts of an instantiation say about a tensor of some rank.
    ///
    /// Rows of 4-bit elements that start at whole bytes are known by an alignment of 2 bytes or more; an alignment
    /// of 1 says nothing of them.
    pub fn known(facts: &config::TensorFacts, rank: usize, elem_bits: usize) -> TensorFacts {
        let align_bytes = (facts.align_bytes as usize).max(elem_bits.div_ceil(8));
        let vector = if align_bytes == 1 { 1 } else { align_bytes * 8 / elem_bits };
        let mut dim_divisor = vec![1; rank];
        if let Some(last) = dim_divisor.last_mut() {
            *last = vector;
        }
        let unit_stride = if facts.contiguous { rank.checked_sub(1) } else { None };
        TensorFacts { align_bytes, dim_divisor, stride_divisor: vec![vector; rank], unit_stride }
    }

    /// Facts about a view: a tensor argument, one of `arguments`, or a part of one. `facts` are the arguments'.
    pub fn of_view(facts: &[TensorFacts], arguments: &[Val], view: Val) -> Option<TensorFacts> {
        match defining_op(view).and_then(TileOp::of) {
            Some(TileOp::Slice { view: whole, axis, start, len }) => {
                let elem_bits = view_of(type_of(view))?.dtype.bits() as usize;
                Some(TensorFacts::of_view(facts, arguments, whole)?.sliced(axis, start, len, elem_bits))
            }
            _ => facts.get(arguments.iter().position(|a| *a == view)?).cloned(),
        }
    }

    /// What holds of the places from `start` on along an axis, `len` of them at most: the base moves by a multiple
    /// of the stride, and of the extents the one along the axis is another.
    pub fn sliced(mut self, axis: usize, start: Val, len: Val, elem_bits: usize) -> TensorFacts {
        let moved_bytes = self.moved_elems(axis, start).saturating_mul(elem_bits) / 8;
        self.align_bytes = self.align_bytes.min(moved_bytes.max(1));
        self.dim_divisor[axis] = self.dim_divisor[axis].min(divisor(start)).min(divisor(len));
        self
    }

    /// A power of two that divides the distance of place `start` along an axis from the base.
    pub(crate) fn moved_elems(&self, axis: usize, start: Val) -> usize {
        let stride = if self.unit_stride == Some(axis) { 1 } else { self.stride_divisor[axis] };
        divisor(start).saturating_mul(stride)
    }

    /// The widest access in bytes, at most 16, that is aligned and never straddles the tensor's edge when blocks
    /// of `tile_shape` are moved; one element where nothing better is known.
    pub fn vec_bytes(&self, tile_shape: &[usize], elem_bits: usize) -> usize {
        let elem_bytes = elem_bits.div_ceil(8);
        let Some(last) = tile_shape.len().checked_sub(1) else { return elem_bytes };
        if self.unit_stride != Some(last) {
            return elem_bytes;
        }
        let elems = self.stride_divisor[..last].iter().chain([&tile_shape[last], &self.dim_divisor[last]]);
        elems.map(|n| n * elem_bits / 8).chain([self.align_bytes]).fold(16, usize::min).max(elem_bytes)
    }
}

/// More than any divisor that matters: what divides 0.
const ALL: usize = 1 << 31;

/// A power of two that divides an index scalar.
fn divisor(value: Val) -> usize {
    let Some(op) = defining_op(value) else { return 1 };
    if dtype_of(type_of(value)) != Some(DType::Index) {
        return 1;
    }
    if let Some(number) = int_constant(op) {
        return if number == 0 { ALL } else { 1 << number.trailing_zeros().min(30) };
    }
    let operands = operands_of(op);
    let both = |join: fn(usize, usize) -> usize| join(divisor(operands[0]), divisor(operands[1]));
    match name_of(op).as_str() {
        "arith.muli" => both(usize::saturating_mul).min(ALL),
        "arith.addi" | "arith.subi" | "arith.minui" | "arith.maxui" => both(usize::min),
        _ => 1,
    }
}

/// True for an index scalar that cannot be negative: made of sizes and places, which neither wrap nor go below
/// zero, or kept from it.
pub(crate) fn never_negative(value: Val) -> bool {
    let Some(op) = defining_op(value) else { return is_size_argument(value) };
    if let Some(number) = int_constant(op) {
        return number >= 0;
    }
    let operands = operands_of(op);
    let all = || operands.iter().all(|v| never_negative(*v));
    let is_index = dtype_of(type_of(value)) == Some(DType::Index);
    match name_of(op).as_str() {
        "tile.program_id" | "tile.num_programs" | "tile.dim" => true,
        "arith.addi" | "arith.subi" | "arith.muli" | "arith.shli" => is_index && all(),
        "arith.divui" | "arith.remui" | "arith.ceildivui" | "arith.minsi" | "arith.maxui" => all(),
        "arith.index_cast" | "arith.index_castui" => all(),
        "arith.minui" | "arith.maxsi" => operands.iter().any(|v| never_negative(*v)),
        "arith.select" => operands[1..].iter().all(|v| never_negative(*v)),
        _ => false,
    }
}

/// The operation that a block's argument is of, and the argument's number.
///
/// # Panics
/// When the value is an operation's result.
pub(crate) fn argument_of<'c>(value: Val<'c>) -> (Option<Op<'c>>, usize) {
    assert!(value.is_block_argument(), "a value without an operation is a block's argument");
    // SAFETY: the value is live and a block's argument, which was just seen.
    let (block, number) = unsafe {
        let block = mlir_sys::mlirBlockArgumentGetOwner(value.to_raw());
        (Blk::from_raw(block), mlir_sys::mlirBlockArgumentGetArgNumber(value.to_raw()))
    };
    (block.parent_operation(), number as usize)
}

/// True for the kernel's own size arguments, and for variables of loops that count up from a size.
fn is_size_argument(value: Val) -> bool {
    let (Some(parent), number) = argument_of(value) else { return false };
    match name_of(parent).as_str() {
        "func.func" => dtype_of(type_of(value)) == Some(DType::Index),
        "scf.for" => number == 0 && never_negative(operands_of(parent)[0]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_an_instantiation_carry_over() {
        let facts = |align_bytes, contiguous| {
            TensorFacts::known(&config::TensorFacts { align_bytes, contiguous }, 2, 16)
                .vec_bytes(&[64, 64], 16)
        };
        assert_eq!([facts(16, true), facts(4, true), facts(2, true), facts(16, false)], [16, 4, 2, 2]);
    }

    #[test]
    fn vectors_are_as_wide_as_the_facts_allow() {
        assert_eq!(TensorFacts::aligned(2, 16).vec_bytes(&[64, 64], 16), 16);
        assert_eq!(TensorFacts::aligned(2, 16).vec_bytes(&[64, 4], 16), 8);
        assert_eq!(TensorFacts::none(2, 16).vec_bytes(&[64, 64], 16), 2);
        let odd_rows = TensorFacts { stride_divisor: vec![2, 1], ..TensorFacts::aligned(2, 32) };
        assert_eq!(odd_rows.vec_bytes(&[64, 64], 32), 8);
        let ragged = TensorFacts { dim_divisor: vec![1, 1], ..TensorFacts::aligned(2, 16) };
        assert_eq!(ragged.vec_bytes(&[64, 64], 16), 2);
        let halves = |align_bytes| {
            let facts = config::TensorFacts { align_bytes, contiguous: true };
            TensorFacts::known(&facts, 2, 4).vec_bytes(&[64, 64], 4)
        };
        assert_eq!([halves(16), halves(8), halves(2), halves(1)], [16, 8, 2, 1]);
    }
}
