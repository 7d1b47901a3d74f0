//! Decodes a module into instructions over numbered slots.

use super::elementwise::{Binary, Compare, Convert, Unary};
use super::value::Data;
use super::{InterpretError, Interpreter, Param};
use crate::context::Place;
use crate::module::Module;
use crate::ops::{ReduceKind, TileOp};
use crate::types::{
    Blk, Op, Val, args_of, attr, blocks_of, dtype_of, int_attr, is_tile, name_of, operands_of, ops_of,
    results_of, shape_of, type_of, view_of,
};
use half::{bf16, f16};
use melior::ir::ValueLike;
use melior::ir::attribute::{DenseElementsAttribute, FloatAttribute, IntegerAttribute};
use melior::ir::operation::OperationLike;
use std::collections::HashMap;
use tile_lang::DType;

/// Where a value lives while a program runs.
pub(super) type Slot = usize;

/// A slot to read; `last` when nothing reads it afterwards, so that its buffer may be taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub(super) slot: Slot,
    pub(super) last: bool,
}

/// A block: its instructions, and the values it hands on at its end.
#[derive(Debug, Default)]
pub(super) struct Code {
    pub(super) args: Vec<Slot>,
    pub(super) insts: Vec<Inst>,
    pub(super) yields: Vec<Source>,
}

/// One instruction.
#[derive(Debug)]
pub(super) struct Inst {
    pub(super) kind: Kind,
    pub(super) sources: Vec<Source>,
    pub(super) results: Vec<Slot>,
    pub(super) place: Option<Place>,
}

/// A constant.
#[derive(Debug)]
pub(super) enum Constant {
    Float(f32),
    Int(i64),
    Tile(Data),
}

/// What an instruction does. Shapes are those of operands unless said otherwise.
#[derive(Debug)]
pub(super) enum Kind {
    Constant(Constant),
    ProgramId(usize),
    NumPrograms(usize),
    Dim(usize),
    At,
    Slice(usize),
    ArriveLast,
    Check(String),
    /// Of the result's shape.
    Load(Vec<usize>),
    /// Of the stored tile's shape.
    Store(Vec<usize>),
    Gather {
        masked: bool,
    },
    Scatter {
        masked: bool,
    },
    Splat {
        dtype: DType,
        len: usize,
    },
    Iota(usize),
    /// The same elements under another shape.
    Same,
    /// Elements by their position in the operand.
    Pick(Vec<u32>),
    Reduce {
        shape: Vec<usize>,
        axis: usize,
        kind: ReduceKind,
        dtype: DType,
    },
    Mma {
        m: usize,
        n: usize,
        k: usize,
    },
    /// As `Mma`, of operands with scales.
    MmaScaled {
        m: usize,
        n: usize,
        k: usize,
    },
    Unary(Unary, DType),
    Binary(Binary, DType),
    Compare(Compare),
    Convert(Convert, DType),
    Fma(DType),
    Select,
    For(Code),
    If(Box<[Code; 2]>),
    While(Box<[Code; 2]>),
}

/// Decodes the module's function.
pub(super) fn decode(module: &Module) -> Result<Interpreter, InterpretError> {
    let mut decoder = Decoder { slots: HashMap::new() };
    let entry = module.entry();
    let mut params = Vec::new();
    for argument in args_of(entry) {
        decoder.slot(argument);
        params.push(match (view_of(type_of(argument)), dtype_of(type_of(argument))) {
            (Some(view), _) => Param::Tensor(view),
            (None, Some(dtype)) => Param::Scalar(dtype),
            (None, None) => return Err(InterpretError::Unsupported { op: type_of(argument).to_string() }),
        });
    }
    let body = decoder.block(entry)?;
    Ok(Interpreter { params, slots: decoder.slots.len(), body })
}

struct Decoder {
    slots: HashMap<usize, Slot>,
}

impl Decoder {
    fn slot(&mut self, value: Val) -> Slot {
        let next = self.slots.len();
        *self.slots.entry(value.to_raw().ptr as usize).or_insert(next)
    }

    fn sources(&mut self, values: &[Val]) -> Vec<Source> {
        values.iter().map(|v| Source { slot: self.slot(*v), last: false }).collect()
    }

    fn block(&mut self, block: Blk) -> Result<Code, InterpretError> {
        let mut code =
            Code { args: args_of(block).iter().map(|a| self.slot(*a)).collect(), ..Code::default() };
        let mut local = code.args.clone();
        for op in ops_of(block) {
            let operands = operands_of(op);
            match name_of(op).as_str() {
                "scf.yield" | "scf.condition" | "func.return" => code.yields = self.sources(&operands),
                _ => {
                    let kind = self.kind(op)?;
                    let sources = self.sources(&operands);
                    let results: Vec<Slot> = results_of(op).iter().map(|r| self.slot(*r)).collect();
                    local.extend(&results);
                    code.insts.push(Inst { kind, sources, results, place: Place::of(op.location()) });
                }
            }
        }
        mark_last_uses(&mut code, &local);
        Ok(code)
    }

