//! `TensorBuf`: tensors in host or device memory.

#[cfg(feature = "cuda")]
use crate::cuda::{self, Allocation, Gpu, PinnedBuffer, Stream, strided_count};
#[cfg(feature = "cuda")]
use crate::device::Inner;
use crate::device::{Device, DeviceKind};
#[cfg(feature = "cuda")]
use crate::dynamic::byte_count;
use crate::eager::Element;
#[cfg(feature = "cuda")]
use crate::error::DeviceError;
use crate::error::{LaunchError, TensorError};
#[cfg(feature = "cuda")]
use std::any::TypeId;
use std::borrow::Cow;
#[cfg(feature = "cuda")]
use std::sync::Arc;
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
    Device(Arc<Allocation>),
}

impl<P: Copy + 'static> Storage<P> {
    /// A copy in host memory.
    fn to_host(&self) -> Result<Vec<P>, LaunchError> {
        match self {
            Storage::Host(data) => Ok(data.clone()),
            #[cfg(feature = "cuda")]
            Storage::Device(memory) => {
                // SAFETY: the memory holds elements, as the launches' checks say and whoever lent it promised.
                unsafe { download(memory, 0, memory.bytes() / size_of::<P>()) }
            }
        }
    }

    /// A copy on a device.
    fn to_device(&self, device: &Device) -> Result<Self, LaunchError> {
        match (device.0, self) {
            #[cfg(feature = "cuda")]
            (Inner::Cuda(_, gpu), Storage::Device(memory)) if std::ptr::eq(memory.gpu(), gpu) => {
                memory.duplicate().map(Storage::Device)
            }
            #[cfg(feature = "cuda")]
            (Inner::Cuda(_, gpu), _) => Allocation::upload(gpu, &self.to_host()?).map(Storage::Device),
            _ => self.to_host().map(Storage::Host),
        }
    }
}

