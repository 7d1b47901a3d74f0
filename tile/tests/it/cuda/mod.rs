//! What only a GPU has: memory, streams, launches that wait for each other. Without a GPU each test says that it is
//! skipped, and why.

mod bad_input;
mod graphs;
mod memory;
mod overhead;
mod soak;
mod streams;

use crate::compiled::{product, step};
use crate::matmul::matmul;
use std::io::Write;
use tile::prelude::*;

/// The first GPU; where there is none, says on the standard error that `test` is skipped.
pub fn gpu(test: &str) -> Option<Device> {
    let found = Device::cuda(0);
    if let Err(reason) = &found {
        // Not `eprintln`, which the harness captures.
        writeln!(std::io::stderr(), "SKIPPED {test}: {reason}").expect("standard error is writable");
    }
    found.ok()
}

#[test]
fn wrong_launches_are_refused_and_the_device_goes_on() {
    let Some(device) = gpu("wrong_launches_are_refused_and_the_device_goes_on") else { return };
    let host = TensorBuf::<f16, 2>::zeros([64, 64]);
    let there = host.to_device(&device).unwrap();
    let mut c = there.clone();
    let error = matmul(&host, &there, &mut c).grid([1, 1]).launch(&device).unwrap_err();
    let message =
        "kernel `matmul` is launched on cuda:0, but `a` is on the CPU; move it there with `to_device`";
    assert_eq!(error.to_string(), message);
    let error = matmul(&there, &there, &mut c).grid([1, 1]).launch(&Device::cpu()).unwrap_err();
    assert!(error.to_string().contains("`a` is on cuda:0"), "{error}");
    let error = matmul(&there, &there, &mut c).grid([1, 1]).check_races(true).launch(&device).unwrap_err();
    assert_eq!(error, LaunchError::RacesOnGpu { kernel: "matmul" });
    let large = matmul::Config { tile_m: 256, tile_n: 256, tile_k: 128, num_stages: 4, ..Default::default() };
    let error = matmul(&there, &there, &mut c).grid([1, 1]).config(large).launch(&device).unwrap_err();
    assert!(error.to_string().contains("shared memory"), "{error}");
    let absent = Device::cuda(1000).unwrap_err().to_string();
    assert!(absent.contains("cuda:1000: the driver shows"), "{absent}");
    matmul(&there, &there, &mut c).grid([1, 1]).launch(&device).unwrap();
    device.synchronize().unwrap();
}

#[test]
fn threads_share_one_compilation() {
    let Some(device) = gpu("threads_share_one_compilation") else { return };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| product::<bf16>(&device, [48, 48, 48], [16, 16, 32], 1.2e-2));
        }
    });
}

#[test]
fn launches_run_one_after_another() {
    let Some(device) = gpu("launches_run_one_after_another") else { return };
    let mut y = TensorBuf::<i32, 1>::zeros([1000]).to_device(&device).unwrap();
    let mut launch = |count: usize| {
        let start = std::time::Instant::now();
        for _ in 0..count {
            step(&mut y).grid(16).launch(&device).unwrap();
        }
        start.elapsed().as_secs_f64() * 1e6 / count as f64
    };
    launch(10);
    println!("a launch of one tensor takes the caller {:.2} us on {}", launch(500), device.name());
    assert_eq!(y.to_vec(), [510; 1000]);
}
