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
}

/// A tensor argument: where it is and how large.
pub(super) struct View<'c> {
    pub dtype: DType,
    pub pointer: Val<'c>,
    /// Extents, i32.
    pub dims: Vec<Val<'c>>,
    /// Strides in elements, i64; a constant where the facts say so.
    pub strides: Vec<Val<'c>>,
    pub facts: TensorFacts,
}

/// Tiles in shared memory.
#[derive(Clone)]
pub(super) struct Shared<'c> {
    pub dtype: DType,
    pub layout: SharedLayout,
    /// Byte address of slot 0 in the shared window, i32.
    pub base: Val<'c>,
    pub slot_bytes: usize,
}

/// Elements of a dtype in one 32-bit register.
pub(super) fn packing(dtype: DType) -> usize {
    match dtype {
        DType::F16 | DType::BF16 => 2,
        DType::F8E4M3FN => 4,
        _ => 1,
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
        Tile { dtype, layout: Rc::clone(layout), registers: Registers::Packed(registers.into()) }
    }

    /// One value an element.
    pub fn elements(&self, e: &mut Emitter<'c>) -> Rc<[Val<'c>]> {
        match &self.registers {
            Registers::Elements(elements) => Rc::clone(elements),
            Registers::Packed(registers) => {
                registers.iter().flat_map(|&r| unpack(e, r, self.dtype)).collect::<Vec<_>>().into()
            }
        }
    }

    /// 32-bit registers of several elements each; for dtypes that [`packing`] packs, in layouts of at least so
    /// many registers.
    pub fn packed_registers(&self, e: &mut Emitter<'c>) -> Rc<[Val<'c>]> {
        match &self.registers {
            Registers::Packed(registers) => Rc::clone(registers),
            Registers::Elements(elements) => {
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
        DType::F8E4M3FN => {
            let mut word = e.convert("llvm.zext", elements[0], types.i32);
            for (i, &element) in elements.iter().enumerate().skip(1) {
                let byte = e.convert("llvm.zext", element, types.i32);
                let byte = e.shift(byte, 8 * i as i32);
                word = e.binary("llvm.or", word, byte);
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
