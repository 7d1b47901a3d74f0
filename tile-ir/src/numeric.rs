//! How numbers of each dtype round, and their bits.
//!
//! Every float dtype's values are a subset of f32's, so the interpreter computes in f32 and rounds.

use half::{bf16, f16};
use tile_lang::DType;

/// A float format of a sign, an exponent and a mantissa that saturates at its largest value.
struct Small {
    mantissa_bits: i32,
    /// Exponent of the smallest normal value.
    min_exponent: i32,
    max: f64,
}

const F8E4M3FN: Small = Small { mantissa_bits: 3, min_exponent: -6, max: 448.0 };
const F4E2M1FN: Small = Small { mantissa_bits: 1, min_exponent: 0, max: 6.0 };

impl Small {
    /// The spacing of values around `magnitude`.
    fn quantum(&self, magnitude: f64) -> f64 {
        let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(self.min_exponent);
        f64::powi(2.0, exponent - self.mantissa_bits)
    }

    fn round(&self, value: f32) -> f32 {
        let magnitude = f64::from(value.abs());
        let quantum = self.quantum(magnitude);
        let rounded = ((magnitude / quantum).round_ties_even() * quantum).min(self.max);
        (rounded as f32).copysign(value)
    }

    /// The bits of one of the format's own values, without the sign.
    fn encode(&self, value: f32) -> u8 {
        let magnitude = f64::from(value.abs());
        let quantum = self.quantum(magnitude);
        let exponent = (quantum.log2() as i32) + self.mantissa_bits - self.min_exponent;
        let units = (magnitude / quantum) as i32;
        // Below the smallest normal value the units are the mantissa; above it they count the hidden bit.
        ((exponent << self.mantissa_bits) + units) as u8
    }

    fn decode(&self, bits: u8) -> f32 {
        let exponent = i32::from(bits) >> self.mantissa_bits;
        let mantissa = i32::from(bits) & ((1 << self.mantissa_bits) - 1);
        let hidden = i32::from(exponent > 0) << self.mantissa_bits;
        let scale = f64::powi(2.0, self.min_exponent - self.mantissa_bits + (exponent - 1).max(0));
        (f64::from(mantissa + hidden) * scale) as f32
    }
}

/// The nearest value of a float dtype, ties to even; f8 and f4 saturate, and f4, which has no NaN, has its
/// largest value for it.
pub fn round(dtype: DType, value: f32) -> f32 {
    match dtype {
        DType::F16 => f16::from_f32(value).to_f32(),
        DType::BF16 => bf16::from_f32(value).to_f32(),
        DType::F8E4M3FN if value.is_nan() => value,
        DType::F8E4M3FN => F8E4M3FN.round(value),
        DType::F4E2M1FN if value.is_nan() => 6.0,
        DType::F4E2M1FN => F4E2M1FN.round(value),
        _ => value,
    }
}

/// The nearest value of f32, f16 or bf16, rounded once from an integer.
pub fn from_int(dtype: DType, value: f64) -> f32 {
    match dtype {
        DType::F16 => f16::from_f64(value).to_f32(),
        DType::BF16 => bf16::from_f64(value).to_f32(),
        _ => value as f32,
    }
}

/// The bits of a value of f8E4M3FN, rounded.
pub fn f8_to_bits(value: f32) -> u8 {
    let rounded = round(DType::F8E4M3FN, value);
    let sign = u8::from(rounded.is_sign_negative()) << 7;
    if rounded.is_nan() { sign | 0x7f } else { sign | F8E4M3FN.encode(rounded) }
}

/// The value of f8E4M3FN bits.
pub fn f8_from_bits(bits: u8) -> f32 {
    let magnitude = if bits & 0x7f == 0x7f { f32::NAN } else { F8E4M3FN.decode(bits & 0x7f) };
    if bits & 0x80 != 0 { -magnitude } else { magnitude }
}

/// The four bits of a value of f4E2M1FN, rounded.
pub fn f4_to_bits(value: f32) -> u8 {
    let rounded = round(DType::F4E2M1FN, value);
    u8::from(rounded.is_sign_negative()) << 3 | F4E2M1FN.encode(rounded)
}

/// The value of f4E2M1FN bits; the upper four are ignored.
pub fn f4_from_bits(bits: u8) -> f32 {
    let magnitude = F4E2M1FN.decode(bits & 0x7);
    if bits & 0x8 != 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each value is its own nearest, and between two neighbours the nearer wins, the even one at the middle.
    fn check(values: Vec<f32>, dtype: DType, encode: fn(f32) -> u8) {
        for (i, &value) in values.iter().enumerate() {
            assert_eq!(usize::from(encode(value)), i);
            assert_eq!(round(dtype, -value), -value);
            let Some(&next) = values.get(i + 1) else { continue };
            let middle = (value + next) / 2.0;
            let even = if i % 2 == 0 { value } else { next };
            assert_eq!(round(dtype, middle), even, "between {value} and {next}");
            assert_eq!(round(dtype, f32::next_down(middle)), value);
            assert_eq!(round(dtype, f32::next_up(middle)), next);
        }
        let max = *values.last().unwrap();
        for beyond in [max * 1.01, max * 100.0, f32::INFINITY] {
            assert_eq!(round(dtype, beyond), max);
            assert_eq!(round(dtype, -beyond), -max);
        }
    }

    #[test]
    fn small_floats_round_to_nearest_even_and_saturate() {
        let f4: Vec<f32> = (0..8).map(f4_from_bits).collect();
        assert_eq!(f4, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        check(f4, DType::F4E2M1FN, f4_to_bits);
        let f8: Vec<f32> = (0..127).map(f8_from_bits).collect();
        assert_eq!((f8[1], f8[8], f8[126]), (0.001953125, 0.015625, 448.0));
        check(f8, DType::F8E4M3FN, f8_to_bits);
        assert_eq!(f8_to_bits(f32::NAN) & 0x7f, 0x7f);
        assert!(f8_from_bits(0x7f).is_nan());
        assert_eq!(f4_to_bits(f32::NAN), 7);
        assert_eq!(f8_to_bits(-0.0), 0x80);
    }
}
