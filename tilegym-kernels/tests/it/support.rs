//! Runs one kernel on one problem, two ways, and compares with its reference.

use indexmap::IndexMap;
use tile::Config;
use tile::contract::{Contract, Problem, Role, ScalarValue, random_inputs, relative_error};
use tile::dynamic::{CpuOptions, DynArg, DynTensor};
use tile::jit::{self, TensorFacts};
use tile_ir::interpret::{self, Arg, HostTensor, Scalar};
use tile_lang::DType;

/// A problem of a contract from its sizes.
pub fn problem(contract: &dyn Contract, dtype: DType, sizes: &[(&str, i64)]) -> Problem {
    let sizes: IndexMap<_, _> = sizes.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    contract.problem(dtype, &sizes).unwrap_or_else(|e| panic!("{e}"))
}

/// The default configuration with some const parameters replaced.
pub fn config(contract: &dyn Contract, problem: &Problem, consts: &[(&str, i64)]) -> Config {
    let mut config = contract.default_config(problem);
    consts.iter().for_each(|(name, value)| config.set(name, *value));
    config
}

/// Inputs and poisoned outputs in the order of the kernel's parameters: what nobody writes stays NaN.
fn tensors(contract: &dyn Contract, problem: &Problem, inputs: &[DynTensor]) -> Vec<DynTensor> {
    let mut inputs = inputs.iter().cloned();
    let specs = contract.tensors(problem);
    let tensor = |spec: &tile::contract::TensorSpec| match spec.role {
        Role::Input => inputs.next().expect("as many inputs as the contract names"),
        Role::Output => {
            let count = spec.shape.iter().product();
            DynTensor::from_f64(spec.dtype, &spec.shape, &vec![f64::NAN; count])
        }
    };
    specs.iter().map(tensor).collect()
}

/// The outputs in f64.
fn outputs(contract: &dyn Contract, problem: &Problem, all: impl Iterator<Item = Vec<f64>>) -> Vec<Vec<f64>> {
    let specs = contract.tensors(problem);
    all.zip(specs).filter(|(_, spec)| spec.role == Role::Output).map(|(values, _)| values).collect()
}

/// Runs the kernel on a device.
#[cfg(feature = "cuda")]
pub fn run_on(
    device: &tile::Device,
    contract: &dyn Contract,
    problem: &Problem,
    config: &Config,
    inputs: &[DynTensor],
) -> Vec<Vec<f64>> {
    let mut all = tensors(contract, problem, inputs);
    let scalars = contract.scalars(problem);
    let mut args: Vec<DynArg> = all.iter_mut().map(DynArg::Tensor).collect();
    args.extend(scalars.into_iter().map(DynArg::Scalar));
    let (bindings, grid) = (contract.bindings(problem, config), contract.grid(problem, config));
    contract
        .kernel()
        .run_on(device, &mut args, config, &bindings, grid)
        .unwrap_or_else(|e| panic!("{problem:?} {config:?}: {e}"));
    outputs(contract, problem, all.iter().map(DynTensor::to_f64))
}

/// Runs the kernel's Rust body on the CPU.
pub fn run_eager(
    contract: &dyn Contract,
    problem: &Problem,
    config: &Config,
    inputs: &[DynTensor],
) -> Vec<Vec<f64>> {
    let mut all = tensors(contract, problem, inputs);
    let scalars = contract.scalars(problem);
    let mut args: Vec<DynArg> = all.iter_mut().map(DynArg::Tensor).collect();
    args.extend(scalars.into_iter().map(DynArg::Scalar));
    let bindings = contract.bindings(problem, config);
    let grid = contract.grid(problem, config);
    contract
        .kernel()
        .run_cpu(&mut args, config, &bindings, grid, CpuOptions::default())
        .unwrap_or_else(|e| panic!("{problem:?} {config:?}: {e}"));
    outputs(contract, problem, all.iter().map(DynTensor::to_f64))
}

/// Lowers the kernel to the tile level, optimizes it and interprets the result.
pub fn run_interpreted(
    contract: &dyn Contract,
    problem: &Problem,
    config: &Config,
    inputs: &[DynTensor],
) -> Vec<Vec<f64>> {
    let mut all: Vec<HostTensor> = tensors(contract, problem, inputs)
        .into_iter()
        .map(|t| HostTensor { dtype: t.dtype, shape: t.shape, strides: t.strides, data: t.data })
        .collect();
    let facts = vec![TensorFacts::ALIGNED; all.len()];
    tile_ir::with_context(|context| {
        let module = jit::lower(contract.kernel(), &contract.bindings(problem, config), &facts, context)
            .unwrap_or_else(|e| panic!("{problem:?} {config:?}: {e}"));
        let mut args: Vec<Arg> = all.iter_mut().map(Arg::Tensor).collect();
        args.extend(contract.scalars(problem).into_iter().map(|s| Arg::Scalar(scalar(s))));
        interpret::run(&module, &mut args, contract.grid(problem, config)).expect("the module runs");
    });
    outputs(contract, problem, all.iter().map(HostTensor::to_f64))
}

fn scalar(value: ScalarValue) -> Scalar {
    match value {
        ScalarValue::F32(v) => Scalar::F32(v),
        ScalarValue::I32(v) => Scalar::I32(v),
        ScalarValue::I64(v) => Scalar::I64(v),
        ScalarValue::Index(v) => Scalar::Index(v),
        ScalarValue::Bool(v) => Scalar::Bool(v),
    }
}

/// Both ways of running agree with the reference within the contract's tolerance, on random inputs.
pub fn agree(contract: &dyn Contract, dtype: DType, sizes: &[(&str, i64)], consts: &[(&str, i64)]) {
    let problem = problem(contract, dtype, sizes);
    let config = config(contract, &problem, consts);
    let inputs = random_inputs(contract, &problem, 7);
    let widened: Vec<_> = inputs.iter().map(DynTensor::to_f64).collect();
    let reference = contract.oracle(&problem, &widened);
    let eager = run_eager(contract, &problem, &config, &inputs);
    let interpreted = run_interpreted(contract, &problem, &config, &inputs);
    let tolerance = contract.tolerance(dtype, false);
    for (how, found) in [("eager", eager), ("interpreted", interpreted)] {
        for (found, reference) in found.iter().zip(&reference) {
            let error = relative_error(found, reference);
            assert!(error <= tolerance, "{how} {problem:?} {config:?}: error {error:.2e} > {tolerance:.0e}");
        }
    }
}
