//! Operators, comparisons and elementwise functions.

use super::arena::{Output, Read};
use super::element::{Bits, Element, Float, Numeric};
use super::fault::fault;
use super::shape::{Shape, for_each_row};
use super::tile::{Tile, broadcast};
use crate::error::KernelError;
use std::ops;

/// A tile, or a scalar that stands for a tile of one value: f32 beside floating-point tiles, rounded to their dtype
/// first; i32 and bool beside their own.
pub trait Operand<T: Element>: Copy {
    /// The tile; a scalar becomes one without dimensions, which broadcasts to any shape.
    #[doc(hidden)]
    fn tile(self) -> Tile<T>;
}

impl<T: Element> Operand<T> for Tile<T> {
    fn tile(self) -> Tile<T> {
        self
    }
}

impl<T: Element<Value = f32>> Operand<T> for f32 {
    fn tile(self) -> Tile<T> {
        scalar(T::of(self))
    }
}

impl Operand<i32> for i32 {
    fn tile(self) -> Tile<i32> {
        scalar(self)
    }
}

impl Operand<bool> for bool {
    fn tile(self) -> Tile<bool> {
        scalar(self)
    }
}

/// A tile without dimensions.
fn scalar<T: Element>(value: T) -> Tile<T> {
    let mut out = Output::new(Shape::new(&[]));
    out[0] = value;
    out.finish()
}

fn map<T: Element, U: Element>(from: &Read<T>, f: impl Fn(T) -> U) -> Tile<U> {
    let mut out = Output::new(from.shape);
    for (o, &v) in out.iter_mut().zip(from.iter()) {
        *o = f(v);
    }
    out.finish()
}

#[track_caller]
fn broadcast_shape(op: &'static str, lhs: &Shape, rhs: &Shape) -> Shape {
    match lhs.broadcast(rhs) {
        Some(shape) => shape,
        None => fault(KernelError::Broadcast { op, lhs: lhs.to_vec(), rhs: rhs.to_vec() }),
    }
}

/// Applies `f` to two tiles broadcast together.
#[track_caller]
fn zip<T: Element, U: Element, V: Element>(
    op: &'static str,
    lhs: Tile<T>,
    rhs: Tile<U>,
    f: impl Fn(T, U) -> V,
) -> Tile<V> {
    let (lhs, rhs) = (lhs.read(), rhs.read());
    let shape = broadcast_shape(op, &lhs.shape, &rhs.shape);
    let mut out = Output::new(shape);
    if lhs.shape == rhs.shape {
        for (o, (&a, &b)) in out.iter_mut().zip(lhs.iter().zip(rhs.iter())) {
            *o = f(a, b);
        }
        return out.finish();
    }
    let width = shape.last().copied().unwrap_or(1);
    let strides = [&lhs.shape.strides_in(&shape), &rhs.shape.strides_in(&shape)];
    let varies = |operand: &Shape| operand.last().is_some_and(|&last| last != 1);
    let varies = (varies(&lhs.shape), varies(&rhs.shape));
    for_each_row(&shape, strides, |at, [l, r]| {
        let row = &mut out[at..at + width];
        match varies {
            (true, true) => {
                for (o, (&a, &b)) in row.iter_mut().zip(lhs[l..l + width].iter().zip(&rhs[r..r + width])) {
                    *o = f(a, b);
                }
            }
            (true, false) => {
                let b = rhs[r];
                row.iter_mut().zip(&lhs[l..l + width]).for_each(|(o, &a)| *o = f(a, b));
            }
            (false, true) => {
                let a = lhs[l];
                row.iter_mut().zip(&rhs[r..r + width]).for_each(|(o, &b)| *o = f(a, b));
            }
            (false, false) => row.fill(f(lhs[l], rhs[r])),
        }
    });
    out.finish()
}

/// Applies `f` to three tiles broadcast together.
#[track_caller]
fn zip3<T: Element, U: Element>(
    op: &'static str,
    first: Tile<U>,
    second: Tile<T>,
    third: Tile<T>,
    f: impl Fn(U, T, T) -> T,
) -> Tile<T> {
    let (a, b, c) = (first.read(), second.read(), third.read());
    let both = broadcast_shape(op, &b.shape, &c.shape);
    let shape = broadcast_shape(op, &a.shape, &both);
    let (a, b, c) = (Spread::new(&a, shape), Spread::new(&b, shape), Spread::new(&c, shape));
    let mut out = Output::new(shape);
    for (o, ((&a, &b), &c)) in out.iter_mut().zip(a.iter().zip(b.iter()).zip(c.iter())) {
        *o = f(a, b, c);
    }
    out.finish()
}

/// Elements in a shape: as they are, or repeated.
enum Spread<'a, T: Element> {
    Same(&'a [T]),
    Repeated(Output<T>),
}

impl<'a, T: Element> Spread<'a, T> {
    fn new(from: &'a Read<T>, shape: Shape) -> Self {
        if from.shape == shape { Spread::Same(from) } else { Spread::Repeated(broadcast(from, shape)) }
    }
}

