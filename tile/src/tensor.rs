//! `TensorBuf`: tensors in host or device memory.

#[cfg(feature = "cuda")]
use crate::cuda::DeviceMemory;
use crate::device::{Device, DeviceKind, Inner};
use crate::eager::Element;
use crate::error::{LaunchError, TensorError};
use std::borrow::Cow;
use tile_lang::DType;

/// An owned tensor: `R` dimensions of `T`, outermost first. Dense and row-major unless
/// [`permute`](TensorBuf::permute) reordered its dimensions. In host memory unless
/// [`to_device`](TensorBuf::to_device) made it.
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
    data: Storage<T::Packed>,
    len: usize,
    shape: [usize; R],
    strides: [usize; R],
}

/// Where the elements are.
enum Storage<P> {
    Host(Vec<P>),
    #[cfg(feature = "cuda")]
    Device(DeviceMemory),
}

impl<P: Copy + Default> Storage<P> {
    /// A copy in host memory.
    fn to_host(&self) -> Result<Vec<P>, LaunchError> {
        match self {
            Storage::Host(data) => Ok(data.clone()),
            #[cfg(feature = "cuda")]
            Storage::Device(memory) => {
                let mut data = vec![P::default(); memory.bytes() / size_of::<P>()];
                memory.download(0, &mut data)?;
                Ok(data)
            }
        }
    }

    /// A copy on a device.
    fn to_device(&self, device: &Device) -> Result<Self, LaunchError> {
        let host = self.to_host()?;
        match device.0 {
            Inner::Cpu => Ok(Storage::Host(host)),
            #[cfg(feature = "cuda")]
            Inner::Cuda(_, gpu) => DeviceMemory::upload(gpu, &host).map(Storage::Device),
        }
    }
}

impl<P: Copy + Default> Clone for Storage<P> {
    fn clone(&self) -> Self {
        match self {
            Storage::Host(data) => Storage::Host(data.clone()),
            #[cfg(feature = "cuda")]
            Storage::Device(memory) => {
                let copy = self.to_host().and_then(|data| DeviceMemory::upload(memory.gpu(), &data));
                Storage::Device(copy.unwrap_or_else(|error| panic!("{error}")))
            }
        }
    }
}

/// Row-major strides, in elements.
pub fn dense_strides(shape: &[usize]) -> Vec<usize> {
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
        Ok(TensorBuf { len: expected, data: Storage::Host(T::pack(values)), shape, strides })
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

    /// The elements in row-major order; `None` when they lie in another order or on a GPU, or two share a byte
    /// (4-bit types).
    pub fn as_slice(&self) -> Option<&[T]> {
        match &self.data {
            Storage::Host(data) => T::elements(data).filter(|_| self.is_contiguous()),
            #[cfg(feature = "cuda")]
            Storage::Device(_) => None,
        }
    }

    /// The elements in row-major order, to change; `None` as for [`as_slice`](Self::as_slice).
    pub fn as_mut_slice(&mut self) -> Option<&mut [T]> {
        let contiguous = self.is_contiguous();
        match &mut self.data {
            Storage::Host(data) => T::elements_mut(data).filter(|_| contiguous),
            #[cfg(feature = "cuda")]
            Storage::Device(_) => None,
        }
    }

    /// A copy on a device; on [`Device::cpu`], one in host memory. Waits for the kernels that write the tensor.
    ///
    /// # Errors
    /// [`LaunchError::Device`] when the device has too little memory, or failed.
    pub fn to_device(&self, device: &Device) -> Result<Self, LaunchError> {
        let data = self.data.to_device(device)?;
        Ok(TensorBuf { data, len: self.len, shape: self.shape, strides: self.strides })
    }

    /// A copy in host memory. Waits for the kernels that write the tensor.
    ///
    /// # Errors
    /// [`LaunchError::Device`] when the device failed.
    pub fn to_host(&self) -> Result<Self, LaunchError> {
        self.to_device(&Device::cpu())
    }

    /// Where the elements are.
    pub fn location(&self) -> DeviceKind {
        match &self.data {
            Storage::Host(_) => DeviceKind::Cpu,
            #[cfg(feature = "cuda")]
            Storage::Device(memory) => DeviceKind::Cuda(memory.device()),
        }
    }

    /// The elements in row-major order; copied from the device where they are on one.
    ///
    /// # Panics
    /// When the device failed.
    pub fn to_vec(&self) -> Vec<T> {
        let data: Cow<'_, [T::Packed]> = match &self.data {
            Storage::Host(data) => data.into(),
            #[cfg(feature = "cuda")]
            Storage::Device(_) => self.data.to_host().unwrap_or_else(|error| panic!("{error}")).into(),
        };
        let mut coords = [0; R];
        let mut values = Vec::with_capacity(self.len);
        for _ in 0..self.len {
            // SAFETY: shape and strides cover `len` elements exactly, and the coordinates are inside.
            values.push(unsafe { T::read(data.as_ptr().cast(), self.place(coords)) });
            advance(&mut coords, &self.shape);
        }
        values
    }

    /// The index of an element in memory.
    fn place(&self, coords: [usize; R]) -> usize {
        coords.iter().zip(&self.strides).map(|(c, s)| c * s).sum()
    }

    /// The element at `coords`.
    ///
    /// # Panics
    /// When `coords` lies outside the shape, or the tensor is on a device that failed.
    pub fn get(&self, coords: [usize; R]) -> T {
        let inside = coords.iter().zip(&self.shape).all(|(c, s)| c < s);
        assert!(inside, "coordinates {coords:?} of a tensor of shape {:?}", self.shape);
        let place = self.place(coords);
        match &self.data {
            // SAFETY: shape and strides cover `len` elements exactly, and the coordinates are inside.
            Storage::Host(data) => unsafe { T::read(data.as_ptr().cast(), place) },
            #[cfg(feature = "cuda")]
            Storage::Device(memory) => {
                let packed = size_of::<T::Packed>() * 8 / T::DTYPE.bits() as usize;
                let mut unit = [T::Packed::default()];
                memory.download(place / packed, &mut unit).unwrap_or_else(|error| panic!("{error}"));
                // SAFETY: the element is in the unit that was copied.
                unsafe { T::read(unit.as_ptr().cast(), place % packed) }
            }
        }
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

    /// Start of the elements, on the device where they are, and how many there are.
    pub(crate) fn raw(&self) -> (*const u8, usize) {
        match &self.data {
            Storage::Host(data) => (data.as_ptr().cast(), self.len),
            #[cfg(feature = "cuda")]
            Storage::Device(memory) => (std::ptr::without_provenance(memory.address() as usize), self.len),
        }
    }

    /// As [`raw`](Self::raw), to write.
    pub(crate) fn raw_mut(&mut self) -> (*mut u8, usize) {
        match &mut self.data {
            Storage::Host(data) => (data.as_mut_ptr().cast(), self.len),
            #[cfg(feature = "cuda")]
            Storage::Device(memory) => {
                (std::ptr::without_provenance_mut(memory.address() as usize), self.len)
            }
        }
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
