//! What a value of the gpu level is to one thread.

use super::emitter::Emitter;
use crate::gpu::facts::TensorFacts;
use crate::layout::{LinearLayout, SharedLayout};
use std::rc::Rc;
use tile_ir::types::Val;
use tile_lang::dtype::DType;

/// A value of the gpu level, lowered.
#[derive(Clone)]
pub(super) enum Lowered<'c> {
    /// A scalar in one register.
    Scalar(Val<'c>),
    /// A thread's part of a tile.
    Tile(Tile<'c>),
    /// A tensor argument.
    View(Rc<View<'c>>),
    /// Tiles in shared memory.
    Shared(Shared<'c>),
    /// Whether this is the thread that copies, of `warps` warps beside the CTA's others; registers of a thread of
    /// these and of the others.
    Role { warps: usize, registers: Option<[usize; 2]> },
}

/// A thread's part of a tile.
#[derive(Clone)]
pub(super) struct Tile<'c> {
    pub dtype: DType,
    pub layout: Rc<LinearLayout>,
    pub registers: Registers<'c>,
}

/// The registers of a tile, in the order of the layout.
#[derive(Clone)]
pub(super) enum Registers<'c> {
    /// One value an element.
    Elements(Rc<[Val<'c>]>),
    /// 32-bit registers, each with two 16-bit or four 8-bit elements, the first in the low bits: what `mma`
    /// takes.
    Packed(Rc<[Val<'c>]>),
    /// 32-bit words of eight 4-bit elements each, as they lie in memory, and for each element where it is: eight
    /// times the word, plus the place in the word from the low bits up. Moving elements only changes the places.
    Nibbles(Rc<[Val<'c>]>, Rc<[u32]>),
}

/// A tensor argument: where it is and how large.
#[derive(Clone)]
pub(super) struct View<'c> {
    pub dtype: DType,
    pub pointer: Val<'c>,
    /// Extents, i32.
    pub dims: Vec<Val<'c>>,
    /// Strides in elements, i64; a constant where the facts say so.
    pub strides: Vec<Val<'c>>,
    /// The L2 policy of loads, i64, where they have one.
    pub policy: Option<Val<'c>>,
    pub facts: TensorFacts,
}

/// Tiles in shared memory.
#[derive(Clone)]
pub(super) struct Shared<'c> {
    pub dtype: DType,
    pub layout: SharedLayout,
    /// Elements in one byte of the layout: 2 where 4-bit elements lie as in global memory, else 1.
    pub per_byte: usize,
    /// Byte address of slot 0 in the shared window, i32.
    pub base: Val<'c>,
    pub slot_bytes: usize,
}

/// Elements of a dtype in one 32-bit register.
pub(super) fn packing(dtype: DType) -> usize {
    match dtype {
        DType::F16 | DType::BF16 => 2,
        DType::F8E4M3FN => 4,
        DType::F4E2M1FN => 8,
        _ => 1,
    }
}

impl Shared<'_> {
    /// The offset in bits in a slot of the element at `at` of a tile of any rank, seen as rows by columns.
    /// Linear over F2.
    pub fn bit_offset(&self, tile: &LinearLayout, at: &[u32], transposed: bool) -> usize {
        let last = tile.rank().saturating_sub(1);
        let rows = at[..last].iter().zip(&tile.shape).fold(0, |n, (&c, &s)| n * s + c as usize);
        let column = at.get(last).map_or(0, |&c| c as usize);
        let (row, column) = if transposed { (column, rows) } else { (rows, column) };
        let within = column % self.per_byte * (8 / self.per_byte);
        self.layout.offset(row, column / self.per_byte) * 8 + within
    }

    /// The offset in bytes of the byte that holds an element.
    pub fn offset(&self, tile: &LinearLayout, at: &[u32], transposed: bool) -> usize {
        self.bit_offset(tile, at, transposed) / 8
    }

    /// Bits of an element in the slot.
    pub fn elem_bits(&self) -> usize {
        8 * elem_bytes(self.dtype) / self.per_byte
    }

    /// Rows and columns of the tile in a slot.
    pub fn shape(&self) -> [usize; 2] {
        [self.layout.rows, self.layout.cols * self.per_byte]
    }
}

impl<'c> Tile<'c> {
    /// A tile of one value an element.
    pub fn new(dtype: DType, layout: &Rc<LinearLayout>, elements: Vec<Val<'c>>) -> Tile<'c> {
        debug_assert_eq!(elements.len(), layout.num_registers());
        Tile { dtype, layout: Rc::clone(layout), registers: Registers::Elements(elements.into()) }
    }

    /// A tile of packed registers.
    pub fn packed(dtype: DType, layout: &Rc<LinearLayout>, registers: Vec<Val<'c>>) -> Tile<'c> {
        debug_assert_eq!(registers.len() * packing(dtype), layout.num_registers());
        let registers = if dtype == DType::F4E2M1FN {
            Registers::Nibbles(registers.into(), (0..layout.num_registers() as u32).collect())
        } else {
            Registers::Packed(registers.into())
        };
        Tile { dtype, layout: Rc::clone(layout), registers }
    }

    /// One value an element.
    pub fn elements(&self, e: &mut Emitter<'c>) -> Rc<[Val<'c>]> {
        match &self.registers {
            Registers::Elements(elements) => Rc::clone(elements),
            Registers::Packed(registers) => {
                registers.iter().flat_map(|&r| unpack(e, r, self.dtype)).collect::<Vec<_>>().into()
            }
            Registers::Nibbles(words, places) => {
                let element = |&place: &u32| {
                    let low = e.shift(words[place as usize / 8], -4 * (place as i32 % 8));
                    let byte = e.convert("llvm.trunc", low, e.types.i8);
                    e.and_const(byte, 15)
                };
                places.iter().map(element).collect::<Vec<_>>().into()
            }
        }
    }

    /// 32-bit registers of several elements each; for dtypes that [`packing`] packs, in layouts of at least so
    /// many registers.
    pub fn packed_registers(&self, e: &mut Emitter<'c>) -> Rc<[Val<'c>]> {
        match &self.registers {
            Registers::Packed(registers) => Rc::clone(registers),
            Registers::Nibbles(words, places)
                if places.iter().enumerate().all(|(i, &place)| place as usize == i) =>
            {
                Rc::clone(words)
            }
            Registers::Elements(_) | Registers::Nibbles(..) => {
                let elements = self.elements(e);
                let chunks = elements.chunks(packing(self.dtype));
                chunks.map(|c| pack(e, c, self.dtype)).collect::<Vec<_>>().into()
            }
        }
    }
}

/// Elements as one 32-bit register.
pub(super) fn pack<'c>(e: &mut Emitter<'c>, elements: &[Val<'c>], dtype: DType) -> Val<'c> {
    let types = e.types;
    match dtype {
        DType::F16 | DType::BF16 => {
            let ty = if dtype == DType::F16 { types.f16x2 } else { types.bf16x2 };
            let vector = e.vector(elements, ty);
            e.convert("llvm.bitcast", vector, types.i32)
        }
        DType::F8E4M3FN | DType::F4E2M1FN => {
            let mut word = e.convert("llvm.zext", elements[0], types.i32);
            for (i, &element) in elements.iter().enumerate().skip(1) {
                let piece = e.convert("llvm.zext", element, types.i32);
                let piece = e.shift(piece, dtype.bits() as i32 * i as i32);
                word = e.binary("llvm.or", word, piece);
            }
            word
        }
        _ => e.convert("llvm.bitcast", elements[0], types.i32),
    }
}

/// The elements of one 32-bit register.
pub(super) fn unpack<'c>(e: &mut Emitter<'c>, register: Val<'c>, dtype: DType) -> Vec<Val<'c>> {
    let types = e.types;
    match dtype {
        DType::F16 | DType::BF16 => {
            let (pair, one) =
                if dtype == DType::F16 { (types.f16x2, types.f16) } else { (types.bf16x2, types.bf16) };
            let vector = e.convert("llvm.bitcast", register, pair);
            (0..2).map(|i| e.extract_element(vector, i, one)).collect()
        }
        DType::F8E4M3FN => (0..4)
            .map(|i| {
                let byte = e.shift(register, -8 * i);
                e.convert("llvm.trunc", byte, types.i8)
            })
            .collect(),
        DType::F4E2M1FN => (0..8)
            .map(|i| {
                let low = e.shift(register, -4 * i);
                let byte = e.convert("llvm.trunc", low, types.i8);
                e.and_const(byte, 15)
            })
            .collect(),
        _ => vec![e.convert("llvm.bitcast", register, types.element(dtype))],
    }
}

/// An element as the bits that go to memory: an integer of its size, bools and f4 as a byte.
pub(super) fn to_bits<'c>(e: &mut Emitter<'c>, element: Val<'c>, dtype: DType) -> Val<'c> {
    let types = e.types;
    match dtype {
        DType::F32 => e.convert("llvm.bitcast", element, types.i32),
        DType::F16 | DType::BF16 => e.convert("llvm.bitcast", element, types.i16),
        DType::Bool => e.convert("llvm.zext", element, types.i8),
        _ => element,
    }
}

/// The inverse of [`to_bits`].
pub(super) fn from_bits<'c>(e: &mut Emitter<'c>, bits: Val<'c>, dtype: DType) -> Val<'c> {
    let ty = e.types.element(dtype);
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => e.convert("llvm.bitcast", bits, ty),
        DType::Bool => e.convert("llvm.trunc", bits, ty),
        _ => bits,
    }
}

/// Bytes of an element in registers and shared memory.
pub(super) fn elem_bytes(dtype: DType) -> usize {
    (dtype.bits() as usize).div_ceil(8)
}

/// Registers whose elements are consecutive in memory: which bits of the register number walk through them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run(Vec<usize>);

impl Run {
    /// The longest run of at most `max_bytes`, by where each bit of the register number leads, in bits of memory.
    pub fn of(offsets: impl Iterator<Item = usize>, elem_bits: usize, max_bytes: usize) -> Run {
        let offsets: Vec<usize> = offsets.collect();
        let mut bits = Vec::new();
        while elem_bits << bits.len() < 8 * max_bytes {
            let Some(bit) = offsets.iter().position(|&o| o == elem_bits << bits.len()) else { break };
            bits.push(bit);
        }
        Run(bits)
    }

    /// The part of the run that the lowest bits of the register number walk through in order.
    pub fn leading(self) -> Run {
        Run(self.0.into_iter().enumerate().take_while(|(i, bit)| i == bit).map(|(_, bit)| bit).collect())
    }

    /// Elements of the run.
    pub fn len(&self) -> usize {
        1 << self.0.len()
    }

    /// The register, counted from the run's first, of its element `index`.
    pub fn register(&self, index: usize) -> usize {
        self.0.iter().enumerate().filter(|(i, _)| index >> i & 1 == 1).map(|(_, bit)| 1 << bit).sum()
    }

    /// The first registers of the runs that `count` registers fall into.
    pub fn starts(&self, count: usize) -> impl Iterator<Item = usize> {
        let within: usize = self.0.iter().map(|bit| 1 << bit).sum();
        (0..count).filter(move |register| register & within == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_follow_memory_in_any_order_of_registers() {
        // Bits lead to elements 4, 1, 2 and 64 of 4 bits each.
        let run = Run::of([16, 4, 8, 256].into_iter(), 4, 16);
        assert_eq!((run.len(), run.register(1), run.register(4), run.register(7)), (8, 2, 1, 7));
        assert_eq!(run.starts(16).collect::<Vec<_>>(), [0, 8]);
        assert_eq!(run.leading().len(), 1);
        assert_eq!(Run::of([16, 32, 64].into_iter(), 16, 4).leading().len(), 2);
    }
}
