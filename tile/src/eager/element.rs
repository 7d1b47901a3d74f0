//! The element types of tiles and tensors, and their arithmetic.

use super::small_float::{F4E2M1FN, F8E4M3FN};
use crate::dynamic::ScalarValue;
use half::{bf16, f16};
use std::fmt::Debug;
use tile_lang::DType;

mod sealed {
    pub trait Sealed {}
}
use sealed::Sealed;

/// What a tile or tensor can hold: f32, f16, bf16, i32, bool, [`F8E4M3FN`], [`F4E2M1FN`].
pub trait Element: Copy + Default + Debug + PartialOrd + Send + Sync + Scalar + Sealed + 'static {
    /// The dtype by name.
    const DTYPE: DType;
    /// The scalar that stands for one element in an expression: f32 for every floating-point type, i32, bool.
    type Value: Copy;
    /// What a tensor's memory is made of: the type itself, or a byte for two 4-bit elements.
    #[doc(hidden)]
    type Packed: Copy + Default + Send + Sync + 'static;

    /// The element that a scalar stands for: the nearest.
    fn of(value: Self::Value) -> Self;
    /// The scalar that stands for the element; exact.
    fn value(self) -> Self::Value;
    /// The value in f32; exact for every dtype but i32.
    fn to_f32(self) -> f32;
    /// The nearest value: ties to even, saturating for the 8-bit and 4-bit types; towards zero for i32.
    fn from_f32(value: f32) -> Self;

    /// The value in f64, exact.
    fn to_f64(self) -> f64 {
        f64::from(self.to_f32())
    }

    /// The nearest value, rounded once from f64.
    fn from_f64(value: f64) -> Self;

    /// Converts between any two dtypes.
    #[doc(hidden)]
    fn cast<U: Element>(self) -> U {
        if Self::DTYPE == DType::I32 { U::from_f64(self.to_f64()) } else { U::from_f32(self.to_f32()) }
    }

    /// Reads element `index` of a tensor's memory.
    ///
    /// # Safety
    /// The element lies inside the allocation at `base`.
    #[doc(hidden)]
    unsafe fn read(base: *const u8, index: usize) -> Self {
        // SAFETY: the caller's; memory need not be aligned.
        unsafe { base.cast::<Self>().add(index).read_unaligned() }
    }

    /// Writes element `index` of a tensor's memory.
    ///
    /// # Safety
    /// The element lies inside the allocation at `base`, which may be written.
    #[doc(hidden)]
    unsafe fn write(base: *mut u8, index: usize, value: Self) {
        // SAFETY: the caller's; memory need not be aligned.
        unsafe { base.cast::<Self>().add(index).write_unaligned(value) }
    }

    /// A tensor's memory with these elements.
    #[doc(hidden)]
    fn pack(values: Vec<Self>) -> Vec<Self::Packed>;

    /// The elements, unless they are packed.
    #[doc(hidden)]
    fn elements(packed: &[Self::Packed]) -> Option<&[Self]>;

    /// The elements, unless they are packed.
    #[doc(hidden)]
    fn elements_mut(packed: &mut [Self::Packed]) -> Option<&mut [Self]>;
}

/// What a kernel takes by value: f32, i32, i64, usize, bool, or a dtype parameter.
pub trait Scalar: Copy + Send + Sync + super::arena::Carried + 'static {
    /// The type's name.
    #[doc(hidden)]
    const SCALAR: DType;
    /// For type-erased calls.
    #[doc(hidden)]
    fn to_value(self) -> ScalarValue;
    /// From a type-erased call; `None` when the types differ.
    #[doc(hidden)]
    fn from_value(value: ScalarValue) -> Option<Self>;
}

/// Element types with arithmetic: f32, f16, bf16, i32.
///
/// f16 and bf16 compute in f32 and round each result.
#[allow(missing_docs)]
pub trait Numeric: Element {
    /// What a sum is accumulated in.
    #[doc(hidden)]
    type Acc: Copy + Send + Sync;
    #[doc(hidden)]
    const ZERO: Self::Acc;
    /// What every other value is at least.
    #[doc(hidden)]
    const LOWEST: Self;
    /// What every other value is at most.
    #[doc(hidden)]
    const HIGHEST: Self;
    #[doc(hidden)]
    fn add(self, other: Self) -> Self;
    #[doc(hidden)]
    fn sub(self, other: Self) -> Self;
    #[doc(hidden)]
    fn mul(self, other: Self) -> Self;
    /// Total: integer division by zero is found before.
    #[doc(hidden)]
    fn div(self, other: Self) -> Self;
    #[doc(hidden)]
    fn rem(self, other: Self) -> Self;
    #[doc(hidden)]
    fn neg(self) -> Self;
    #[doc(hidden)]
    fn abs(self) -> Self;
    /// NaN when either is.
    #[doc(hidden)]
    fn max_nan(self, other: Self) -> Self;
    #[doc(hidden)]
    fn min_nan(self, other: Self) -> Self;
    #[doc(hidden)]
    fn accumulate(acc: Self::Acc, value: Self) -> Self::Acc;
    #[doc(hidden)]
    fn join(a: Self::Acc, b: Self::Acc) -> Self::Acc;
    #[doc(hidden)]
    fn round(acc: Self::Acc) -> Self;
    /// One, for `ones`.
    #[doc(hidden)]
    fn one() -> Self;
}

