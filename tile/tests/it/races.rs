//! Disjoint stores: proved, refused, or watched.

use tile::prelude::*;

/// Where `overlapping` stores first.
const STORES: u32 = line!() + 6;

/// Every program stores to the block before its own as well.
#[tile_kernel(tune(TILE in [4]))]
fn overlapping<const TILE: usize>(y: TensorMut<f32, 2>) {
    let (i, j) = (program_id(0), program_id(1));
    y.store([i, j], full::<f32>([1, TILE], 1.0));
    y.store([i, j + 1], full::<f32>([1, TILE], 2.0));
}

#[test]
fn stores_that_may_meet_are_refused() {
    let mut y = TensorBuf::full([2, 12], 5.0);
    let error = overlapping(&mut y).grid([2, 2]).launch(&Device::cpu()).unwrap_err();
    let LaunchError::StoresNotProved { kernel: "overlapping", diagnostics, .. } = &error else {
        panic!("{error}");
    };
    assert!(!diagnostics.is_empty());
    let message = error.to_string();
    assert!(message.contains("races.rs:") && message.contains("launch_unchecked"), "{message}");
    assert_eq!(y.to_vec(), [5.0; 24], "nothing was written");
}

#[test]
fn the_detector_names_both_programs_and_the_element() {
    let mut y = TensorBuf::zeros([2, 12]);
    let error = overlapping(&mut y).grid([2, 2]).check_races(true).launch(&Device::cpu()).unwrap_err();
    let LaunchError::Kernel { error, place, .. } = &error else { panic!("{error}") };
    let tile::KernelError::Race { tensor: "y", element, first, second } = &**error else {
        panic!("{error}");
    };
    assert_eq!(first[0], second[0]);
    assert_ne!(first[1], second[1]);
    assert_eq!(element, &[first[0], 4]);
    assert!(place.file.ends_with("races.rs") && (STORES..=STORES + 1).contains(&place.line), "{place}");
}

#[test]
fn the_callers_promise_is_enough() {
    let mut y = TensorBuf::zeros([1, 8]);
    // SAFETY: one program meets nobody.
    unsafe { overlapping(&mut y).grid([1, 1]).launch_unchecked(&Device::cpu()).unwrap() };
    assert_eq!(y.to_vec(), [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
}

/// Reads what another program stores.
#[tile_kernel(tune(TILE in [4]))]
fn reading<const TILE: usize>(y: TensorMut<f32, 1>) {
    let i = program_id(0);
    y.store([i], y.load([0], [TILE]) + 1.0);
}

#[test]
fn a_load_of_what_another_program_stores_is_a_race() {
    let mut y = TensorBuf::zeros([16]);
    let error = reading(&mut y).grid(4).check_races(true).launch(&Device::cpu()).unwrap_err();
    assert!(
        error.to_string().contains("both access element [0] of `y`") || error.to_string().contains("of `y`")
    );
}

/// Adds up the blocks of each row of `x`: each program one, the last of a row all of its row.
#[tile_kernel(tune(TILE in [4]))]
fn row_sums<const TILE: usize>(
    x: Tensor<f32, 2>,
    parts: TensorMut<f32, 2>,
    counters: TensorMut<i32, 1>,
    y: TensorMut<f32, 2>,
) {
    let (row, block) = (program_id(0), program_id(1));
    parts.store([row, block], x.load([row, block], [1, TILE]).reduce_sum(1));
    if counters.arrive_last([row], num_programs(1)) {
        let mut sum = zeros::<f32>([1, 1]);
        for i in 0..num_programs(1) {
            sum += parts.load([row, i], [1, 1]);
        }
        y.store([row, 0], sum);
    }
}

#[test]
fn the_last_to_arrive_sees_what_all_have_stored() {
    let (rows, blocks) = (7, 33);
    let x = TensorBuf::from_fn([rows, blocks * 4], |[i, j]| (i * 1000 + j) as f32);
    let expected: Vec<f32> =
        (0..rows).map(|i| (0..blocks * 4).map(|j| (i * 1000 + j) as f32).sum()).collect();
    let mut counters = TensorBuf::zeros([rows]);
    for round in 0..200 {
        let (mut parts, mut y) = (TensorBuf::full([rows, blocks], f32::NAN), TensorBuf::zeros([rows, 1]));
        let launch = row_sums(&x, &mut parts, &mut counters, &mut y).grid([rows, blocks]);
        launch.check_races(round % 4 == 0).launch(&Device::cpu()).unwrap();
        assert_eq!(y.to_vec(), expected, "round {round}");
        assert_eq!(counters.to_vec(), vec![0; rows]);
    }
}

/// Stores behind the arrival what the last program loads.
#[tile_kernel(tune(TILE in [4]))]
fn late<const TILE: usize>(parts: TensorMut<f32, 1>, counters: TensorMut<i32, 1>, y: TensorMut<f32, 1>) {
    let i = program_id(0);
    let last = counters.arrive_last([0], num_programs(0));
    parts.store([i], full::<f32>([TILE], 1.0));
    if last {
        y.store([0], parts.load([0], [TILE]));
    }
}

#[test]
fn a_store_behind_the_arrival_is_in_no_order_with_the_last_program() {
    let new = || (TensorBuf::zeros([32]), TensorBuf::zeros([1]), TensorBuf::zeros([4]));
    let (mut parts, mut counters, mut y) = new();
    let error = late(&mut parts, &mut counters, &mut y).grid(8).launch(&Device::cpu()).unwrap_err();
    assert!(matches!(error, LaunchError::StoresNotProved { .. }), "{error}");
    // Whoever comes first there, the store and the load meet, unless the last program is the one that stores there.
    let met = (0..50).any(|_| {
        let (mut parts, mut counters, mut y) = new();
        late(&mut parts, &mut counters, &mut y).grid(8).check_races(true).launch(&Device::cpu()).is_err()
    });
    assert!(met);
}

#[test]
fn counters_that_are_not_zero_are_refused() {
    let x = TensorBuf::zeros([2, 8]);
    let (mut parts, mut y) = (TensorBuf::zeros([2, 2]), TensorBuf::zeros([2, 1]));
    let mut counters = TensorBuf::from_vec([2], vec![0, 1]).unwrap();
    let launch = row_sums(&x, &mut parts, &mut counters, &mut y).grid([2, 2]);
    let error = launch.launch(&Device::cpu()).unwrap_err().to_string();
    assert!(error.contains("the counter at [1] holds 1"), "{error}");
}
