//! `TensorBuf`: tensors in host memory.

use crate::eager::Element;
use crate::error::TensorError;
use tile_lang::DType;

/// An owned tensor in host memory: `R` dimensions of `T`, outermost first. Dense and row-major unless
/// [`permute`](TensorBuf::permute) reordered its dimensions.
///
/// ```
/// use tile::prelude::*;
/// let a = TensorBuf::from_vec([2, 3], vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// let b = a.transpose();
/// assert_eq!(b.shape(), [3, 2]);
/// assert_eq!(b.to_vec(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
/// # Ok::<(), TensorError>(())
/// ```
#[derive(Clone)]
pub struct TensorBuf<T: Element, const R: usize> {
    data: Vec<T::Packed>,
    len: usize,
    shape: [usize; R],
    strides: [usize; R],
}

/// Row-major strides, in elements.
pub(crate) fn dense_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}

/// The number of elements, if memory could hold them.
pub(crate) fn element_count(shape: &[usize]) -> Result<usize, TensorError> {
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let fits = count.filter(|n| n.checked_mul(8).is_some_and(|bytes| bytes <= isize::MAX as usize));
    fits.ok_or_else(|| TensorError::TooLarge { shape: shape.to_vec() })
}

impl<T: Element, const R: usize> TensorBuf<T, R> {
    /// A tensor of these values in row-major order.
    ///
    /// # Errors
    /// When the number of values is not that of the shape.
    pub fn from_vec(shape: [usize; R], values: Vec<T>) -> Result<Self, TensorError> {
        let expected = element_count(&shape)?;
        if values.len() != expected {
            return Err(TensorError::Length { shape: shape.to_vec(), expected, found: values.len() });
        }
        let strides = dense_strides(&shape).try_into().expect("one stride a dimension");
        Ok(TensorBuf { len: expected, data: T::pack(values), shape, strides })
    }

    /// A tensor of zeros.
    ///
    /// # Panics
    /// When memory cannot hold the shape.
    pub fn zeros(shape: [usize; R]) -> Self {
        Self::full(shape, T::default())
    }

    /// A tensor of one value.
    ///
    /// # Panics
    /// When memory cannot hold the shape.
    pub fn full(shape: [usize; R], value: T) -> Self {
        Self::from_fn(shape, |_| value)
    }

    /// A tensor whose element at `coords` is `f(coords)`.
    ///
    /// # Panics
    /// When memory cannot hold the shape.
    pub fn from_fn(shape: [usize; R], mut f: impl FnMut([usize; R]) -> T) -> Self {
        let count = element_count(&shape).unwrap_or_else(|error| panic!("{error}"));
        let mut coords = [0; R];
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(f(coords));
            advance(&mut coords, &shape);
        }
        Self::from_vec(shape, values).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The element type by name.
    pub fn dtype(&self) -> DType {
        T::DTYPE
    }

    /// The extents, outermost first.
    pub fn shape(&self) -> [usize; R] {
        self.shape
    }

    /// The strides in elements.
    pub fn strides(&self) -> [usize; R] {
        self.strides
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// True when the elements lie in row-major order.
    pub fn is_contiguous(&self) -> bool {
        self.strides[..] == dense_strides(&self.shape)
    }

    /// The elements in row-major order; `None` when they lie in another order, or two share a byte (4-bit types).
    pub fn as_slice(&self) -> Option<&[T]> {
        T::elements(&self.data).filter(|_| self.is_contiguous())
    }

    /// The elements in row-major order, to change; `None` as for [`as_slice`](Self::as_slice).
    pub fn as_mut_slice(&mut self) -> Option<&mut [T]> {
        let contiguous = self.is_contiguous();
        T::elements_mut(&mut self.data).filter(|_| contiguous)
    }

    /// The elements in row-major order.
    pub fn to_vec(&self) -> Vec<T> {
        let mut coords = [0; R];
        let mut values = Vec::with_capacity(self.len);
        for _ in 0..self.len {
            values.push(self.get(coords));
            advance(&mut coords, &self.shape);
        }
        values
    }

    /// The element at `coords`.
    ///
    /// # Panics
    /// When `coords` lies outside the shape.
    pub fn get(&self, coords: [usize; R]) -> T {
        let inside = coords.iter().zip(&self.shape).all(|(c, s)| c < s);
        assert!(inside, "coordinates {coords:?} of a tensor of shape {:?}", self.shape);
        let place = coords.iter().zip(&self.strides).map(|(c, s)| c * s).sum();
        // SAFETY: shape and strides cover `len` elements exactly, and the coordinates are inside.
        unsafe { T::read(self.data.as_ptr().cast(), place) }
    }

    /// The tensor with dimension `i` taken from dimension `perm[i]`; the elements stay where they are.
    ///
    /// # Errors
    /// When `perm` is no permutation.
    pub fn permute(self, perm: [usize; R]) -> Result<Self, TensorError> {
        if !(0..R).all(|axis| perm.contains(&axis)) {
            return Err(TensorError::Permutation { perm: perm.to_vec(), rank: R });
        }
        let (shape, strides) = (perm.map(|axis| self.shape[axis]), perm.map(|axis| self.strides[axis]));
        Ok(TensorBuf { shape, strides, ..self })
    }

    /// Start of the elements, and how many there are.
    pub(crate) fn raw(&self) -> (*const u8, usize) {
        (self.data.as_ptr().cast(), self.len)
    }

    /// Start of the elements, to write.
    pub(crate) fn raw_mut(&mut self) -> (*mut u8, usize) {
        (self.data.as_mut_ptr().cast(), self.len)
    }
}

impl<T: Element> TensorBuf<T, 2> {
    /// The transpose; the elements stay where they are.
    pub fn transpose(self) -> Self {
        let ([rows, cols], [outer, inner]) = (self.shape, self.strides);
        TensorBuf { shape: [cols, rows], strides: [inner, outer], ..self }
    }
}

impl<T: Element, const R: usize> std::fmt::Debug for TensorBuf<T, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TensorBuf<{}>{:?}{:?}", T::DTYPE, self.shape, self.to_vec())
    }
}

impl<T: Element, const R: usize> PartialEq for TensorBuf<T, R> {
    fn eq(&self, other: &Self) -> bool {
        self.shape == other.shape && self.to_vec() == other.to_vec()
    }
}

/// The coordinates after `coords` in row-major order.
fn advance(coords: &mut [usize], shape: &[usize]) {
    for axis in (0..shape.len()).rev() {
        coords[axis] += 1;
        if coords[axis] < shape[axis] {
            return;
        }
        coords[axis] = 0;
    }
}
