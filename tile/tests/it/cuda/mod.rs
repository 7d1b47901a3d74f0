//! What only a GPU has: memory, streams, launches that wait for each other. Without a GPU each test says that it is
//! skipped, and why.

mod bad_input;
mod graphs;
mod memory;
mod overhead;
mod soak;
mod streams;

use crate::compiled::{product, step};
use crate::matmul::{matmul, noise};
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

/// Clusters share copies, or are not launched where the grid does not fill them; the sums are the same ones.
#[test]
fn ctas_of_clusters_agree_with_those_alone() {
    let name = "ctas_of_clusters_agree_with_those_alone";
    let Some(device) = gpu(name) else { return };
    // Rows of blocks that come out even for clusters of 2, 4 and 8, for 2 alone, and for none; the last with fewer
    // steps than a ring has slots.
    for shape in [[1000, 1500, 520], [380, 700, 264], [130, 100, 200], [512, 64, 40]] {
        let a = TensorBuf::from_fn([shape[0], shape[2]], |[i, j]| f16::from_f64(noise(1, i * shape[2] + j)));
        let b = TensorBuf::from_fn([shape[1], shape[2]], |[i, j]| f16::from_f64(noise(2, i * shape[2] + j)));
        let c = TensorBuf::<f16, 2>::full([shape[0], shape[1]], f16::from_f64(f64::NAN));
        let (on_a, on_b) = (a.to_device(&device).unwrap(), b.to_device(&device).unwrap());
        let run = |num_ctas, persistent| {
            let config = matmul::Config {
                tile_m: 64,
                tile_n: 64,
                tile_k: 64,
                num_stages: 3,
                num_ctas,
                persistent,
                ..Default::default()
            };
            let mut on_c = c.to_device(&device).unwrap();
            let grid = [shape[0].div_ceil(64), shape[1].div_ceil(64)];
            matmul(&on_a, &on_b, &mut on_c).grid(grid).config(config).launch(&device)?;
            Ok::<_, LaunchError>(on_c.to_host().unwrap().to_vec())
        };
        let alone = run(1, false).unwrap();
        for num_ctas in [2, 4, 8] {
            for persistent in [false, true] {
                // What goes wrong between CTAs does not go wrong each time.
                for _ in 0..20 {
                    let found = match run(num_ctas, persistent) {
                        Err(error) if error.to_string().contains("num_ctas") => {
                            let mut to = std::io::stderr();
                            return writeln!(to, "SKIPPED {name}: {error}")
                                .expect("standard error is writable");
                        }
                        found => found.unwrap(),
                    };
                    assert!(found == alone, "{shape:?}, {num_ctas} CTAs, persistent {persistent}");
                }
            }
        }
    }
}
