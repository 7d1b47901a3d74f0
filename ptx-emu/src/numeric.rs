//! Numbers as the ISA converts and rounds them.

use half::{bf16, f16};

/// Magnitudes of E2M1 by code.
const E2M1: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// The value of an E2M1 code.
pub(crate) fn from_e2m1(code: u64) -> f64 {
    let magnitude = E2M1[(code & 7) as usize];
    if code & 8 != 0 { -magnitude } else { magnitude }
}

/// The value of an E4M3 code: bias 7, no infinities, all ones NaN.
pub(crate) fn from_e4m3(code: u64) -> f64 {
    let (exponent, mantissa) = ((code >> 3 & 15) as i32, (code & 7) as f64);
    let magnitude = match (exponent, mantissa as u32) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa * 2f64.powi(-9),
        _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
    };
    if code & 0x80 != 0 { -magnitude } else { magnitude }
}

/// The code nearest to a value among `codes` whose magnitudes ascend with the code; ties to the even one; beyond the
/// last, the last.
fn nearest(magnitude: f64, codes: u64, value: impl Fn(u64) -> f64) -> u64 {
    let above = (0..codes).find(|&code| value(code) >= magnitude).unwrap_or(codes - 1);
    if above == 0 || value(above) <= magnitude {
        return above;
    }
    let (low, high) = (magnitude - value(above - 1), value(above) - magnitude);
    if low < high || low == high && (above - 1) % 2 == 0 { above - 1 } else { above }
}

/// To E2M1, to nearest even, saturating; NaN gives the largest.
pub(crate) fn to_e2m1(value: f64) -> u64 {
    if value.is_nan() {
        return 7;
    }
    u64::from(value.is_sign_negative()) << 3 | nearest(value.abs(), 8, from_e2m1)
}

/// To E4M3, to nearest even, saturating; NaN stays NaN.
pub(crate) fn to_e4m3(value: f64) -> u64 {
    if value.is_nan() {
        return 0x7f;
    }
    u64::from(value.is_sign_negative()) << 7 | nearest(value.abs(), 0x7f, from_e4m3)
}

/// f32 to tf32, to nearest with ties away from zero: the low 13 bits are zero.
pub(crate) fn to_tf32(bits: u32) -> u32 {
    if f32::from_bits(bits).is_finite() { bits.wrapping_add(0x1000) & !0x1fff } else { bits }
}

/// To f32, with a last bit of 1 where something was cut: rounding that to a shorter format rounds once.
fn to_odd(value: f64) -> f32 {
    let near = value as f32;
    if value.is_nan() || f64::from(near) == value {
        return near;
    }
    let towards_zero = near.to_bits() - u32::from(f64::from(near).abs() > value.abs());
    f32::from_bits(towards_zero | 1)
}

/// A float format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float {
    F16,
    Bf16,
    F32,
    F64,
}

impl Float {
    /// The value of some bits.
    #[inline]
    pub fn value(self, bits: u64) -> f64 {
        match self {
            Float::F16 => f16::from_bits(bits as u16).to_f64(),
            Float::Bf16 => bf16::from_bits(bits as u16).to_f64(),
            Float::F32 => f64::from(f32::from_bits(bits as u32)),
            Float::F64 => f64::from_bits(bits),
        }
    }

    /// The bits of a value, to nearest even.
    #[inline]
    pub fn bits(self, value: f64) -> u64 {
        match self {
            Float::F16 => f16::from_f32(to_odd(value)).to_bits().into(),
            Float::Bf16 => bf16::from_f32(to_odd(value)).to_bits().into(),
            Float::F32 => (value as f32).to_bits().into(),
            Float::F64 => value.to_bits(),
        }
    }

    /// `a * b + c`, rounded once.
    #[inline]
    pub fn fma(self, [a, b, c]: [u64; 3]) -> u64 {
        match self {
            Float::F32 => {
                let [a, b, c] = [a, b, c].map(|bits| f32::from_bits(bits as u32));
                a.mul_add(b, c).to_bits().into()
            }
            // A product of two shorter mantissas is exact, and the sum is rounded far below theirs.
            _ => self.bits(self.value(a).mul_add(self.value(b), self.value(c))),
        }
    }
}

/// The element type of a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Factor {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E2m1,
}

impl Factor {
    /// Bits of an element.
    pub fn bits(self) -> usize {
        match self {
            Factor::F16 | Factor::Bf16 => 16,
            Factor::Tf32 => 32,
            Factor::E4m3 => 8,
            Factor::E2m1 => 4,
        }
    }

    /// The value as the product takes it; exact in f32.
    #[inline]
    pub fn value(self, bits: u64) -> f32 {
        match self {
            Factor::F16 => f16::from_bits(bits as u16).to_f32(),
            Factor::Bf16 => bf16::from_bits(bits as u16).to_f32(),
            // The hardware does not look at the low 13 bits.
            Factor::Tf32 => f32::from_bits(bits as u32 & !0x1fff),
            Factor::E4m3 => from_e4m3(bits) as f32,
            Factor::E2m1 => from_e2m1(bits) as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_floats_round_to_nearest_even_and_saturate() {
        for code in 0..8 {
            assert_eq!(to_e2m1(from_e2m1(code)), code);
        }
        assert_eq!([0.25, 0.75, 1.25, 5.0, 9.0, -2.5].map(to_e2m1), [0, 2, 2, 6, 7, 12]);
        for code in (0..0x7f).chain(0x80..0xff) {
            assert_eq!(to_e4m3(from_e4m3(code)), code);
        }
        assert_eq!([448.0, 1e9, f64::NAN, 1.0625, 1.1875].map(to_e4m3), [0x7e, 0x7e, 0x7f, 0x38, 0x3a]);
        assert_eq!(from_e4m3(1), 2f64.powi(-9));
    }

    #[test]
    fn tf32_rounds_ties_away() {
        let tie = 1.0f32.to_bits() + 0x1000;
        assert_eq!(to_tf32(tie), 1.0f32.to_bits() + 0x2000);
        assert_eq!(to_tf32(tie - 1), 1.0f32.to_bits());
        assert_eq!(to_tf32(f32::INFINITY.to_bits()), f32::INFINITY.to_bits());
    }

    #[test]
    fn short_formats_round_once() {
        assert_eq!(Float::F16.bits(1.0 + 2f64.powi(-11)), 0x3c00);
        assert_eq!(Float::F16.bits(1.0 + 2f64.powi(-11) + 2f64.powi(-40)), 0x3c01);
        assert_eq!(Float::Bf16.bits(1.0 + 2f64.powi(-8) + 2f64.powi(-50)), 0x3f81);
    }
}
