//! The 8-bit and 4-bit storage types of the Open Compute Project's microscaling formats.

/// OCP FP8 E4M3: 4 exponent bits, 3 mantissa bits, no infinity, one NaN a sign; the largest value is 448.
///
/// Only stored, moved and cast. Rounding is to nearest even; what is too large becomes 448, infinity included.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct F8E4M3FN(u8);

/// OCP FP4 E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
///
/// Only stored, moved and cast. Rounding is to nearest even; what is too large becomes 6, infinity included. There
/// is no NaN: a NaN becomes 6, as the GPU's conversion makes it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct F4E2M1FN(u8);

/// The other spelling of [`F8E4M3FN`], as MLIR writes it.
#[allow(non_camel_case_types)]
pub type f8E4M3FN = F8E4M3FN;

/// The other spelling of [`F4E2M1FN`], as MLIR writes it.
#[allow(non_camel_case_types)]
pub type f4E2M1FN = F4E2M1FN;

/// Magnitude `value` (finite, not negative) as an exponent-and-mantissa code: `mantissa` mantissa bits, smallest
/// normal exponent `emin`, at most `max`. Nearest even.
fn encode(value: f32, mantissa: i32, emin: i32, max: u8) -> u8 {
    if value == 0.0 {
        return 0;
    }
    let exponent = (value.to_bits() >> 23) as i32 - 127;
    let exponent = exponent.max(emin);
    // In steps of the format's spacing at this exponent, exactly: both factors are powers of two in f64's range.
    let steps = f64::from(value) * 2f64.powi(mantissa - exponent);
    let rounded = steps.round_ties_even() as i64;
    // A carry into the next exponent falls out of the sum, as the codes of a binade follow one another.
    let code = (i64::from(exponent - emin) << mantissa) + rounded;
    code.min(i64::from(max)) as u8
}

/// The magnitude that `code` stands for.
fn decode(code: u8, mantissa: i32, emin: i32) -> f32 {
    let fraction = f32::from(code & ((1 << mantissa) - 1));
    let exponent = i32::from(code >> mantissa);
    let steps = if exponent == 0 { fraction } else { fraction + (1 << mantissa) as f32 };
    steps * 2f32.powi(exponent.max(1) - 1 + emin - mantissa)
}

impl F8E4M3FN {
    /// The largest value, 448.
    pub const MAX: F8E4M3FN = F8E4M3FN(0x7e);
    /// Not a number.
    pub const NAN: F8E4M3FN = F8E4M3FN(0x7f);

    /// The value with these bits.
    pub const fn from_bits(bits: u8) -> Self {
        F8E4M3FN(bits)
    }

    /// The bits.
    pub const fn to_bits(self) -> u8 {
        self.0
    }

    /// The nearest value; ties to even, at most 448 in magnitude.
    pub fn from_f32(value: f32) -> Self {
        if value.is_nan() {
            return Self::NAN;
        }
        let sign = ((value.to_bits() >> 24) & 0x80) as u8;
        let magnitude = value.abs().min(448.0);
        F8E4M3FN(sign | encode(magnitude, 3, -6, 0x7e))
    }

    /// The exact value.
    pub fn to_f32(self) -> f32 {
        let code = self.0 & 0x7f;
        let magnitude = if code == 0x7f { f32::NAN } else { decode(code, 3, -6) };
        if self.0 & 0x80 == 0 { magnitude } else { -magnitude }
    }
}

impl F4E2M1FN {
    /// The largest value, 6.
    pub const MAX: F4E2M1FN = F4E2M1FN(0x7);

    /// The value with these bits; the upper four are ignored.
    pub const fn from_bits(bits: u8) -> Self {
        F4E2M1FN(bits & 0xf)
    }

    /// The bits, in the lower half.
    pub const fn to_bits(self) -> u8 {
        self.0
    }

