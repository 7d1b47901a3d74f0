//! Products of 4-bit operands with block scales, one instruction for each 16x8 piece of the accumulator and 64
//! steps of K.

use super::narrow::{to_half, widen_nibble_pair};
use super::value::{Lowered, Tile};
use super::{Lowering, internal};
use crate::error::LowerError;
use crate::gpu::ops::MmaOperand;
use crate::layout::mma;
use tile_ir::types::{Op, Val};
use tile_lang::dtype::DType;

/// The instruction: accumulator, lhs, rhs, accumulator, then the scales of each side with the lanes and bytes that
/// supply them.
const INSTRUCTION: &str = "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue4m3 \
     {$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13}, {$14}, {0, 0}, {$15}, {0, 0};";
const CONSTRAINTS: &str = "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f,r,r";

impl<'c> Lowering<'c> {
    pub(super) fn lower_mma_scaled_sync(
        &mut self,
        op: Op<'c>,
        [lhs, rhs]: [MmaOperand<'c>; 2],
        scales: [Val<'c>; 2],
        acc: Val<'c>,
        warps: [usize; 2],
    ) -> Result<(), LowerError> {
        if !self.e.target.has_block_scaled_mma() {
            return Err(internal(op, "the target has no product with block scales"));
        }
        let acc = self.tile(op, acc)?;
        let [of_lhs, of_rhs] = [self.tile(op, scales[0])?, self.tile(op, scales[1])?];
        let (&[m, n], &[_, groups]) = (&acc.layout.shape[..], &of_lhs.layout.shape[..]) else {
            return Err(internal(op, "the operands are not matrices"));
        };
        let (dtype, k) = (DType::F4E2M1FN, groups * mma::SCALED_GROUP);
        let steps = k.div_ceil(64);
        let rhs_prefer = [0, 1 + steps.trailing_zeros() as usize];
        let mut lhs = self.operand(op, lhs, mma::lhs(m, k, warps, dtype), dtype, &[0, 1], 1)?;
        let mut rhs = self.operand(op, rhs, mma::rhs(k, n, warps, dtype), dtype, &rhs_prefer, 0)?;
        let (of_lhs, of_rhs) = (of_lhs.packed_registers(&mut self.e), of_rhs.packed_registers(&mut self.e));

        let mut sums: Vec<Val> = acc.elements(&mut self.e).to_vec();
        let n_tiles = (n / warps[1]).max(mma::N) / mma::N;
        let m_tiles = sums.len() / 4 / n_tiles;
        for step in 0..steps {
            for m_tile in 0..m_tiles {
                for n_tile in 0..n_tiles {
                    let (a_at, b_at) = (step + steps * m_tile, step + steps * n_tile);
                    let a: Vec<Val> = self.operand_step(&mut lhs, 4, a_at, k).concat();
                    let b: Vec<Val> = self.operand_step(&mut rhs, 2, b_at, k).concat();
                    let at = 4 * (n_tile + n_tiles * m_tile);
                    let scales = [of_lhs[a_at], of_rhs[b_at]];
                    let result = self.multiply_scaled(&a, &b, &sums[at..at + 4], scales);
                    sums[at..at + 4].copy_from_slice(&result);
                }
            }
        }
        self.set_result(op, Lowered::Tile(Tile::new(DType::F32, &acc.layout, sums)));
        Ok(())
    }

    fn multiply_scaled(
        &mut self,
        a: &[Val<'c>],
        b: &[Val<'c>],
        c: &[Val<'c>],
        scales: [Val<'c>; 2],
    ) -> Vec<Val<'c>> {
        if self.e.target.emulates_block_scaled_mma() {
            return self.emulate_scaled(a, b, c, scales);
        }
        let results = [self.e.types.f32; 4];
        self.e.pure_asm_values(INSTRUCTION, CONSTRAINTS, &[a, b, c, &scales].concat(), &results)
    }
}

/// The instruction's effect by other instructions, written from the ISA's tables. It takes the place of the
/// instruction in a build for a GPU that lacks it, so that all around it can be run there.
///
/// Register `i` of an operand holds, in lane `4 g + t`, positions `8 t` to `8 t + 7` of K, and from `i / 2 = 1` (the
/// lhs) or `i = 1` (the rhs) on those 32 further: of row `g`, for odd `i` of the lhs `g + 8`, or of column `g`. Group
/// `j` of 16 positions has byte `j` of the scales, which lanes `4 g` and, for row `g + 8`, `4 g + 1` hold. Scaled f16
/// elements are exact, and four products of 16 positions of K each, in any order, add up to the one of 64.
impl<'c> Lowering<'c> {
    fn emulate_scaled(
        &mut self,
        a: &[Val<'c>],
        b: &[Val<'c>],
        c: &[Val<'c>],
        scales: [Val<'c>; 2],
    ) -> Vec<Val<'c>> {
        let of_rows = [0, 1].map(|odd| self.word_of_quad(scales[0], odd));
        let of_column = self.word_of_quad(scales[1], 0);
        let mut sums = c.to_vec();
        for half in 0..2 {
            let rows = [0, 1].map(|i| self.scaled_pairs(a[2 * half + i], of_rows[i], half));
            let column = self.scaled_pairs(b[half], of_column, half);
            for pair in [0, 2] {
                let a = [rows[0][pair], rows[1][pair], rows[0][pair + 1], rows[1][pair + 1]];
                sums = self.multiply(DType::F16, &a, &column[pair..pair + 2], &sums);
            }
        }
        sums
    }

    /// What lane `number` of this lane's four holds.
    fn word_of_quad(&mut self, word: Val<'c>, number: i64) -> Val<'c> {
        let lane = self.e.lane();
        let e = &mut self.e;
        let lane = e.in_prologue(|e| {
            let first = e.and_const(lane, !3);
            let number = e.i32(number);
            e.binary("llvm.or", first, number)
        });
        let (all, clamp) = (e.i32(-1), e.i32(31));
        e.call("llvm.nvvm.shfl.sync.idx.i32", &[all, word, lane, clamp], e.types.i32)
    }

    /// The eight elements of a register times their scale, as four pairs of f16.
    fn scaled_pairs(&mut self, register: Val<'c>, scales: Val<'c>, half: usize) -> Vec<Val<'c>> {
        let lane = self.e.lane();
        let e = &mut self.e;
        // Lanes with t of 0 and 1 hold the first group of the half, the others the second.
        let distance = e.in_prologue(|e| {
            let second = e.and_const(lane, 2);
            e.shift(second, 2)
        });
        let of_half = e.shift(scales, -16 * half as i32);
        let moved = e.binary("llvm.lshr", of_half, distance);
        let byte = e.convert("llvm.trunc", moved, e.types.i8);
        let scale = to_half(e, byte, DType::F8E4M3FN);
        let scale = e.vector(&[scale, scale], e.types.f16x2);
        (0..4)
            .map(|pair| {
                let wide = widen_nibble_pair(e, &[register], [2 * pair, 2 * pair + 1], DType::F16, None);
                let wide = e.convert("llvm.bitcast", wide, e.types.f16x2);
                e.binary("llvm.fmul", wide, scale)
            })
            .collect()
    }
}
