//! Arithmetic of one thread.

use crate::fault::Wrong;
use crate::numeric::{Float, from_e2m1, from_e4m3, to_e2m1, to_e4m3, to_tf32};
use crate::op::{Arith, Compare, Function, Int, Number, Round, Type};

/// The smaller or larger of two floats; of NaN and a number the number, or with `hands_nan_on` NaN.
fn extreme(a: f64, b: f64, larger: bool, hands_nan_on: bool) -> f64 {
    match (a.is_nan(), b.is_nan()) {
        (false, false) if a == b => {
            if a.is_sign_negative() == larger {
                b
            } else {
                a
            }
        }
        (false, false) => {
            if (a > b) == larger {
                a
            } else {
                b
            }
        }
        _ if hands_nan_on => f64::NAN,
        (true, _) => b,
        (false, _) => a,
    }
}

fn float(arith: Arith, ty: Float, a: u64, b: u64) -> Result<u64, Wrong> {
    let (x, y) = (ty.value(a), ty.value(b));
    // Sums, products and quotients of shorter floats are rounded in f64 far below their own precision.
    let value = match arith {
        Arith::Add => x + y,
        Arith::Sub => x - y,
        Arith::Mul => x * y,
        Arith::Div => x / y,
        Arith::Min | Arith::MinNan => extreme(x, y, false, arith == Arith::MinNan),
        Arith::Max | Arith::MaxNan => extreme(x, y, true, arith == Arith::MaxNan),
        _ => return Err(Wrong::Unsupported(format!("{arith:?} of floats"))),
    };
    Ok(ty.bits(value))
}

fn integer(arith: Arith, ty: Int, a: u64, b: u64) -> Result<u64, Wrong> {
    let (x, y) = (ty.value(a), ty.value(b));
    let bits = i128::from(ty.bits);
    let value = match arith {
        Arith::Add => x + y,
        Arith::Sub => x - y,
        Arith::Mul => x.wrapping_mul(y),
        Arith::MulHi => x.wrapping_mul(y) >> bits,
        Arith::Div => x.checked_div(y).ok_or(Wrong::DivisionByZero)?,
        Arith::Rem => x.checked_rem(y).ok_or(Wrong::DivisionByZero)?,
        Arith::Min => x.min(y),
        Arith::Max => x.max(y),
        Arith::MinRelu => x.min(y).max(0),
        Arith::And => x & y,
        Arith::Or => x | y,
        Arith::Xor => x ^ y,
        // The distance is a 32-bit number; further than the width leaves nothing but the sign.
        Arith::Shl => {
            if i128::from(b as u32) >= bits {
                0
            } else {
                x << (b as u32)
            }
        }
        Arith::Shr => x >> i128::from(b as u32).min(bits),
        Arith::MinNan | Arith::MaxNan => return Err(Wrong::Unsupported(format!("{arith:?} of integers"))),
    };
    Ok(ty.wrap(value as u64))
}

/// A word of two halves, from what `f` makes of each; it gets where the half starts.
fn halves(f: impl Fn(u32) -> Result<u64, Wrong>) -> Result<u64, Wrong> {
    Ok(f(0)? | f(16)? << 16)
}

/// `a arith b`.
#[inline]
pub(super) fn arith(arith: Arith, ty: Type, a: u64, b: u64) -> Result<u64, Wrong> {
    match ty {
        Type::Pred => integer(arith, Int { bits: 1, signed: false }, a, b),
        Type::Int(ty) => integer(arith, ty, a, b),
        Type::Float(ty) => float(arith, ty, a, b),
        Type::Pair(ty) => halves(|at| float(arith, ty, a >> at & 0xffff, b >> at & 0xffff)),
    }
}