/// Element types that [`mma`](crate::eager::mma()) multiplies: f32, f16, bf16, f8E4M3FN.
pub trait Factor: Element<Value = f32> {}

impl<T: Float> Factor for T {}
impl Factor for F8E4M3FN {}

/// Floating-point element types with arithmetic: f32, f16, bf16.
pub trait Float: Numeric + Element<Value = f32> {}

/// Element types with `& | ^ !`: bool and i32.
#[allow(missing_docs)]
pub trait Bits: Element {
    #[doc(hidden)]
    fn and(self, other: Self) -> Self;
    #[doc(hidden)]
    fn or(self, other: Self) -> Self;
    #[doc(hidden)]
    fn xor(self, other: Self) -> Self;
    #[doc(hidden)]
    fn not(self) -> Self;
}

/// The larger, NaN when either is; +0 is larger than -0.
pub(crate) fn max_f32(a: f32, b: f32) -> f32 {
    if a == b {
        f32::from_bits(a.to_bits() & b.to_bits())
    } else if a > b || a.is_nan() {
        a
    } else {
        b
    }
}

/// The smaller, NaN when either is; -0 is smaller than +0.
pub(crate) fn min_f32(a: f32, b: f32) -> f32 {
    if a == b {
        f32::from_bits(a.to_bits() | b.to_bits())
    } else if a < b || a.is_nan() {
        a
    } else {
        b
    }
}

/// The parts of [`Element`] that every unpacked type shares.
macro_rules! unpacked {
    ($ty:ty) => {
        type Packed = $ty;

        fn pack(values: Vec<Self>) -> Vec<Self> {
            values
        }

        fn elements(packed: &[Self]) -> Option<&[Self]> {
            Some(packed)
        }

        fn elements_mut(packed: &mut [Self]) -> Option<&mut [Self]> {
            Some(packed)
        }
    };
}

macro_rules! scalar {
    ($ty:ty, $dtype:expr, $variant:ident, |$v:ident| $to:expr, |$f:ident| $from:expr) => {
        impl Scalar for $ty {
            const SCALAR: DType = $dtype;

            fn to_value(self) -> ScalarValue {
                let $v = self;
                ScalarValue::$variant($to)
            }

            fn from_value(value: ScalarValue) -> Option<Self> {
                match value {
                    ScalarValue::$variant($f) => Some($from),
                    _ => None,
                }
            }
        }
    };
}
scalar!(f32, DType::F32, F32, |v| v, |v| v);
scalar!(i32, DType::I32, I32, |v| v, |v| v);
scalar!(i64, DType::I64, I64, |v| v, |v| v);
scalar!(usize, DType::Index, Index, |v| v, |v| v);
scalar!(bool, DType::Bool, Bool, |v| v, |v| v);
scalar!(f16, DType::F16, F32, |v| v.to_f32(), |v| f16::from_f32(v));
scalar!(bf16, DType::BF16, F32, |v| v.to_f32(), |v| bf16::from_f32(v));
scalar!(F8E4M3FN, DType::F8E4M3FN, F32, |v| v.to_f32(), |v| F8E4M3FN::from_f32(v));
scalar!(F4E2M1FN, DType::F4E2M1FN, F32, |v| v.to_f32(), |v| F4E2M1FN::from_f32(v));

