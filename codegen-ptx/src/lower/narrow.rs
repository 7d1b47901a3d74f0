//! Casts between floats, f8 and f4 included, and from floats to integers.
//!
//! Where the target has no instruction, f8 and f4 are converted with integer arithmetic: rounding to nearest
//! even by adding half of the last place, subnormals by letting f32 addition round at the right place.

use super::emitter::{Cmp, Emitter};
use super::{Lowering, internal};
use crate::error::LowerError;
use tile_ir::types::{Op, Val};
use tile_lang::dtype::DType;

/// A small float format without infinities.
struct Format {
    mantissa_bits: u32,
    bias: i32,
    /// The largest finite value's bits.
    largest: i64,
    /// NaN's bits; the largest value where there is no NaN.
    nan: i64,
    /// The sign's bit.
    sign: u32,
}

const E4M3: Format = Format { mantissa_bits: 3, bias: 7, largest: 0x7e, nan: 0x7f, sign: 7 };
const E2M1: Format = Format { mantissa_bits: 1, bias: 1, largest: 7, nan: 7, sign: 3 };

impl<'c> Lowering<'c> {
    /// Casts one element.
    pub(super) fn cast(&mut self, op: Op, a: Val<'c>, from: DType, to: DType) -> Result<Val<'c>, LowerError> {
        let e = &mut self.e;
        let types = e.types;
        let ty = types.element(to);
        if from == to {
            return Ok(a);
        }
        if from.is_storage_only() {
            let half = to_half(e, a, from);
            let wide = e.convert("llvm.fpext", half, types.f32);
            return if to == DType::F16 { Ok(half) } else { self.cast(op, wide, DType::F32, to) };
        }
        match (from, to) {
            (DType::F32 | DType::F16 | DType::BF16, DType::F8E4M3FN | DType::F4E2M1FN) => {
                let wide = e.convert("llvm.fpext", a, types.f32);
                Ok(from_single(e, wide, to))
            }
            (_, DType::F8E4M3FN | DType::F4E2M1FN) => {
                let wide = self.cast(op, a, from, DType::F32)?;
                Ok(from_single(&mut self.e, wide, to))
            }
            (DType::F16 | DType::BF16, DType::F32) => Ok(e.convert("llvm.fpext", a, ty)),
            (DType::F32, DType::F16 | DType::BF16) => Ok(e.convert("llvm.fptrunc", a, ty)),
            (DType::F16, DType::BF16) | (DType::BF16, DType::F16) => {
                let wide = e.convert("llvm.fpext", a, types.f32);
                Ok(e.convert("llvm.fptrunc", wide, ty))
            }
            (DType::F32 | DType::F16 | DType::BF16, DType::I32) => {
                let wide = e.convert("llvm.fpext", a, types.f32);
                Ok(e.call("llvm.nvvm.f2i.rz", &[wide], ty))
            }
            (DType::F32 | DType::F16 | DType::BF16, DType::Index) => {
                let wide = e.convert("llvm.fpext", a, types.f32);
                Ok(e.call("llvm.nvvm.f2ui.rz", &[wide], ty))
            }
            (DType::F32 | DType::F16 | DType::BF16, DType::I64) => {
                let wide = e.convert("llvm.fpext", a, types.f32);
                Ok(e.call("llvm.nvvm.f2ll.rz", &[wide], ty))
            }
            (DType::F32 | DType::F16 | DType::BF16, DType::Bool) => {
                let zero = e.zero(types.element(from));
                // `une`, so that NaN is true.
                Ok(e.compare("llvm.fcmp", 13, a, zero))
            }
            (DType::I32 | DType::I64, DType::F32 | DType::F16 | DType::BF16) => {
                Ok(e.convert("llvm.sitofp", a, ty))
            }
            (DType::Index, DType::F32 | DType::F16 | DType::BF16) => Ok(e.convert("llvm.uitofp", a, ty)),
            (DType::Bool, DType::F32 | DType::F16 | DType::BF16) => Ok(e.convert("llvm.uitofp", a, ty)),
            (DType::Bool, DType::I32 | DType::I64 | DType::Index) => Ok(e.convert("llvm.zext", a, ty)),
            (DType::I32 | DType::Index, DType::I64) => Ok(e.convert("llvm.sext", a, ty)),
            (DType::I64, DType::I32 | DType::Index) => Ok(e.convert("llvm.trunc", a, ty)),
            (DType::I32, DType::Index) | (DType::Index, DType::I32) => Ok(a),
            (DType::I32 | DType::I64 | DType::Index, DType::Bool) => {
                let zero = e.zero(types.element(from));
                let is_zero = e.icmp(Cmp::Eq, a, zero);
                let one = e.int(1, types.i1);
                Ok(e.binary("llvm.xor", is_zero, one))
            }
            _ => Err(internal(op, &format!("no cast from {from} to {to}"))),
        }
    }
}

/// An f8 or f4 as f16, exactly.
pub(super) fn to_half<'c>(e: &mut Emitter<'c>, a: Val<'c>, from: DType) -> Val<'c> {
    let types = e.types;
    if from == DType::F8E4M3FN && e.target.has_fp8_conversions() {
        let wide = e.convert("llvm.zext", a, types.i16);
        let pair = e.call("llvm.nvvm.e4m3x2.to.f16x2.rn", &[wide], types.f16x2);
        return e.extract_element(pair, 0, types.f16);
    }
    let format = if from == DType::F8E4M3FN { &E4M3 } else { &E2M1 };
    let wide = e.convert("llvm.zext", a, types.i16);
    let magnitude = e.and_const(wide, (1 << format.sign) - 1);
    // The exponent keeps its place at the bottom of f16's; a product with a power of two moves it.
    let placed = e.shift(magnitude, 10 - format.mantissa_bits as i32);
    let placed = e.convert("llvm.bitcast", placed, types.f16);
    let scale = e.float(f64::from(15 - format.bias).exp2(), types.f16);
    let value = e.float_binary("llvm.fmul", placed, scale);
    let mut bits = e.convert("llvm.bitcast", value, types.i16);
    if format.nan != format.largest {
        let nan = e.int(format.nan, types.i16);
        let is_nan = e.icmp(Cmp::Eq, magnitude, nan);
        let half_nan = e.int(0x7e00, types.i16);
        bits = e.select(is_nan, half_nan, bits);
    }
    let sign = e.and_const(wide, 1 << format.sign);
    let sign = e.shift(sign, 15 - format.sign as i32);
    let bits = e.binary("llvm.or", bits, sign);
    e.convert("llvm.bitcast", bits, types.f16)
}

/// Four packed f8 as two packed pairs of f16: elements 0 and 1, 2 and 3.
pub(super) fn f8_register_to_half_pairs<'c>(e: &mut Emitter<'c>, register: Val<'c>) -> [Val<'c>; 2] {
    let types = e.types;
    [0, 1].map(|half| {
        let low = e.shift(register, -16 * half);
        let pair = if e.target.has_fp8_conversions() {
            let low = e.convert("llvm.trunc", low, types.i16);
            e.call("llvm.nvvm.e4m3x2.to.f16x2.rn", &[low], types.f16x2)
        } else {
            let high = e.shift(low, -8);
            let halves = [low, high].map(|b| {
                let byte = e.convert("llvm.trunc", b, types.i8);
                to_half(e, byte, DType::F8E4M3FN)
            });
            e.vector(&halves, types.f16x2)
        };
        e.convert("llvm.bitcast", pair, types.i32)
    })
}