impl<T: Element> ops::Deref for Spread<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Spread::Same(values) => values,
            Spread::Repeated(values) => values,
        }
    }
}

/// Integer division by zero has no value.
#[track_caller]
fn refuse_zero<T: Numeric>(divisor: Tile<T>) {
    if !T::DTYPE.is_float() && divisor.read().contains(&T::default()) {
        fault(KernelError::DivisionByZero);
    }
}

/// For operators that every operand has a result for.
fn any_value<T>(_: Tile<T>) {}

/// `Tile op Tile` and `Tile op= Tile`.
macro_rules! binary {
    ($bound:ident, $op:literal, $trait:ident :: $method:ident, $assign:ident :: $assign_method:ident,
     $function:expr, $check:expr) => {
        impl<T: $bound> ops::$trait for Tile<T> {
            type Output = Tile<T>;

            #[track_caller]
            fn $method(self, rhs: Tile<T>) -> Tile<T> {
                $check(rhs);
                zip($op, self, rhs, $function)
            }
        }

        impl<T: $bound> ops::$assign for Tile<T> {
            #[track_caller]
            fn $assign_method(&mut self, rhs: Tile<T>) {
                *self = ops::$trait::$method(*self, rhs);
            }
        }
    };
}

/// `Tile op scalar`, `scalar op Tile` and `Tile op= scalar`.
macro_rules! binary_scalar {
    ($scalar:ty, $generics:tt $element:ty,
     $($trait:ident :: $method:ident, $assign:ident :: $assign_method:ident;)*) => {
        $(binary_scalar!(one $scalar, $generics $element, $trait::$method, $assign::$assign_method);)*
    };
    (one $scalar:ty, [$($generics:tt)*] $element:ty,
     $trait:ident :: $method:ident, $assign:ident :: $assign_method:ident) => {
        impl<$($generics)*> ops::$trait<$scalar> for Tile<$element> {
            type Output = Tile<$element>;

            #[track_caller]
            fn $method(self, rhs: $scalar) -> Tile<$element> {
                ops::$trait::$method(self, Operand::<$element>::tile(rhs))
            }
        }

        impl<$($generics)*> ops::$trait<Tile<$element>> for $scalar {
            type Output = Tile<$element>;

            #[track_caller]
            fn $method(self, rhs: Tile<$element>) -> Tile<$element> {
                ops::$trait::$method(Operand::<$element>::tile(self), rhs)
            }
        }

        impl<$($generics)*> ops::$assign<$scalar> for Tile<$element> {
            #[track_caller]
            fn $assign_method(&mut self, rhs: $scalar) {
                *self = ops::$trait::$method(*self, rhs);
            }
        }
    };
}

binary!(Numeric, "+", Add::add, AddAssign::add_assign, T::add, any_value);
binary!(Numeric, "-", Sub::sub, SubAssign::sub_assign, T::sub, any_value);
binary!(Numeric, "*", Mul::mul, MulAssign::mul_assign, T::mul, any_value);
binary!(Numeric, "/", Div::div, DivAssign::div_assign, T::div, refuse_zero);
binary!(Numeric, "%", Rem::rem, RemAssign::rem_assign, T::rem, refuse_zero);
binary!(Bits, "&", BitAnd::bitand, BitAndAssign::bitand_assign, T::and, any_value);
binary!(Bits, "|", BitOr::bitor, BitOrAssign::bitor_assign, T::or, any_value);
binary!(Bits, "^", BitXor::bitxor, BitXorAssign::bitxor_assign, T::xor, any_value);

binary_scalar! {
    f32, [T: Float] T,
    Add::add, AddAssign::add_assign;
    Sub::sub, SubAssign::sub_assign;
    Mul::mul, MulAssign::mul_assign;
    Div::div, DivAssign::div_assign;
    Rem::rem, RemAssign::rem_assign;
}
binary_scalar! {
    i32, [] i32,
    Add::add, AddAssign::add_assign;
    Sub::sub, SubAssign::sub_assign;
    Mul::mul, MulAssign::mul_assign;
    Div::div, DivAssign::div_assign;
    Rem::rem, RemAssign::rem_assign;
    BitAnd::bitand, BitAndAssign::bitand_assign;
    BitOr::bitor, BitOrAssign::bitor_assign;
    BitXor::bitxor, BitXorAssign::bitxor_assign;
}
binary_scalar! {
    bool, [] bool,
    BitAnd::bitand, BitAndAssign::bitand_assign;
    BitOr::bitor, BitOrAssign::bitor_assign;
    BitXor::bitxor, BitXorAssign::bitxor_assign;
}

impl<T: Numeric> ops::Neg for Tile<T> {
    type Output = Tile<T>;

    #[track_caller]
    fn neg(self) -> Tile<T> {
        map(&self.read(), T::neg)
    }
}

impl<T: Bits> ops::Not for Tile<T> {
    type Output = Tile<T>;

    #[track_caller]
    fn not(self) -> Tile<T> {
        map(&self.read(), T::not)
    }
}

