//! Runs one kernel on one problem, two ways, and compares with its reference.

use indexmap::IndexMap;
use tile::Config;
use tile::contract::{self, Contract, Problem, Role, ScalarValue, StepArg, random_inputs, relative_error};
use tile::dynamic::DynTensor;
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

/// Runs every step on a device.
pub fn run_on(
    device: &tile::Device,
    contract: &dyn Contract,
    problem: &Problem,
    config: &Config,
    inputs: &[DynTensor],
) -> Vec<Vec<f64>> {
    let outputs = contract::run(contract, problem, config, device, inputs)
        .unwrap_or_else(|e| panic!("{problem:?} {config:?}: {e}"));
    outputs.iter().map(DynTensor::to_f64).collect()
}

/// Devices agree with the reference within the contract's tolerance for tensor cores.
pub fn agree_on_devices<'a>(
    devices: impl IntoIterator<Item = &'a tile::Device>,
    contract: &dyn Contract,
    problem: &Problem,
    config: &Config,
    inputs: &[DynTensor],
) {
    let widened: Vec<_> = inputs.iter().map(DynTensor::to_f64).collect();
    let reference = contract.oracle(problem, &widened);
    for device in devices {
        let found = run_on(device, contract, problem, config, inputs);
        found_agrees(contract, problem, config, device, (&found, &reference));
    }
}

/// What a device found agrees with the reference within the contract's tolerance for tensor cores.
pub fn found_agrees(
    contract: &dyn Contract,
    problem: &Problem,
    config: &Config,
    device: &tile::Device,
    (found, reference): (&[Vec<f64>], &[Vec<f64>]),
) {
    let tolerance = contract.tolerance(problem.dtype, true);
    let kernel = contract.kernel().name;
    for (found, reference) in found.iter().zip(reference) {
        let (error, on) = (relative_error(found, reference), device.kind());
        let what = format!("{kernel} on {on}, {problem:?} {config:?}: error {error:.2e}");
        assert!(error <= tolerance, "{what} > {tolerance:.0e}");
        println!("{what}");
    }
}

/// Runs the kernels' Rust bodies on the CPU.
pub fn run_eager(
    contract: &dyn Contract,
    problem: &Problem,
    config: &Config,
    inputs: &[DynTensor],
) -> Vec<Vec<f64>> {
    run_on(&tile::Device::cpu(), contract, problem, config, inputs)
}

/// Lowers the kernel of every step to the tile level, optimizes it and interprets the result.
pub fn run_interpreted(
    contract: &dyn Contract,
    problem: &Problem,
    config: &Config,
    inputs: &[DynTensor],
) -> Vec<Vec<f64>> {
    let mut all: Vec<HostTensor> = contract::make_tensors(contract, problem, config, inputs)
        .into_iter()
        .map(|t| HostTensor { dtype: t.dtype, shape: t.shape, strides: t.strides, data: t.data })
        .collect();
    for step in contract.steps(problem, config) {
        let facts = vec![TensorFacts::ALIGNED; step.tensors().count()];
        let mut tensors: Vec<_> = all.iter_mut().map(Some).collect();
        let mut args: Vec<Arg> = Vec::new();
        for arg in &step.args {
            args.push(match *arg {
                StepArg::Tensor(index) => Arg::Tensor(tensors[index].take().expect("each tensor once")),
                StepArg::Scalar(value) => Arg::Scalar(scalar(value)),
            });
        }
        tile_ir::with_context(|context| {
            let module = jit::lower(step.kernel, &step.bindings, &facts, context)
                .unwrap_or_else(|e| panic!("{problem:?} {config:?}: {e}"));
            interpret::run(&module, &mut args, step.grid).expect("the module runs");
        });
    }
    let specs = contract.tensors(problem);
    let outputs = all.iter().zip(specs).filter(|(_, spec)| spec.role == Role::Output);
    outputs.map(|(tensor, _)| tensor.to_f64()).collect()
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
    agree_on(contract, &problem, &config, &random_inputs(contract, &problem, 7));
}

/// Both ways of running agree with the reference within the contract's tolerance.
pub fn agree_on(contract: &dyn Contract, problem: &Problem, config: &Config, inputs: &[DynTensor]) {
    let widened: Vec<_> = inputs.iter().map(DynTensor::to_f64).collect();
    let reference = contract.oracle(problem, &widened);
    let eager = run_eager(contract, problem, config, inputs);
    let interpreted = run_interpreted(contract, problem, config, inputs);
    let tolerance = contract.tolerance(problem.dtype, false);
    for (how, found) in [("eager", eager), ("interpreted", interpreted)] {
        for (found, reference) in found.iter().zip(&reference) {
            let error = relative_error(found, reference);
            assert!(error <= tolerance, "{how} {problem:?} {config:?}: error {error:.2e} > {tolerance:.0e}");
        }
    }
}