/// `a * b + c`, rounded once.
#[inline]
pub(super) fn fma(ty: Type, abc: [u64; 3]) -> Result<u64, Wrong> {
    match ty {
        Type::Float(ty) => Ok(ty.fma(abc)),
        Type::Pair(ty) => halves(|at| Ok(ty.fma(abc.map(|bits| bits >> at & 0xffff)))),
        _ => Err(Wrong::Unsupported("fma of this type".to_owned())),
    }
}

/// A function of one number.
#[inline]
pub(super) fn function(function: Function, ty: Type, ftz: bool, a: u64) -> Result<u64, Wrong> {
    match ty {
        Type::Pred if function == Function::Not => Ok(u64::from(a == 0)),
        Type::Int(ty) => {
            let x = ty.value(a);
            Ok(ty.wrap(match function {
                Function::Neg => x.wrapping_neg() as u64,
                Function::Abs => x.unsigned_abs() as u64,
                Function::Not => !a,
                Function::Popc => ty.wrap(a).count_ones().into(),
                Function::Clz => (ty.wrap(a).leading_zeros() - (64 - ty.bits)).into(),
                Function::Brev => a.reverse_bits() >> (64 - ty.bits),
                _ => return Err(Wrong::Unsupported(format!("{function:?} of integers"))),
            }))
        }
        Type::Float(ty) => {
            let flush = |x: f64| if ftz && x.abs() < f64::from(f32::MIN_POSITIVE) { x * 0.0 } else { x };
            let x = flush(ty.value(a));
            let value = match function {
                Function::Neg => -x,
                Function::Abs => x.abs(),
                Function::Exp2 => x.exp2(),
                Function::Log2 => x.log2(),
                Function::Rsqrt => 1.0 / x.sqrt(),
                Function::Sqrt => x.sqrt(),
                Function::Rcp => 1.0 / x,
                Function::Tanh => x.tanh(),
                Function::Sin => x.sin(),
                Function::Cos => x.cos(),
                _ => return Err(Wrong::Unsupported(format!("{function:?} of floats"))),
            };
            Ok(ty.bits(flush(value)))
        }
        Type::Pair(ty) => match function {
            Function::Neg => Ok(a ^ 0x8000_8000),
            Function::Abs => Ok(a & 0x7fff_7fff),
            _ => halves(|at| self::function(function, Type::Float(ty), ftz, a >> at & 0xffff)),
        },
        Type::Pred => Err(Wrong::Unsupported(format!("{function:?} of predicates"))),
    }
}

/// `bfe`: `len` bits of `a` from `start` on, filled with the sign.
pub(super) fn bit_field(ty: Int, a: u64, start: u64, len: u64) -> u64 {
    let (start, len) = ((start & 0xff) as u32, (len & 0xff) as u32);
    if len == 0 {
        return 0;
    }
    let whole = ty.value(a) >> start.min(127);
    if len >= ty.bits {
        return ty.wrap(whole as u64);
    }
    let field = whole & ((1 << len) - 1);
    // The sign is the field's highest bit, or the number's where the field leaves it.
    let sign = ty.value(a) >> (start + len - 1).min(ty.bits - 1) & 1;
    ty.wrap(if ty.signed && sign != 0 { field | -1 << len } else { field } as u64)
}

/// `prmt` in its default mode: each result byte is one of eight, or its sign.
pub(super) fn permute(a: u64, b: u64, selector: u64) -> u64 {
    let bytes = (a & 0xffff_ffff) | b << 32;
    (0..4).fold(0, |word, i| {
        let select = selector >> (4 * i) & 15;
        let byte = bytes >> (8 * (select & 7)) & 0xff;
        let byte = if select & 8 == 0 {
            byte
        } else if byte & 0x80 != 0 {
            0xff
        } else {
            0
        };
        word | byte << (8 * i)
    })
}

/// `lop3`: any function of three bits.
pub(super) fn logic3(a: u64, b: u64, c: u64, table: u64) -> u64 {
    (0..8).filter(|i| table >> i & 1 != 0).fold(0, |word, i| {
        let pick = |x: u64, bit: u64| if i >> bit & 1 != 0 { x } else { !x };
        word | pick(a, 2) & pick(b, 1) & pick(c, 0)
    }) & 0xffff_ffff
}