/// Comparisons are methods: Rust's own operators must return `bool`.
#[allow(clippy::should_implement_trait)]
impl<T: Element> Tile<T> {
    /// `self == other`, elementwise.
    #[track_caller]
    pub fn eq(self, other: impl Operand<T>) -> Tile<bool> {
        zip("eq", self, other.tile(), |a, b| a == b)
    }

    /// `self != other`, elementwise.
    #[track_caller]
    pub fn ne(self, other: impl Operand<T>) -> Tile<bool> {
        zip("ne", self, other.tile(), |a, b| a != b)
    }

    /// `self < other`, elementwise.
    #[track_caller]
    pub fn lt(self, other: impl Operand<T>) -> Tile<bool> {
        zip("lt", self, other.tile(), |a, b| a < b)
    }

    /// `self <= other`, elementwise.
    #[track_caller]
    pub fn le(self, other: impl Operand<T>) -> Tile<bool> {
        zip("le", self, other.tile(), |a, b| a <= b)
    }

    /// `self > other`, elementwise.
    #[track_caller]
    pub fn gt(self, other: impl Operand<T>) -> Tile<bool> {
        zip("gt", self, other.tile(), |a, b| a > b)
    }

    /// `self >= other`, elementwise.
    #[track_caller]
    pub fn ge(self, other: impl Operand<T>) -> Tile<bool> {
        zip("ge", self, other.tile(), |a, b| a >= b)
    }
}

impl Tile<bool> {
    /// `a` where the mask is true, `b` where it is false.
    #[track_caller]
    pub fn select<T: Element>(self, a: impl Operand<T>, b: impl Operand<T>) -> Tile<T> {
        zip3("select", self, a.tile(), b.tile(), |mask, a, b| if mask { a } else { b })
    }
}

impl<T: Numeric> Tile<T> {
    /// The larger of each pair; NaN when either is NaN.
    #[track_caller]
    pub fn maximum(self, other: impl Operand<T>) -> Tile<T> {
        zip("maximum", self, other.tile(), T::max_nan)
    }

    /// The smaller of each pair; NaN when either is NaN.
    #[track_caller]
    pub fn minimum(self, other: impl Operand<T>) -> Tile<T> {
        zip("minimum", self, other.tile(), T::min_nan)
    }

    /// The magnitude of each value.
    #[track_caller]
    pub fn abs(self) -> Tile<T> {
        map(&self.read(), T::abs)
    }
}

/// Functions of one operand, computed in f32.
macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident = $function:expr;)*) => {
        impl<T: Float> Tile<T> {
            $($(#[$doc])*
            #[track_caller]
            pub fn $name(self) -> Tile<T> {
                let function: fn(f32) -> f32 = $function;
                map(&self.read(), |v| T::from_f32(function(v.to_f32())))
            })*
        }
    };
}
functions! {
    /// e to the power of each value.
    exp = f32::exp;
    /// 2 to the power of each value.
    exp2 = f32::exp2;
    /// The natural logarithm.
    log = f32::ln;
    /// The logarithm to base 2.
    log2 = f32::log2;
    /// The square root.
    sqrt = f32::sqrt;
    /// One over the square root.
    rsqrt = |v| 1.0 / v.sqrt();
    /// The hyperbolic tangent.
    tanh = f32::tanh;
}

/// The larger of each pair; NaN when either is NaN.
#[track_caller]
pub fn maximum<T: Numeric>(a: impl Operand<T>, b: impl Operand<T>) -> Tile<T> {
    a.tile().maximum(b.tile())
}

/// `a / b` rounded to nearest, the same on every device; the operator `/` may be off by two units in the last place
/// of f32 on GPUs.
///
/// ```
/// # use tile::prelude::*;
/// let thirds = div_rn(Tile::from_slice(&[1.0f32, 2.0], [2]), 3.0);
/// assert_eq!(thirds.to_vec(), [1.0 / 3.0, 2.0 / 3.0]);
/// ```
#[track_caller]
pub fn div_rn<T: Float>(a: impl Operand<T>, b: impl Operand<T>) -> Tile<T> {
    zip("div_rn", a.tile(), b.tile(), |a: T, b: T| a.div(b))
}

/// The smaller of each pair; NaN when either is NaN.
#[track_caller]
pub fn minimum<T: Numeric>(a: impl Operand<T>, b: impl Operand<T>) -> Tile<T> {
    a.tile().minimum(b.tile())
}

/// `a` where the mask is true, `b` where it is false.
#[track_caller]
pub fn select<T: Element>(mask: Tile<bool>, a: impl Operand<T>, b: impl Operand<T>) -> Tile<T> {
    mask.select(a, b)
}

/// `a * b + c`, rounded once in f32.
#[track_caller]
pub fn fma<T: Float>(a: impl Operand<T>, b: impl Operand<T>, c: impl Operand<T>) -> Tile<T> {
    zip3("fma", a.tile(), b.tile(), c.tile(), |a: T, b: T, c: T| {
        T::from_f32(a.to_f32().mul_add(b.to_f32(), c.to_f32()))
    })
}