/// Two f8 as a packed pair of f16 or bf16, exactly.
pub(super) fn f8_pair_as<'c>(e: &mut Emitter<'c>, pair: [Val<'c>; 2], to: DType) -> Val<'c> {
    let types = e.types;
    let halves = if e.target.has_fp8_conversions() {
        let [low, high] = pair.map(|byte| e.convert("llvm.zext", byte, types.i16));
        let high = e.shift(high, 8);
        let both = e.binary("llvm.or", low, high);
        e.call("llvm.nvvm.e4m3x2.to.f16x2.rn", &[both], types.f16x2)
    } else {
        let halves = pair.map(|byte| to_half(e, byte, DType::F8E4M3FN));
        e.vector(&halves, types.f16x2)
    };
    if to == DType::F16 {
        return e.convert("llvm.bitcast", halves, types.i32);
    }
    let [low, high] = [0, 1].map(|i| {
        let half = e.extract_element(halves, i, types.f16);
        e.convert("llvm.fpext", half, types.f32)
    });
    let both = e.call("llvm.nvvm.ff2bf16x2.rn", &[high, low], types.bf16x2);
    e.convert("llvm.bitcast", both, types.i32)
}

/// Of f16 or bf16: the largest factor that, times the power of two by which 4-bit elements are widened, is finite;
/// and that power.
pub(super) fn widening(to: DType) -> (f64, f64) {
    let (bias, largest) = match to {
        DType::F16 => (15, 65504.0),
        _ => (127, 3.389e38),
    };
    let power = f64::from(bias - E2M1.bias).exp2();
    (largest / power, power)
}

/// Two f4 of packed words, by their places, as a packed pair of f16 or bf16, exactly; times a pair of factors, if
/// there are any.
///
/// An f4's exponent and mantissa, shifted to the bottom of the wide exponent and the top of the wide mantissa, are
/// its value divided by a power of two, subnormals included; one product restores it, and multiplies by the factor
/// too. Elements half a word apart are shifted and masked together.
pub(super) fn widen_nibble_pair<'c>(
    e: &mut Emitter<'c>,
    words: &[Val<'c>],
    places: [u32; 2],
    to: DType,
    factors: Option<Val<'c>>,
) -> Val<'c> {
    let types = e.types;
    let [first, second] = places.map(|place| (words[place as usize / 8], place % 8));
    let same_byte = first.0 == second.0 && first.1 % 2 == 0 && second.1 == first.1 + 1;
    let (ty, one) = match to {
        DType::F16 => (types.f16x2, types.f16),
        _ => (types.bf16x2, types.bf16),
    };
    if to == DType::F16 && same_byte && e.target.has_fp4_conversions() {
        let byte = e.shift(first.0, -4 * first.1 as i32);
        let byte = e.and_const(byte, 0xff);
        let byte = e.convert("llvm.trunc", byte, types.i16);
        let mut pair = e.call("llvm.nvvm.e2m1x2.to.f16x2.rn", &[byte], ty);
        if let Some(factors) = factors {
            let factors = e.convert("llvm.bitcast", factors, ty);
            pair = e.float_binary("llvm.fmul", pair, factors);
        }
        return e.convert("llvm.bitcast", pair, types.i32);
    }
    let (word, place) = if first.0 == second.0 && second.1 == first.1 + 4 {
        first
    } else {
        let [low, high] = [(first, 0), (second, 16)].map(|((word, place), to)| {
            let moved = e.shift(word, to - 4 * place as i32);
            e.and_const(moved, 0xf << to)
        });
        (e.binary("llvm.or", low, high), 0)
    };
    let placed = match to {
        DType::F16 => place_in_half(e, word, place),
        _ => place_in_bfloat(e, word, place),
    };
    let placed = e.convert("llvm.bitcast", placed, ty);
    let power = e.float(widening(to).1, one);
    let power = e.in_prologue(|e| e.vector(&[power, power], ty));
    let factors = match factors {
        Some(factors) => {
            let factors = e.convert("llvm.bitcast", factors, ty);
            e.float_binary("llvm.fmul", factors, power)
        }
        None => power,
    };
    let value = e.float_binary("llvm.fmul", placed, factors);
    e.convert("llvm.bitcast", value, types.i32)
}