macro_rules! small_float {
    ($ty:ty, $dtype:ident) => {
        impl Sealed for $ty {}
        impl Element for $ty {
            const DTYPE: DType = DType::$dtype;
            unpacked!($ty);
            type Value = f32;

            fn of(value: f32) -> Self {
                <$ty>::from_f32(value)
            }

            fn value(self) -> f32 {
                self.to_f32()
            }

            fn to_f32(self) -> f32 {
                self.to_f32()
            }

            fn from_f32(value: f32) -> Self {
                <$ty>::from_f32(value)
            }

            fn from_f64(value: f64) -> Self {
                <$ty>::from_f64(value)
            }
        }

        impl Numeric for $ty {
            type Acc = f32;
            const ZERO: f32 = 0.0;
            const LOWEST: Self = <$ty>::NEG_INFINITY;
            const HIGHEST: Self = <$ty>::INFINITY;

            fn add(self, other: Self) -> Self {
                <$ty>::from_f32(self.to_f32() + other.to_f32())
            }

            fn sub(self, other: Self) -> Self {
                <$ty>::from_f32(self.to_f32() - other.to_f32())
            }

            fn mul(self, other: Self) -> Self {
                <$ty>::from_f32(self.to_f32() * other.to_f32())
            }

            fn div(self, other: Self) -> Self {
                <$ty>::from_f32(self.to_f32() / other.to_f32())
            }

            fn rem(self, other: Self) -> Self {
                <$ty>::from_f32(self.to_f32() % other.to_f32())
            }

            fn neg(self) -> Self {
                -self
            }

            fn abs(self) -> Self {
                <$ty>::from_bits(self.to_bits() & 0x7fff)
            }

            fn max_nan(self, other: Self) -> Self {
                <$ty>::from_f32(max_f32(self.to_f32(), other.to_f32()))
            }

            fn min_nan(self, other: Self) -> Self {
                <$ty>::from_f32(min_f32(self.to_f32(), other.to_f32()))
            }

            fn accumulate(acc: f32, value: Self) -> f32 {
                acc + value.to_f32()
            }

            fn join(a: f32, b: f32) -> f32 {
                a + b
            }

            fn round(acc: f32) -> Self {
                <$ty>::from_f32(acc)
            }

            fn one() -> Self {
                <$ty>::ONE
            }
        }

        impl Float for $ty {}
    };
}
small_float!(f16, F16);
small_float!(bf16, BF16);

impl Sealed for f32 {}
impl Element for f32 {
    const DTYPE: DType = DType::F32;
    unpacked!(f32);
    type Value = f32;

    fn of(value: f32) -> Self {
        value
    }

    fn value(self) -> f32 {
        self
    }

    fn to_f32(self) -> f32 {
        self
    }

    fn from_f32(value: f32) -> Self {
        value
    }

    fn from_f64(value: f64) -> Self {
        value as f32
    }
}

impl Numeric for f32 {
    type Acc = f32;
    const ZERO: f32 = 0.0;
    const LOWEST: f32 = f32::NEG_INFINITY;
    const HIGHEST: f32 = f32::INFINITY;

    fn add(self, other: Self) -> Self {
        self + other
    }

    fn sub(self, other: Self) -> Self {
        self - other
    }

    fn mul(self, other: Self) -> Self {
        self * other
    }

    fn div(self, other: Self) -> Self {
        self / other
    }

    fn rem(self, other: Self) -> Self {
        self % other
    }

    fn neg(self) -> Self {
        -self
    }

    fn abs(self) -> Self {
        self.abs()
    }

    fn max_nan(self, other: Self) -> Self {
        max_f32(self, other)
    }

    fn min_nan(self, other: Self) -> Self {
        min_f32(self, other)
    }

    fn accumulate(acc: f32, value: Self) -> f32 {
        acc + value
    }

    fn join(a: f32, b: f32) -> f32 {
        a + b
    }

    fn round(acc: f32) -> Self {
        acc
    }

    fn one() -> Self {
        1.0
    }
}

impl Float for f32 {}

impl Sealed for i32 {}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
    unpacked!(i32);
    type Value = i32;

    fn of(value: i32) -> Self {
        value
    }

    fn value(self) -> i32 {
        self
    }

    fn to_f32(self) -> f32 {
        self as f32
    }

    fn from_f32(value: f32) -> Self {
        value as i32
    }

    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn from_f64(value: f64) -> Self {
        value as i32
    }
}

impl Numeric for i32 {
    type Acc = i32;
    const ZERO: i32 = 0;
    const LOWEST: i32 = i32::MIN;
    const HIGHEST: i32 = i32::MAX;

    fn add(self, other: Self) -> Self {
        self.wrapping_add(other)
    }

    fn sub(self, other: Self) -> Self {
        self.wrapping_sub(other)
    }

    fn mul(self, other: Self) -> Self {
        self.wrapping_mul(other)
    }

    fn div(self, other: Self) -> Self {
        self.wrapping_div(other)
    }

    fn rem(self, other: Self) -> Self {
        self.wrapping_rem(other)
    }

    fn neg(self) -> Self {
        self.wrapping_neg()
    }

    fn abs(self) -> Self {
        self.wrapping_abs()
    }

    fn max_nan(self, other: Self) -> Self {
        self.max(other)
    }

    fn min_nan(self, other: Self) -> Self {
        self.min(other)
    }

    fn accumulate(acc: i32, value: Self) -> i32 {
        acc.wrapping_add(value)
    }

    fn join(a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }

    fn round(acc: i32) -> Self {
        acc
    }

    fn one() -> Self {
        1
    }
}