    fn kind(&mut self, op: Op) -> Result<Kind, InterpretError> {
        let unsupported = || InterpretError::Unsupported { op: name_of(op) };
        let blocks: Vec<Blk> = blocks_of(op);
        let result = results_of(op).first().map(|r| type_of(*r));
        let shape = result.and_then(shape_of).unwrap_or_default();
        if let Some(op) = TileOp::of(op) {
            return tile_kind(op, result.and_then(dtype_of), shape).ok_or_else(unsupported);
        }
        let name = name_of(op);
        match name.as_str() {
            "scf.for" => return Ok(Kind::For(self.block(blocks[0])?)),
            "scf.while" => {
                return Ok(Kind::While(Box::new([self.block(blocks[0])?, self.block(blocks[1])?])));
            }
            "scf.if" => {
                let otherwise = blocks.get(1).map(|b| self.block(*b)).transpose()?.unwrap_or_default();
                return Ok(Kind::If(Box::new([self.block(blocks[0])?, otherwise])));
            }
            "arith.constant" => return constant(op).map(Kind::Constant).ok_or_else(unsupported),
            "arith.select" => return Ok(Kind::Select),
            _ => {}
        }
        let dtype = result.and_then(dtype_of).ok_or_else(unsupported)?;
        let from = operands_of(op).first().and_then(|v| dtype_of(type_of(*v))).unwrap_or(dtype);
        let predicate = int_attr(op, "predicate").unwrap_or_default();
        if name == "math.fma" {
            Ok(Kind::Fma(dtype))
        } else if let Some(unary) = Unary::of(&name) {
            Ok(Kind::Unary(unary, dtype))
        } else if let Some(binary) = Binary::of(&name) {
            Ok(Kind::Binary(binary, dtype))
        } else if let Some(compare) = Compare::of(&name, predicate) {
            Ok(Kind::Compare(compare))
        } else if let Some(convert) = Convert::of(&name, from, dtype) {
            Ok(Kind::Convert(convert, dtype))
        } else {
            Err(unsupported())
        }
    }
}

/// Marks the last read of each slot that the block itself defines.
fn mark_last_uses(code: &mut Code, local: &[Slot]) {
    let mut pending: std::collections::HashSet<Slot> = local.iter().copied().collect();
    let mut mark = |sources: &mut Vec<Source>| {
        for source in sources.iter_mut().rev() {
            source.last = pending.remove(&source.slot);
        }
    };
    mark(&mut code.yields);
    for inst in code.insts.iter_mut().rev() {
        // What nested code reads, it may read many times: it stays.
        let mut nested = Vec::new();
        match &inst.kind {
            Kind::For(body) => nested_reads(body, &mut nested),
            Kind::If(blocks) | Kind::While(blocks) => {
                blocks.iter().for_each(|b| nested_reads(b, &mut nested))
            }
            _ => {}
        }
        let mut nested: Vec<Source> = nested.into_iter().map(|slot| Source { slot, last: false }).collect();
        mark(&mut nested);
        mark(&mut inst.sources);
    }
}

fn nested_reads(code: &Code, reads: &mut Vec<Slot>) {
    reads.extend(code.yields.iter().map(|s| s.slot));
    for inst in &code.insts {
        reads.extend(inst.sources.iter().map(|s| s.slot));
        match &inst.kind {
            Kind::For(body) => nested_reads(body, reads),
            Kind::If(blocks) | Kind::While(blocks) => blocks.iter().for_each(|b| nested_reads(b, reads)),
            _ => {}
        }
    }
}

