//! `Tile<T>` and what makes, moves and converts tiles.

use super::arena::{self, Output, Read};
use super::element::{Element, Numeric};
use super::fault::fault;
use super::shape::{MAX_RANK, Shape, for_each_row};
use crate::error::KernelError;
use std::fmt;
use std::marker::PhantomData;

/// A block of values of one dtype; the shape is known at run time, each dimension a power of two.
///
/// A tile is a value: operations make new tiles, and a copy is a copy of the handle. It belongs to the program
/// (and thread) that made it.
///
/// ```
/// use tile::prelude::*;
/// let row = Tile::from_slice(&[1.0f32, 2.0, 4.0, 8.0], [1, 4]);
/// let shares = row / row.reduce_sum(1);
/// assert_eq!(shares.shape(), [1, 4]);
/// assert_eq!(shares.gt(0.2).to_vec(), [false, false, true, true]);
/// ```
#[derive(Clone, Copy)]
pub struct Tile<T> {
    index: usize,
    serial: u64,
    /// Neither `Send` nor `Sync`: the arena is the thread's.
    dtype: PhantomData<*const T>,
}

impl<T: Element> fmt::Debug for Tile<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.read();
        write!(f, "Tile<{}>{:?}{:?}", T::DTYPE, &*values.shape, &*values)
    }
}

impl<T> Tile<T> {
    pub(crate) fn from_slot(index: usize, serial: u64) -> Self {
        Tile { index, serial, dtype: PhantomData }
    }

    pub(crate) fn slot(&self) -> (usize, u64) {
        (self.index, self.serial)
    }
}

impl<T: Element> Tile<T> {
    #[track_caller]
    pub(crate) fn read(self) -> Read<T> {
        arena::read(self.index, self.serial)
    }

    /// A tile of these values in row-major order, for tests of helpers outside a kernel.
    ///
    /// # Panics
    /// When the number of values is not that of the shape, or a dimension is not a power of two.
    #[track_caller]
    pub fn from_slice<const N: usize>(values: &[T], shape: [usize; N]) -> Self {
        let mut out = Output::new(Shape::of_tile(&shape));
        assert_eq!(values.len(), out.len(), "shape {shape:?} and the number of values");
        out.copy_from_slice(values);
        out.finish()
    }

    /// The extents.
    #[track_caller]
    pub fn shape(self) -> Vec<usize> {
        self.read().shape.to_vec()
    }

    /// The values in row-major order.
    #[track_caller]
    pub fn to_vec(self) -> Vec<T> {
        self.read().to_vec()
    }

    /// Converts each value: to the nearest, ties to even; float to f8 and f4 saturates, float to i32 truncates,
    /// anything to bool asks whether it is not zero.
    #[track_caller]
    pub fn cast<U: Element>(self) -> Tile<U> {
        let from = self.read();
        let mut out = Output::<U>::new(from.shape);
        for (o, v) in out.iter_mut().zip(from.iter()) {
            *o = v.cast();
        }
        out.finish()
    }

    /// The same values in row-major order in another shape of as many elements.
    #[track_caller]
    pub fn reshape<const N: usize>(self, shape: [usize; N]) -> Self {
        let from = self.read();
        let to = Shape::of_tile(&shape);
        if to.count() != from.len() {
            fault(KernelError::Reshape { from: from.shape.to_vec(), to: shape.to_vec() });
        }
        copied(&from, to)
    }

    /// The transpose of a tile of two dimensions.
    #[track_caller]
    pub fn t(self) -> Self {
        let from = self.read();
        if from.shape.len() != 2 {
            fault(KernelError::TileRank { op: "t", expected: 2, shape: from.shape.to_vec() });
        }
        self.permute([1, 0])
    }

