//! Operations that treat elements alike, on scalars and tiles.

use super::value::{Data, Value};
use crate::numeric::{from_int, round};
use std::rc::Rc;
use tile_lang::DType;

/// Functions of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unary {
    Neg,
    Exp,
    Exp2,
    Log,
    Log2,
    Sqrt,
    Rsqrt,
    Tanh,
    Abs,
    AbsInt,
}

impl Unary {
    pub(super) fn of(name: &str) -> Option<Unary> {
        Some(match name {
            "arith.negf" => Unary::Neg,
            "math.exp" => Unary::Exp,
            "math.exp2" => Unary::Exp2,
            "math.log" => Unary::Log,
            "math.log2" => Unary::Log2,
            "math.sqrt" => Unary::Sqrt,
            "math.rsqrt" => Unary::Rsqrt,
            "math.tanh" => Unary::Tanh,
            "math.absf" => Unary::Abs,
            "math.absi" => Unary::AbsInt,
            _ => return None,
        })
    }
}

/// Operators of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Max,
    Min,
    DivUnsigned,
    RemUnsigned,
    MaxUnsigned,
    MinUnsigned,
    And,
    Or,
    Xor,
    Shl,
    Shr,
    ShrUnsigned,
}

impl Binary {
    pub(super) fn of(name: &str) -> Option<Binary> {
        Some(match name {
            "arith.addf" | "arith.addi" => Binary::Add,
            "arith.subf" | "arith.subi" => Binary::Sub,
            "arith.mulf" | "arith.muli" => Binary::Mul,
            "arith.divf" | "arith.divsi" => Binary::Div,
            "arith.remf" | "arith.remsi" => Binary::Rem,
            "arith.maximumf" | "arith.maxsi" => Binary::Max,
            "arith.minimumf" | "arith.minsi" => Binary::Min,
            "arith.divui" => Binary::DivUnsigned,
            "arith.remui" => Binary::RemUnsigned,
            "arith.maxui" => Binary::MaxUnsigned,
            "arith.minui" => Binary::MinUnsigned,
            "arith.andi" => Binary::And,
            "arith.ori" => Binary::Or,
            "arith.xori" => Binary::Xor,
            "arith.shli" => Binary::Shl,
            "arith.shrsi" => Binary::Shr,
            "arith.shrui" => Binary::ShrUnsigned,
            _ => return None,
        })
    }
}

/// Comparisons. Only `Ne` of floats holds for NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    LtUnsigned,
    LeUnsigned,
    GtUnsigned,
    GeUnsigned,
}

impl Compare {
    /// From the number of MLIR's predicate; those that the language does not have are not read.
    pub(super) fn of(name: &str, predicate: i64) -> Option<Compare> {
        use Compare::{Eq, Ge, GeUnsigned, Gt, GtUnsigned, Le, LeUnsigned, Lt, LtUnsigned, Ne};
        Some(match (name, predicate) {
            ("arith.cmpi", 0..10) => {
                [Eq, Ne, Lt, Le, Gt, Ge, LtUnsigned, LeUnsigned, GtUnsigned, GeUnsigned][predicate as usize]
            }
            ("arith.cmpf", 1) => Eq,
            ("arith.cmpf", 2) => Gt,
            ("arith.cmpf", 3) => Ge,
            ("arith.cmpf", 4) => Lt,
            ("arith.cmpf", 5) => Le,
            ("arith.cmpf", 13) => Ne,
            _ => return None,
        })
    }

    fn floats(self, a: f32, b: f32) -> bool {
        match self {
            Compare::Eq => a == b,
            Compare::Ne => a != b,
            Compare::Lt | Compare::LtUnsigned => a < b,
            Compare::Le | Compare::LeUnsigned => a <= b,
            Compare::Gt | Compare::GtUnsigned => a > b,
            Compare::Ge | Compare::GeUnsigned => a >= b,
        }
    }

