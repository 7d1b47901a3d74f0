//! Products with a split K against the f64 reference: any number of parts, ragged shapes, too few tiles of K.

use crate::support::{agree, config, problem, run_eager};
use tile::contract::{Contract, make_tensors, random_inputs, run_steps};
use tile::dynamic::{CpuOptions, DynTensor};
use tile::jit::{self, TensorFacts};
use tile::{Device, TensorBuf};
use tile_lang::DType;
use tilegym_kernels::{MatmulSplitk, MatmulSplitkContract, ProductSizes};

/// Sums of K's tiles in one part or in several, where there may be fewer tiles than parts.
fn splitk([m, n, k]: [i64; 3], [tile_m, tile_n, tile_k, splits]: [i64; 4]) {
    for is_nk in [0, 1] {
        for &dtype in MatmulSplitkContract.dtypes() {
            let sizes = [("m", m), ("n", n), ("k", k), ("rhs_is_nk", is_nk)];
            let tiles = [("TILE_M", tile_m), ("TILE_N", tile_n), ("TILE_K", tile_k), ("SPLITS", splits)];
            agree(&MatmulSplitkContract, dtype, &sizes, &tiles);
        }
    }
}

#[test]
fn in_any_number_of_parts() {
    for splits in [1, 2, 3, 4, 8] {
        // Whole tiles, ragged everywhere, and a shorter last part.
        splitk([32, 64, 128], [16, 32, 16, splits]);
        splitk([33, 70, 65], [16, 32, 16, splits]);
        splitk([17, 5, 9 * 16], [16, 16, 16, splits]);
    }
}

#[test]
fn fewer_tiles_of_k_than_parts() {
    splitk([1, 1, 1], [16, 16, 16, 3]);
    splitk([20, 24, 33], [16, 16, 16, 8]);
    // Five tiles in parts of two: the last has none.
    splitk([16, 16, 80], [16, 16, 16, 4]);
}

#[test]
fn several_parts_before_tuning() {
    for &dtype in MatmulSplitkContract.dtypes() {
        let sizes = [("m", 70), ("n", 130), ("k", 2100)];
        let problem = problem(&MatmulSplitkContract, dtype, &sizes);
        let splits = config(&MatmulSplitkContract, &problem, &[]).consts["SPLITS"];
        assert!(splits > 1, "{dtype}");
        let steps = MatmulSplitkContract.steps(&problem, &config(&MatmulSplitkContract, &problem, &[]));
        assert_eq!(steps.len(), 2, "{dtype}");
        agree(&MatmulSplitkContract, dtype, &sizes, &[]);
    }
}

/// What the parts hold before does not matter, and programs write apart.
#[test]
fn every_part_is_written_once() {
    let problem = problem(&MatmulSplitkContract, DType::F32, &[("m", 20), ("n", 24), ("k", 33)]);
    let tiles = [("TILE_M", 16), ("TILE_N", 16), ("TILE_K", 16)];
    for splits in [1, 2, 8] {
        let config = config(&MatmulSplitkContract, &problem, &[&tiles[..], &[("SPLITS", splits)]].concat());
        let inputs = random_inputs(&MatmulSplitkContract, &problem, 3);
        let expected = run_eager(&MatmulSplitkContract, &problem, &config, &inputs);
        let mut tensors = make_tensors(&MatmulSplitkContract, &problem, &config, &inputs);
        for tensor in &mut tensors[2..] {
            let nothing = vec![f64::NAN; tensor.shape.iter().product()];
            *tensor = DynTensor::from_f64(tensor.dtype, &tensor.shape, &nothing);
        }
        let options = CpuOptions { check_races: true, ..CpuOptions::default() };
        let steps = MatmulSplitkContract.steps(&problem, &config);
        run_steps(&steps, &Device::cpu(), &mut tensors, options).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(tensors[2].to_f64(), expected[0], "{splits}");
    }
}

#[test]
fn a_product_is_prepared_for_a_device() {
    let sizes = ProductSizes { m: 3, n: 5, k: 1100, rhs_is_nk: false };
    let mut product = MatmulSplitk::new::<f32>(&Device::cpu(), sizes).unwrap();
    assert_eq!(product.config().consts["SPLITS"], 4);
    let lhs = TensorBuf::<f32, 2>::from_fn([3, 1100], |[i, k]| if k % 100 == i { 1.0 } else { 0.0 });
    let rhs = TensorBuf::<f32, 2>::from_fn([1100, 5], |[k, j]| (k / 100 + j) as f32);
    let mut out = TensorBuf::<f32, 2>::zeros([3, 5]);
    // The second launch finds the parts of the first.
    for _ in 0..2 {
        product.launch(&lhs, &rhs, &mut out).unwrap();
        let expected: Vec<f32> = (0..15).map(|i| (55 + 11 * (i % 5)) as f32).collect();
        assert_eq!(out.to_vec(), expected);
    }
    let error = product.launch(&lhs, &lhs, &mut out).unwrap_err().to_string();
    assert_eq!(error, "`rhs` has shape [3, 1100]; expected [1100, 5]");
    let one = MatmulSplitk::new::<f32>(&Device::cpu(), ProductSizes { k: 100, ..sizes }).unwrap();
    assert_eq!(one.config().consts["SPLITS"], 1);
}

/// Warps of their own copy by TMA and warpgroups multiply, in one part or in several; the parts leave by TMA too.
#[test]
fn parts_are_products_of_warpgroups() {
    let target = codegen_ptx::Target::from_name("sm_90").expect("a target");
    for dtype in [DType::BF16, DType::F16, DType::F8E4M3FN] {
        let problem = problem(&MatmulSplitkContract, dtype, &[]);
        for splits in [1, 16] {
            let tiles = [("TILE_M", 128), ("TILE_N", 256), ("TILE_K", 64), ("SPLITS", splits)];
            let config = config(&MatmulSplitkContract, &problem, &tiles);
            let step = MatmulSplitkContract.steps(&problem, &config).swap_remove(0);
            let facts = vec![TensorFacts::ALIGNED; step.tensors().count()];
            let compiled = jit::compile(step.kernel, &step.bindings, &step.config, target, &facts, false);
            let ptx = compiled.unwrap_or_else(|e| panic!("{dtype} {splits}: {e}")).compiled.ptx;
            let count = |text: &str| ptx.matches(text).count();
            // In steps of 16 elements of K, or of 32 that are half as wide.
            let steps = if dtype == DType::F8E4M3FN { 2 } else { 4 };
            assert_eq!(count("wgmma.mma_async"), steps, "{dtype} {splits}");
            assert_eq!(count("cp.async.bulk.tensor.2d.shared::cluster.global"), 2, "{dtype} {splits}");
            assert!(count("cp.async.bulk.tensor") > 2 && count("st.global") == 0, "{dtype} {splits}");
        }
    }
}