    /// The nearest value; ties to even, at most 6 in magnitude.
    pub fn from_f32(value: f32) -> Self {
        if value.is_nan() {
            return Self::MAX;
        }
        let sign = ((value.to_bits() >> 28) & 0x8) as u8;
        F4E2M1FN(sign | encode(value.abs().min(6.0), 1, 0, 0x7))
    }

    /// The exact value.
    pub fn to_f32(self) -> f32 {
        let magnitude = decode(self.0 & 0x7, 1, 0);
        if self.0 & 0x8 == 0 { magnitude } else { -magnitude }
    }
}

macro_rules! common {
    ($ty:ty) => {
        impl PartialOrd for $ty {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                self.to_f32().partial_cmp(&other.to_f32())
            }
        }

        impl std::fmt::Debug for $ty {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(&self.to_f32(), f)
            }
        }

        impl std::fmt::Display for $ty {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&self.to_f32(), f)
            }
        }
    };
}
common!(F8E4M3FN);
common!(F4E2M1FN);

#[cfg(test)]
mod tests {
    use super::*;

    /// Nearest of `table` (value and code, by increasing value) to `x`; a tie goes to the even code.
    fn nearest(table: &[(f64, u8)], x: f64) -> u8 {
        let mut best = table[0];
        for &(value, code) in &table[1..] {
            let (old, new) = ((x - best.0).abs(), (x - value).abs());
            if new < old || new == old && code % 2 == 0 {
                best = (value, code);
            }
        }
        best.1
    }

    /// Probes every value, every midpoint and their neighbours in f32.
    fn check(table: &[(f64, u8)], from: impl Fn(f32) -> u8, to: impl Fn(u8) -> f32, sign: u8) {
        for &(value, code) in table {
            assert_eq!(f64::from(to(code)), value, "code {code:#x}");
            assert_eq!(f64::from(to(code | sign)), -value, "code {:#x}", code | sign);
        }
        let mut probes: Vec<f32> = table.iter().map(|t| t.0 as f32).collect();
        probes.extend(table.windows(2).map(|w| ((w[0].0 + w[1].0) / 2.0) as f32));
        probes.extend([1e-30, f32::MIN_POSITIVE, 449.0, 1e30, f32::MAX, f32::INFINITY]);
        let near: Vec<f32> = probes.iter().flat_map(|&p| [p, p.next_up(), p.next_down().max(0.0)]).collect();
        for x in near {
            let expected = nearest(table, f64::from(x.min(1e6)));
            assert_eq!(from(x), expected, "{x}");
            assert_eq!(from(-x), expected | sign, "{}", -x);
        }
    }

    #[test]
    fn f8_agrees_with_the_table_of_the_format() {
        let table: Vec<(f64, u8)> = (0..0x7f)
            .map(|code: u8| {
                let (e, m) = (i32::from(code >> 3), f64::from(code & 7));
                let value = if e == 0 { m / 8.0 * 2f64.powi(-6) } else { (1.0 + m / 8.0) * 2f64.powi(e - 7) };
                (value, code)
            })
            .collect();
        assert_eq!(table.last(), Some(&(448.0, 0x7e)));
        check(&table, |x| F8E4M3FN::from_f32(x).to_bits(), |c| F8E4M3FN::from_bits(c).to_f32(), 0x80);
        assert!(F8E4M3FN::from_f32(f32::NAN).to_f32().is_nan());
        assert!(F8E4M3FN::from_bits(0xff).to_f32().is_nan());
    }

    #[test]
    fn f4_agrees_with_the_table_of_the_format() {
        let values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        let table: Vec<(f64, u8)> = values.into_iter().zip(0..).collect();
        check(&table, |x| F4E2M1FN::from_f32(x).to_bits(), |c| F4E2M1FN::from_bits(c).to_f32(), 0x8);
        assert_eq!(F4E2M1FN::from_f32(f32::NAN).to_f32(), 6.0);
    }
}
