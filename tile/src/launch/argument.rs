//! Arguments without their types, and what shapes and strides say of them.

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::DeviceKind;
use crate::dynamic::{DynArg, DynTensor, ScalarValue};
use crate::eager::{Element, Scalar};
use crate::tensor::TensorBuf;
use smallvec::SmallVec;
use std::marker::PhantomData;
#[cfg(feature = "cuda")]
use std::sync::Arc;
use tile_lang::DType;

/// An argument on its way to a kernel.
#[derive(Debug)]
pub struct Argument<'a>(pub(super) Kind<'a>);

#[derive(Debug)]
pub(super) enum Kind<'a> {
    Tensor(RawTensor<'a>),
    Scalar(ScalarValue, DType),
}

/// A tensor without its types.
#[derive(Debug)]
pub(super) struct RawTensor<'a> {
    pub base: *mut u8,
    /// Elements there are from `base` on.
    pub len: usize,
    pub dtype: DType,
    pub shape: &'a [usize],
    pub strides: &'a [usize],
    pub writable: bool,
    /// The device memory that `base` is an address of.
    #[cfg(feature = "cuda")]
    pub memory: Option<&'a Arc<cuda::Allocation>>,
    borrow: PhantomData<&'a mut u8>,
}

// SAFETY: it stands for a borrow of plain data, shared or exclusive as `writable` says.
unsafe impl Send for RawTensor<'_> {}
// SAFETY: as above; nothing is written through it but by the kernel's own stores.
unsafe impl Sync for RawTensor<'_> {}

impl RawTensor<'_> {
    /// Whose memory `base` is an address of.
    pub fn location(&self) -> DeviceKind {
        #[cfg(feature = "cuda")]
        if let Some(memory) = self.memory {
            return DeviceKind::Cuda(memory.gpu().index());
        }
        DeviceKind::Cpu
    }
}

impl<'a> Argument<'a> {
    /// A tensor to read.
    pub fn read<T: Element, const R: usize>(tensor: &'a TensorBuf<T, R>) -> Self {
        Self::typed(tensor.raw().cast_mut(), tensor, false)
    }

    /// A tensor to read and write.
    pub fn write<T: Element, const R: usize>(tensor: &'a mut TensorBuf<T, R>) -> Self {
        Self::typed(tensor.raw_mut(), tensor, true)
    }

    fn typed<T: Element, const R: usize>(base: *mut u8, tensor: &'a TensorBuf<T, R>, writable: bool) -> Self {
        let (shape, strides) = tensor.extents();
        Argument(Kind::Tensor(RawTensor {
            base,
            len: tensor.capacity(),
            dtype: T::DTYPE,
            shape,
            strides,
            writable,
            #[cfg(feature = "cuda")]
            memory: tensor.memory(),
            borrow: PhantomData,
        }))
    }

    /// A scalar.
    pub fn scalar<T: Scalar>(value: T) -> Self {
        Argument(Kind::Scalar(value.to_value(), T::SCALAR))
    }

    /// What a type-erased caller passes.
    pub(crate) fn dynamic(arg: &'a mut DynArg<'_>) -> Self {
        match arg {
            DynArg::Tensor(tensor) => {
                let DynTensor { dtype, shape, strides, data } = &mut **tensor;
                Argument(Kind::Tensor(RawTensor {
                    base: data.as_mut_ptr(),
                    len: data.len() * 8 / dtype.bits() as usize,
                    dtype: *dtype,
                    shape,
                    strides,
                    writable: true,
                    #[cfg(feature = "cuda")]
                    memory: None,
                    borrow: PhantomData,
                }))
            }
            #[cfg(feature = "cuda")]
            DynArg::Device(tensor) => Self::on_device(tensor, false),
            #[cfg(feature = "cuda")]
            DynArg::DeviceMut(tensor) => Self::on_device(tensor, true),
            DynArg::Scalar(value) => {
                let dtype = match value {
                    ScalarValue::F32(_) => DType::F32,
                    ScalarValue::I32(_) => DType::I32,
                    ScalarValue::I64(_) => DType::I64,
                    ScalarValue::Index(_) => DType::Index,
                    ScalarValue::Bool(_) => DType::Bool,
                };
                Argument(Kind::Scalar(*value, dtype))
            }
        }
    }

    /// A type-erased tensor on a device.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_device(tensor: &'a cuda::DeviceTensor, writable: bool) -> Self {
        let memory = tensor.memory();
        Argument(Kind::Tensor(RawTensor {
            base: std::ptr::without_provenance_mut(memory.address() as usize),
            len: memory.bytes() * 8 / tensor.dtype().bits() as usize,
            dtype: tensor.dtype(),
            shape: tensor.shape(),
            strides: tensor.strides(),
            writable,
            memory: Some(memory),
            borrow: PhantomData,
        }))
    }
}

/// One past the last element that a shape with these strides reaches.
pub(crate) fn reach(shape: &[usize], strides: &[usize]) -> usize {
    if shape.contains(&0) {
        return 0;
    }
    let last = shape.iter().zip(strides).map(|(d, s)| (d - 1).saturating_mul(*s));
    last.fold(1usize, |sum, term| sum.saturating_add(term))
}

/// True when no two coordinates are one element: each stride steps over all that smaller ones reach.
pub(super) fn is_injective(shape: &[usize], strides: &[usize]) -> bool {
    let mut reached = 1usize;
    let mut left: SmallVec<[(usize, usize); 8]> =
        shape.iter().zip(strides).filter(|(d, _)| **d > 1).map(|(d, s)| (*s, *d)).collect();
    left.sort_unstable();
    left.iter().all(|&(stride, extent)| {
        let fits = stride >= reached;
        reached = (extent - 1).saturating_mul(stride).saturating_add(reached);
        fits
    })
}
