//! Operand fragments of `mma` from shared memory, by `ldmatrix` on demand.
//!
//! `ldmatrix` moves 8x16-byte matrices: lane `l` receives the 4 bytes at byte `4 (l % 4)` of row `l / 4`, or,
//! transposed, the two 16-bit elements at rows `2 (l % 4)` and the next, column `l / 4`. Lanes `8 i` to
//! `8 i + 7` supply the addresses of the rows of matrix `i`, so that one instruction fills up to four registers
//! from anywhere. A layout qualifies when its lowest register bits and two or three lane bits walk through 16
//! consecutive bytes; its other bits may lead anywhere.

use super::Lowering;
use super::emitter::ThreadValue;
use super::value::{Registers, Shared, Tile, pack, packing};
use crate::layout::LinearLayout;
use std::collections::HashMap;
use std::rc::Rc;
use tile_ir::types::Val;
use tile_lang::dtype::DType;

/// A tile in shared memory that is read register by register.
pub(super) struct Fragment<'c> {
    shared: Shared<'c>,
    base: Val<'c>,
    layout: Rc<LinearLayout>,
    transposed: bool,
    matrices: Option<Matrices<'c>>,
    /// Registers read so far, by number.
    loaded: HashMap<usize, Val<'c>>,
}

/// How `ldmatrix` reads a layout.
struct Matrices<'c> {
    /// Bits of the register number (of 32-bit registers) that tell the matrices of one instruction apart.
    bits: Vec<usize>,
    /// Offset in the slot of the row that this lane supplies.
    row: ThreadValue<'c>,
    transpose: bool,
}

impl Fragment<'_> {
    /// Whether `ldmatrix` reads it.
    pub fn is_matrices(&self) -> bool {
        self.matrices.is_some()
    }
}