/// The f4 at `place` of each half of a word, its sign at the top and the rest around the bottom of f16's exponent.
fn place_in_half<'c>(e: &mut Emitter<'c>, word: Val<'c>, place: u32) -> Val<'c> {
    let at = 4 * place as i32;
    let sign = e.shift(word, 12 - at);
    let sign = e.and_const(sign, 0x8000_8000);
    let rest = e.shift(word, 9 - at);
    let rest = e.and_const(rest, 0x0e00_0e00);
    e.binary("llvm.or", sign, rest)
}

/// As [`place_in_half`], for bf16.
///
/// There sign and rest are further apart than an f4 is long. So one product of the whole f4 with two powers of two
/// makes a copy for each, which neither meet nor leave their half, where two shifts would need a pipe that masks
/// need too.
fn place_in_bfloat<'c>(e: &mut Emitter<'c>, word: Val<'c>, place: u32) -> Val<'c> {
    let word = if place >= 2 { e.shift(word, -8) } else { word };
    let at = 4 * (place % 2);
    let own = e.and_const(word, 0x000f_000f << at);
    let copies = e.i32((1 << (12 - at)) + (1 << (6 - at)));
    let both = e.binary("llvm.mul", own, copies);
    e.and_const(both, 0x81c0_81c0)
}

