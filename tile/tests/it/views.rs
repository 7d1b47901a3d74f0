//! Single elements, slices and checks.

use tile::prelude::*;

/// Where `unpack` checks first.
const CHECKS: u32 = line!() + 12;

/// Copies the sequence that `starts` delimits to the front of a row of `out`, times a factor of its own.
#[tile_kernel(tune(TILE in [4]))]
pub fn unpack<T: Float, const TILE: usize>(
    packed: Tensor<T, 2>,
    starts: Tensor<i32, 1>,
    factors: Tensor<T, 1>,
    out: TensorMut<f32, 3>,
) {
    let b = program_id(0);
    let len = starts.at([b + 1]) - starts.at([b]);
    check(len >= 0, "starts go up");
    check(len <= out.dim(1) as i32, "a sequence fits its row");
    let rows = packed.slice(0, starts.at([b]) as usize, len as usize).slice(1, 1, TILE);
    for i in 0..cdiv(rows.dim(0), TILE) {
        let tile = rows.load([i, 0], [TILE, TILE]).cast::<f32>() * factors.at([b]);
        out.store([b, i, 0], tile.reshape([1, TILE, TILE]));
    }
}

fn packed() -> TensorBuf<f32, 2> {
    TensorBuf::from_fn([9, 5], |[i, j]| (10 * i + j) as f32)
}

fn run(starts: Vec<i32>, checked: bool) -> Result<Vec<f32>, LaunchError> {
    let starts = TensorBuf::from_vec([3], starts).unwrap();
    let factors = TensorBuf::from_vec([2], vec![1.0, 2.0]).unwrap();
    let mut out = TensorBuf::full([2, 6, 3], -1.0);
    unpack(&packed(), &starts, &factors, &mut out).grid(2).checked(checked).launch(&Device::cpu())?;
    Ok(out.to_vec())
}

#[test]
fn sequences_end_where_their_slice_ends() {
    let found = run(vec![1, 3, 8], true).unwrap();
    let row = |b: usize, i: usize| &found[(b * 6 + i) * 3..][..3];
    assert_eq!([row(0, 0), row(0, 1)], [&[11.0, 12.0, 13.0], &[21.0, 22.0, 23.0]]);
    assert_eq!([row(0, 2), row(0, 3)], [&[0.0; 3], &[0.0; 3]], "the rest of the first tile");
    assert_eq!(row(0, 4), [-1.0; 3], "there is no second tile");
    assert_eq!(row(1, 0), [62.0, 64.0, 66.0], "twice row 3");
    assert_eq!(row(1, 4), [142.0, 144.0, 146.0]);
    assert_eq!(row(1, 5), [0.0; 3]);
}

#[test]
fn slices_are_cut_off_at_the_end_of_the_tensor() {
    let found = run(vec![8, 20, 20], false).unwrap();
    assert_eq!(found[..6], [81.0, 82.0, 83.0, 0.0, 0.0, 0.0]);
    assert_eq!(found[18..], [-1.0; 18], "nothing starts beyond the end");
}

#[test]
fn a_failed_check_names_line_program_and_message() {
    let error = run(vec![0, 4, 3], true).unwrap_err();
    let LaunchError::Kernel { kernel: "unpack", program: [1, 0, 0], place, error: why } = &error else {
        panic!("{error}");
    };
    assert_eq!(**why, tile::KernelError::Check { message: "starts go up".into() });
    assert!(place.file.ends_with("views.rs") && place.line == CHECKS, "{place}");
    let error = run(vec![0, 9, 9], true).unwrap_err().to_string();
    assert!(error.contains("program [0, 0, 0]: check failed: a sequence fits its row"), "{error}");
    run(vec![0, 4, 3], false).expect("other launches check nothing");
}

/// Reads where there is nothing: past the end, and at a negative place.
#[tile_kernel(tune(TILE in [1]))]
pub fn outside<const TILE: usize>(x: Tensor<i32, 1>, y: TensorMut<i32, 1>) {
    let i = program_id(0);
    let beyond = x.at([x.dim(0)]) + x.at([(i as i32 - 5) as usize]);
    let empty = x.slice(0, 7, 2).dim(0) as i32 + x.slice(0, (i as i32 - 5) as usize, 1).dim(0) as i32;
    y.store([i], full::<i32>([TILE], x.at([i]) * 100 + beyond + empty));
}

#[test]
fn outside_of_a_tensor_everything_is_zero() {
    let x = TensorBuf::from_vec([2], vec![3, 4]).unwrap();
    let mut y = TensorBuf::zeros([3]);
    outside(&x, &mut y).grid(3).launch(&Device::cpu()).unwrap();
    assert_eq!(y.to_vec(), [300, 400, 0]);
}

/// Stores through slices that overlap.
#[tile_kernel(tune(TILE in [4]))]
fn overlapping<const TILE: usize>(at: Tensor<i32, 1>, y: TensorMut<f32, 1>) {
    let i = program_id(0);
    y.slice(0, at.at([i]) as usize, TILE).store([0], full::<f32>([TILE], 1.0));
}

#[test]
fn stores_through_slices_are_not_proved_and_watched() {
    let at = TensorBuf::from_vec([2], vec![0, 4]).unwrap();
    let mut y = TensorBuf::zeros([8]);
    let refused = overlapping(&at, &mut y).grid(2).launch(&Device::cpu()).unwrap_err();
    assert!(matches!(refused, LaunchError::StoresNotProved { .. }), "{refused}");
    // SAFETY: the slices do not overlap.
    unsafe { overlapping(&at, &mut y).grid(2).launch_unchecked(&Device::cpu()).unwrap() };
    assert_eq!(y.to_vec(), [1.0; 8]);
    let at = TensorBuf::from_vec([2], vec![0, 3]).unwrap();
    let race = overlapping(&at, &mut y).grid(2).check_races(true).launch(&Device::cpu()).unwrap_err();
    assert!(race.to_string().contains("element [3] of `y`"), "{race}");
}

#[test]
fn dynamic_runs_watch_what_is_not_proved() {
    use tile::dynamic::{CpuOptions, DynArg, DynTensor};
    use tile::{Bindings, DType};
    let run = |places: [f64; 2]| {
        let mut at = DynTensor::from_f64(DType::I32, &[2], &places);
        let mut y = DynTensor::zeros(DType::F32, &[8]);
        let mut args = [DynArg::Tensor(&mut at), DynArg::Tensor(&mut y)];
        let config = overlapping::KERNEL.default_config();
        let bindings = Bindings::default();
        overlapping::KERNEL.run_cpu(&mut args, &config, &bindings, [2, 1, 1], CpuOptions::default())?;
        Ok::<_, LaunchError>(y.to_f64())
    };
    assert_eq!(run([0.0, 4.0]).unwrap(), [1.0; 8]);
    let race = run([0.0, 3.0]).unwrap_err().to_string();
    assert!(race.contains("both access element [3] of `y`"), "{race}");
}
