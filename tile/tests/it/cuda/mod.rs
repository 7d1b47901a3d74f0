//! Kernels on a GPU. Without a GPU each test says that it is skipped, and why.

mod bad_input;
mod graphs;
mod memory;
mod overhead;
mod soak;
mod streams;

use crate::matmul::{matmul, noise};
use crate::views::{outside, unpack};
use std::io::Write;
use tile::device::DeviceKind;
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

fn product<T: Float>(device: &Device, [m, n, k]: [usize; 3], tile: [usize; 3], tolerance: f64) {
    let a = TensorBuf::from_fn([m, k], |[i, j]| T::from_f64(noise(1, i * k + j)));
    let b = TensorBuf::from_fn([n, k], |[i, j]| T::from_f64(noise(2, i * k + j)));
    let c = TensorBuf::<T, 2>::full([m, n], T::from_f64(f64::NAN));
    let config = matmul::Config { tile_m: tile[0], tile_n: tile[1], tile_k: tile[2], ..Default::default() };
    let grid = [m.div_ceil(tile[0]), n.div_ceil(tile[1])];
    let (on_a, on_b) = (a.to_device(device).unwrap(), b.to_device(device).unwrap());
    let mut on_c = c.to_device(device).unwrap();
    assert_eq!(on_c.location(), device.kind());
    matmul(&on_a, &on_b, &mut on_c).grid(grid).config(config).launch(device).unwrap();
    let mut expected = c;
    matmul(&a, &b, &mut expected).grid(grid).config(config).launch(&Device::cpu()).unwrap();
    let found = on_c.to_host().unwrap();
    assert_eq!((found.location(), found.shape()), (DeviceKind::Cpu, [m, n]));
    let (mut error, mut norm) = (0.0, 0.0);
    for (x, y) in found.to_vec().into_iter().zip(expected.to_vec()) {
        error += (x.to_f64() - y.to_f64()).powi(2);
        norm += y.to_f64().powi(2);
    }
    let relative = (error / norm).sqrt();
    assert!(relative < tolerance, "{m}x{n}x{k} in tiles {tile:?}: {relative:e}");
}

