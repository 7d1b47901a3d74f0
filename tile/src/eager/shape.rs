//! Tile shapes without allocation, and NumPy's broadcasting.

use super::fault::fault;
use crate::error::KernelError;
use std::ops::Deref;

/// Most dimensions a tile can have.
pub(crate) const MAX_RANK: usize = 8;

/// Up to eight extents, outermost first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    dims: [usize; MAX_RANK],
    rank: usize,
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.dims[..self.rank]
    }
}

impl Shape {
    /// A shape whose dimensions are known to be fine.
    #[track_caller]
    pub fn new(dims: &[usize]) -> Shape {
        if dims.len() > MAX_RANK {
            fault(KernelError::RankTooLarge { rank: dims.len() });
        }
        let mut shape = Shape { dims: [1; MAX_RANK], rank: dims.len() };
        shape.dims[..dims.len()].copy_from_slice(dims);
        shape
    }

    /// A shape that a kernel asks for: powers of two.
    #[track_caller]
    pub fn of_tile(dims: &[usize]) -> Shape {
        if !dims.iter().all(|d| d.is_power_of_two()) {
            fault(KernelError::NotPowerOfTwo { shape: dims.to_vec() });
        }
        Shape::new(dims)
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.iter().product()
    }

    /// The shape with dimension `axis` set to `size`.
    pub fn with(mut self, axis: usize, size: usize) -> Shape {
        self.dims[axis] = size;
        self
    }

    /// Row-major strides, as if the shape were that of a tile broadcast to `to`: 0 where a size of 1 repeats.
    /// Dimensions are aligned at the last one.
    pub fn strides_in(&self, to: &Shape) -> [usize; MAX_RANK] {
        let mut strides = [0; MAX_RANK];
        let mut stride = 1;
        for i in (0..self.rank).rev() {
            let axis = to.rank - self.rank + i;
            strides[axis] = if self.dims[i] == 1 { 0 } else { stride };
            stride *= self.dims[i];
        }
        strides
    }

    /// The shape both broadcast to, if there is one.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let (long, short) = if self.rank >= other.rank { (self, other) } else { (other, self) };
        let mut out = *long;
        let skipped = long.rank - short.rank;
        for (i, &size) in short.iter().enumerate() {
            let dim = &mut out.dims[skipped + i];
            match (*dim, size) {
                (d, s) if d == s || s == 1 => {}
                (1, s) => *dim = s,
                _ => return None,
            }
        }
        Some(out)
    }
}

/// Calls `row(out offset, source offsets)` for each innermost row of `shape`, in row-major order. Each source has
/// one stride a dimension of `shape`; the last dimension is left to the caller.
pub(crate) fn for_each_row<const N: usize>(
    shape: &[usize],
    strides: [&[usize; MAX_RANK]; N],
    mut row: impl FnMut(usize, [usize; N]),
) {
    let Some((&width, outer)) = shape.split_last() else {
        return row(0, [0; N]);
    };
    let mut coords = [0usize; MAX_RANK];
    let mut offsets = [0usize; N];
    let mut out = 0;
    loop {
        row(out, offsets);
        out += width;
        let mut axis = outer.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            coords[axis] += 1;
            for (offset, s) in offsets.iter_mut().zip(strides) {
                *offset += s[axis];
            }
            if coords[axis] < outer[axis] {
                break;
            }
            for (offset, s) in offsets.iter_mut().zip(strides) {
                *offset -= s[axis] * outer[axis];
            }
            coords[axis] = 0;
        }
    }
}
