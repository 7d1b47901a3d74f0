//! Kernels by name, with tensors whose types are values.

use crate::matmul::{matmul, noise};
use tile::dynamic::{CpuOptions, DynArg, DynTensor, ScalarValue};
use tile::registry;
use tile::{Bindings, Config, DType, LaunchError};

fn bindings(dtype: DType) -> Bindings {
    Bindings { dtypes: [("T".to_owned(), dtype)].into_iter().collect(), ..Default::default() }
}

#[test]
fn kernels_are_found_by_name_with_a_suggestion() {
    let found = registry::find("matmul").unwrap();
    assert!(std::ptr::eq(found, &matmul::KERNEL));
    assert!(registry::kernels().iter().any(|k| k.name == "softmax"));
    let error = registry::find("matmol").unwrap_err();
    assert_eq!(error.nearest, Some("matmul"));
    assert!(error.to_string().contains("did you mean `matmul`?"), "{error}");
}

#[test]
fn the_default_configuration_is_the_first_candidate() {
    let config = matmul::KERNEL.default_config();
    assert_eq!((config.get("TILE_M"), config.get("TILE_K")), (Some(64), Some(32)));
    assert_eq!((config.occupancy, config.num_stages, config.num_warps), (1, 2, 4));
    assert_eq!(matmul::Config::default().tile_n, 64);
}

#[test]
fn a_kernel_is_instantiated_for_every_dtype() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let mut bound = bindings(dtype);
        bound.consts = matmul::KERNEL.default_config().consts;
        let program = matmul::KERNEL.instantiate(&bound).unwrap();
        assert_eq!((program.name.as_str(), program.params.len()), ("matmul", 3));
        bound.consts.insert("TILE_M".to_owned(), 48);
        assert!(!matmul::KERNEL.instantiate(&bound).unwrap_err().is_empty());
    }
}

/// Runs matmul with `change` made to its arguments.
fn run(dtype: DType, change: impl FnOnce(&mut Vec<DynTensor>, &mut Config)) -> Result<Vec<f64>, LaunchError> {
    let values = |seed, n| (0..n).map(|i| noise(seed, i)).collect::<Vec<_>>();
    let mut tensors = vec![
        DynTensor::from_f64(dtype, &[5, 9], &values(1, 45)),
        DynTensor::from_f64(dtype, &[7, 9], &values(2, 63)),
        DynTensor::zeros(dtype, &[5, 7]),
    ];
    let mut config = matmul::KERNEL.default_config();
    for name in ["TILE_M", "TILE_N", "TILE_K"] {
        config.set(name, 4);
    }
    change(&mut tensors, &mut config);
    let mut args: Vec<_> = tensors.iter_mut().map(DynArg::Tensor).collect();
    matmul::KERNEL.run_cpu(&mut args, &config, &bindings(dtype), [2, 2, 1], CpuOptions::default())?;
    Ok(tensors[2].to_f64())
}

#[test]
fn erased_tensors_give_what_typed_ones_give() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let found = run(dtype, |_, _| {}).unwrap();
        let round = |seed, i| DynTensor::from_f64(dtype, &[1], &[noise(seed, i)]).to_f64()[0];
        for i in 0..5 {
            for j in 0..7 {
                let expected: f64 = (0..9).map(|l| round(1, 9 * i + l) * round(2, 9 * j + l)).sum();
                assert!((found[7 * i + j] - expected).abs() < 0.01 * expected.abs().max(1.0), "{dtype}");
            }
        }
    }
}

#[test]
fn erased_arguments_are_checked() {
    let refuse = |change: fn(&mut Vec<DynTensor>, &mut Config), expected: &str| {
        let message = run(DType::F32, change).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}\nlacks: {expected}");
    };
    refuse(|t, _| t[1].dtype = DType::F16, "`b` has dtype f16; expected f32");
    refuse(|t, _| t[0] = DynTensor::zeros(DType::F32, &[45]), "`a` has shape [45]; expected 2 dimensions");
    refuse(|t, _| t[2].strides = vec![0, 1], "has elements that overlap");
    refuse(|t, _| t[0].strides = vec![10, 1], "reaches beyond the 45 elements of `a`");
    refuse(|t, _| t.truncate(2), "takes 3 arguments; found 2");
    refuse(|_, c| c.set("TILE_Q", 4), "has no const parameter `TILE_Q`");
    refuse(|_, c| c.consts.retain(|name, _| name != "TILE_M"), "const parameter TILE_M has no value");
    let mut scalars = (0..3).map(|_| DynArg::Scalar(ScalarValue::F32(1.0))).collect::<Vec<_>>();
    let config = matmul::KERNEL.default_config();
    let result =
        matmul::KERNEL.run_cpu(&mut scalars, &config, &bindings(DType::F32), [1; 3], CpuOptions::default());
    let message = result.unwrap_err().to_string();
    assert!(message.contains("argument `a` is a scalar (f32); expected a tensor"), "{message}");
    let unbound = run_with_dtypes(Bindings::default());
    assert!(unbound.contains("dtype parameter T is not bound; expected one of f32, f16, bf16"), "{unbound}");
    let wrong = run_with_dtypes(bindings(DType::I32));
    assert!(wrong.contains("`T` has dtype i32; expected f32, f16, bf16"), "{wrong}");
}

fn run_with_dtypes(dtypes: Bindings) -> String {
    let config = matmul::KERNEL.default_config();
    let result = matmul::KERNEL.run_cpu(&mut [], &config, &dtypes, [1; 3], CpuOptions::default());
    result.unwrap_err().to_string()
}

#[test]
fn four_bit_tensors_pack_two_a_byte() {
    let values: Vec<f64> = vec![0.5, -6.0, 3.0, 100.0, -0.2];
    let tensor = DynTensor::from_f64(DType::F4E2M1FN, &[5], &values);
    assert_eq!(tensor.data, [0xf1, 0x75, 0x08]);
    assert_eq!(tensor.to_f64(), [0.5, -6.0, 3.0, 6.0, 0.0]);
}