impl<P: Copy + 'static> Clone for Storage<P> {
    fn clone(&self) -> Self {
        match self {
            Storage::Host(data) => Storage::Host(data.clone()),
            #[cfg(feature = "cuda")]
            Storage::Device(memory) => {
                Storage::Device(memory.duplicate().unwrap_or_else(|error| panic!("{error}")))
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

    /// A tensor of zeros on a device; on [`Device::cpu`], one in host memory.
    ///
    /// # Errors
    /// [`TensorError::TooLarge`]; when the device has too little memory.
    pub fn zeros_on(device: &Device, shape: [usize; R]) -> Result<Self, LaunchError> {
        element_count(&shape)?;
        match device.0 {
            #[cfg(feature = "cuda")]
            Inner::Cuda(_, gpu) => {
                let len = shape.iter().product();
                let memory = Allocation::new(gpu.default_stream(), byte_count(T::DTYPE, len))?;
                memory.fill(gpu.default_stream(), 0)?;
                let strides = dense_strides(&shape).try_into().expect("one stride a dimension");
                Ok(TensorBuf { data: Storage::Device(memory), len, shape, strides })
            }
            _ => Ok(Self::zeros(shape)),
        }
    }

    /// A tensor over memory of a GPU that the program has already; strides are in elements. Cloning it copies the
    /// elements; permuting it does not.
    ///
    /// The memory is used until `owner` is dropped, which happens when this value is gone and the work on it is
    /// done; give `()` for memory that outlives all that work anyway.
    ///
    /// ```no_run
    /// use tile::{cuda::DeviceBuffer, prelude::*};
    /// let device = Device::cuda(0)?;
    /// let buffer = DeviceBuffer::from_slice(&device, &[1.0f32, 2.0, 3.0, 4.0])?;
    /// // SAFETY: the buffer has four elements, and the tensor keeps it.
    /// let x = unsafe { TensorBuf::<f32, 2>::from_raw(&device, buffer.address(), [2, 2], [2, 1], buffer) }?;
    /// assert_eq!(x.to_vec(), [1.0, 2.0, 3.0, 4.0]);
    /// # Ok::<(), LaunchError>(())
    /// ```
    ///
    /// # Safety
    /// What shape and strides reach from `address` on is memory of this device that holds elements, which nobody
    /// else frees before `owner` is dropped or, where `owner` has nothing to drop, before all work on this value
    /// and on graphs of it is done. A kernel that scatters 4-bit elements reads and writes the aligned 4-byte words
    /// around them, up to three bytes beyond the tensor, which it leaves as they are.
    ///
    /// # Errors
    /// [`TensorError::TooLarge`]; when the device is not a GPU.
    #[cfg(feature = "cuda")]
    pub unsafe fn from_raw<O: Send + Sync + 'static>(
        device: &Device,
        address: u64,
        shape: [usize; R],
        strides: [usize; R],
        owner: O,
    ) -> Result<Self, LaunchError> {
        let bytes = byte_count(T::DTYPE, strided_count(&shape, &strides)?);
        let gpu = Gpu::of(device, "a tensor over device memory")?;
        // SAFETY: the caller's.
        let memory = unsafe { Allocation::lent(gpu, address, bytes, owner) };
        Ok(TensorBuf { data: Storage::Device(memory), len: element_count(&shape)?, shape, strides })
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
            Storage::Device(memory) => DeviceKind::Cuda(memory.gpu().index()),
        }
    }

    /// The address of the first element in a GPU's memory, to hand to other libraries; none in host memory. Work
    /// that they do there is not known here.
    #[cfg(feature = "cuda")]
    pub fn device_address(&self) -> Option<u64> {
        self.memory().map(|memory| memory.address())
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
            // SAFETY: shape and strides stay inside the data, and the coordinates inside the shape.
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
            // SAFETY: shape and strides stay inside the data, and the coordinates inside the shape.
            Storage::Host(data) => unsafe { T::read(data.as_ptr().cast(), place) },
            #[cfg(feature = "cuda")]
            Storage::Device(memory) => {
                let packed = size_of::<T::Packed>() * 8 / T::DTYPE.bits() as usize;
                // SAFETY: as for a copy of the whole.
                let unit = unsafe { download::<T::Packed>(memory, place / packed, 1) };
                let unit = unit.unwrap_or_else(|error| panic!("{error}"));
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

    /// Start of the elements, on the device where they are.
    pub(crate) fn raw(&self) -> *const u8 {
        match &self.data {
            Storage::Host(data) => data.as_ptr().cast(),
            #[cfg(feature = "cuda")]
            Storage::Device(memory) => std::ptr::without_provenance(memory.address() as usize),
        }
    }

    /// As [`raw`](Self::raw), to write.
    pub(crate) fn raw_mut(&mut self) -> *mut u8 {
        match &mut self.data {
            Storage::Host(data) => data.as_mut_ptr().cast(),
            #[cfg(feature = "cuda")]
            Storage::Device(memory) => std::ptr::without_provenance_mut(memory.address() as usize),
        }
    }

    /// Elements that there is memory for.
    pub(crate) fn capacity(&self) -> usize {
        let bytes = match &self.data {
            Storage::Host(data) => size_of_val(data.as_slice()),
            #[cfg(feature = "cuda")]
            Storage::Device(memory) => memory.bytes(),
        };
        bytes * 8 / T::DTYPE.bits() as usize
    }

    /// Extents and strides.
    pub(crate) fn extents(&self) -> (&[usize], &[usize]) {
        (&self.shape, &self.strides)
    }

    /// The device memory that it lies in.
    #[cfg(feature = "cuda")]
    pub(crate) fn memory(&self) -> Option<&Arc<Allocation>> {
        match &self.data {
            Storage::Host(_) => None,
            Storage::Device(memory) => Some(memory),
        }
    }
}

/// Copies units of a tensor's memory to the host.
///
/// # Safety
/// The memory holds values of `P`; where that is `bool`, any bytes.
#[cfg(feature = "cuda")]
unsafe fn download<P: Copy + 'static>(
    memory: &Arc<Allocation>,
    first: usize,
    count: usize,
) -> Result<Vec<P>, LaunchError> {
    let mut data: Vec<P> = Vec::with_capacity(count);
    let room = &mut data.spare_capacity_mut()[..count];
    let start = first * size_of::<P>();
    // SAFETY: the bytes are values of `P`, or become such below.
    unsafe { memory.read(memory.gpu().default_stream(), start, room) }?;
    if TypeId::of::<P>() == TypeId::of::<bool>() {
        for byte in room {
            // SAFETY: a `bool` is one byte, which was just copied. Lent memory may hold any.
            unsafe {
                let byte = byte.as_mut_ptr().cast::<u8>();
                byte.write(u8::from(byte.read() != 0));
            }
        }
    }
    // SAFETY: the copy filled `count` values.
    unsafe { data.set_len(count) };
    Ok(data)
}

#[cfg(feature = "cuda")]
impl<T: Element + bytemuck::Pod, const R: usize> TensorBuf<T, R> {
    /// Overwrites a tensor on a GPU with pinned memory, in a stream; elements are in the order of the strides.
    ///
    /// # Errors
    /// [`DeviceError::NotAGpu`] in host memory,
    /// [`DeviceError::BufferSize`]; when the stream is of another device or being
    /// captured.
    pub fn upload_async(&mut self, source: &PinnedBuffer<T>, stream: &Stream) -> Result<(), LaunchError> {
        cuda::upload_pinned(self.require_memory()?, source, stream)
    }

    /// Copies a tensor on a GPU to pinned memory, in a stream; elements are in the order of the strides.
    ///
    /// # Errors
    /// As [`upload_async`](Self::upload_async).
    pub fn download_async(&self, to: &mut PinnedBuffer<T>, stream: &Stream) -> Result<(), LaunchError> {
        cuda::download_pinned(self.require_memory()?, to, stream)
    }

    fn require_memory(&self) -> Result<&Arc<Allocation>, LaunchError> {
        self.memory().ok_or_else(|| DeviceError::NotAGpu { what: "an asynchronous copy" }.into())
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
