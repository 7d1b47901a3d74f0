//! What a launch costs the caller beside the driver's own call.

use super::gpu;
use crate::matmul::matmul;
use cudarc::driver::sys;
use std::time::Instant;
use tile::cuda::Stream;
use tile::prelude::*;

/// Launches between two waits: fewer than a stream's queue holds, so that none waits for the device.
const BATCH: usize = 200;
const BATCHES: usize = 25;

/// Microseconds that a launch takes the caller: the median over batches.
fn time(stream: &Stream, mut launch: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..BATCHES)
        .map(|_| {
            let start = Instant::now();
            (0..BATCH).for_each(|_| launch());
            let time = start.elapsed();
            stream.synchronize().unwrap();
            time.as_secs_f64() * 1e6 / BATCH as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[BATCHES / 2]
}

#[test]
#[ignore = "takes the time: run it alone, optimized"]
fn a_launch_costs_little_more_than_the_drivers_call() {
    let Some(device) = gpu("a_launch_costs_little_more_than_the_drivers_call") else { return };
    let stream = Stream::new(&device).unwrap();
    let on = |shape| TensorBuf::<f16, 2>::zeros_on(&device, shape).unwrap();
    let (a, b, mut c) = (on([16, 16]), on([16, 16]), on([16, 16]));
    let config = matmul::Config { tile_m: 16, tile_n: 16, tile_k: 16, ..Default::default() };
    let prepared = matmul(&a, &b, &mut c).grid([1, 1]).config(config).prepare(&device).unwrap();
    let resources = prepared.resources().unwrap();
    let ([x, y, z], mut parameters) = (prepared.ctas(), prepared.parameters());
    let bare = time(&stream, || {
        // SAFETY: the parameters are those of the kernel over tensors that are alive.
        let launched = unsafe {
            let (function, stream) = (prepared.as_raw().cast(), stream.as_raw().cast());
            let (threads, smem) = (resources.threads, resources.smem_bytes);
            let (params, none) = (parameters.as_mut_ptr(), std::ptr::null_mut());
            sys::cuLaunchKernel(function, x, y, z, threads, 1, 1, smem, stream, params, none)
        };
        launched.result().unwrap();
    });
    let repeated = time(&stream, || prepared.launch(&stream).unwrap());
    let typed = time(&stream, || {
        matmul(&a, &b, &mut c).grid([1, 1]).config(config).launch_on(&stream).unwrap();
    });
    let default = time(&stream, || matmul(&a, &b, &mut c).grid([1, 1]).launch_on(&stream).unwrap());
    println!(
        "{}: cuLaunchKernel {bare:.2} us; beside it a prepared launch {:.2} us, a typed one {:.2} us, one with \
         the default configuration {:.2} us",
        device.name(),
        repeated - bare,
        typed - bare,
        default - bare
    );
    let most = if cfg!(debug_assertions) { 15.0 } else { 3.0 };
    assert!((repeated - bare).max(typed - bare).max(default - bare) < most);
}
