//! Many launches: nothing grows.

use super::streams::slow_copy;
use super::{gpu, step};
use crate::matmul::matmul;
use std::io::Write;
use tile::cuda::Stream;
use tile::prelude::*;

/// How many launches; a million when the variable says so.
const VARIABLE: &str = "TILEWRIGHT_SOAK_LAUNCHES";

/// Bytes of this process in memory.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
#[ignore = "looks at the memory of the whole process: run it alone"]
fn launches_leave_nothing_behind() {
    let Some(device) = gpu("launches_leave_nothing_behind") else { return };
    if !cfg!(target_os = "linux") {
        let message = "SKIPPED launches_leave_nothing_behind: it reads /proc/self/statm";
        writeln!(std::io::stderr(), "{message}").expect("standard error is writable");
        return;
    }
    let launches: usize = std::env::var(VARIABLE).map_or(3_000, |text| text.parse().unwrap());
    let streams = [0; 2].map(|_| Stream::new(&device).unwrap());
    let a = TensorBuf::<f16, 2>::zeros_on(&device, [64, 64]).unwrap();
    let mut c = TensorBuf::<f16, 2>::zeros_on(&device, [64, 64]).unwrap();
    let mut y = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
    let mut counts = TensorBuf::<i32, 1>::zeros_on(&device, [100]).unwrap();
    let config = matmul::Config { tile_m: 16, tile_n: 16, tile_k: 16, ..Default::default() };
    let mut counted = 0;
    let mut round = |launches: usize| {
        for i in 0..launches / 4 {
            let stream = &streams[i % 2];
            matmul(&a, &a, &mut c).grid([4, 4]).config(config).launch_on(stream).unwrap();
            step(&mut counts).grid(2).launch_on(stream).unwrap();
            // Memory that comes and goes.
            let x = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
            slow_copy(&x, &mut y, 1).grid(1).launch_on(stream).unwrap();
            step(&mut counts).grid(2).launch(&device).unwrap();
            counted += 2;
        }
        device.synchronize().unwrap();
        (resident_bytes(), device.memory_info().unwrap().0)
    };
    // What is made once is made in the first rounds.
    round(launches / 10);
    let (host_before, device_before) = round(launches / 10);
    let (host_after, device_after) = round(launches);
    let host = host_after.saturating_sub(host_before);
    let on_device = device_before.saturating_sub(device_after);
    println!("{launches} launches: {host} bytes more on the host, {on_device} on the device");
    assert!(host < 4 << 20, "{host} bytes more on the host");
    assert!(on_device <= 4 << 20, "{on_device} bytes more on the device");
    assert_eq!(counts.to_vec(), [counted; 100]);
}
