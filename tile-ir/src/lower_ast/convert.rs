//! Conversions between dtypes, of scalars and tiles alike.

use super::expr::constant_like;
use crate::ops::Builder;
use crate::types::{Val, type_of, with_dtype};
use melior::ir::attribute::IntegerAttribute;
use melior::ir::r#type::IntegerType;
use tile_lang::DType;

/// Converts a value: to nearest even between floats, saturating to f8 and f4, toward zero and saturating from
/// float to integer, truncating between integers; to bool by comparing with zero.
pub(super) fn convert<'c>(b: &Builder<'c>, value: Val<'c>, from: DType, to: DType) -> Val<'c> {
    use DType::{BF16, Bool, F4E2M1FN, F8E4M3FN, F16, F32, I32, I64, Index};
    let arith =
        |name: &str, to: DType| b.value(name, &[value], with_dtype(b.context(), type_of(value), to), &[]);
    match (from, to) {
        _ if from == to => value,
        (F16 | BF16, F32) => arith("arith.extf", F32),
        (F32, F16 | BF16) => arith("arith.truncf", to),
        (F32, F8E4M3FN | F4E2M1FN | I32 | I64 | Index) => b.cast(value, to),
        (F8E4M3FN | F4E2M1FN, F32 | F16 | BF16) => b.cast(value, to),
        (I32 | I64, F32 | F16 | BF16) => arith("arith.sitofp", to),
        (Bool, F32 | F16 | BF16) => arith("arith.uitofp", to),
        (Bool, I32 | I64) => arith("arith.extui", to),
        (Bool, Index) => arith("arith.index_castui", Index),
        (I32, I64) => arith("arith.extsi", I64),
        (I64, I32) => arith("arith.trunci", I32),
        (I32 | I64, Index) | (Index, I32 | I64) => arith("arith.index_cast", to),
        (Index, F32 | F16 | BF16) => {
            let bits = arith("arith.index_castui", I64);
            b.value("arith.uitofp", &[bits], with_dtype(b.context(), type_of(bits), to), &[])
        }
        (_, Bool) if from.is_float() && !from.is_storage_only() => {
            compare(b, "arith.cmpf", UNORDERED_NE, value, constant_like(b, value, 0.0))
        }
        (I32 | I64 | Index, Bool) => compare(b, "arith.cmpi", INT_NE, value, constant_like(b, value, 0.0)),
        // Every float dtype converts to f32 without loss, and every other pair has f32 in its middle.
        _ => convert(b, convert(b, value, from, F32), F32, to),
    }
}

/// `arith.cmpi`'s number for "not equal".
pub(super) const INT_NE: i64 = 1;
/// `arith.cmpf`'s number for "unordered or not equal".
pub(super) const UNORDERED_NE: i64 = 13;

/// A comparison by the number of its predicate.
pub(super) fn compare<'c>(
    b: &Builder<'c>,
    name: &str,
    predicate: i64,
    lhs: Val<'c>,
    rhs: Val<'c>,
) -> Val<'c> {
    let predicate = IntegerAttribute::new(IntegerType::new(b.context(), 64).into(), predicate).into();
    let ty = with_dtype(b.context(), type_of(lhs), DType::Bool);
    b.value(name, &[lhs, rhs], ty, &[("predicate", predicate)])
}