/// `shf`: the high or low word of `b:a` shifted.
pub(super) fn funnel(left: bool, wrap: bool, a: u64, b: u64, distance: u64) -> u64 {
    let distance = if wrap { distance & 31 } else { (distance & 0xffff_ffff).min(32) };
    let both = (a & 0xffff_ffff) | b << 32;
    if left {
        (u128::from(both) << distance >> 32) as u64 & 0xffff_ffff
    } else {
        both >> distance & 0xffff_ffff
    }
}

/// A comparison.
#[inline]
pub(super) fn compare(compare: Compare, ty: Type, unordered: bool, a: u64, b: u64) -> bool {
    let holds = |order: Option<std::cmp::Ordering>| match order {
        None => unordered,
        Some(order) => match compare {
            Compare::Eq => order.is_eq(),
            Compare::Ne => order.is_ne(),
            Compare::Lt => order.is_lt(),
            Compare::Le => order.is_le(),
            Compare::Gt => order.is_gt(),
            Compare::Ge => order.is_ge(),
        },
    };
    match ty {
        Type::Int(ty) => holds(Some(ty.value(a).cmp(&ty.value(b)))),
        Type::Float(ty) => holds(ty.value(a).partial_cmp(&ty.value(b))),
        Type::Pred | Type::Pair(_) => holds(Some(a.cmp(&b))),
    }
}

fn round(value: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => value.round_ties_even(),
        Round::Down => value.floor(),
        Round::Up => value.ceil(),
        Round::Zero => value.trunc(),
    }
}

