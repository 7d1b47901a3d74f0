//! Arithmetic, comparisons, selections, functions and casts, element by element.

use super::narrow::{f8_pair_as, widen_nibble_pair, widening};
use super::value::{Lowered, Registers, Tile, packing, unpack};
use super::{Lowering, internal};
use crate::error::LowerError;
use melior::ir::attribute::{
    Attribute, AttributeLike, DenseElementsAttribute, FloatAttribute, IntegerAttribute,
};
use melior::ir::operation::OperationLike;
use melior::ir::{Type, ValueLike};
use std::rc::Rc;
use tile_ir::context::Place;
use tile_ir::types::{
    Op, Val, attr, defining_op, dtype_of, int_attr, is_tile, name_of, operands_of, results_of, type_of,
};
use tile_lang::dtype::DType;

const LOG2_E: f64 = std::f64::consts::LOG2_E;
const LN_2: f64 = std::f64::consts::LN_2;

impl<'c> Lowering<'c> {
    /// Lowers an `arith`, `math` or `tile.cast` operation on tiles or scalars.
    pub(super) fn lower_elementwise(&mut self, op: Op<'c>, name: &str) -> Result<(), LowerError> {
        let result = results_of(op).first().copied().ok_or_else(|| internal(op, "no result"))?;
        let ty = type_of(result);
        let dtype = dtype_of(ty).ok_or_else(|| internal(op, "a result of unknown dtype"))?;
        if name == "arith.constant" {
            return self.lower_constant(op, result, ty, dtype);
        }
        let operands = operands_of(op);
        if !is_tile(ty) {
            let scalars: Result<Vec<_>, _> = operands.iter().map(|&v| self.scalar(op, v)).collect();
            let from = dtype_of(type_of(operands[0])).unwrap_or(dtype);
            let scalar = self.element(op, name, &scalars?, from, dtype)?;
            self.set(result, Lowered::Scalar(scalar));
            return Ok(());
        }
        let layout = self.layout(op, ty)?;
        let by_pairs = match self.cast_pairs(op, name, &operands, &layout, dtype)? {
            Some(tile) => Some(tile),
            None => self.compute_pairs(op, name, &operands, &layout, dtype)?,
        };
        if let Some(tile) = by_pairs {
            self.set(result, Lowered::Tile(tile));
            return Ok(());
        }
        let from = dtype_of(type_of(operands[0])).unwrap_or(dtype);
        let mut columns: Vec<Rc<[Val<'c>]>> = Vec::new();
        for &operand in &operands {
            columns.push(match self.get(op, operand)?.clone() {
                Lowered::Tile(tile) if tile.layout == layout => tile.elements(&mut self.e),
                // `arith.select` takes one condition for all.
                Lowered::Scalar(scalar) => vec![scalar; layout.num_registers()].into(),
                _ => return Err(internal(op, "operands in different layouts")),
            });
        }
        // Equal rows (replicas, splats) are computed once.
        let mut seen: Vec<(Vec<Val<'c>>, Val<'c>)> = Vec::new();
        let uniform = columns.iter().all(|c| c.iter().all(|v| *v == c[0]));
        let mut elements = Vec::with_capacity(layout.num_registers());
        for register in 0..layout.num_registers() {
            let row: Vec<Val> = columns.iter().map(|c| c[register]).collect();
            let known = if uniform { seen.first().map(|(_, v)| *v) } else { None };
            let value = match known {
                Some(value) => value,
                None => self.element(op, name, &row, from, dtype)?,
            };
            if uniform && seen.is_empty() {
                seen.push((row, value));
            }
            elements.push(value);
        }
        self.set(result, Lowered::Tile(Tile::new(dtype, &layout, elements)));
        Ok(())
    }

    fn lower_constant(
        &mut self,
        op: Op<'c>,
        result: Val<'c>,
        ty: Type<'c>,
        dtype: DType,
    ) -> Result<(), LowerError> {
        let attribute = attr(op, "value").ok_or_else(|| internal(op, "no value"))?;
        // SAFETY: the attribute is live and its kind is checked before it is read.
        let splat = unsafe {
            if mlir_sys::mlirAttributeIsADenseElements(attribute.to_raw()) {
                if !mlir_sys::mlirDenseElementsAttrIsSplat(attribute.to_raw()) {
                    return Err(internal(op, "a constant tile with several values"));
                }
                Attribute::from_raw(mlir_sys::mlirDenseElementsAttrGetSplatValue(attribute.to_raw()))
            } else {
                attribute
            }
        };
        let register = self.e.types.element(dtype);
        let value = if let Ok(float) = FloatAttribute::try_from(splat) {
            if dtype.is_storage_only() {
                let wide = self.e.f32(float.value());
                self.element(op, "tile.cast", &[wide], DType::F32, dtype)?
            } else {
                self.e.float(float.value(), register)
            }
        } else if let Ok(int) = IntegerAttribute::try_from(splat) {
            // A set bit of one bit reads back as -1.
            let value = if dtype == DType::Bool { int.value() & 1 } else { int.value() };
            if dtype == DType::Index && i32::try_from(value).is_err() {
                return Err(LowerError::Unsupported {
                    what: format!("the size {value}, which does not fit 31 bits,"),
                    target: self.e.target.part,
                    place: Place::of(op.location()),
                });
            }
            self.e.int(value, register)
        } else {
            return Err(internal(op, "a constant that is no number"));
        };
        let lowered = if is_tile(ty) {
            let layout = self.layout(op, ty)?;
            Lowered::Tile(Tile::new(dtype, &layout, vec![value; layout.num_registers()]))
        } else {
            Lowered::Scalar(value)
        };
        self.set(result, lowered);
        Ok(())
    }

    /// Sums, differences and products of 16-bit elements that are packed already, two with one instruction.
    fn compute_pairs(
        &mut self,
        op: Op<'c>,
        name: &str,
        operands: &[Val<'c>],
        layout: &Rc<crate::layout::LinearLayout>,
        dtype: DType,
    ) -> Result<Option<Tile<'c>>, LowerError> {
        let instruction = match name {
            "arith.addf" => "llvm.fadd",
            "arith.subf" => "llvm.fsub",
            "arith.mulf" => "llvm.fmul",
            _ => return Ok(None),
        };
        let tiles: Result<Vec<_>, _> = operands.iter().map(|&v| self.tile(op, v)).collect();
        let tiles = tiles?;
        let is_packed = |tile: &Tile| matches!(tile.registers, Registers::Packed(_));
        if packing(dtype) != 2 || layout.num_registers() < 2 || !tiles.iter().any(is_packed) {
            return Ok(None);
        }
        if tiles.iter().any(|tile| tile.layout != *layout) {
            return Err(internal(op, "operands in different layouts"));
        }
        if name == "arith.mulf"
            && let Some(tile) = self.widen_by_product(op, operands, layout, dtype)?
        {
            return Ok(Some(tile));
        }
        let types = self.e.types;
        let pair = if dtype == DType::F16 { types.f16x2 } else { types.bf16x2 };
        let words: Vec<_> = tiles.iter().map(|tile| tile.packed_registers(&mut self.e)).collect();
        let results = words[0].iter().zip(words[1].iter()).map(|(&a, &b)| {
            let [a, b] = [a, b].map(|word| self.e.convert("llvm.bitcast", word, pair));
            let result = self.e.float_binary(instruction, a, b);
            self.e.convert("llvm.bitcast", result, types.i32)
        });
        Ok(Some(Tile::packed(dtype, layout, results.collect())))
    }

    /// The product of packed 4-bit elements that were widened and a factor: where the factor leaves room, it takes on
    /// the power of two by which elements are widened, and one product does both.
    fn widen_by_product(
        &mut self,
        op: Op<'c>,
        operands: &[Val<'c>],
        layout: &Rc<crate::layout::LinearLayout>,
        dtype: DType,
    ) -> Result<Option<Tile<'c>>, LowerError> {
        let (largest, _) = widening(dtype);
        for (&wide, &factor) in operands.iter().zip(operands.iter().rev()) {
            let cast = defining_op(wide).filter(|op| name_of(*op) == "tile.cast");
            let Some(narrow) = cast.map(|op| operands_of(op)[0]) else { continue };
            let Lowered::Tile(narrow) = self.get(op, narrow)?.clone() else { continue };
            let Registers::Nibbles(words, places) = &narrow.registers else { continue };
            let fits = bound(factor).is_some_and(|bound| bound <= largest);
            if !fits || narrow.layout != *layout {
                continue;
            }
            let factor = self.tile(op, factor)?.packed_registers(&mut self.e);
            let pairs = places.chunks(2).zip(factor.iter()).map(|(pair, &factor)| {
                widen_nibble_pair(&mut self.e, words, [pair[0], pair[1]], dtype, Some(factor))
            });
            return Ok(Some(Tile::packed(dtype, layout, pairs.collect())));
        }
        Ok(None)
    }

    /// Packed 4-bit elements as f16, bf16 or f32, two at a time.
    fn cast_nibbles(
        &mut self,
        (words, places): (&[Val<'c>], &[u32]),
        layout: &Rc<crate::layout::LinearLayout>,
        dtype: DType,
    ) -> Tile<'c> {
        let types = self.e.types;
        let half = if dtype == DType::BF16 { DType::BF16 } else { DType::F16 };
        let pairs = places
            .chunks(2)
            .map(|pair| widen_nibble_pair(&mut self.e, words, [pair[0], pair[1]], half, None));
        let pairs: Vec<Val> = pairs.collect();
        if dtype != DType::F32 {
            return Tile::packed(dtype, layout, pairs);
        }
        let halves = pairs.into_iter().flat_map(|pair| unpack(&mut self.e, pair, DType::F16));
        let halves: Vec<Val> = halves.collect();
        let wide = halves.into_iter().map(|half| self.e.convert("llvm.fpext", half, types.f32)).collect();
        Tile::new(dtype, layout, wide)
    }

    /// Casts of whole pairs where one instruction does two and leaves them packed.
    fn cast_pairs(
        &mut self,
        op: Op<'c>,
        name: &str,
        operands: &[Val<'c>],
        layout: &Rc<crate::layout::LinearLayout>,
        dtype: DType,
    ) -> Result<Option<Tile<'c>>, LowerError> {
        let (&[operand], "arith.truncf" | "tile.cast") = (operands, name) else { return Ok(None) };
        let tile = self.tile(op, operand)?;
        let count = layout.num_registers();
        if let Registers::Nibbles(words, places) = &tile.registers
            && matches!(dtype, DType::F16 | DType::BF16 | DType::F32)
            && count >= 2
        {
            return Ok(Some(self.cast_nibbles((words, places), layout, dtype)));
        }
        if tile.dtype == DType::F8E4M3FN && dtype.bits() == 16 && count >= 2 {
            let elements = tile.elements(&mut self.e);
            let pairs = elements.chunks(2).map(|pair| f8_pair_as(&mut self.e, [pair[0], pair[1]], dtype));
            return Ok(Some(Tile::packed(dtype, layout, pairs.collect())));
        }
        if tile.dtype != DType::F32 || packing(dtype) < 2 || count < packing(dtype) {
            return Ok(None);
        }
        let elements = tile.elements(&mut self.e);
        let types = self.e.types;
        let mut registers = Vec::new();
        match dtype {
            DType::F16 | DType::BF16 => {
                let (intrinsic, pair) = match dtype {
                    DType::F16 => ("llvm.nvvm.ff2f16x2.rn", types.f16x2),
                    _ => ("llvm.nvvm.ff2bf16x2.rn", types.bf16x2),
                };
                for chunk in elements.chunks(2) {
                    let both = self.e.call(intrinsic, &[chunk[1], chunk[0]], pair);
                    registers.push(self.e.convert("llvm.bitcast", both, types.i32));
                }
            }
            DType::F4E2M1FN if self.e.target.has_fp4_conversions() => {
                for chunk in elements.chunks(8) {
                    let mut word: Option<Val> = None;
                    for (i, pair) in chunk.chunks(2).enumerate() {
                        let name = "llvm.nvvm.ff.to.e2m1x2.rn.satfinite";
                        let both = self.e.call(name, &[pair[1], pair[0]], types.i16);
                        let both = self.e.convert("llvm.zext", both, types.i32);
                        let byte = self.e.and_const(both, 0xff);
                        let byte = self.e.shift(byte, 8 * i as i32);
                        word = Some(word.map_or(byte, |word| self.e.binary("llvm.or", word, byte)));
                    }
                    registers.extend(word);
                }
            }
            DType::F8E4M3FN if self.e.target.has_fp8_conversions() => {
                for chunk in elements.chunks(4) {
                    let halves: Vec<_> = chunk
                        .chunks(2)
                        .map(|pair| {
                            let both =
                                self.e.call("llvm.nvvm.ff.to.e4m3x2.rn", &[pair[1], pair[0]], types.i16);
                            self.e.convert("llvm.zext", both, types.i32)
                        })
                        .collect();
                    let high = self.e.shift(halves[1], 16);
                    registers.push(self.e.binary("llvm.or", halves[0], high));
                }
            }
            _ => return Ok(None),
        }
        Ok(Some(Tile::packed(dtype, layout, registers)))
    }

    /// One element of an operation from `from` to `to`.
    fn element(
        &mut self,
        op: Op<'c>,
        name: &str,
        operands: &[Val<'c>],
        from: DType,
        to: DType,
    ) -> Result<Val<'c>, LowerError> {
        let (dialect, kind) = name.split_once('.').unwrap_or(("", name));
        let e = &mut self.e;
        let ty = e.types.element(to);
        let a = *operands.first().ok_or_else(|| internal(op, "no operand"))?;
        let b = operands.get(1).copied();
        let second = || b.ok_or_else(|| internal(op, "one operand"));
        if dialect == "math" {
            return self.function(op, kind, operands, to);
        }
        Ok(match kind {
            "addf" => e.float_binary("llvm.fadd", a, second()?),
            "subf" => e.float_binary("llvm.fsub", a, second()?),
            "mulf" => e.float_binary("llvm.fmul", a, second()?),
            "divf" => {
                let b = second()?;
                let name = if may_be_approximate(op) { "llvm.nvvm.div.full" } else { "llvm.nvvm.div.rn.f" };
                self.in_f32(to, &[a, b], |e, x| e.call(name, x, e.types.f32))
            }
            "remf" => {
                let b = second()?;
                self.in_f32(to, &[a, b], |e, x| {
                    let quotient = e.call("llvm.nvvm.div.rn.f", x, e.types.f32);
                    let whole = e.call("llvm.trunc.f32", &[quotient], e.types.f32);
                    let negative = e.op("llvm.fneg", &[whole], &[], &[e.types.f32], &[]).expect("one result");
                    e.call("llvm.fma.f32", &[negative, x[1], x[0]], e.types.f32)
                })
            }
            "negf" => e.op("llvm.fneg", &[a], &[], &[ty], &[]).expect("one result"),
            // Both propagate NaN.
            "maximumf" => e.call(&format!("llvm.maximum.{}", suffix(to)), operands, ty),
            "minimumf" => e.call(&format!("llvm.minimum.{}", suffix(to)), operands, ty),
            "maxnumf" => e.call(&format!("llvm.maxnum.{}", suffix(to)), operands, ty),
            "minnumf" => e.call(&format!("llvm.minnum.{}", suffix(to)), operands, ty),
            // Sizes neither wrap nor go below zero; i32 wraps.
            "addi" if from == DType::Index => e.add(a, second()?),
            "subi" if from == DType::Index => e.sub(a, second()?),
            "muli" if from == DType::Index => e.mul(a, second()?),
            "addi" => e.binary("llvm.add", a, second()?),
            "subi" => e.binary("llvm.sub", a, second()?),
            "muli" => e.binary("llvm.mul", a, second()?),
            "divsi" if from == DType::Index => e.binary("llvm.udiv", a, second()?),
            "remsi" if from == DType::Index => e.binary("llvm.urem", a, second()?),
            "divsi" => e.binary("llvm.sdiv", a, second()?),
            "divui" => e.binary("llvm.udiv", a, second()?),
            "remsi" => e.binary("llvm.srem", a, second()?),
            "remui" => e.binary("llvm.urem", a, second()?),
            "ceildivui" | "ceildivsi" => {
                let b = second()?;
                let one = e.int(1, ty);
                let less = e.sub(b, one);
                let sum = e.add(a, less);
                e.binary("llvm.udiv", sum, b)
            }
            "andi" => e.binary("llvm.and", a, second()?),
            "ori" => e.binary("llvm.or", a, second()?),
            "xori" => e.binary("llvm.xor", a, second()?),
            "shli" => e.binary("llvm.shl", a, second()?),
            "shrsi" => e.binary("llvm.ashr", a, second()?),
            "shrui" => e.binary("llvm.lshr", a, second()?),
            "maxsi" => e.call(&format!("llvm.smax.{}", suffix(to)), operands, ty),
            "minsi" => e.call(&format!("llvm.smin.{}", suffix(to)), operands, ty),
            "maxui" => e.call(&format!("llvm.umax.{}", suffix(to)), operands, ty),
            "minui" => e.call(&format!("llvm.umin.{}", suffix(to)), operands, ty),
            "cmpf" | "cmpi" => {
                let predicate = int_attr(op, "predicate").ok_or_else(|| internal(op, "no predicate"))?;
                e.compare(if kind == "cmpf" { "llvm.fcmp" } else { "llvm.icmp" }, predicate, a, second()?)
            }
            "select" => {
                let &[condition, a, b] = operands else { return Err(internal(op, "not three operands")) };
                e.select(condition, a, b)
            }
            "extf" | "truncf" | "cast" => self.cast(op, a, from, to)?,
            "sitofp" | "uitofp" => {
                let wide = if from == DType::Bool { e.convert("llvm.zext", a, e.types.i32) } else { a };
                let signed = kind == "sitofp" && from != DType::Index && from != DType::Bool;
                e.convert(if signed { "llvm.sitofp" } else { "llvm.uitofp" }, wide, ty)
            }
            "fptosi" | "fptoui" => self.cast(op, a, from, to)?,
            "extsi" | "extui" | "index_cast" | "index_castui" | "trunci" => {
                let (narrow, wide) = (bits(from), bits(to));
                if narrow > wide {
                    e.convert("llvm.trunc", a, ty)
                } else if from == DType::Bool || kind == "extui" || kind == "index_castui" {
                    e.convert("llvm.zext", a, ty)
                } else {
                    e.convert("llvm.sext", a, ty)
                }
            }
            "bitcast" => e.convert("llvm.bitcast", a, ty),
            _ => return Err(internal(op, "no lowering for this arithmetic")),
        })
    }

    /// A function of `math`, computed in f32.
    fn function(
        &mut self,
        op: Op,
        kind: &str,
        operands: &[Val<'c>],
        dtype: DType,
    ) -> Result<Val<'c>, LowerError> {
        let f32 = self.e.types.f32;
        if kind == "absi" {
            let poison = self.e.int(0, self.e.types.i1);
            return Ok(self.e.call(
                &format!("llvm.abs.{}", suffix(dtype)),
                &[operands[0], poison],
                operands[0].r#type(),
            ));
        }
        if !matches!(
            kind,
            "exp" | "exp2" | "log" | "log2" | "sqrt" | "rsqrt" | "tanh" | "absf" | "fma" | "floor" | "ceil"
        ) {
            return Err(internal(op, "no lowering for this function"));
        }
        Ok(self.in_f32(dtype, operands, |e, x| match kind {
            "exp2" => e.call("llvm.nvvm.ex2.approx.ftz.f32", x, f32),
            "exp" => {
                let scale = e.f32(LOG2_E);
                let power = e.float_binary("llvm.fmul", x[0], scale);
                e.call("llvm.nvvm.ex2.approx.ftz.f32", &[power], f32)
            }
            "log2" => e.call("llvm.nvvm.lg2.approx.f", x, f32),
            "log" => {
                let log2 = e.call("llvm.nvvm.lg2.approx.f", x, f32);
                let scale = e.f32(LN_2);
                e.float_binary("llvm.fmul", log2, scale)
            }
            "sqrt" => e.call("llvm.nvvm.sqrt.rn.f", x, f32),
            "rsqrt" => e.call("llvm.nvvm.rsqrt.approx.f", x, f32),
            "tanh" => e.pure_asm("tanh.approx.f32 $0, $1;", "=f,f", x, f32),
            "absf" => e.call("llvm.fabs.f32", x, f32),
            "floor" => e.call("llvm.floor.f32", x, f32),
            "ceil" => e.call("llvm.ceil.f32", x, f32),
            _ => e.call("llvm.fma.f32", x, f32),
        }))
    }

    /// Computes in f32 and returns to `dtype`.
    fn in_f32(
        &mut self,
        dtype: DType,
        operands: &[Val<'c>],
        compute: impl FnOnce(&mut super::emitter::Emitter<'c>, &[Val<'c>]) -> Val<'c>,
    ) -> Val<'c> {
        let e = &mut self.e;
        if dtype == DType::F32 {
            return compute(e, operands);
        }
        let (f32, ty) = (e.types.f32, e.types.element(dtype));
        let wide: Vec<_> = operands.iter().map(|&x| e.convert("llvm.fpext", x, f32)).collect();
        let result = compute(e, &wide);
        e.convert("llvm.fptrunc", result, ty)
    }
}

/// What no element of a tile exceeds in magnitude, where its operations tell.
fn bound(value: Val) -> Option<f64> {
    let op = defining_op(value)?;
    let operands = operands_of(op);
    let of = |i: usize| operands.get(i).copied().and_then(bound);
    match name_of(op).as_str() {
        "tile.cast" => match dtype_of(type_of(operands[0]))? {
            DType::F8E4M3FN => Some(448.0),
            DType::F4E2M1FN => Some(6.0),
            _ => None,
        },
        "arith.constant" => {
            let dense = DenseElementsAttribute::try_from(attr(op, "value")?).ok()?;
            // SAFETY: the attribute is live, and a splat is read only if it is one.
            let splat = unsafe {
                if !mlir_sys::mlirDenseElementsAttrIsSplat(dense.to_raw()) {
                    return None;
                }
                Attribute::from_raw(mlir_sys::mlirDenseElementsAttrGetSplatValue(dense.to_raw()))
            };
            Some(FloatAttribute::try_from(splat).ok()?.value().abs())
        }
        "arith.mulf" => Some(of(0)? * of(1)?),
        "tgpu.broadcast" | "tgpu.reshape" | "tgpu.transpose" | "tgpu.convert_layout" => of(0),
        _ => None,
    }
}

/// Whether a division may be a product with an approximate reciprocal.
fn may_be_approximate(op: Op) -> bool {
    attr(op, "fastmath").is_some_and(|flags| flags.to_string().contains("arcp"))
}

/// How intrinsics name a type.
fn suffix(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "f16",
        DType::BF16 => "bf16",
        DType::I32 | DType::Index => "i32",
        DType::I64 => "i64",
        DType::Bool => "i1",
        _ => "f32",
    }
}

/// Bits of the register that holds an element.
fn bits(dtype: DType) -> u32 {
    match dtype {
        DType::Bool => 1,
        DType::Index => 32,
        other => other.bits(),
    }
}