impl Sealed for bool {}
impl Element for bool {
    const DTYPE: DType = DType::Bool;
    unpacked!(bool);
    type Value = bool;

    fn of(value: bool) -> Self {
        value
    }

    fn value(self) -> bool {
        self
    }

    fn to_f32(self) -> f32 {
        f32::from(u8::from(self))
    }

    fn from_f32(value: f32) -> Self {
        value != 0.0
    }

    fn from_f64(value: f64) -> Self {
        value != 0.0
    }

    unsafe fn read(base: *const u8, index: usize) -> Self {
        // SAFETY: the caller's. Foreign bytes need not be 0 or 1.
        unsafe { *base.add(index) != 0 }
    }
}

impl Sealed for F8E4M3FN {}
impl Element for F8E4M3FN {
    const DTYPE: DType = DType::F8E4M3FN;
    unpacked!(F8E4M3FN);
    type Value = f32;

    fn of(value: f32) -> Self {
        F8E4M3FN::from_f32(value)
    }

    fn value(self) -> f32 {
        self.to_f32()
    }

    fn to_f32(self) -> f32 {
        self.to_f32()
    }

    fn from_f32(value: f32) -> Self {
        F8E4M3FN::from_f32(value)
    }

    fn from_f64(value: f64) -> Self {
        F8E4M3FN::from_f32(narrow_for_rounding(value))
    }
}

impl Sealed for F4E2M1FN {}
impl Element for F4E2M1FN {
    const DTYPE: DType = DType::F4E2M1FN;
    type Packed = u8;
    type Value = f32;

    fn of(value: f32) -> Self {
        F4E2M1FN::from_f32(value)
    }

    fn value(self) -> f32 {
        self.to_f32()
    }

    fn to_f32(self) -> f32 {
        self.to_f32()
    }

    fn from_f32(value: f32) -> Self {
        F4E2M1FN::from_f32(value)
    }

    fn from_f64(value: f64) -> Self {
        F4E2M1FN::from_f32(narrow_for_rounding(value))
    }

    unsafe fn read(base: *const u8, index: usize) -> Self {
        // SAFETY: the caller's; the byte may be shared with another program's element, hence atomic.
        let byte = unsafe { atomic_byte(base.add(index / 2)) }.load(std::sync::atomic::Ordering::Relaxed);
        F4E2M1FN::from_bits(byte >> (index % 2 * 4))
    }

    unsafe fn write(base: *mut u8, index: usize, value: Self) {
        use std::sync::atomic::Ordering::Relaxed;
        let shift = index % 2 * 4;
        // SAFETY: the caller's; the other half of the byte may be another program's, hence atomic.
        let byte = unsafe { atomic_byte(base.add(index / 2)) };
        let put = |old: u8| Some(old & !(0xf << shift) | value.to_bits() << shift);
        let _ = byte.fetch_update(Relaxed, Relaxed, put);
    }

    fn pack(values: Vec<Self>) -> Vec<u8> {
        let half = |v: Option<&F4E2M1FN>| v.map_or(0, |v| v.to_bits());
        values.chunks(2).map(|pair| half(pair.first()) | half(pair.get(1)) << 4).collect()
    }

    fn elements(_: &[u8]) -> Option<&[Self]> {
        None
    }

    fn elements_mut(_: &mut [u8]) -> Option<&mut [Self]> {
        None
    }
}

/// Rounds to f32 to odd, so that a second rounding to a much narrower type is as if there were one.
fn narrow_for_rounding(value: f64) -> f32 {
    let near = value as f32;
    if f64::from(near) == value || value.is_nan() || near.to_bits() & 1 == 1 {
        return near;
    }
    // Inexact and even: take the neighbour on the other side of `value`, which is odd.
    if f64::from(near) < value { near.next_up() } else { near.next_down() }
}

/// # Safety
/// `at` is valid for reads, and for writes if it is written through.
unsafe fn atomic_byte<'a>(at: *const u8) -> &'a std::sync::atomic::AtomicU8 {
    // SAFETY: the caller's; every access of 4-bit elements by running programs goes through here.
    unsafe { std::sync::atomic::AtomicU8::from_ptr(at.cast_mut()) }
}

impl Bits for bool {
    fn and(self, other: Self) -> Self {
        self & other
    }

    fn or(self, other: Self) -> Self {
        self | other
    }

    fn xor(self, other: Self) -> Self {
        self ^ other
    }

    fn not(self) -> Self {
        !self
    }
}

impl Bits for i32 {
    fn and(self, other: Self) -> Self {
        self & other
    }

    fn or(self, other: Self) -> Self {
        self | other
    }

    fn xor(self, other: Self) -> Self {
        self ^ other
    }

    fn not(self) -> Self {
        !self
    }
}