/// A conversion. Of two sources, `a` goes to the high half.
#[inline]
pub(super) fn convert(
    to: Number,
    from: Number,
    rounding: Round,
    relu: bool,
    a: u64,
    b: u64,
) -> Result<u64, Wrong> {
    let keep = |value: f64| if relu && value < 0.0 { 0.0 } else { value };
    let pack = |ty: Float| match from {
        Number::Float(from) => Ok(ty.bits(keep(from.value(a))) << 16 | ty.bits(keep(from.value(b)))),
        Number::E4m3x2 => Ok(ty.bits(from_e4m3(a >> 8 & 0xff)) << 16 | ty.bits(from_e4m3(a & 0xff))),
        Number::E2m1x2 => Ok(ty.bits(from_e2m1(a >> 4)) << 16 | ty.bits(from_e2m1(a))),
        _ => Err(Wrong::Unsupported(format!("a conversion from {from:?} to {to:?}"))),
    };
    match (to, from) {
        (Number::F16x2, _) => pack(Float::F16),
        (Number::Bf16x2, _) => pack(Float::Bf16),
        (Number::E4m3x2, Number::Float(from)) => Ok(to_e4m3(from.value(a)) << 8 | to_e4m3(from.value(b))),
        (Number::E4m3x2, Number::F16x2) => {
            let half = |at: u32| to_e4m3(Float::F16.value(a >> at & 0xffff));
            Ok(half(16) << 8 | half(0))
        }
        (Number::E2m1x2, Number::Float(from)) => Ok(to_e2m1(from.value(a)) << 4 | to_e2m1(from.value(b))),
        (Number::Tf32, Number::Float(Float::F32)) => Ok(to_tf32(a as u32).into()),
        (Number::Float(to), Number::Float(from)) => Ok(to.bits(keep(from.value(a)))),
        (Number::Float(to), Number::Int(from)) => Ok(match to {
            // Straight from the integer, which f64 may not hold.
            Float::F32 => (from.value(a) as f32).to_bits().into(),
            _ => to.bits(from.value(a) as f64),
        }),
        (Number::Int(to), Number::Float(from)) => {
            let value = round(from.value(a), rounding);
            // Casts of floats saturate, and NaN becomes 0.
            let value = match to.signed {
                true => {
                    let limit = 2f64.powi(to.bits as i32 - 1);
                    value.clamp(-limit, limit - 1.0) as i64 as u64
                }
                false => value.clamp(0.0, 2f64.powi(to.bits as i32) - 1.0) as u64,
            };
            Ok(to.wrap(value))
        }
        (Number::Int(to), Number::Int(from)) => Ok(to.wrap(from.value(a) as u64)),
        _ => Err(Wrong::Unsupported(format!("a conversion from {from:?} to {to:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S32: Int = Int { bits: 32, signed: true };
    const U32: Int = Int { bits: 32, signed: false };

    #[test]
    fn integers_wrap_and_shift_as_the_isa_says() {
        let s32 = |op, a: i32, b: i32| {
            arith(op, Type::Int(S32), a as u32 as u64, b as u32 as u64).unwrap() as u32 as i32
        };
        assert_eq!(s32(Arith::Add, i32::MAX, 1), i32::MIN);
        assert_eq!(s32(Arith::Div, -7, 2), -3);
        assert_eq!(s32(Arith::Shr, -8, 40), -1);
        assert_eq!(s32(Arith::Shl, 1, 32), 0);
        assert_eq!(s32(Arith::MinRelu, -3, 5), 0);
        assert_eq!(arith(Arith::MulHi, Type::Int(U32), 1 << 31, 4).unwrap(), 2);
        assert_eq!(arith(Arith::Div, Type::Int(U32), 1, 0), Err(Wrong::DivisionByZero));
        assert_eq!((bit_field(U32, 0xabcd, 4, 8), bit_field(S32, 0xff0, 4, 8)), (0xbc, 0xffff_ffff));
        assert_eq!(permute(0x3322_1100, 0x7766_5544, 0x7150), 0x7711_5500);
        assert_eq!(logic3(0b1100, 0b1010, 0b1111, 0x80), 0b1000);
        assert_eq!(funnel(true, true, 0x8000_0000, 1, 1), 3);
    }

    #[test]
    fn nan_and_signed_zeros_are_told_apart() {
        let f32 = |op, a: f32, b: f32| {
            f32::from_bits(
                arith(op, Type::Float(Float::F32), a.to_bits().into(), b.to_bits().into()).unwrap() as u32,
            )
        };
        assert_eq!(f32(Arith::Max, f32::NAN, 1.0), 1.0);
        assert!(f32(Arith::MaxNan, 1.0, f32::NAN).is_nan());
        assert!(f32(Arith::Min, 0.0, -0.0).is_sign_negative());
        assert!(f32(Arith::Max, -0.0, 0.0).is_sign_positive());
        let nan = f32::NAN.to_bits().into();
        assert!(compare(Compare::Ne, Type::Float(Float::F32), true, nan, nan));
        assert!(!compare(Compare::Eq, Type::Float(Float::F32), false, nan, nan));
    }

    #[test]
    fn conversions_saturate_where_the_isa_says() {
        let to = |to, value: f32| {
            convert(Number::Int(to), Number::Float(Float::F32), Round::Zero, false, value.to_bits().into(), 0)
                .unwrap()
        };
        assert_eq!(to(S32, -3.9), (-3i32) as u32 as u64);
        assert_eq!((to(S32, 1e20), to(S32, -1e20)), (0x7fff_ffff, 0x8000_0000));
        assert_eq!((to(U32, -1.0), to(U32, 1e20), to(U32, f32::NAN)), (0, 0xffff_ffff, 0));
        let pair = convert(
            Number::Bf16x2,
            Number::Float(Float::F32),
            Round::Nearest,
            false,
            0x3f80_0000,
            0x4000_0000,
        );
        assert_eq!(pair, Ok(0x3f80_4000));
    }
}