    fn ints(self, a: i64, b: i64) -> bool {
        let (ua, ub) = (a as u64, b as u64);
        match self {
            Compare::Eq => a == b,
            Compare::Ne => a != b,
            Compare::Lt => a < b,
            Compare::Le => a <= b,
            Compare::Gt => a > b,
            Compare::Ge => a >= b,
            Compare::LtUnsigned => ua < ub,
            Compare::LeUnsigned => ua <= ub,
            Compare::GtUnsigned => ua > ub,
            Compare::GeUnsigned => ua >= ub,
        }
    }

    pub(super) fn apply(self, a: &Value, b: &Value) -> Value {
        match (a, b) {
            (Value::Float(a), Value::Float(b)) => Value::Int(i64::from(self.floats(*a, *b))),
            (Value::Int(a), Value::Int(b)) => Value::Int(i64::from(self.ints(*a, *b))),
            _ => {
                let bools = match (a.data(), b.data()) {
                    (Data::Float(a), Data::Float(b)) => {
                        a.iter().zip(b).map(|(a, b)| self.floats(*a, *b)).collect()
                    }
                    (Data::Int(a), Data::Int(b)) => {
                        a.iter().zip(b).map(|(a, b)| self.ints(i64::from(*a), i64::from(*b))).collect()
                    }
                    (a, b) => a
                        .bools()
                        .iter()
                        .zip(b.bools())
                        .map(|(a, b)| self.ints(i64::from(*a), i64::from(*b)))
                        .collect(),
                };
                Value::tile(Data::Bool(bools))
            }
        }
    }
}

/// Conversions between kinds of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Convert {
    /// Float to float: rounds to the result's dtype.
    Float,
    /// Float to integer: toward zero, saturating, NaN to 0.
    FloatToInt,
    /// Integer to float; a bool is 0 or 1.
    IntToFloat,
    /// As [`Convert::IntToFloat`], of an unsigned integer.
    UnsignedToFloat,
    /// Integer to integer; a bool is 0 or 1.
    Int,
}

impl Convert {
    pub(super) fn of(name: &str, from: DType, to: DType) -> Option<Convert> {
        Some(match name {
            "arith.extf" | "arith.truncf" => Convert::Float,
            "arith.sitofp" => Convert::IntToFloat,
            "arith.uitofp" if from == DType::Bool => Convert::IntToFloat,
            "arith.uitofp" => Convert::UnsignedToFloat,
            "arith.extui" if from == DType::Bool => Convert::Int,
            "arith.extsi" | "arith.trunci" | "arith.index_cast" => Convert::Int,
            "arith.index_castui" if from == DType::Bool || from.bits() == 64 => Convert::Int,
            "tile.cast" if to.is_float() => Convert::Float,
            "tile.cast" => Convert::FloatToInt,
            _ => return None,
        })
    }

    pub(super) fn apply(self, value: Value, to: DType) -> Value {
        match (self, value) {
            (Convert::Float, value) => map(value, |x| round(to, x)),
            (Convert::FloatToInt, Value::Float(x)) => Value::Int(match to {
                DType::I32 => i64::from(x as i32),
                DType::I64 => x as i64,
                _ => x as u64 as i64,
            }),
            (Convert::FloatToInt, value) => {
                Value::tile(Data::Int(value.data().floats().iter().map(|x| *x as i32).collect()))
            }
            (Convert::IntToFloat, Value::Int(x)) => Value::Float(match to {
                DType::F32 => x as f32,
                _ => from_int(to, x as f64),
            }),
            (Convert::UnsignedToFloat, Value::Int(x)) => Value::Float(match to {
                DType::F32 => x as u64 as f32,
                _ => from_int(to, x as u64 as f64),
            }),
            (Convert::Int, Value::Int(x)) => Value::Int(wrap(to, x)),
            (Convert::Int, value) => Value::tile(Data::Int(match value.into_data() {
                Data::Bool(values) => values.into_iter().map(i32::from).collect(),
                other => other.ints().to_vec(),
            })),
            (Convert::IntToFloat | Convert::UnsignedToFloat, value) => {
                Value::tile(Data::Float(match value.data() {
                    Data::Bool(values) => values.iter().map(|x| f32::from(u8::from(*x))).collect(),
                    other => other.ints().iter().map(|x| from_int(to, f64::from(*x))).collect(),
                }))
            }
        }
    }
}