    /// Dimension `i` of the result is dimension `perm[i]` of the tile.
    #[track_caller]
    pub fn permute<const N: usize>(self, perm: [usize; N]) -> Self {
        let from = self.read();
        let rank = from.shape.len();
        let is_permutation = perm.len() == rank && (0..rank).all(|axis| perm.contains(&axis));
        if !is_permutation {
            fault(KernelError::Permute { perm: perm.to_vec(), shape: from.shape.to_vec() });
        }
        let mut stride_of = [0; MAX_RANK];
        let mut stride = 1;
        for axis in (0..rank).rev() {
            stride_of[axis] = stride;
            stride *= from.shape[axis];
        }
        let mut shape = from.shape;
        let mut strides = [0; MAX_RANK];
        for (i, &axis) in perm.iter().enumerate() {
            shape = shape.with(i, from.shape[axis]);
            strides[i] = stride_of[axis];
        }
        let mut out = Output::<T>::new(shape);
        let width = shape.last().copied().unwrap_or(1);
        let step = if rank == 0 { 1 } else { strides[rank - 1] };
        for_each_row(&shape, [&strides], |at, [offset]| {
            for (o, v) in out[at..at + width].iter_mut().zip(from[offset..].iter().step_by(step)) {
                *o = *v;
            }
        });
        out.finish()
    }

    /// NumPy broadcasting to `shape`: dimensions are aligned at the last, sizes of 1 are repeated.
    #[track_caller]
    pub fn broadcast_to<const N: usize>(self, shape: [usize; N]) -> Self {
        let to = Shape::of_tile(&shape);
        let from = self.read();
        if from.shape.broadcast(&to) != Some(to) {
            fault(KernelError::BroadcastTo {
                op: "broadcast_to",
                from: from.shape.to_vec(),
                to: shape.to_vec(),
            });
        }
        broadcast(&from, to).finish()
    }

    /// Inserts a dimension of size 1 before `axis`.
    #[track_caller]
    pub fn expand_dims(self, axis: usize) -> Self {
        let from = self.read();
        let mut dims = from.shape.to_vec();
        if axis > dims.len() {
            fault(KernelError::Axis { op: "expand_dims", axis, rank: dims.len() });
        }
        dims.insert(axis, 1);
        copied(&from, Shape::new(&dims))
    }

    /// Drops dimension `axis`, which is 1.
    #[track_caller]
    pub fn squeeze(self, axis: usize) -> Self {
        let from = self.read();
        let mut dims = from.shape.to_vec();
        if axis >= dims.len() {
            fault(KernelError::Axis { op: "squeeze", axis, rank: dims.len() });
        }
        if dims[axis] != 1 {
            fault(KernelError::Squeeze { axis, shape: dims });
        }
        dims.remove(axis);
        copied(&from, Shape::new(&dims))
    }
}

/// The elements again, in another shape of as many.
fn copied<T: Element>(from: &Read<T>, shape: Shape) -> Tile<T> {
    let mut out = Output::new(shape);
    out.copy_from_slice(from);
    out.finish()
}

/// The elements repeated to `to`, to which they are known to broadcast.
pub(crate) fn broadcast<T: Element>(from: &Read<T>, to: Shape) -> Output<T> {
    let mut out = Output::new(to);
    let strides = from.shape.strides_in(&to);
    let width = to.last().copied().unwrap_or(1);
    let repeats = from.shape.last().is_none_or(|&last| last == 1);
    for_each_row(&to, [&strides], |at, [offset]| {
        let row = &mut out[at..at + width];
        if repeats {
            row.fill(from[offset]);
        } else {
            row.copy_from_slice(&from[offset..offset + width]);
        }
    });
    out
}

/// A tile of `shape` with every element the scalar `value`: f32 for every floating-point dtype, i32 or bool.
#[track_caller]
pub fn full<T: Element>(shape: impl AsRef<[usize]>, value: T::Value) -> Tile<T> {
    filled(shape.as_ref(), T::of(value))
}

#[track_caller]
fn filled<T: Element>(shape: &[usize], value: T) -> Tile<T> {
    let mut out = Output::new(Shape::of_tile(shape));
    out.fill(value);
    out.finish()
}

/// A tile of zeros (false for bool).
#[track_caller]
pub fn zeros<T: Element>(shape: impl AsRef<[usize]>) -> Tile<T> {
    filled(shape.as_ref(), T::default())
}

/// A tile of ones.
#[track_caller]
pub fn ones<T: Numeric>(shape: impl AsRef<[usize]>) -> Tile<T> {
    filled(shape.as_ref(), T::one())
}

/// `[0, 1, .., len - 1]`.
#[track_caller]
pub fn iota(len: usize) -> Tile<i32> {
    if i32::try_from(len).is_err() {
        fault(KernelError::IotaTooLong { len });
    }
    let mut out = Output::new(Shape::of_tile(&[len]));
    for (o, i) in out.iter_mut().zip(0..) {
        *o = i;
    }
    out.finish()
}
