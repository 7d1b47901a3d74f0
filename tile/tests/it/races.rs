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