/// Truncates to the width of an integer dtype and extends the sign; a bool keeps its lowest bit.
fn wrap(dtype: DType, value: i64) -> i64 {
    match dtype {
        DType::I32 => i64::from(value as i32),
        DType::Bool => value & 1,
        _ => value,
    }
}

/// Applies a function to a float or to each element, in place where nothing else holds the tile.
fn map(value: Value, f: impl Fn(f32) -> f32) -> Value {
    match value {
        Value::Float(x) => Value::Float(f(x)),
        value => {
            let Data::Float(mut values) = value.into_data() else { unreachable!("elements are floats") };
            values.iter_mut().for_each(|x| *x = f(*x));
            Value::tile(Data::Float(values))
        }
    }
}

/// Calls `$go` with a rounding function of the dtype, so that each loop is compiled for its own.
macro_rules! with_rounding {
    ($dtype:expr, |$round:ident| $go:expr) => {
        match $dtype {
            DType::F16 => {
                let $round = |x: f32| round(DType::F16, x);
                $go
            }
            DType::BF16 => {
                let $round = |x: f32| round(DType::BF16, x);
                $go
            }
            _ => {
                let $round = |x: f32| x;
                $go
            }
        }
    };
}

pub(super) fn unary(op: Unary, dtype: DType, value: Value) -> Value {
    if op == Unary::AbsInt {
        return match value {
            Value::Int(x) => Value::Int(wrap(dtype, x.wrapping_abs())),
            value => Value::tile(Data::Int(value.data().ints().iter().map(|x| x.wrapping_abs()).collect())),
        };
    }
    with_rounding!(dtype, |round| match op {
        Unary::Neg => map(value, |x| -x),
        Unary::Exp => map(value, |x| round(x.exp())),
        Unary::Exp2 => map(value, |x| round(x.exp2())),
        Unary::Log => map(value, |x| round(x.ln())),
        Unary::Log2 => map(value, |x| round(x.log2())),
        Unary::Sqrt => map(value, |x| round(x.sqrt())),
        Unary::Rsqrt => map(value, |x| round(1.0 / x.sqrt())),
        Unary::Tanh => map(value, |x| round(x.tanh())),
        Unary::Abs | Unary::AbsInt => map(value, f32::abs),
    })
}

/// Applies a function to pairs, into whichever buffer nothing else holds.
fn zip(a: Value, b: Value, f: impl Fn(f32, f32) -> f32) -> Value {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => Value::Float(f(a, b)),
        (Value::Tile(a), Value::Tile(b)) if Rc::strong_count(&a) > 1 && Rc::strong_count(&b) == 1 => {
            let Data::Float(mut values) = Rc::unwrap_or_clone(b) else { unreachable!("elements are floats") };
            values.iter_mut().zip(a.floats()).for_each(|(b, a)| *b = f(*a, *b));
            Value::tile(Data::Float(values))
        }
        (a, b) => {
            let Data::Float(mut values) = a.into_data() else { unreachable!("elements are floats") };
            values.iter_mut().zip(b.data().floats()).for_each(|(a, b)| *a = f(*a, *b));
            Value::tile(Data::Float(values))
        }
    }
}

/// The larger; NaN when either is, and 0.0 over -0.0.
pub(super) fn maximum(a: f32, b: f32) -> f32 {
    if a > b {
        a
    } else if b > a {
        b
    } else if a == b {
        if a.is_sign_negative() { b } else { a }
    } else {
        f32::NAN
    }
}

/// The smaller; NaN when either is, and -0.0 over 0.0.
pub(super) fn minimum(a: f32, b: f32) -> f32 {
    -maximum(-a, -b)
}

/// A division by zero.
#[derive(Debug)]
pub(super) struct DividesByZero;

