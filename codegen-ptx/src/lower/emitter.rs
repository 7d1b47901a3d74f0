//! Writes operations of the LLVM dialect, one thread's instructions.

use crate::target::Target;
use melior::Context;
use melior::ir::attribute::{
    DenseI32ArrayAttribute, DenseI64ArrayAttribute, FloatAttribute, IntegerAttribute, StringAttribute,
    TypeAttribute,
};
use melior::ir::operation::{OperationBuilder, OperationLike};
use melior::ir::r#type::IntegerType;
use melior::ir::{
    Attribute, Block, BlockLike, Identifier, Location, RegionLike, RegionRef, Type, TypeLike, ValueLike,
};
use std::collections::HashMap;
use tile_ir::types::{Blk, Val};
use tile_lang::dtype::DType;

/// The LLVM types in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Types<'c> {
    pub i1: Type<'c>,
    pub i8: Type<'c>,
    pub i16: Type<'c>,
    pub i32: Type<'c>,
    pub i64: Type<'c>,
    pub f16: Type<'c>,
    pub bf16: Type<'c>,
    pub f32: Type<'c>,
    pub f16x2: Type<'c>,
    pub bf16x2: Type<'c>,
}

impl<'c> Types<'c> {
    fn new(context: &'c Context) -> Types<'c> {
        let int = |bits| IntegerType::new(context, bits).into();
        let (f16, bf16) = (Type::float16(context), Type::bfloat16(context));
        Types {
            i1: int(1),
            i8: int(8),
            i16: int(16),
            i32: int(32),
            i64: int(64),
            f16,
            bf16,
            f32: Type::float32(context),
            f16x2: Type::vector(&[2], f16),
            bf16x2: Type::vector(&[2], bf16),
        }
    }

    /// How an element is held in a register of its own; f8 and f4 as bytes, sizes as 32 bits.
    pub fn element(&self, dtype: DType) -> Type<'c> {
        match dtype {
            DType::F32 => self.f32,
            DType::F16 => self.f16,
            DType::BF16 => self.bf16,
            DType::I32 | DType::Index => self.i32,
            DType::I64 => self.i64,
            DType::Bool => self.i1,
            DType::F8E4M3FN | DType::F4E2M1FN => self.i8,
        }
    }
}

/// A number linear in the bits of lane and warp, and the bits of it that can be set.
#[derive(Clone, Copy, Debug)]
pub(super) struct ThreadValue<'c> {
    pub value: Val<'c>,
    pub mask: u32,
}

/// The place where operations are added, and what was added once for all.
pub(super) struct Emitter<'c> {
    pub context: &'c Context,
    pub location: Location<'c>,
    pub types: Types<'c>,
    pub target: &'static Target,
    /// Runs once, before everything: constants and what depends on the thread alone.
    prologue: Blk<'c>,
    region: RegionRef<'c, 'c>,
    block: Blk<'c>,
    constants: HashMap<(usize, u64), Val<'c>>,
    known: HashMap<usize, i64>,
    linear: HashMap<(Vec<u32>, Vec<u32>), ThreadValue<'c>>,
    pub lane: Option<Val<'c>>,
    pub warp: Option<Val<'c>>,
    uniform_warp: Option<Val<'c>>,
    /// Threads that a barrier is for, where that is not the whole CTA.
    pub barrier_threads: Option<usize>,
    contract: (Identifier<'c>, Attribute<'c>),
    no_wrap: (Identifier<'c>, Attribute<'c>),
}

