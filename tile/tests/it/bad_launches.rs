//! Every way to launch wrongly gives one clear error and no panic.

use tile::prelude::*;

#[tile_kernel(tune(TILE in [4]))]
fn scale<T: Float, const TILE: usize, const FLIP: bool>(x: Tensor<T, 2>, y: TensorMut<T, 2>, by: f32) {
    let i = program_id(0);
    let tile = x.load([i, 0], [1, TILE]).cast::<f32>() * by;
    y.store([i, 0], if FLIP { -tile } else { tile }.cast::<T>());
}

fn run(change: impl FnOnce(scale::Launch<'_>) -> scale::Launch<'_>) -> Result<(), LaunchError> {
    let x = TensorBuf::<f32, 2>::zeros([2, 4]);
    let mut y = TensorBuf::zeros([2, 4]);
    change(scale(&x, &mut y, 2.0).grid([2])).launch(&Device::cpu())
}

fn refused(change: impl FnOnce(scale::Launch<'_>) -> scale::Launch<'_>, expected: &str) {
    let message = run(change).unwrap_err().to_string();
    assert!(message.contains(expected), "{message}\nlacks: {expected}");
}

#[test]
fn the_grid_is_checked() {
    run(|l| l).unwrap();
    refused(|l| l.grid([2, 0]), "kernel `scale`: grid [2, 0, 1] has no programs; every extent is at least 1");
    refused(|l| l.grid([1, 1 << 20]), "is too large");
    let mut y = TensorBuf::<f32, 2>::zeros([2, 4]);
    let error = scale(&y.clone(), &mut y, 1.0).launch(&Device::cpu()).unwrap_err();
    assert_eq!(error.to_string(), "kernel `scale`: no grid; call `.grid([..])` before `.launch(..)`");
}

#[test]
fn the_configuration_is_checked() {
    let config = scale::Config::default();
    refused(
        |l| l.config(scale::Config { tile: 0, ..config }),
        "const parameter TILE has no value; it is not tuned, so set it in the configuration",
    );
    refused(
        |l| l.config(scale::Config { num_warps: 3, ..config }),
        "num_warps = 3; expected 1, 2, 4, 8 or 16",
    );
    refused(|l| l.config(scale::Config { num_stages: 0, ..config }), "num_stages = 0; expected at least 1");
}

#[test]
fn a_tile_that_is_no_power_of_two_is_refused_at_its_line() {
    let config = scale::Config { tile: 48, ..Default::default() };
    let error = run(|l| l.config(config)).unwrap_err();
    let LaunchError::Check { .. } = error else { panic!("{error}") };
    let message = error.to_string();
    assert!(message.contains("bad_launches.rs:8:"), "{message}");
    assert!(message.contains("48") && message.contains("power"), "{message}");
}

/// Where `arithmetic` subtracts.
const SUBTRACTION: u32 = line!() + 5;

#[tile_kernel(tune(TILE in [4]))]
fn arithmetic<const TILE: usize>(x: Tensor<f32, 1>, y: TensorMut<f32, 1>) {
    let i = program_id(0);
    let before = x.dim(0) - 100;
    y.store([i], full::<f32>([TILE], before as f32));
}

#[test]
fn a_panic_of_scalar_code_is_an_error_with_its_line() {
    let x = TensorBuf::zeros([8]);
    let mut y = TensorBuf::zeros([8]);
    let error = arithmetic(&x, &mut y).grid(2).launch(&Device::cpu()).unwrap_err();
    let LaunchError::Kernel { kernel: "arithmetic", program: [0, 0, 0], place, error } = &error else {
        panic!("{error}");
    };
    assert!(place.file.ends_with("bad_launches.rs"), "{place}");
    assert_eq!(place.line, SUBTRACTION);
    assert!(error.to_string().contains("overflow"), "{error}");
}

/// Where `divide` divides.
const DIVISION: u32 = line!() + 5;

#[tile_kernel]
fn divide<const TILE: usize>(x: Tensor<i32, 1>, y: TensorMut<i32, 1>) {
    let i = program_id(0);
    y.store([i], 100 / x.load([i], [TILE]));
}

#[test]
fn an_operation_that_fails_names_program_and_line() {
    let x = TensorBuf::from_vec([8], vec![1, 2, 3, 4, 5, 0, 7, 8]).unwrap();
    let mut y = TensorBuf::zeros([8]);
    let config = divide::Config { tile: 4, ..Default::default() };
    let error = divide(&x, &mut y).grid(2).config(config).launch(&Device::cpu()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("kernel `divide`, program [1, 0, 0]: division by zero"), "{message}");
    assert!(message.contains(&format!("bad_launches.rs:{DIVISION}:")), "{message}");
}

#[test]
fn tensors_check_their_length_and_devices_exist_or_say_why() {
    let error = TensorBuf::from_vec([2, 3], vec![1.0f32; 5]).unwrap_err();
    assert_eq!(error.to_string(), "shape [2, 3] has 6 elements; found 5");
    assert!(TensorBuf::<f32, 2>::from_vec([usize::MAX, 2], vec![]).is_err());
    let error = Device::cuda(1000).unwrap_err();
    assert!(matches!(error, LaunchError::Device(_)) && error.to_string().contains("cuda:1000"), "{error}");
}
