//! Kernels that are compiled: on an emulated GPU of every target, and on the first GPU, where there is one, against the
//! CPU device.

use crate::matmul::{matmul, noise};
use crate::views::{outside, unpack};
use codegen_ptx::Target;
use tile::device::DeviceKind;
use tile::prelude::*;

/// The devices that `test` is to run on.
fn devices(test: &str) -> Vec<Device> {
    let emulated = Target::all().iter().zip(1..).map(|(target, seed)| Device::emulated(target, seed));
    emulated.chain(gpu(test)).collect()
}

#[cfg(feature = "cuda")]
use crate::cuda::gpu;

/// There is none in this build.
#[cfg(not(feature = "cuda"))]
fn gpu(_test: &str) -> Option<Device> {
    None
}

fn is_emulated(device: &Device) -> bool {
    matches!(device.kind(), DeviceKind::Emulated(_))
}

/// Where a device's tensors lie: an emulated one's in memory of the host.
fn memory(device: &Device) -> DeviceKind {
    if is_emulated(device) { DeviceKind::Cpu } else { device.kind() }
}

pub fn product<T: Float>(device: &Device, [m, n, k]: [usize; 3], tile: [usize; 3], tolerance: f64) {
    let a = TensorBuf::from_fn([m, k], |[i, j]| T::from_f64(noise(1, i * k + j)));
    let b = TensorBuf::from_fn([n, k], |[i, j]| T::from_f64(noise(2, i * k + j)));
    let c = TensorBuf::<T, 2>::full([m, n], T::from_f64(f64::NAN));
    let config = matmul::Config { tile_m: tile[0], tile_n: tile[1], tile_k: tile[2], ..Default::default() };
    let grid = [m.div_ceil(tile[0]), n.div_ceil(tile[1])];
    let (on_a, on_b) = (a.to_device(device).unwrap(), b.to_device(device).unwrap());
    let mut on_c = c.to_device(device).unwrap();
    assert_eq!(on_c.location(), memory(device));
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
    for device in devices("ctas_that_walk_over_programs_agree_with_those_of_one") {
        // Fewer programs than CTAs at once, and many times as many; an emulated GPU has room for few.
        let shapes = if is_emulated(&device) {
            [[20, 30, 40], [130, 100, 40]]
        } else {
            [[130, 100, 200], [1000, 1500, 72]]
        };
        for shape in shapes {
            let a =
                TensorBuf::from_fn([shape[0], shape[2]], |[i, j]| f16::from_f64(noise(1, i * shape[2] + j)));
            let b =
                TensorBuf::from_fn([shape[1], shape[2]], |[i, j]| f16::from_f64(noise(2, i * shape[2] + j)));
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
}

#[test]
fn gpu_and_cpu_agree_through_the_same_call() {
    for device in devices("gpu_and_cpu_agree_through_the_same_call") {
        for (shape, tile) in [
            ([1, 1, 1], [16, 16, 16]),
            ([64, 64, 64], [64, 64, 64]),
            ([257, 129, 65], [64, 32, 32]),
            ([130, 100, 200], [128, 128, 64]),
        ] {
            // tf32 keeps ten bits of the mantissa; its tiles take twice the room.
            product::<f32>(&device, shape, [tile[0], tile[1], tile[2] / 2], 2e-3);
            product::<f16>(&device, shape, tile, 2e-3);
            product::<bf16>(&device, shape, tile, 1.2e-2);
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
    for device in devices("scalars_reach_the_gpu") {
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
}

#[test]
fn views_and_elements_of_device_tensors() {
    for device in devices("views_and_elements_of_device_tensors") {
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
}

#[test]
fn single_elements_slices_and_checks() {
    for device in devices("single_elements_slices_and_checks") {
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
}

/// Doubles 4-bit elements and puts each somewhere.
#[tile_kernel(tune(TILE in [16]))]
pub fn scattered<const TILE: usize>(x: Tensor<f4E2M1FN, 1>, ids: Tensor<i32, 1>, y: TensorMut<f4E2M1FN, 1>) {
    let i = program_id(0);
    let doubled = (x.load([i], [TILE]).cast::<f32>() * 2.0).cast::<f4E2M1FN>();
    y.scatter([ids.load([i], [TILE])], doubled);
}

/// Each is written in a word that reaches beyond the tensor.
#[test]
fn half_bytes_go_anywhere() {
    for device in devices("half_bytes_go_anywhere") {
        let run = |device: &Device| {
            let x = TensorBuf::from_fn([32], |[i]| F4E2M1FN::from_f64((i % 4) as f64 - 1.0));
            let ids = TensorBuf::from_fn([32], |[i]| (i * 11 % 32) as i32 + 1);
            let y = TensorBuf::<F4E2M1FN, 1>::full([33], F4E2M1FN::from_f64(0.5));
            let (x, ids) = (x.to_device(device).unwrap(), ids.to_device(device).unwrap());
            let mut y = y.to_device(device).unwrap();
            // SAFETY: each place is another.
            unsafe { scattered(&x, &ids, &mut y).grid(2).launch_unchecked(device).unwrap() };
            device.synchronize().unwrap();
            y.to_vec()
        };
        assert_eq!(run(&device), run(&Device::cpu()));
    }
}

/// y += 1.
#[tile_kernel(tune(TILE in [64]))]
pub fn step<const TILE: usize>(y: TensorMut<i32, 1>) {
    let i = program_id(0);
    y.store([i], y.load([i], [TILE]) + 1);
}

#[test]
fn a_configuration_for_another_sm() {
    for device in devices("a_configuration_for_another_sm") {
        let part = device.target().unwrap().part;
        let other = if part == "sm_80" { "sm_90" } else { "sm_80" };
        let mut y = TensorBuf::<i32, 1>::zeros_on(&device, [64]).unwrap();
        let config = step::Config { tuned_for: Some(other), ..Default::default() };
        let error = step(&mut y).grid(1).config(config).launch(&device).unwrap_err();
        assert_eq!(
            error,
            LaunchError::ConfigForOtherTarget { kernel: "step", tuned_for: other, target: part }
        );
        let config = step::Config { tuned_for: Some(part), ..Default::default() };
        step(&mut y).grid(1).config(config).launch(&device).unwrap();
        assert_eq!(y.to_vec(), [1; 64]);
    }
}