impl<'c> Emitter<'c> {
    /// An emitter into a function whose entry block is `prologue`.
    pub fn new(
        context: &'c Context,
        target: &'static Target,
        region: RegionRef<'c, 'c>,
        prologue: Blk<'c>,
    ) -> Emitter<'c> {
        let parse = |text| Attribute::parse(context, text).expect("an attribute of the LLVM dialect");
        let mut emitter = Emitter {
            context,
            location: Location::unknown(context),
            types: Types::new(context),
            target,
            prologue,
            region,
            block: prologue,
            constants: HashMap::new(),
            known: HashMap::new(),
            linear: HashMap::new(),
            lane: None,
            warp: None,
            uniform_warp: None,
            barrier_threads: None,
            contract: (Identifier::new(context, "fastmathFlags"), parse("#llvm.fastmath<contract>")),
            no_wrap: (Identifier::new(context, "overflowFlags"), parse("#llvm.overflow<nsw>")),
        };
        emitter.block = emitter.add_block(&[]);
        emitter
    }

    /// Closes the prologue; nothing may be emitted after it.
    pub fn finish(&mut self, body: Blk<'c>) {
        self.block = self.prologue;
        self.branch(body, &[]);
    }

    /// The block that operations are added to.
    pub fn block(&self) -> Blk<'c> {
        self.block
    }

    /// Adds operations to `block` from now on.
    pub fn switch_to(&mut self, block: Blk<'c>) {
        self.block = block;
    }

    /// Adds a block to the function.
    pub fn add_block(&mut self, arguments: &[Type<'c>]) -> Blk<'c> {
        let arguments: Vec<_> = arguments.iter().map(|&t| (t, self.location)).collect();
        self.region.append_block(Block::new(&arguments))
    }

    /// Emits into the prologue, whose values are available everywhere.
    pub fn in_prologue<T>(&mut self, emit: impl FnOnce(&mut Self) -> T) -> T {
        let block = std::mem::replace(&mut self.block, self.prologue);
        let result = emit(self);
        self.block = block;
        result
    }

    /// Adds an operation.
    pub fn op(
        &mut self,
        name: &str,
        operands: &[Val<'c>],
        attributes: &[(Identifier<'c>, Attribute<'c>)],
        results: &[Type<'c>],
        successors: &[Blk<'c>],
    ) -> Option<Val<'c>> {
        let successors: Vec<&Block> = successors.iter().map(|b| &**b).collect();
        let operation = OperationBuilder::new(name, self.location)
            .add_operands(operands)
            .add_attributes(attributes)
            .add_results(results)
            .add_successors(&successors)
            .build()
            .expect("an operation of the LLVM dialect");
        let operation = self.block.append_operation(operation);
        operation.results().next().map(Into::into)
    }

    fn value(
        &mut self,
        name: &str,
        operands: &[Val<'c>],
        attributes: &[(Identifier<'c>, Attribute<'c>)],
        result: Type<'c>,
    ) -> Val<'c> {
        self.op(name, operands, attributes, &[result], &[]).expect("one result")
    }

    /// A one-word name for an attribute.
    pub fn id(&self, name: &str) -> Identifier<'c> {
        Identifier::new(self.context, name)
    }

    /// An integer of a type.
    pub fn int(&mut self, value: i64, ty: Type<'c>) -> Val<'c> {
        let key = (ty.to_raw().ptr as usize, value as u64);
        if let Some(&constant) = self.constants.get(&key) {
            return constant;
        }
        let attribute = IntegerAttribute::new(ty, value).into();
        let constant = self.constant(attribute, ty);
        self.constants.insert(key, constant);
        self.known.insert(constant.to_raw().ptr as usize, value);
        constant
    }

    /// A 32-bit integer.
    pub fn i32(&mut self, value: i64) -> Val<'c> {
        self.int(value, self.types.i32)
    }

    /// A float of a type.
    pub fn float(&mut self, value: f64, ty: Type<'c>) -> Val<'c> {
        let key = (ty.to_raw().ptr as usize, value.to_bits());
        if let Some(&constant) = self.constants.get(&key) {
            return constant;
        }
        let attribute = FloatAttribute::new(self.context, ty, value).into();
        let constant = self.constant(attribute, ty);
        self.constants.insert(key, constant);
        constant
    }

    /// An f32.
    pub fn f32(&mut self, value: f64) -> Val<'c> {
        self.float(value, self.types.f32)
    }

    /// Zero of a type, integer or float.
    pub fn zero(&mut self, ty: Type<'c>) -> Val<'c> {
        if ty.is_integer() { self.int(0, ty) } else { self.float(0.0, ty) }
    }

    fn constant(&mut self, attribute: Attribute<'c>, ty: Type<'c>) -> Val<'c> {
        let name = self.id("value");
        self.in_prologue(|e| e.value("llvm.mlir.constant", &[], &[(name, attribute)], ty))
    }

    /// The value of an integer constant.
    pub fn known(&self, value: Val<'c>) -> Option<i64> {
        self.known.get(&(value.to_raw().ptr as usize)).copied()
    }

    /// A two-operand operation without attributes: `llvm.and`.
    pub fn binary(&mut self, name: &str, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.value(name, &[a, b], &[], a.r#type())
    }

    /// A two-operand float operation that may be fused: `llvm.fadd`.
    pub fn float_binary(&mut self, name: &str, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let contract = self.contract;
        self.value(name, &[a, b], &[contract], a.r#type())
    }

    /// Integer addition that does not overflow.
    pub fn add(&mut self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        match (self.known(a), self.known(b)) {
            (Some(0), _) => b,
            (_, Some(0)) => a,
            (Some(x), Some(y)) => self.int(x + y, a.r#type()),
            _ => {
                let no_wrap = self.no_wrap;
                self.value("llvm.add", &[a, b], &[no_wrap], a.r#type())
            }
        }
    }

    /// Integer subtraction that does not overflow.
    pub fn sub(&mut self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        match (self.known(a), self.known(b)) {
            (_, Some(0)) => a,
            (Some(x), Some(y)) => self.int(x - y, a.r#type()),
            _ => {
                let no_wrap = self.no_wrap;
                self.value("llvm.sub", &[a, b], &[no_wrap], a.r#type())
            }
        }
    }

    /// Integer multiplication that does not overflow.
    pub fn mul(&mut self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        match (self.known(a), self.known(b)) {
            (Some(0), _) | (_, Some(1)) => a,
            (_, Some(0)) | (Some(1), _) => b,
            (Some(x), Some(y)) => self.int(x * y, a.r#type()),
            _ => {
                let no_wrap = self.no_wrap;
                self.value("llvm.mul", &[a, b], &[no_wrap], a.r#type())
            }
        }
    }

    /// Bitwise and with a constant.
    pub fn and_const(&mut self, a: Val<'c>, mask: i64) -> Val<'c> {
        let mask = self.int(mask, a.r#type());
        self.binary("llvm.and", a, mask)
    }

    /// XOR with a constant.
    pub fn xor_const(&mut self, a: Val<'c>, b: u32) -> Val<'c> {
        match (self.known(a), b) {
            (_, 0) => a,
            (Some(x), _) => self.int(x ^ i64::from(b), a.r#type()),
            _ => {
                let b = self.int(b.into(), a.r#type());
                self.binary("llvm.xor", a, b)
            }
        }
    }

    /// Shift left by a constant, right when negative; zeros come in.
    pub fn shift(&mut self, a: Val<'c>, left: i32) -> Val<'c> {
        if left == 0 {
            return a;
        }
        let amount = self.int(left.unsigned_abs().into(), a.r#type());
        self.binary(if left > 0 { "llvm.shl" } else { "llvm.lshr" }, a, amount)
    }

    /// Integer comparison, predicates as the LLVM dialect numbers them.
    pub fn icmp(&mut self, predicate: Cmp, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.compare("llvm.icmp", predicate as i64, a, b)
    }

    /// A comparison by name and predicate number.
    pub fn compare(&mut self, name: &str, predicate: i64, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let attribute = (self.id("predicate"), IntegerAttribute::new(self.types.i64, predicate).into());
        self.value(name, &[a, b], &[attribute], self.types.i1)
    }

    /// Both hold; `None` stands for true.
    pub fn both(&mut self, a: Option<Val<'c>>, b: Option<Val<'c>>) -> Option<Val<'c>> {
        match (a, b) {
            (Some(a), Some(b)) => Some(self.binary("llvm.and", a, b)),
            (a, b) => a.or(b),
        }
    }

    /// `condition ? a : b`.
    pub fn select(&mut self, condition: Val<'c>, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.value("llvm.select", &[condition, a, b], &[], a.r#type())
    }

    /// A conversion: `llvm.zext`, `llvm.bitcast`, `llvm.fpext`.
    pub fn convert(&mut self, name: &str, a: Val<'c>, ty: Type<'c>) -> Val<'c> {
        if a.r#type() == ty && name != "llvm.fptrunc" {
            return a;
        }
        if let (Some(x @ 0..), "llvm.sext" | "llvm.zext") = (self.known(a), name) {
            return self.int(x, ty);
        }
        self.value(name, &[a], &[], ty)
    }

    /// A signed 32-bit number as 64 bits.
    pub fn widen(&mut self, a: Val<'c>) -> Val<'c> {
        self.convert("llvm.sext", a, self.types.i64)
    }

    /// The element `index` of a vector.
    pub fn extract_element(&mut self, vector: Val<'c>, index: i64, ty: Type<'c>) -> Val<'c> {
        let index = self.i32(index);
        self.value("llvm.extractelement", &[vector, index], &[], ty)
    }

    /// A vector with the given elements.
    pub fn vector(&mut self, elements: &[Val<'c>], ty: Type<'c>) -> Val<'c> {
        let mut vector = self.value("llvm.mlir.poison", &[], &[], ty);
        for (i, &element) in elements.iter().enumerate() {
            let index = self.i32(i as i64);
            vector = self.value("llvm.insertelement", &[vector, element, index], &[], ty);
        }
        vector
    }

    /// The member `index` of a struct.
    pub fn extract_value(&mut self, aggregate: Val<'c>, index: i64, ty: Type<'c>) -> Val<'c> {
        let position = DenseI64ArrayAttribute::new(self.context, &[index]).into();
        let id = self.id("position");
        self.value("llvm.extractvalue", &[aggregate], &[(id, position)], ty)
    }

    /// A struct type of members of one type.
    pub fn struct_type(&self, member: Type<'c>, count: usize) -> Type<'c> {
        melior::dialect::llvm::r#type::r#struct(self.context, &vec![member; count], false)
    }

    /// Calls an LLVM intrinsic by its full name.
    pub fn intrinsic(
        &mut self,
        name: &str,
        operands: &[Val<'c>],
        result: Option<Type<'c>>,
    ) -> Option<Val<'c>> {
        let segments = DenseI32ArrayAttribute::new(self.context, &[operands.len() as i32, 0]).into();
        let bundles = DenseI32ArrayAttribute::new(self.context, &[]).into();
        let attributes = [
            (self.id("intrin"), StringAttribute::new(self.context, name).into()),
            (self.id("operandSegmentSizes"), segments),
            (self.id("op_bundle_sizes"), bundles),
        ];
        self.op("llvm.call_intrinsic", operands, &attributes, result.as_slice(), &[])
    }

    /// An intrinsic with a result.
    pub fn call(&mut self, name: &str, operands: &[Val<'c>], result: Type<'c>) -> Val<'c> {
        self.intrinsic(name, operands, Some(result)).expect("one result")
    }

    /// Inline PTX that touches memory or synchronizes: neither moved nor removed.
    ///
    /// `$0`, `$1`, .. are the results, then the operands. Several results come as a list.
    pub fn asm(
        &mut self,
        text: &str,
        constraints: &str,
        operands: &[Val<'c>],
        results: &[Type<'c>],
    ) -> Vec<Val<'c>> {
        self.inline_asm(text, constraints, operands, results, true)
    }

    /// Inline PTX that only computes.
    pub fn pure_asm(
        &mut self,
        text: &str,
        constraints: &str,
        operands: &[Val<'c>],
        result: Type<'c>,
    ) -> Val<'c> {
        self.inline_asm(text, constraints, operands, &[result], false)[0]
    }

    /// Inline PTX that only computes, with several results.
    pub fn pure_asm_values(
        &mut self,
        text: &str,
        constraints: &str,
        operands: &[Val<'c>],
        results: &[Type<'c>],
    ) -> Vec<Val<'c>> {
        self.inline_asm(text, constraints, operands, results, false)
    }

    fn inline_asm(
        &mut self,
        text: &str,
        constraints: &str,
        operands: &[Val<'c>],
        results: &[Type<'c>],
        effects: bool,
    ) -> Vec<Val<'c>> {
        let mut attributes = vec![
            (self.id("asm_string"), StringAttribute::new(self.context, text).into()),
            (self.id("constraints"), StringAttribute::new(self.context, constraints).into()),
        ];
        if effects {
            attributes.push((self.id("has_side_effects"), Attribute::unit(self.context)));
        }
        let ty = match results {
            [] => None,
            [one] => Some(*one),
            many => Some(melior::dialect::llvm::r#type::r#struct(self.context, many, false)),
        };
        let result = self.op("llvm.inline_asm", operands, &attributes, ty.as_slice(), &[]);
        match (result, results) {
            (Some(value), [_]) => vec![value],
            (Some(value), many) => {
                many.iter().enumerate().map(|(i, &t)| self.extract_value(value, i as i64, t)).collect()
            }
            (None, _) => Vec::new(),
        }
    }

    /// A pointer moved by a number of bytes.
    pub fn offset(&mut self, pointer: Val<'c>, bytes: Val<'c>) -> Val<'c> {
        let dynamic = i32::MIN;
        let attributes = [
            (self.id("rawConstantIndices"), DenseI32ArrayAttribute::new(self.context, &[dynamic]).into()),
            (self.id("elem_type"), TypeAttribute::new(self.types.i8).into()),
        ];
        self.value("llvm.getelementptr", &[pointer, bytes], &attributes, pointer.r#type())
    }

    /// Jumps.
    pub fn branch(&mut self, to: Blk<'c>, arguments: &[Val<'c>]) {
        self.op("llvm.br", arguments, &[], &[], &[to]);
    }

    /// Jumps to `then` or `otherwise`.
    pub fn branch_if(
        &mut self,
        condition: Val<'c>,
        then: (Blk<'c>, &[Val<'c>]),
        otherwise: (Blk<'c>, &[Val<'c>]),
    ) {
        let operands: Vec<_> = [&[condition], then.1, otherwise.1].concat();
        let segments = [1, then.1.len() as i32, otherwise.1.len() as i32];
        let segments = DenseI32ArrayAttribute::new(self.context, &segments).into();
        let id = self.id("operandSegmentSizes");
        self.op("llvm.cond_br", &operands, &[(id, segments)], &[], &[then.0, otherwise.0]);
    }

    /// All threads of the CTA meet, or those that still run when some warps have a role of their own.
    pub fn barrier(&mut self) {
        match self.barrier_threads {
            None => {
                let zero = self.i32(0);
                self.intrinsic("llvm.nvvm.barrier.cta.sync.aligned.all", &[zero], None);
            }
            Some(threads) => {
                let (one, threads) = (self.i32(1), self.i32(threads as i64));
                self.intrinsic("llvm.nvvm.barrier.cta.sync.aligned.count", &[one, threads], None);
            }
        }
    }

    /// As [`barrier`](Self::barrier); all threads learn whether the condition holds in any.
    pub fn barrier_any(&mut self, condition: Val<'c>) -> Val<'c> {
        let i1 = self.types.i1;
        match self.barrier_threads {
            None => {
                let zero = self.i32(0);
                self.call("llvm.nvvm.barrier.cta.red.or.aligned.all", &[zero, condition], i1)
            }
            Some(threads) => {
                let (one, threads) = (self.i32(1), self.i32(threads as i64));
                self.call("llvm.nvvm.barrier.cta.red.or.aligned.count", &[one, threads, condition], i1)
            }
        }
    }

    /// The warp of this thread, in a form that shows the assembler that it is the same in all lanes.
    pub fn uniform_warp(&mut self) -> Val<'c> {
        if self.uniform_warp.is_none() {
            let warp = self.warp();
            let uniform = self.in_prologue(|e| {
                let (all, zero, clamp) = (e.i32(-1), e.i32(0), e.i32(31));
                e.call("llvm.nvvm.shfl.sync.idx.i32", &[all, warp, zero, clamp], e.types.i32)
            });
            self.uniform_warp = Some(uniform);
        }
        self.uniform_warp.expect("just set")
    }

    /// A predicate that holds in one lane of a warp, always the same, all of whose lanes are here.
    pub fn elect(&mut self) -> Val<'c> {
        let all = self.i32(-1);
        let pair =
            melior::dialect::llvm::r#type::r#struct(self.context, &[self.types.i32, self.types.i1], false);
        let elected = self.call("llvm.nvvm.elect.sync", &[all], pair);
        self.extract_value(elected, 1, self.types.i1)
    }

    /// A special register: `tid.x`, `ctaid.y`.
    pub fn special_register(&mut self, name: &str) -> Val<'c> {
        self.call(&format!("llvm.nvvm.read.ptx.sreg.{name}"), &[], self.types.i32)
    }

    /// The lane of this thread.
    pub fn lane(&mut self) -> Val<'c> {
        if self.lane.is_none() {
            let lane = self.in_prologue(|e| {
                let tid = e.special_register("tid.x");
                e.and_const(tid, 31)
            });
            self.lane = Some(lane);
        }
        self.lane.expect("just set")
    }

    /// The warp of this thread.
    pub fn warp(&mut self) -> Val<'c> {
        if self.warp.is_none() {
            let warp = self.in_prologue(|e| {
                let tid = e.special_register("tid.x");
                e.shift(tid, -5)
            });
            self.warp = Some(warp);
        }
        self.warp.expect("just set")
    }

    /// The XOR of the bases of the set bits of lane and warp.
    pub fn linear(&mut self, lane: &[u32], warp: &[u32]) -> ThreadValue<'c> {
        let key = (lane.to_vec(), warp.to_vec());
        if let Some(&found) = self.linear.get(&key) {
            return found;
        }
        let mask = lane.iter().chain(warp).fold(0, |m, b| m | b);
        let sources = [(lane, true), (warp, false)];
        let value = self.in_prologue(|e| {
            let mut sum: Option<Val> = None;
            for (bases, is_lane) in sources {
                if bases.iter().all(|&b| b == 0) {
                    continue;
                }
                let index = if is_lane { e.lane() } else { e.warp() };
                // Bits that move by one distance move together.
                for distance in -31..32i32 {
                    let moved =
                        |bit: usize| bases[bit].checked_shr((bit as i32 + distance) as u32).unwrap_or(0) & 1;
                    let bits = (0..bases.len()).filter(|&b| b as i32 + distance >= 0 && moved(b) == 1);
                    let bits: i64 = bits.map(|b| 1i64 << b).sum();
                    if bits != 0 {
                        let part = e.and_const(index, bits);
                        let part = e.shift(part, distance);
                        sum = Some(match sum {
                            Some(sum) => e.binary("llvm.xor", sum, part),
                            None => part,
                        });
                    }
                }
            }
            sum.unwrap_or_else(|| e.i32(0))
        });
        let result = ThreadValue { value, mask };
        self.linear.insert(key, result);
        result
    }

    /// The number moved by the XOR with a constant; mostly an addition, which addressing modes take.
    pub fn displace(&mut self, at: ThreadValue<'c>, offset: u32) -> Val<'c> {
        let crossed = self.xor_const(at.value, offset & at.mask);
        let rest = self.i32(i64::from(offset & !at.mask));
        self.add(crossed, rest)
    }

    /// A predicate that holds in the threads whose `lane` and `warp` bits are all zero; `None` for all.
    pub fn threads_without(&mut self, lane: u32, warp: u32) -> Option<Val<'c>> {
        let mut result = None;
        for (mask, is_lane) in [(lane, true), (warp, false)] {
            if mask != 0 {
                let index = if is_lane { self.lane() } else { self.warp() };
                let bits = self.and_const(index, mask.into());
                let zero = self.i32(0);
                let clear = self.icmp(Cmp::Eq, bits, zero);
                result = self.both(result, Some(clear));
            }
        }
        result
    }
}

/// Integer predicates, numbered as in the LLVM dialect.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cmp {
    Eq = 0,
    Slt = 2,
    Ult = 6,
}
