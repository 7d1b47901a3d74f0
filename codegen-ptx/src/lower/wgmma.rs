//! Products by `wgmma`: operands from shared memory through descriptors, accumulators in registers.
//!
//! Each 64 rows of a warpgroup are one asm statement: fence, one instruction a step of K, and in the last one the
//! commit. The accumulators are its tied operands, and again those of the statement that waits, so that nothing
//! reads or moves them in between; the assembler would otherwise wait after each instruction. An lhs in registers is
//! read until the wait (PTX ISA, `wgmma.mma_async`), which nothing but that statement tells the assembler: it takes
//! these registers, too, so that nothing else gets them before.

use super::value::{Lowered, Registers, Tile};
use super::{Lowering, internal};
use crate::error::LowerError;
use crate::gpu::ops::MmaOperand;
use crate::layout::{mma, wgmma};
use melior::ir::ValueLike;
use std::rc::Rc;
use tile_ir::types::{Op, Val, results_of};
use tile_lang::dtype::DType;

/// An operand in shared memory.
struct Described<'c> {
    operand: wgmma::Operand,
    /// The descriptor of the slot where this warpgroup's part starts, i64.
    start: Val<'c>,
}

/// Where an lhs is.
enum Lhs<'c> {
    Registers(Rc<[Val<'c>]>),
    Shared(Described<'c>),
}

impl<'c> Lowering<'c> {
    pub(super) fn lower_wgmma(
        &mut self,
        op: Op<'c>,
        lhs: MmaOperand<'c>,
        (rhs, k_first): (MmaOperand<'c>, usize),
        acc: Val<'c>,
        groups: [usize; 2],
    ) -> Result<(), LowerError> {
        let acc = self.tile(op, acc)?;
        let &[m, n] = &acc.layout.shape[..] else {
            return Err(internal(op, "the accumulator is not a matrix"));
        };
        if acc.dtype != DType::F32 || *acc.layout != wgmma::acc(m, n, groups) {
            return Err(internal(op, "the accumulator is not in its fragment layout"));
        }
        let MmaOperand::Shared { smem, transposed, .. } = rhs else {
            return Err(internal(op, "the rhs is not in shared memory"));
        };
        let shared = self.shared(op, smem)?;
        let dtype = shared.dtype;
        let depth =
            mma::depth(dtype).ok_or_else(|| internal(op, "operands that tensor cores do not multiply"))?;
        let (rows, cols) = (m / groups[0], n / groups[1]);
        let column_bits = groups[1].trailing_zeros() as usize;
        let rhs_k = if transposed { shared.layout.cols } else { shared.layout.rows };
        let rhs = self.described(op, rhs, (transposed, cols), (2, column_bits))?;
        let mut k = rhs_k;
        let lhs = match lhs {
            MmaOperand::Registers(tile) => {
                let tile = self.tile(op, tile)?;
                k = tile.layout.shape.last().copied().unwrap_or(0);
                if *tile.layout != wgmma::lhs(m, k, groups, dtype) || tile.dtype != dtype {
                    return Err(internal(op, "the lhs is not in its fragment layout"));
                }
                let registers = tile.packed_registers(&mut self.e);
                let result = results_of(op).first().copied().ok_or_else(|| internal(op, "no result"))?;
                self.read_in_flight.insert(result.to_raw().ptr as usize, Rc::clone(&registers));
                Lhs::Registers(registers)
            }
            MmaOperand::Shared { transposed, .. } => {
                let row_bits = groups[0].trailing_zeros() as usize;
                Lhs::Shared(self.described(op, lhs, (!transposed, rows), (2 + column_bits, row_bits))?)
            }
        };

        let mut sums = acc.elements(&mut self.e).to_vec();
        let zero = self.e.f32(0.0);
        let from_zero = sums.iter().all(|&s| s == zero);
        let (steps, blocks, count) = (k / depth, rows / wgmma::M, cols / 2);
        for block in 0..blocks {
            let mut statement = Statement::new(count, dtype, cols, from_zero);
            for step in 0..steps {
                let b = self.descriptor(&rhs, 0, k_first + step * depth);
                match &lhs {
                    Lhs::Registers(registers) => {
                        let first = 4 * (step + steps * block);
                        statement.step(&registers[first..first + 4], b, (true, rhs.operand.k_major));
                    }
                    Lhs::Shared(described) => {
                        let a = self.descriptor(described, block * wgmma::M, step * depth);
                        statement.step(&[a], b, (described.operand.k_major, rhs.operand.k_major));
                    }
                }
            }
            let registers = &mut sums[block * count..(block + 1) * count];
            let (text, constraints, inputs) = statement.finish(block + 1 == blocks);
            let tied: &[Val] = if from_zero { &[] } else { registers };
            let operands: Vec<Val> = tied.iter().chain(&inputs).copied().collect();
            let results = self.e.asm(&text, &constraints, &operands, &vec![self.e.types.f32; count]);
            registers.copy_from_slice(&results);
        }
        self.set_result(op, Lowered::Tile(Tile::new(DType::F32, &acc.layout, sums)));
        Ok(())
    }

    /// Prepares an operand in shared memory, of which a warpgroup reads `extent` rows or columns; which ones, the
    /// `bits` of the warp's number say, from bit `first` on.
    fn described(
        &mut self,
        op: Op,
        operand: MmaOperand<'c>,
        (k_major, extent): (bool, usize),
        (first, bits): (usize, usize),
    ) -> Result<Described<'c>, LowerError> {
        let MmaOperand::Shared { smem, slot, .. } = operand else {
            return Err(internal(op, "an operand is not in shared memory"));
        };
        let shared = self.shared(op, smem)?;
        let operand = wgmma::Operand::new(shared.layout, shared.dtype, k_major, extent)
            .ok_or_else(|| internal(op, "no descriptor describes an operand"))?;
        let mut address = self.slot_base(op, &shared, slot)?;
        for bit in 0..bits {
            let distance = operand.offset(extent << bit, 0);
            let e = &mut self.e;
            let part = e.in_prologue(|e| {
                let warp = e.uniform_warp();
                let set = e.shift(warp, -((first + bit) as i32));
                let set = e.and_const(set, 1);
                let distance = e.i32(distance as i64);
                e.mul(set, distance)
            });
            address = e.add(address, part);
        }
        // In a cluster, addresses have the CTA's rank above the bits that a descriptor has room for.
        let e = &mut self.e;
        let field = e.shift(address, -4);
        let field = e.and_const(field, wgmma::ADDRESS_MASK);
        let field = e.convert("llvm.zext", field, e.types.i64);
        let rest = e.int(operand.descriptor as i64, e.types.i64);
        Ok(Described { operand, start: e.binary("llvm.or", field, rest) })
    }

    /// The descriptor of the part that starts `other` rows or columns and `k` steps into the warpgroup's.
    fn descriptor(&mut self, described: &Described<'c>, other: usize, k: usize) -> Val<'c> {
        let distance = (described.operand.offset(other, k) >> 4) as i64;
        let distance = self.e.int(distance, self.e.types.i64);
        self.e.add(described.start, distance)
    }

    /// The tiles in flight, handed on.
    pub(super) fn lower_wgmma_wait(
        &mut self,
        op: Op<'c>,
        tiles: &[Val<'c>],
        pending: usize,
    ) -> Result<(), LowerError> {
        let read = tiles.iter().filter_map(|t| self.read_in_flight.remove(&(t.to_raw().ptr as usize)));
        let read: Vec<Val> = read.flat_map(|registers| registers.to_vec()).collect();
        let tiles = tiles.iter().map(|&t| self.tile(op, t)).collect::<Result<Vec<_>, _>>()?;
        let registers: Vec<Val> = tiles
            .iter()
            .flat_map(|tile| match &tile.registers {
                Registers::Elements(r) | Registers::Packed(r) | Registers::Nibbles(r, _) => r.iter().copied(),
            })
            .chain(read)
            .collect();
        let types: Vec<_> = registers.iter().map(|r| r.r#type()).collect();
        let code = |ty| if ty == self.e.types.f32 { "=f" } else { "=r" };
        let outputs = types.iter().map(|&ty| code(ty).to_owned());
        let inputs = (0..registers.len()).map(|i| i.to_string());
        let constraints: Vec<String> = outputs.chain(inputs).chain(["~{memory}".to_owned()]).collect();
        let text = format!("wgmma.wait_group.sync.aligned {pending};");
        let results = self.e.asm(&text, &constraints.join(","), &registers, &types);
        let mut results = results.into_iter();
        for (tile, result) in tiles.into_iter().zip(results_of(op)) {
            let mut take = |count: usize| results.by_ref().take(count).collect::<Vec<_>>().into();
            let registers = match &tile.registers {
                Registers::Elements(r) => Registers::Elements(take(r.len())),
                Registers::Packed(r) => Registers::Packed(take(r.len())),
                Registers::Nibbles(r, places) => Registers::Nibbles(take(r.len()), Rc::clone(places)),
            };
            self.set(result, Lowered::Tile(Tile { registers, ..tile }));
        }
        Ok(())
    }
}

/// The asm statement of one block of rows.
struct Statement<'c> {
    text: String,
    inputs: Vec<Val<'c>>,
    constraints: Vec<String>,
    accumulators: String,
    instruction: String,
    /// Operands before the inputs: the accumulators, twice where they are tied.
    before: usize,
    from_zero: bool,
    /// The instruction says of each operand whether it is transposed.
    says_transposed: bool,
}

impl<'c> Statement<'c> {
    /// A statement of no steps yet, on `count` accumulators, which start at zero or are added to.
    fn new(count: usize, dtype: DType, cols: usize, from_zero: bool) -> Statement<'c> {
        let (name, depth) = match dtype {
            DType::F16 => ("f16", 16),
            DType::BF16 => ("bf16", 16),
            DType::F8E4M3FN => ("e4m3", 32),
            _ => ("tf32", 8),
        };
        let list: Vec<String> = (0..count).map(|i| format!("${i}")).collect();
        let output = if from_zero { "=&f" } else { "=f" };
        let mut constraints = vec![output.to_owned(); count];
        if !from_zero {
            constraints.extend((0..count).map(|i| i.to_string()));
        }
        let start = if from_zero { "setp.ne.b32 p, 0, 0; " } else { "setp.eq.b32 p, 0, 0; " };
        Statement {
            text: format!("{{ .reg .pred p; {start}wgmma.fence.sync.aligned; "),
            inputs: Vec::new(),
            before: constraints.len(),
            constraints,
            accumulators: list.join(", "),
            instruction: format!("wgmma.mma_async.sync.aligned.m64n{cols}k{depth}.f32.{name}.{name}"),
            from_zero,
            says_transposed: dtype.bits() == 16,
        }
    }

    fn input(&mut self, value: Val<'c>, code: &str) -> String {
        self.inputs.push(value);
        self.constraints.push(code.to_owned());
        format!("${}", self.before + self.inputs.len() - 1)
    }

    /// Adds a step of K: a descriptor or the four registers of the lhs, the descriptor of the rhs, and which of the
    /// two are K-major.
    fn step(&mut self, lhs: &[Val<'c>], rhs: Val<'c>, (lhs_k_major, rhs_k_major): (bool, bool)) {
        let is_first = self.inputs.is_empty();
        let in_registers = lhs.len() > 1;
        let a = if in_registers {
            let list: Vec<String> = lhs.iter().map(|&r| self.input(r, "r")).collect();
            format!("{{{}}}", list.join(", "))
        } else {
            self.input(lhs[0], "l")
        };
        let b = self.input(rhs, "l");
        let (instruction, accumulators) = (&self.instruction, &self.accumulators);
        let mut text = format!("{instruction} {{{accumulators}}}, {a}, {b}, p, 1, 1");
        if self.says_transposed {
            if !in_registers {
                text += if lhs_k_major { ", 0" } else { ", 1" };
            }
            text += if rhs_k_major { ", 0" } else { ", 1" };
        }
        text += "; ";
        if is_first && self.from_zero {
            text += "setp.eq.b32 p, 0, 0; ";
        }
        self.text += &text;
    }

    /// Text, constraints and inputs; `commit` closes the group.
    fn finish(mut self, commit: bool) -> (String, String, Vec<Val<'c>>) {
        if commit {
            self.text += "wgmma.commit_group.sync.aligned; ";
        }
        self.constraints.push("~{memory}".to_owned());
        (self.text + "}", self.constraints.join(","), self.inputs)
    }
}
