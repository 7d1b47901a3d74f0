//! Mistakes and shortages: each a typed error, and the device usable after it.

use super::streams::slow_copy;
use super::{gpu, step};
use std::io::Write;
use std::process::Command;
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
    assert_eq!(y.device_address(), None);
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

/// Every program stores to the first block: fine for one program only.
#[tile_kernel(tune(TILE in [64]))]
pub fn meet<const TILE: usize>(y: TensorMut<i32, 1>) {
    y.store([0], y.load([0], [TILE]) + 1);
}

#[test]
fn a_launch_like_one_before_is_checked_all_the_same() {
    let Some(device) = gpu("a_launch_like_one_before_is_checked_all_the_same") else { return };
    let mut y = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
    meet(&mut y).grid(1).launch(&device).unwrap();
    meet(&mut y).grid(1).launch(&device).unwrap();
    let error = meet(&mut y).grid(2).launch(&device).unwrap_err();
    assert!(matches!(error, LaunchError::StoresNotProved { .. }), "{error}");
    let error = meet(&mut y).grid(0).launch(&device).unwrap_err();
    assert!(matches!(error, LaunchError::EmptyGrid { .. }), "{error}");
    assert_eq!(y.to_vec(), [2; 64]);
    // The same facts, but two rows are one.
    let memory = DeviceBuffer::from_slice(&device, &[0i32; 128]).unwrap();
    let lent = |strides| {
        // SAFETY: two rows of 64, or one twice, are inside the memory, which outlives the work on it.
        unsafe { TensorBuf::<i32, 2>::from_raw(&device, memory.address(), [2, 64], strides, ()) }.unwrap()
    };
    rows(&mut lent([64, 1])).grid([2, 1]).launch(&device).unwrap();
    let error = rows(&mut lent([0, 1])).grid([2, 1]).launch(&device).unwrap_err();
    assert!(matches!(error, LaunchError::Overlap { .. }), "{error}");
    let error = unsafe_extent(&device, &memory);
    assert!(matches!(error, LaunchError::ExtentTooLarge { .. }), "{error}");
    works(&device);
}

/// y += 1, a row a program.
#[tile_kernel(tune(TILE in [64]))]
pub fn rows<const TILE: usize>(y: TensorMut<i32, 2>) {
    let (i, j) = (program_id(0), program_id(1));
    y.store([i, j], y.load([i, j], [1, TILE]) + 1);
}

/// What a launch says that differs from one before only in an extent that is too large.
fn unsafe_extent(device: &Device, memory: &DeviceBuffer) -> LaunchError {
    // SAFETY: the launch is refused before anything uses the memory.
    let y = unsafe { TensorBuf::<i32, 2>::from_raw(device, memory.address(), [1 << 32, 64], [64, 1], ()) };
    rows(&mut y.unwrap()).grid([2, 1]).launch(device).unwrap_err()
}

/// This test binary again, running one ignored test, with some variables.
fn run_child(test: &str, variables: &[(&str, &str)]) -> std::process::Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).envs(variables.iter().copied());
    command.output().unwrap()
}

#[test]
fn a_kernel_that_faults_costs_its_process_the_device_and_says_so() {
    let Some(device) = gpu("a_kernel_that_faults_costs_its_process_the_device_and_says_so") else { return };
    let output = run_child("cuda::bad_input::fault", &[]);
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    works(&device);
}

#[test]
#[ignore = "the child process of another test: it loses the device"]
fn fault() {
    let Some(device) = gpu("fault") else { return };
    let mut y = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
    // SAFETY: none: nothing is there, which is the point.
    let nowhere = unsafe { TensorBuf::<i32, 1>::from_raw(&device, 1 << 20, [64], [1], ()) }.unwrap();
    slow_copy(&nowhere, &mut y, 1).grid(1).launch(&device).unwrap();
    for _ in 0..2 {
        let error = device.synchronize().unwrap_err();
        assert!(matches!(error, LaunchError::Device(DeviceError::Fault { index: 0, .. })), "{error}");
        assert!(error.to_string().contains("a kernel that ran before went wrong"), "{error}");
    }
    let error = y.to_host().unwrap_err();
    assert!(matches!(error, LaunchError::Device(DeviceError::Fault { .. })), "{error}");
}

#[test]
fn no_gpu_is_said_as_such() {
    // Hides the GPUs where there are some.
    let output = run_child("cuda::bad_input::no_gpu", &[("CUDA_VISIBLE_DEVICES", "")]);
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

#[test]
#[ignore = "the child process of another test: it sees no GPU"]
fn no_gpu() {
    let error = Device::cuda(0).unwrap_err();
    let known =
        [DeviceError::NoDriver { index: 0 }.into(), DeviceError::NoSuchDevice { index: 0, count: 0 }.into()];
    assert!(known.contains(&error), "{error}");
    assert_eq!(Device::cuda(0).unwrap_err(), error);
}

#[test]
fn tensors_and_streams_of_another_gpu() {
    let test = "tensors_and_streams_of_another_gpu";
    let Some(device) = gpu(test) else { return };
    let Ok(other) = Device::cuda(1) else {
        writeln!(std::io::stderr(), "SKIPPED {test}: there is one GPU").expect("standard error is writable");
        return;
    };
    let mut y = TensorBuf::<i32, 1>::zeros_on(&other, [64]).unwrap();
    let error = step(&mut y).grid(1).launch(&device).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel `step` is launched on cuda:0, but `y` is on cuda:1; move it there with `to_device`"
    );
    let prepared = step(&mut y).grid(1).prepare(&other).unwrap();
    let error = prepared.launch(&Stream::new(&device).unwrap()).unwrap_err();
    assert_eq!(error, DeviceError::OtherDevice { what: "a stream", found: 0, expected: 1 }.into());
    let moved = y.to_device(&device).unwrap();
    assert_eq!(moved.to_vec(), [0; 64]);
    works(&device);
    works(&other);
}
