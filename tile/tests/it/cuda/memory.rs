//! Memory: lent, pinned, plain, and given back.

use super::{gpu, step};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tile::cuda::{DeviceBuffer, DeviceTensor, PinnedBuffer, Stream};
use tile::device::DeviceKind;
use tile::prelude::*;
use tile::{DType, DeviceError};

/// Says when it is dropped, and keeps a buffer.
struct Watched(Arc<AtomicBool>, #[expect(dead_code, reason = "kept")] DeviceBuffer);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn lent_memory_is_used_in_place_and_kept() {
    let Some(device) = gpu("lent_memory_is_used_in_place_and_kept") else { return };
    let values: Vec<i32> = (0..200).collect();
    let buffer = DeviceBuffer::from_slice(&device, &values).unwrap();
    let (address, gone) = (buffer.address(), Arc::new(AtomicBool::new(false)));
    let owner = Watched(gone.clone(), buffer);
    // SAFETY: 10 rows of 10 elements, 20 apart, are inside the 200 that the owner keeps.
    let every_other = unsafe { TensorBuf::<i32, 2>::from_raw(&device, address, [10, 10], [20, 1], owner) };
    let every_other = every_other.unwrap();
    assert_eq!((every_other.location(), every_other.strides()), (DeviceKind::Cuda(0), [20, 1]));
    assert_eq!(every_other.get([3, 4]), 64);
    let expected: Vec<i32> = (0..10).flat_map(|i| (0..10).map(move |j| i * 20 + j)).collect();
    assert_eq!(every_other.to_vec(), expected);
    // SAFETY: as above, while the tensor before is alive.
    let view = unsafe { DeviceTensor::from_raw(&device, address, DType::I32, &[200], &[1], ()) }.unwrap();
    assert_eq!(view.to_host().unwrap().to_f64()[199], 199.0);
    drop(view);
    assert!(!gone.load(Ordering::Acquire));
    drop(every_other);
    device.synchronize().unwrap();
    assert!(gone.load(Ordering::Acquire), "the owner goes when the device is done");
}

#[test]
fn kernels_write_lent_memory() {
    let Some(device) = gpu("kernels_write_lent_memory") else { return };
    let buffer = DeviceBuffer::from_slice(&device, &[5i32; 100]).unwrap();
    {
        // SAFETY: the buffer has 100 elements and outlives the work, which is waited for.
        let lent = unsafe { TensorBuf::<i32, 1>::from_raw(&device, buffer.address(), [90], [1], ()) };
        let mut lent = lent.unwrap();
        step(&mut lent).grid(2).launch(&device).unwrap();
        assert_eq!(lent.to_vec(), [6; 90]);
    }
    let mut all = [0i32; 100];
    buffer.download(&mut all).unwrap();
    assert_eq!((all[89], all[90]), (6, 5));
}

#[test]
fn pinned_copies_run_beside_other_work() {
    let Some(device) = gpu("pinned_copies_run_beside_other_work") else { return };
    let (copies, other) = (Stream::new(&device).unwrap(), Stream::new(&device).unwrap());
    let mut from = PinnedBuffer::from_slice(&device, &[1u32; 1 << 16]).unwrap();
    let mut to = PinnedBuffer::<u32>::zeros(&device, 1 << 16).unwrap();
    let mut buffer = DeviceBuffer::new(&device, 4 << 16).unwrap();
    for round in 1..=8u32 {
        from.as_mut_slice().unwrap().fill(round);
        buffer.upload_async(&from, &copies).unwrap();
        // Another stream: the copy waits for the one before.
        buffer.download_async(&mut to, &other).unwrap();
        assert!(to.as_slice().unwrap().iter().all(|&value| value == round), "round {round}");
    }
    let mut tensor = TensorBuf::<f32, 2>::zeros_on(&device, [4, 8]).unwrap();
    let values: Vec<f32> = (0..32).map(|i| i as f32).collect();
    tensor.upload_async(&PinnedBuffer::from_slice(&device, &values).unwrap(), &copies).unwrap();
    assert_eq!(tensor.to_vec(), values);
    let mut back = PinnedBuffer::zeros(&device, 32).unwrap();
    tensor.download_async(&mut back, &other).unwrap();
    assert_eq!(back.as_slice().unwrap(), values);
    let error = buffer.upload_async(&PinnedBuffer::<u8>::zeros(&device, 3).unwrap(), &copies).unwrap_err();
    let expected = DeviceError::BufferSize { index: 0, expected: 4 << 16, found: 3 };
    assert_eq!(error, expected.into());
}

#[test]
fn memory_comes_back() {
    let Some(device) = gpu("memory_comes_back") else { return };
    device.synchronize().unwrap();
    let (before, total) = device.memory_info().unwrap();
    let streams = [0; 2].map(|_| Stream::new(&device).unwrap());
    for _ in 0..4 {
        // Together more than the device has, unless each is given back.
        for stream in &streams {
            let mut half = DeviceBuffer::new(&device, total / 3).unwrap();
            half.fill(1, stream).unwrap();
        }
    }
    drop(streams);
    device.synchronize().unwrap();
    let (after, _) = device.memory_info().unwrap();
    assert!(after + (256 << 20) > before, "{before} bytes were free, {after} are");
}