/// An f32 as f8 or f4, nearest even, saturating.
fn from_single<'c>(e: &mut Emitter<'c>, a: Val<'c>, to: DType) -> Val<'c> {
    let types = e.types;
    if to == DType::F8E4M3FN && e.target.has_fp8_conversions() {
        let zero = e.f32(0.0);
        let pair = e.call("llvm.nvvm.ff.to.e4m3x2.rn", &[zero, a], types.i16);
        return e.convert("llvm.trunc", pair, types.i8);
    }
    let format = if to == DType::F8E4M3FN { &E4M3 } else { &E2M1 };
    let bits = e.convert("llvm.bitcast", a, types.i32);
    let magnitude = e.and_const(bits, 0x7fff_ffff);
    let dropped = 23 - format.mantissa_bits;
    // Normal: rebias, round at the last kept bit.
    let kept = e.shift(magnitude, -(dropped as i32));
    let odd = e.and_const(kept, 1);
    let rebias = (i64::from(format.bias) - 127) << 23;
    let half = e.i32(rebias + (1i64 << (dropped - 1)) - 1);
    let rounded = e.binary("llvm.add", magnitude, half);
    let rounded = e.binary("llvm.add", rounded, odd);
    let normal = e.shift(rounded, -(dropped as i32));
    // Subnormal: adding a power of two whose last place is the format's smallest step rounds there.
    let smallest_exponent = 1 - format.bias - format.mantissa_bits as i32;
    let magic = e.f32(f64::from(smallest_exponent + 23).exp2());
    let absolute = e.convert("llvm.bitcast", magnitude, types.f32);
    let sum = e.binary("llvm.fadd", absolute, magic);
    let sum = e.convert("llvm.bitcast", sum, types.i32);
    let magic_bits = e.convert("llvm.bitcast", magic, types.i32);
    let subnormal = e.binary("llvm.sub", sum, magic_bits);
    let first_normal = e.i32((128 - i64::from(format.bias)) << 23);
    let is_subnormal = e.icmp(Cmp::Ult, magnitude, first_normal);
    let value = e.select(is_subnormal, subnormal, normal);
    let largest = e.i32(format.largest);
    let value = e.call("llvm.umin.i32", &[value, largest], types.i32);
    // Past infinity's bits lies NaN; far overflow would wrap, so it is decided on the input.
    let too_large = e.i32((127 + 32) << 23);
    let in_range = e.icmp(Cmp::Ult, magnitude, too_large);
    let value = e.select(in_range, value, largest);
    let infinity = e.i32(0x7f80_0001);
    let is_number = e.icmp(Cmp::Ult, magnitude, infinity);
    let nan = e.i32(format.nan);
    let value = e.select(is_number, value, nan);
    let sign = e.shift(bits, -(31 - format.sign as i32));
    let sign = e.and_const(sign, 1 << format.sign);
    let value = e.binary("llvm.or", value, sign);
    e.convert("llvm.trunc", value, types.i8)
}