pub(super) fn binary(op: Binary, dtype: DType, a: Value, b: Value) -> Result<Value, DividesByZero> {
    if dtype.is_float() {
        return Ok(with_rounding!(dtype, |round| match op {
            Binary::Add => zip(a, b, |a, b| round(a + b)),
            Binary::Sub => zip(a, b, |a, b| round(a - b)),
            Binary::Mul => zip(a, b, |a, b| round(a * b)),
            Binary::Div => zip(a, b, |a, b| round(a / b)),
            Binary::Rem => zip(a, b, |a, b| round(a % b)),
            Binary::Max => zip(a, b, maximum),
            Binary::Min => zip(a, b, minimum),
            other => unreachable!("{other:?} of floats"),
        }));
    }
    if let (Value::Int(a), Value::Int(b)) = (&a, &b) {
        return Ok(Value::Int(wrap(dtype, integer(op, *a, *b)?)));
    }
    Ok(Value::tile(match (a.data(), b.data()) {
        (Data::Bool(a), Data::Bool(b)) => {
            let bit = |(a, b): (&bool, &bool)| Ok(integer(op, i64::from(*a), i64::from(*b))? & 1 == 1);
            Data::Bool(a.iter().zip(b).map(bit).collect::<Result<_, _>>()?)
        }
        (a, b) => {
            // Unsigned shifts of a 32-bit element must not see its extended sign.
            let left = |a: i32| if op == Binary::ShrUnsigned { i64::from(a as u32) } else { i64::from(a) };
            let pair = |(a, b): (&i32, &i32)| Ok(integer(op, left(*a), i64::from(*b))? as i32);
            Data::Int(a.ints().iter().zip(b.ints()).map(pair).collect::<Result<_, _>>()?)
        }
    }))
}

fn integer(op: Binary, a: i64, b: i64) -> Result<i64, DividesByZero> {
    let (ua, ub) = (a as u64, b as u64);
    let divides = matches!(op, Binary::Div | Binary::Rem | Binary::DivUnsigned | Binary::RemUnsigned);
    if divides && b == 0 {
        return Err(DividesByZero);
    }
    Ok(match op {
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Mul => a.wrapping_mul(b),
        Binary::Div => a.wrapping_div(b),
        Binary::Rem => a.wrapping_rem(b),
        Binary::Max => a.max(b),
        Binary::Min => a.min(b),
        Binary::DivUnsigned => (ua / ub) as i64,
        Binary::RemUnsigned => (ua % ub) as i64,
        Binary::MaxUnsigned => ua.max(ub) as i64,
        Binary::MinUnsigned => ua.min(ub) as i64,
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        Binary::Shl => a.wrapping_shl(b as u32),
        Binary::Shr => a.wrapping_shr(b as u32),
        Binary::ShrUnsigned => ua.wrapping_shr(b as u32) as i64,
    })
}

pub(super) fn fma(dtype: DType, a: Value, b: &Value, c: &Value) -> Value {
    match (a, b, c) {
        (Value::Float(a), Value::Float(b), Value::Float(c)) => Value::Float(round(dtype, a.mul_add(*b, *c))),
        (a, b, c) => {
            let Data::Float(mut values) = a.into_data() else { unreachable!("elements are floats") };
            let others = b.data().floats().iter().zip(c.data().floats());
            values.iter_mut().zip(others).for_each(|(a, (b, c))| *a = round(dtype, a.mul_add(*b, *c)));
            Value::tile(Data::Float(values))
        }
    }
}

pub(super) fn select(cond: &Value, a: Value, b: Value) -> Value {
    fn choose<T: Copy>(cond: &[bool], mut a: Vec<T>, b: &[T]) -> Vec<T> {
        a.iter_mut().zip(cond.iter().zip(b)).for_each(|(a, (c, b))| *a = if *c { *a } else { *b });
        a
    }
    match cond {
        Value::Int(cond) => {
            if *cond != 0 {
                a
            } else {
                b
            }
        }
        cond => {
            let cond = cond.data().bools();
            Value::tile(match a.into_data() {
                Data::Float(a) => Data::Float(choose(cond, a, b.data().floats())),
                Data::Int(a) => Data::Int(choose(cond, a, b.data().ints())),
                Data::Bool(a) => Data::Bool(choose(cond, a, b.data().bools())),
            })
        }
    }
}
