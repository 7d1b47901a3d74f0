//! Products of tiles by `mma.sync`, one instruction for each 16x8 piece of the accumulator and step of K.

use super::fragment::Fragment;
use super::narrow::f8_register_to_half_pairs;
use super::value::{Lowered, Registers, Tile, pack, packing};
use super::{Lowering, internal};
use crate::error::LowerError;
use crate::gpu::ops::MmaOperand;
use crate::layout::mma;
use std::collections::HashMap;
use std::rc::Rc;
use tile_ir::types::{Op, Val};
use tile_lang::dtype::DType;

/// An operand, read register by register.
pub(super) struct Operand<'c> {
    source: Source<'c>,
    dtype: DType,
    /// What the instruction takes, by register number: two registers for f8 that is multiplied as f16.
    ready: HashMap<usize, Vec<Val<'c>>>,
    /// Bit of the register number that selects the second half of a step of K.
    half_bit: usize,
}

enum Source<'c> {
    Registers(Rc<[Val<'c>]>),
    Shared(Fragment<'c>),
}

impl<'c> Lowering<'c> {
    pub(super) fn lower_mma_sync(
        &mut self,
        op: Op<'c>,
        lhs: MmaOperand<'c>,
        rhs: MmaOperand<'c>,
        acc: Val<'c>,
        (warps, order): ([usize; 2], &mma::KOrder),
    ) -> Result<(), LowerError> {
        let acc = self.tile(op, acc)?;
        let extents = mma::acc_extents(&acc.layout.shape)
            .ok_or_else(|| internal(op, "the accumulator is neither a matrix nor parts of one"))?;
        if acc.dtype != DType::F32 || *acc.layout != mma::acc_parts(extents, warps) {
            return Err(internal(op, "the accumulator is not in its fragment layout"));
        }
        let [parts, _, n] = extents;
        let (dtype, k) = match lhs {
            MmaOperand::Registers(tile) => {
                let tile = self.tile(op, tile)?;
                (tile.dtype, tile.layout.shape[1])
            }
            MmaOperand::Shared { smem, transposed, .. } => {
                let shared = self.shared(op, smem)?;
                (shared.dtype, shared.shape()[usize::from(!transposed)])
            }
        };
        let depth =
            mma::depth(dtype).ok_or_else(|| internal(op, "operands that tensor cores do not multiply"))?;
        let [lhs_layout, rhs_layout] = mma::operands(extents, k, warps, dtype, order);
        let k = k / parts;
        let steps = k.div_ceil(depth);
        let rhs_prefer = [0, 1 + steps.trailing_zeros() as usize];
        let mut lhs = self.operand(op, lhs, lhs_layout, dtype, &[0, 1], 1)?;
        let mut rhs = self.operand(op, rhs, rhs_layout, dtype, &rhs_prefer, 0)?;

        let mut sums: Vec<Val> = acc.elements(&mut self.e).to_vec();
        let n_tiles = (n / warps[1]).max(mma::N) / mma::N;
        let m_tiles = sums.len() / 4 / n_tiles;
        for step in 0..steps {
            for m_tile in 0..m_tiles {
                for n_tile in 0..n_tiles {
                    let a = self.operand_step(&mut lhs, 4, step + steps * m_tile, k);
                    let b = self.operand_step(&mut rhs, 2, step + steps * n_tile, k);
                    let at = 4 * (n_tile + n_tiles * m_tile);
                    // f8 without an instruction of its own is two products of f16: the halves of each register,
                    // which pairs the same positions of K on both sides.
                    for part in 0..a[0].len() {
                        let a: Vec<Val> = a.iter().map(|r| r[part]).collect();
                        let b: Vec<Val> = b.iter().map(|r| r[part]).collect();
                        let result = self.multiply(dtype, &a, &b, &sums[at..at + 4]);
                        sums[at..at + 4].copy_from_slice(&result);
                    }
                }
            }
        }
        self.set_result(op, Lowered::Tile(Tile::new(DType::F32, &acc.layout, sums)));
        Ok(())
    }

    /// Prepares to read an operand in its fragment layout.
    pub(super) fn operand(
        &mut self,
        op: Op,
        operand: MmaOperand<'c>,
        layout: crate::layout::LinearLayout,
        dtype: DType,
        prefer: &[usize],
        half_bit: usize,
    ) -> Result<Operand<'c>, LowerError> {
        let source = match operand {
            MmaOperand::Registers(tile) => {
                let tile = self.tile(op, tile)?;
                if *tile.layout != layout || tile.dtype != dtype {
                    return Err(internal(op, "an operand is not in its fragment layout"));
                }
                Source::Registers(match &tile.registers {
                    Registers::Elements(elements) if packing(dtype) == 1 => {
                        elements.iter().map(|&x| pack(&mut self.e, &[x], dtype)).collect::<Vec<_>>().into()
                    }
                    _ => tile.packed_registers(&mut self.e),
                })
            }
            MmaOperand::Shared { smem, slot, transposed } => {
                let shared = self.shared(op, smem)?;
                let base = self.slot_base(op, &shared, slot)?;
                let mut shape = shared.shape();
                if transposed {
                    shape.reverse();
                }
                if shared.dtype != dtype || layout.shape != shape {
                    return Err(internal(op, "an operand in shared memory of another shape or dtype"));
                }
                Source::Shared(self.fragment(&shared, base, &Rc::new(layout), transposed, prefer))
            }
        };
        Ok(Operand { source, dtype, ready: HashMap::new(), half_bit })
    }

    /// The `count` registers of piece `piece` of an operand, as the instruction takes them.
    pub(super) fn operand_step(
        &mut self,
        operand: &mut Operand<'c>,
        count: usize,
        piece: usize,
        k: usize,
    ) -> Vec<Vec<Val<'c>>> {
        (0..count)
            .map(|i| {
                let number = piece * count + i;
                if let Some(ready) = operand.ready.get(&number) {
                    return ready.clone();
                }
                let register = match &mut operand.source {
                    Source::Registers(registers) => registers[number],
                    Source::Shared(fragment) => self.fragment_register(fragment, number),
                };
                let second_half = i >> operand.half_bit & 1 == 1;
                let register = self.clear_beyond(register, operand.dtype, k, second_half);
                let ready = self.ready(register, operand.dtype);
                operand.ready.insert(number, ready.clone());
                ready
            })
            .collect()
    }

    /// Zeros the positions past `k` of a register, where the layout repeats elements.
    fn clear_beyond(&mut self, register: Val<'c>, dtype: DType, k: usize, second_half: bool) -> Val<'c> {
        let depth = mma::depth(dtype).unwrap_or(k);
        if k >= depth {
            return register;
        }
        let elems = packing(dtype);
        let e = &mut self.e;
        if second_half && depth / 2 >= k {
            return e.i32(0);
        }
        let mut register = register;
        if elems > k {
            register = e.and_const(register, (1i64 << (k * dtype.bits() as usize)) - 1);
        }
        let beyond = (0..2).filter(|bit| elems << bit >= k).map(|bit| 1 << bit).sum();
        if let Some(within) = e.threads_without(beyond, 0) {
            let zero = e.i32(0);
            register = e.select(within, register, zero);
        }
        register
    }

    /// A register as the instruction takes it.
    fn ready(&mut self, register: Val<'c>, dtype: DType) -> Vec<Val<'c>> {
        let e = &mut self.e;
        match dtype {
            DType::F16 => vec![e.convert("llvm.bitcast", register, e.types.f16x2)],
            DType::F32 => {
                let float = e.convert("llvm.bitcast", register, e.types.f32);
                vec![e.call("llvm.nvvm.f2tf32.rna", &[float], e.types.i32)]
            }
            DType::F8E4M3FN if !e.target.has_fp8_mma_sync() => f8_register_to_half_pairs(e, register)
                .map(|pair| e.convert("llvm.bitcast", pair, e.types.f16x2))
                .to_vec(),
            _ => vec![register],
        }
    }

    /// One instruction's product: registers of lhs, rhs and accumulator.
    pub(super) fn multiply(
        &mut self,
        dtype: DType,
        a: &[Val<'c>],
        b: &[Val<'c>],
        c: &[Val<'c>],
    ) -> Vec<Val<'c>> {
        let e = &mut self.e;
        let name = match dtype {
            DType::F32 => "llvm.nvvm.mma.m16n8k8.row.col.tf32",
            DType::BF16 => "llvm.nvvm.mma.m16n8k16.row.col.bf16",
            DType::F8E4M3FN if e.target.has_fp8_mma_sync() => {
                "llvm.nvvm.mma.m16n8k32.row.col.f32.e4m3.e4m3.f32"
            }
            _ => "llvm.nvvm.mma.m16n8k16.row.col.f32.f32",
        };
        let ty = e.struct_type(e.types.f32, 4);
        let result = e.call(name, &[a, b, c].concat(), ty);
        (0..4).map(|i| e.extract_value(result, i, e.types.f32)).collect()
    }
}
