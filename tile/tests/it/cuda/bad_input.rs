//! Mistakes and shortages: each a typed error, and the device usable after it.

use super::{gpu, step};
use tile::cuda::{DeviceBuffer, Event, PinnedBuffer, Stream};
use tile::prelude::*;
use tile::{DeviceError, LaunchError};

/// The device still computes.
fn works(device: &Device) {
    let mut y = TensorBuf::<i32, 1>::zeros_on(device, [64]).unwrap();
    step(&mut y).grid(1).launch(device).unwrap();
    assert_eq!(y.to_vec(), [1; 64]);
}

#[test]
fn the_cpu_has_no_streams() {
    let cpu = Device::cpu();
    let refused = |what| LaunchError::Device(DeviceError::NotAGpu { what });
    assert_eq!(Stream::new(&cpu).unwrap_err(), refused("a stream"));
    assert_eq!(Event::new(&cpu).unwrap_err(), refused("an event"));
    assert_eq!(DeviceBuffer::new(&cpu, 1).unwrap_err(), refused("device memory"));
    assert_eq!(PinnedBuffer::<u8>::zeros(&cpu, 1).unwrap_err(), refused("pinned memory"));
    let mut y = TensorBuf::<i32, 1>::zeros_on(&cpu, [64]).unwrap();
    let error = step(&mut y).grid(1).prepare(&cpu).unwrap_err();
    assert_eq!(error.to_string(), "a prepared launch is of a GPU; the CPU device has none");
}

#[test]
fn more_memory_than_there_is() {
    let Some(device) = gpu("more_memory_than_there_is") else { return };
    let error = DeviceBuffer::new(&device, 1 << 50).unwrap_err();
    assert_eq!(error, DeviceError::OutOfMemory { index: 0, bytes: 1 << 50 }.into());
    works(&device);
}

#[test]
fn more_streams_than_can_be_told_apart() {
    let Some(device) = gpu("more_streams_than_can_be_told_apart") else { return };
    let mut streams = Vec::new();
    let error = loop {
        match Stream::new(&device) {
            Ok(stream) => streams.push(stream),
            Err(error) => break error,
        }
        assert!(streams.len() < 100);
    };
    assert!(error.to_string().contains("streams are open"), "{error}");
    drop(streams);
    Stream::new(&device).unwrap();
    works(&device);
}

#[test]
fn a_configuration_for_another_sm() {
    let Some(device) = gpu("a_configuration_for_another_sm") else { return };
    let part = device.target().unwrap().part;
    let other = if part == "sm_80" { "sm_90" } else { "sm_80" };
    let mut y = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
    let config = step::Config { tuned_for: Some(other), ..Default::default() };
    let error = step(&mut y).grid(1).config(config).launch(&device).unwrap_err();
    assert_eq!(error, LaunchError::ConfigForOtherTarget { kernel: "step", tuned_for: other, target: part });
    let config = step::Config { tuned_for: Some(part), ..Default::default() };
    step(&mut y).grid(1).config(config).launch(&device).unwrap();
    assert_eq!(y.to_vec(), [1; 64]);
    works(&device);
}

#[test]
fn extents_beyond_32_bits() {
    let Some(device) = gpu("extents_beyond_32_bits") else { return };
    let memory = DeviceBuffer::new(&device, 4).unwrap();
    // SAFETY: the launch is refused before anything uses the memory.
    let y = unsafe { TensorBuf::<i32, 1>::from_raw(&device, memory.address(), [1 << 31], [1], ()) };
    let error = step(&mut y.unwrap()).grid(1).launch(&device).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel `step`: dimension 0 of `y` is 2147483648; the largest is 2147483647"
    );
    works(&device);
}