#[test]
fn ctas_that_walk_over_programs_agree_with_those_of_one() {
    let Some(device) = gpu("ctas_that_walk_over_programs_agree_with_those_of_one") else { return };
    // Fewer programs than CTAs at once, and many times as many.
    for shape in [[130, 100, 200], [1000, 1500, 72]] {
        let a = TensorBuf::from_fn([shape[0], shape[2]], |[i, j]| f16::from_f64(noise(1, i * shape[2] + j)));
        let b = TensorBuf::from_fn([shape[1], shape[2]], |[i, j]| f16::from_f64(noise(2, i * shape[2] + j)));
        let c = TensorBuf::<f16, 2>::full([shape[0], shape[1]], f16::from_f64(f64::NAN));
        let (on_a, on_b) = (a.to_device(&device).unwrap(), b.to_device(&device).unwrap());
        let run = |persistent| {
            let config =
                matmul::Config { tile_m: 16, tile_n: 16, tile_k: 16, persistent, ..Default::default() };
            let mut on_c = c.to_device(&device).unwrap();
            let grid = [shape[0].div_ceil(16), shape[1].div_ceil(16)];
            matmul(&on_a, &on_b, &mut on_c).grid(grid).config(config).launch(&device).unwrap();
            on_c.to_host().unwrap().to_vec()
        };
        assert_eq!(run(false), run(true), "{shape:?}");
    }
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

#[test]
fn gpu_and_cpu_agree_through_the_same_call() {
    let Some(device) = gpu("gpu_and_cpu_agree_through_the_same_call") else { return };
    for (shape, tile) in [
        ([1, 1, 1], [16, 16, 16]),
        ([64, 64, 64], [64, 64, 64]),
        ([257, 129, 65], [64, 32, 32]),
        ([130, 100, 200], [128, 128, 64]),
    ] {
        // tf32 keeps ten bits of the mantissa.
        product::<f32>(&device, shape, tile, 2e-3);
        product::<f16>(&device, shape, tile, 2e-3);
        product::<bf16>(&device, shape, tile, 1.2e-2);
    }
}

/// An operand between two numbers of tf32, nearer to the upper one, times ones: cut it would be 1.
#[test]
fn operands_of_f32_are_rounded_not_cut() {
    let Some(device) = gpu("operands_of_f32_are_rounded_not_cut") else { return };
    let (size, ulp) = (128, 2f32.powi(-10));
    let between = TensorBuf::<f32, 2>::full([size, size], 1.0 + 0.75 * ulp).to_device(&device).unwrap();
    let ones = TensorBuf::<f32, 2>::full([size, size], 1.0).to_device(&device).unwrap();
    for (a, b) in [(&between, &ones), (&ones, &between)] {
        for tf32_wgmma in [false, true] {
            let config = matmul::Config {
                tile_m: 64,
                tile_n: 64,
                tile_k: 32,
                num_stages: 3,
                tf32_wgmma,
                ..Default::default()
            };
            let mut c = TensorBuf::<f32, 2>::full([size, size], f32::NAN).to_device(&device).unwrap();
            matmul(a, b, &mut c).grid([2, 2]).config(config).launch(&device).unwrap();
            let sum = size as f32 * (1.0 + ulp);
            assert_eq!(c.to_host().unwrap().to_vec(), vec![sum; size * size], "{tf32_wgmma}");
        }
    }
}

/// Scalars of every type, and tensors of other dtypes.
#[tile_kernel(tune(TILE in [32]))]
pub fn scaled<T: Float, const TILE: usize, const FLIP: bool>(
    x: Tensor<T, 1>,
    mask: Tensor<bool, 1>,
    y: TensorMut<T, 1>,
    counts: TensorMut<i32, 1>,
    by: f32,
    shift: i32,
    from: usize,
    double: bool,
) {
    let i = program_id(0);
    let factor = if double { by * 2.0 } else { by };
    let tile = x.load([i], [TILE]).cast::<f32>() * factor + from as f32;
    let kept = select(mask.load([i], [TILE]), tile, zeros::<f32>([TILE]));
    y.store([i], if FLIP { -kept } else { kept }.cast::<T>());
    counts.store([i], iota(TILE) + shift);
}

#[test]
fn scalars_reach_the_gpu() {
    let Some(device) = gpu("scalars_reach_the_gpu") else { return };
    for (flip, double) in [(false, true), (true, false)] {
        let run = |device: &Device| {
            let x = TensorBuf::from_fn([100], |[i]| bf16::from_f32(i as f32)).to_device(device).unwrap();
            let mask = TensorBuf::from_fn([100], |[i]| i % 3 != 0).to_device(device).unwrap();
            let mut y = TensorBuf::<bf16, 1>::zeros([100]).to_device(device).unwrap();
            let mut counts = TensorBuf::<i32, 1>::zeros([100]).to_device(device).unwrap();
            let config = scaled::Config { flip, ..Default::default() };
            let launch = scaled(&x, &mask, &mut y, &mut counts, 0.25, -7, 3, double);
            launch.grid(4).config(config).launch(device).unwrap();
            device.synchronize().unwrap();
            (y.to_host().unwrap(), counts.to_host().unwrap())
        };
        assert_eq!(run(&device), run(&Device::cpu()));
    }
}

#[test]
fn views_and_elements_of_device_tensors() {
    let Some(device) = gpu("views_and_elements_of_device_tensors") else { return };
    let host = TensorBuf::from_fn([3, 5], |[i, j]| F4E2M1FN::from_f64(((i * 5 + j) % 4) as f64));
    let there = host.to_device(&device).unwrap().transpose();
    assert_eq!((there.shape(), there.get([4, 2]).to_f64()), ([5, 3], 2.0));
    assert_eq!(there.clone().transpose(), host);
    assert!(there.as_slice().is_none());
    let empty = TensorBuf::<f32, 1>::zeros([0]).to_device(&device).unwrap();
    assert!(empty.to_vec().is_empty());
    // A transposed operand is another variant of the code.
    let (m, n, k) = (40, 24, 72);
    let a = TensorBuf::from_fn([k, m], |[i, j]| f16::from_f64(noise(3, i * m + j))).transpose();
    let b = TensorBuf::from_fn([n, k], |[i, j]| f16::from_f64(noise(4, i * k + j)));
    let run = |device: &Device| {
        let mut c = TensorBuf::<f16, 2>::zeros([m, n]).to_device(device).unwrap();
        let (a, b) = (a.to_device(device).unwrap(), b.to_device(device).unwrap());
        matmul(&a, &b, &mut c).grid([1, 1]).launch(device).unwrap();
        c.to_vec()
    };
    for (x, y) in run(&device).into_iter().zip(run(&Device::cpu())) {
        assert!((x.to_f64() - y.to_f64()).abs() <= 2e-2, "{x} {y}");
    }
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

/// y += 1.
#[tile_kernel(tune(TILE in [64]))]
pub fn step<const TILE: usize>(y: TensorMut<i32, 1>) {
    let i = program_id(0);
    y.store([i], y.load([i], [TILE]) + 1);
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

#[test]
fn single_elements_slices_and_checks() {
    let Some(device) = gpu("single_elements_slices_and_checks") else { return };
    let packed = TensorBuf::<f16, 2>::from_fn([9, 5], |[i, j]| f16::from_f32((10 * i + j) as f32));
    let factors = TensorBuf::from_vec([2], vec![f16::ONE, f16::from_f32(2.0)]).unwrap();
    let run = |starts: [i32; 3], device: &Device, checked: bool| {
        let starts = TensorBuf::from_vec([3], starts.to_vec()).unwrap().to_device(device)?;
        let (packed, factors) = (packed.to_device(device)?, factors.to_device(device)?);
        let mut out = TensorBuf::full([2, 6, 3], -1.0).to_device(device)?;
        unpack(&packed, &starts, &factors, &mut out).grid(2).checked(checked).launch(device)?;
        Ok::<_, LaunchError>(out.to_vec())
    };
    for starts in [[1, 3, 8], [8, 20, 20], [0, 4, 3]] {
        assert_eq!(run(starts, &device, false), run(starts, &Device::cpu(), false), "{starts:?}");
    }
    assert_eq!(run([1, 3, 8], &device, true), run([1, 3, 8], &Device::cpu(), true));
    // The context stays usable after a check has failed.
    for starts in [[0, 4, 3], [0, 9, 9], [0, 4, 3]] {
        let found = run(starts, &device, true).unwrap_err().to_string();
        assert_eq!(found, run(starts, &Device::cpu(), true).unwrap_err().to_string());
    }
    let x = TensorBuf::from_vec([2], vec![3, 4]).unwrap().to_device(&device).unwrap();
    let mut y = TensorBuf::zeros([3]).to_device(&device).unwrap();
    outside(&x, &mut y).grid(3).launch(&device).unwrap();
    assert_eq!(y.to_vec(), [300, 400, 0]);
}