impl<'c> Lowering<'c> {
    /// Prepares to read a slot in a layout. `prefer` names the register bits that one `ldmatrix` should span.
    pub(super) fn fragment(
        &mut self,
        shared: &Shared<'c>,
        base: Val<'c>,
        layout: &Rc<LinearLayout>,
        transposed: bool,
        prefer: &[usize],
    ) -> Fragment<'c> {
        let matrices = self.matrices(shared, layout, transposed, prefer);
        Fragment {
            shared: shared.clone(),
            base,
            layout: Rc::clone(layout),
            transposed,
            matrices,
            loaded: HashMap::new(),
        }
    }

    fn matrices(
        &mut self,
        shared: &Shared<'c>,
        layout: &LinearLayout,
        transposed: bool,
        prefer: &[usize],
    ) -> Option<Matrices<'c>> {
        let bits = shared.elem_bits();
        if shared.dtype == DType::Bool || bits > 32 || bits * packing(shared.dtype) != 32 {
            return None;
        }
        let bit_offset = |basis: &Vec<u32>| shared.bit_offset(layout, basis, transposed);
        let offset = |basis: &Vec<u32>| (bit_offset(basis) / 8) as u32;
        let inner = packing(shared.dtype).trailing_zeros() as usize;
        if layout.register.len() < inner {
            return None;
        }
        let lanes: Vec<u32> = layout.lane.iter().map(offset).collect();
        let registers: Vec<u32> = layout.register.iter().map(offset).collect();
        let consecutive = (0..inner).all(|i| bit_offset(&layout.register[i]) == bits << i);
        let along_row = consecutive && lanes[..2] == [4, 8];
        let along_column = bits == 16 && lanes[2..] == [2, 4, 8];
        // The bits that walk through the rows of a matrix.
        let rows: Vec<u32> = match (along_row, along_column) {
            (true, _) => lanes[2..].to_vec(),
            (false, true) => vec![registers[0], lanes[0], lanes[1]],
            _ => return None,
        };
        // Every row starts a chunk of 16 bytes.
        let outer = &registers[inner..];
        if rows.iter().chain(outer).any(|o| o % 16 != 0) {
            return None;
        }
        let mut bits: Vec<usize> = prefer.iter().copied().filter(|&b| b < outer.len()).collect();
        bits.extend((0..outer.len()).filter(|b| !prefer.contains(b)));
        bits.truncate(2);
        let mut lane = rows;
        lane.extend(bits.iter().map(|&b| outer[b]));
        lane.resize(5, 0);
        let warp: Vec<u32> = layout.warp.iter().map(offset).collect();
        if warp.iter().any(|o| o % 16 != 0) {
            return None;
        }
        let row = self.e.linear(&lane, &warp);
        Some(Matrices { bits, row, transpose: !along_row })
    }

    /// Stores a tile by `stmatrix`, the inverse of `ldmatrix`; false where the layout is none of its.
    pub(super) fn store_matrices(&mut self, shared: &Shared<'c>, base: Val<'c>, tile: &Tile<'c>) -> bool {
        let free = tile.layout.free_variable_masks();
        if !self.e.target.has_stmatrix() || (free.register, free.lane, free.warp) != (0, 0, 0) {
            return false;
        }
        let Some(matrices) = self.matrices(shared, &tile.layout, false, &[0, 1]) else { return false };
        let per_word = packing(tile.dtype);
        let words = if per_word > 1 {
            tile.packed_registers(&mut self.e)
        } else {
            let elements = tile.elements(&mut self.e);
            elements.iter().map(|&x| pack(&mut self.e, &[x], tile.dtype)).collect()
        };
        let mask: usize = matrices.bits.iter().map(|b| 1 << b).sum();
        let count = 1 << matrices.bits.len();
        let trans = if matrices.transpose { ".trans" } else { "" };
        let list: Vec<String> = (0..count).map(|i| format!("${i}")).collect();
        for first in (0..words.len()).filter(|word| word & mask == 0) {
            let at = tile.layout.apply((first * per_word) as u32, 0, 0);
            let offset = shared.offset(&tile.layout, &at, false);
            let (address, constant) = self.shared_address_of(base, matrices.row, offset as u32);
            let text = format!(
                "stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [${count} + {constant}], {{{}}};",
                list.join(", ")
            );
            let which = |i: usize| {
                let set = matrices.bits.iter().enumerate().filter(|(k, _)| i >> k & 1 == 1);
                set.fold(first, |n, (_, bit)| n | 1 << bit)
            };
            let operands: Vec<Val> = (0..count).map(|i| words[which(i)]).chain([address]).collect();
            let constraints = format!("{},r,~{{memory}}", vec!["r"; count].join(","));
            self.e.asm(&text, &constraints, &operands, &[]);
        }
        true
    }

    /// One 32-bit register of a fragment, counted in the order of the layout.
    pub(super) fn fragment_register(&mut self, fragment: &mut Fragment<'c>, number: usize) -> Val<'c> {
        if let Some(&register) = fragment.loaded.get(&number) {
            return register;
        }
        let per_word = packing(fragment.shared.dtype);
        let Some(matrices) = &fragment.matrices else {
            let tile =
                self.load_vectors(&fragment.shared, fragment.base, &fragment.layout, fragment.transposed);
            let registers = match &tile.registers {
                Registers::Elements(elements) if packing(tile.dtype) == 1 => {
                    elements.iter().map(|&x| pack(&mut self.e, &[x], tile.dtype)).collect::<Vec<_>>()
                }
                _ => tile.packed_registers(&mut self.e).to_vec(),
            };
            fragment.loaded = registers.into_iter().enumerate().collect();
            return fragment.loaded[&number];
        };
        let mask: usize = matrices.bits.iter().map(|b| 1 << b).sum();
        let first = number & !mask;
        let at = fragment.layout.apply((first * per_word) as u32, 0, 0);
        let offset = fragment.shared.offset(&fragment.layout, &at, fragment.transposed);
        let (address, constant) = self.shared_address_of(fragment.base, matrices.row, offset as u32);
        let count = 1 << matrices.bits.len();
        let trans = if matrices.transpose { ".trans" } else { "" };
        let list: Vec<String> = (0..count).map(|i| format!("${i}")).collect();
        let text = format!(
            "ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{}}}, [${count} + {constant}];",
            list.join(", ")
        );
        let constraints = format!("{},r,~{{memory}}", vec!["=r"; count].join(","));
        let registers = self.e.asm(&text, &constraints, &[address], &vec![self.e.types.i32; count]);
        for (i, register) in registers.into_iter().enumerate() {
            let set = matrices.bits.iter().enumerate().filter(|(k, _)| i >> k & 1 == 1);
            let which = set.fold(first, |n, (_, bit)| n | 1 << bit);
            fragment.loaded.insert(which, register);
        }
        fragment.loaded[&number]
    }
}