fn tile_kind(op: TileOp, dtype: Option<DType>, shape: Vec<usize>) -> Option<Kind> {
    let operand_shape = |v: Val| shape_of(type_of(v)).unwrap_or_default();
    let len = shape.iter().product();
    Some(match op {
        TileOp::ProgramId { axis } => Kind::ProgramId(axis),
        TileOp::NumPrograms { axis } => Kind::NumPrograms(axis),
        TileOp::Dim { axis, .. } => Kind::Dim(axis),
        TileOp::At { .. } => Kind::At,
        TileOp::Slice { axis, .. } => Kind::Slice(axis),
        TileOp::ArriveLast { .. } => Kind::ArriveLast,
        // Made by the code generator, and never interpreted.
        TileOp::JoinParts { .. } => return None,
        TileOp::Check { message, .. } => Kind::Check(message),
        TileOp::Load { .. } => Kind::Load(shape),
        TileOp::Store { value, .. } => Kind::Store(operand_shape(value)),
        TileOp::Gather { mask, .. } => Kind::Gather { masked: mask.is_some() },
        TileOp::Scatter { mask, .. } => Kind::Scatter { masked: mask.is_some() },
        TileOp::Splat { .. } => Kind::Splat { dtype: dtype?, len },
        TileOp::Iota => Kind::Iota(len),
        TileOp::Reshape { .. } => Kind::Same,
        TileOp::Broadcast { tile } => Kind::Pick(broadcast_positions(&operand_shape(tile), &shape)),
        TileOp::Transpose { tile, perm } => Kind::Pick(transpose_positions(&operand_shape(tile), &perm)),
        TileOp::Reduce { tile, axis, kind } => {
            Kind::Reduce { shape: operand_shape(tile), axis, kind, dtype: dtype? }
        }
        TileOp::Mma { lhs, rhs, .. } => {
            let (&[m, k], &[_, n]) = (&operand_shape(lhs)[..], &operand_shape(rhs)[..]) else { return None };
            Kind::Mma { m, n, k }
        }
        TileOp::MmaScaled { lhs, rhs, .. } => {
            let (&[m, k], &[_, n]) = (&operand_shape(lhs)[..], &operand_shape(rhs)[..]) else { return None };
            Kind::MmaScaled { m, n, k }
        }
        TileOp::Cast { value } => {
            Kind::Convert(Convert::of("tile.cast", dtype_of(type_of(value))?, dtype?)?, dtype?)
        }
    })
}

/// For each element of the result in order, the position of its operand's element, by the operand's strides
/// along the result's dimensions.
fn positions(shape: &[usize], strides: &[usize]) -> Vec<u32> {
    let mut index = vec![0; shape.len()];
    (0..shape.iter().product::<usize>())
        .map(|_| {
            let at: usize = index.iter().zip(strides).map(|(i, s)| i * s).sum();
            super::memory::advance(&mut index, shape);
            at as u32
        })
        .collect()
}

fn row_major(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect()
}

fn broadcast_positions(from: &[usize], to: &[usize]) -> Vec<u32> {
    let strides: Vec<usize> =
        row_major(from).into_iter().zip(from).map(|(s, n)| if *n == 1 { 0 } else { s }).collect();
    positions(to, &strides)
}

fn transpose_positions(from: &[usize], perm: &[usize]) -> Vec<u32> {
    let strides = row_major(from);
    let shape: Vec<usize> = perm.iter().map(|&p| from[p]).collect();
    positions(&shape, &perm.iter().map(|&p| strides[p]).collect::<Vec<_>>())
}

fn constant(op: Op) -> Option<Constant> {
    let value = attr(op, "value")?;
    let ty = type_of(*results_of(op).first()?);
    let dtype = dtype_of(ty)?;
    let number = |value: melior::ir::Attribute| {
        if let Ok(float) = FloatAttribute::try_from(value) {
            return Some(Constant::Float(float.value() as f32));
        }
        let int = IntegerAttribute::try_from(value).ok()?.value();
        Some(Constant::Int(if dtype == DType::Bool { int & 1 } else { int }))
    };
    if !is_tile(ty) {
        return number(value);
    }
    let dense = DenseElementsAttribute::try_from(value).ok()?;
    let len = shape_of(ty)?.iter().product();
    if dense.is_splat() {
        return Some(Constant::Tile(match number(dense.splat_value())? {
            Constant::Float(value) => Data::Float(vec![value; len]),
            Constant::Int(value) if dtype == DType::Bool => Data::Bool(vec![value != 0; len]),
            Constant::Int(value) => Data::Int(vec![value as i32; len]),
            Constant::Tile(_) => return None,
        }));
    }
    use melior::ir::AttributeLike;
    let raw = value.to_raw();
    // SAFETY: the attribute is dense with elements of the dtype, and the positions are inside it.
    let data = unsafe {
        match dtype {
            DType::F32 => Data::Float(
                (0..len).map(|i| mlir_sys::mlirDenseElementsAttrGetFloatValue(raw, i as isize)).collect(),
            ),
            DType::I32 => Data::Int(
                (0..len).map(|i| mlir_sys::mlirDenseElementsAttrGetInt32Value(raw, i as isize)).collect(),
            ),
            DType::Bool => Data::Bool(
                (0..len).map(|i| mlir_sys::mlirDenseElementsAttrGetBoolValue(raw, i as isize)).collect(),
            ),
            DType::F16 | DType::BF16 => {
                let bits = std::slice::from_raw_parts(dense.raw_data().cast::<u16>(), len);
                let float = |b: &u16| match dtype {
                    DType::F16 => f16::from_bits(*b).to_f32(),
                    _ => bf16::from_bits(*b).to_f32(),
                };
                Data::Float(bits.iter().map(float).collect())
            }
            _ => return None,
        }
    };
    Some(Constant::Tile(data))
}
