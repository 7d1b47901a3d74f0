//! Tensors on a device whose dtype and rank are values.

use super::buffer::DeviceBuffer;
use super::memory::Allocation;
use crate::contract::TensorSpec;
use crate::device::Device;
use crate::dynamic::{DynTensor, byte_count};
use crate::error::{LaunchError, TensorError};
use crate::launch::reach;
use crate::tensor::{dense_strides, element_count};
use std::sync::Arc;
use tile_lang::DType;

/// A tensor on a GPU whose dtype and rank are values. It stays there from launch to launch.
#[derive(Debug)]
pub struct DeviceTensor {
    dtype: DType,
    shape: Vec<usize>,
    strides: Vec<usize>,
    buffer: DeviceBuffer,
}

impl DeviceTensor {
    /// A dense tensor; it holds anything until it is written.
    ///
    /// # Errors
    /// [`TensorError::TooLarge`]; when the device has too little memory.
    pub fn new(device: &Device, dtype: DType, shape: &[usize]) -> Result<DeviceTensor, LaunchError> {
        let bytes = byte_count(dtype, element_count(shape)?);
        let buffer = DeviceBuffer::new(device, bytes)?;
        Ok(DeviceTensor { dtype, shape: shape.to_vec(), strides: dense_strides(shape), buffer })
    }

    /// An output or workspace of a contract, as its steps want to find it: integers, which count arrivals, are zeros;
    /// anything else holds anything.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn to_be_written(device: &Device, spec: &TensorSpec) -> Result<DeviceTensor, LaunchError> {
        if spec.dtype != DType::I32 {
            return DeviceTensor::new(device, spec.dtype, &spec.shape);
        }
        let bytes = byte_count(spec.dtype, element_count(&spec.shape)?);
        let buffer = DeviceBuffer::from_slice(device, &vec![0u8; bytes])?;
        let strides = dense_strides(&spec.shape);
        Ok(DeviceTensor { dtype: spec.dtype, shape: spec.shape.clone(), strides, buffer })
    }

    /// A copy of a tensor in host memory, with its strides.
    ///
    /// # Errors
    /// When the device has too little memory.
    pub fn from_host(device: &Device, tensor: &DynTensor) -> Result<DeviceTensor, LaunchError> {
        let DynTensor { dtype, shape, strides, data } = tensor;
        let buffer = DeviceBuffer::from_slice(device, data)?;
        Ok(DeviceTensor { dtype: *dtype, shape: shape.clone(), strides: strides.clone(), buffer })
    }

    /// A tensor over memory that the program has already; strides are in elements. See
    /// [`DeviceBuffer::from_raw`] for the owner.
    ///
    /// # Safety
    /// As for [`DeviceBuffer::from_raw`], over all that shape and strides reach from `address` on.
    ///
    /// # Errors
    /// [`TensorError::Strides`], [`TensorError::TooLarge`]; when the device is not a GPU.
    pub unsafe fn from_raw<O: Send + Sync + 'static>(
        device: &Device,
        address: u64,
        dtype: DType,
        shape: &[usize],
        strides: &[usize],
        owner: O,
    ) -> Result<DeviceTensor, LaunchError> {
        let bytes = byte_count(dtype, strided_count(shape, strides)?);
        // SAFETY: the caller's.
        let buffer = unsafe { DeviceBuffer::from_raw(device, address, bytes, owner) }?;
        Ok(DeviceTensor { dtype, shape: shape.to_vec(), strides: strides.to_vec(), buffer })
    }

    /// A copy in host memory, with the same strides, behind everything asked of the tensor before.
    ///
    /// # Errors
    /// What went wrong in a kernel launched before.
    pub fn to_host(&self) -> Result<DynTensor, LaunchError> {
        let mut data = vec![0u8; self.buffer.bytes()];
        self.buffer.download(&mut data)?;
        let (shape, strides) = (self.shape.clone(), self.strides.clone());
        Ok(DynTensor { dtype: self.dtype, shape, strides, data })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The strides in elements.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// The memory.
    pub fn buffer(&self) -> &DeviceBuffer {
        &self.buffer
    }

    /// The memory, to write.
    pub fn buffer_mut(&mut self) -> &mut DeviceBuffer {
        &mut self.buffer
    }

    pub(crate) fn memory(&self) -> &Arc<Allocation> {
        self.buffer.memory()
    }
}

/// How many elements shape and strides reach, if memory could hold them.
pub(crate) fn strided_count(shape: &[usize], strides: &[usize]) -> Result<usize, TensorError> {
    if shape.len() != strides.len() {
        return Err(TensorError::Strides { shape: shape.to_vec(), strides: strides.to_vec() });
    }
    element_count(shape)?;
    element_count(&[reach(shape, strides)]).map_err(|_| TensorError::TooLarge { shape: shape.to_vec() })
}
